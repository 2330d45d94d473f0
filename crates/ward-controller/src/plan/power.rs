//! Starting, stopping and deleting.

use ward_types::{Code, HostId, KeyRef, Name, Power, Problem, TaskInfo, TaskKind, VmConfig};

use super::{HostFacts, Needs, VmFacts, cannot, free, idle, off, parts, place, stopped, trusted};

/// Plans the start of a VM: tells its keys and checks that a host could take it.
pub(crate) fn start(
    vm: VmFacts<'_>,
    ran_on: Option<HostId>,
    asked: Option<&Name>,
    hosts: &[HostFacts],
) -> Result<Vec<KeyRef>, Problem> {
    let config = off(TaskKind::VmStart, vm)?;
    if vm.template {
        return Err(Problem::new(
            Code::VmTemplate,
            cannot(TaskKind::VmStart, vm.name),
            "it is a template",
            format!(
                "clone it with `ward vm clone {0} NAME` and start that, or make it a VM with `ward vm template {0} --off`",
                vm.name
            ),
        ));
    }
    let keys: Vec<_> = config.keys_to_run().into_iter().cloned().collect();
    let trusted = trusted(&keys);
    let (keyed, parts) = (!keys.is_empty(), parts(config));
    let needs = Needs { asked, rather: ran_on, qemu: true, keys: keyed, trusted: &trusted, parts, ..Needs::default() };
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
        // One whose key is lost for good is unregistered.
        _ => owned_keys(off(TaskKind::VmRemove, vm)?),
    };
    place(&cannot(TaskKind::VmRemove, vm.name), hosts, Needs::default())?;
    Ok(keys)
}

/// Whether a VM can become a template, or a template a VM.
pub(crate) fn set_template(vm: VmFacts<'_>) -> Result<(), Problem> {
    off(TaskKind::VmReconfigure, vm).map(drop)
}

/// Plans that a VM is taken out of the inventory: tells the keys that it needed. A locked one can be, too.
pub(crate) fn unregister(vm: VmFacts<'_>) -> Result<Vec<KeyRef>, Problem> {
    let what = format!("cannot unregister VM `{}`", vm.name);
    let config = free(&what, vm)?;
    stopped(&what, vm)?;
    Ok(owned_keys(config))
}

/// Whether a VM's description can be read from its home again. That of a locked one can, too.
pub(crate) fn reload(what: &str, vm: &Name, power: Power, busy: Option<&TaskInfo>) -> Result<(), Problem> {
    if let Some(task) = busy {
        let why = format!("task {} ({}, asked for by `{}`) works on it", task.id, task.kind, task.user);
        let remedy = format!("wait for it with `ward task watch {}`, then try again", task.id);
        return Err(Problem::new(Code::Busy, what, why, remedy));
    }
    match power {
        Power::Off => Ok(()),
        Power::On => {
            let remedy = format!("stop it with `ward vm stop {vm}`, then try again");
            Err(Problem::new(Code::VmRunning, what, "it is running", remedy))
        }
    }
}

fn owned_keys(config: &VmConfig) -> Vec<KeyRef> {
    config.keys().into_iter().cloned().collect()
}
