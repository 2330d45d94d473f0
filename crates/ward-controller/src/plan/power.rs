//! Starting, stopping and deleting.

use ward_types::{Code, HostId, KeyRef, Name, Power, Problem, TaskKind, VmConfig};

use super::{HostFacts, Needs, VmFacts, cannot, idle, off, place};

/// Plans the start of a VM: tells its keys and checks that a host could take it.
pub(crate) fn start(
    vm: VmFacts<'_>,
    ran_on: Option<HostId>,
    asked: Option<&Name>,
    hosts: &[HostFacts],
) -> Result<Vec<KeyRef>, Problem> {
    let config = off(TaskKind::VmStart, vm)?;
    let keys = owned_keys(config);
    let needs = Needs { asked, rather: ran_on, qemu: true, keys: !keys.is_empty(), ..Needs::default() };
    place(&cannot(TaskKind::VmStart, vm.name), hosts, needs)?;
    Ok(keys)
}

/// Plans the stop of a VM: tells the host where it runs.
pub(crate) fn stop(vm: VmFacts<'_>, runs_on: Option<HostId>) -> Result<HostId, Problem> {
    idle(TaskKind::VmStop, vm)?;
    match (vm.power, runs_on) {
        (Power::On, Some(host)) => Ok(host),
        _ => Err(Problem::new(
            Code::VmNotRunning,
            cannot(TaskKind::VmStop, vm.name),
            "it is not running",
            "nothing is to be done",
        )),
    }
}

/// Plans the deletion of a VM: tells the keys that it needed. One whose home was never finished can be deleted too.
pub(crate) fn remove(vm: VmFacts<'_>, hosts: &[HostFacts]) -> Result<Vec<KeyRef>, Problem> {
    let keys = match (vm.config, vm.busy) {
        (None, None) => Vec::new(),
        _ => owned_keys(off(TaskKind::VmRemove, vm)?),
    };
    place(&cannot(TaskKind::VmRemove, vm.name), hosts, Needs::default())?;
    Ok(keys)
}

fn owned_keys(config: &VmConfig) -> Vec<KeyRef> {
    config.keys().into_iter().cloned().collect()
}
