//! What a request comes to: pure functions from what is known to a plan or a refusal.
//!
//! Each is asked before its task is made, so that a refusal comes before anything has begun.

mod create;
mod crypt;
mod key;
mod place;
mod power;

#[cfg(test)]
mod tests;

pub(crate) use create::{NewDisk, NewVm, create};
pub(crate) use crypt::{EncryptPlan, KeyChoice, decrypt, encrypt};
pub(crate) use key::{KeyUse, judge_state};
pub(crate) use place::{Needs, place};
pub(crate) use power::{remove, start, stop};

use ward_types::{Code, HostId, Name, Power, Problem, ProviderName, TaskInfo, TaskKind, VmConfig};

/// What is known of a VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VmFacts<'a> {
    pub(crate) name: &'a Name,
    /// None while the home is being made.
    pub(crate) config: Option<&'a VmConfig>,
    pub(crate) power: Power,
    /// The name of the host where it runs, or ran last.
    pub(crate) host: Option<&'a Name>,
    /// The task that works on it.
    pub(crate) busy: Option<&'a TaskInfo>,
}

/// What is known of a host of the VM's cluster.
#[derive(Clone, Debug)]
pub(crate) struct HostFacts {
    pub(crate) id: HostId,
    pub(crate) name: Name,
    pub(crate) connected: bool,
    /// Why it can't hold keys, if it can't.
    pub(crate) unfit: Option<Problem>,
    /// Whether it has a QEMU.
    pub(crate) qemu: bool,
    /// Whether it has a TPM to which it seals keys.
    pub(crate) tpm: bool,
    /// How many VMs it runs.
    pub(crate) vms: usize,
}

/// What is known of a key provider.
#[derive(Clone, Debug)]
pub(crate) struct ProviderFacts {
    pub(crate) name: ProviderName,
    pub(crate) is_default: bool,
    /// What is known of a native one.
    pub(crate) native: Option<NativeFacts>,
}

/// What is known of a native key provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NativeFacts {
    pub(crate) backed_up: bool,
    /// Whether it serves the VM's cluster.
    pub(crate) serves: bool,
    pub(crate) tpm_required: bool,
}

pub(crate) fn cannot(kind: TaskKind, vm: &Name) -> String {
    let verb = match kind {
        TaskKind::VmCreate => "create",
        TaskKind::VmImport => "import",
        TaskKind::VmStart => "start",
        TaskKind::VmStop => "stop",
        TaskKind::VmEncrypt => "encrypt",
        TaskKind::VmDecrypt => "decrypt",
        TaskKind::VmRemove => "delete",
    };
    format!("cannot {verb} VM `{vm}`")
}

/// The VM's description, where no other task works on the VM.
fn idle<'a>(kind: TaskKind, vm: VmFacts<'a>) -> Result<&'a VmConfig, Problem> {
    if let Some(task) = vm.busy {
        return Err(Problem::new(
            Code::Busy,
            cannot(kind, vm.name),
            format!("task {} ({}, asked for by `{}`) works on it", task.id, task.kind, task.user),
            format!("wait for it with `ward task watch {}`, then try again", task.id),
        ));
    }
    vm.config.ok_or_else(|| {
        Problem::new(
            Code::HomeInvalid,
            cannot(kind, vm.name),
            "its home was never finished",
            format!("delete it with `ward vm rm {}` and make it again", vm.name),
        )
    })
}

/// As [`idle`], where the VM is off too.
fn off<'a>(kind: TaskKind, vm: VmFacts<'a>) -> Result<&'a VmConfig, Problem> {
    let config = idle(kind, vm)?;
    match vm.power {
        Power::Off => Ok(config),
        Power::On => {
            let place = vm.host.map_or_else(String::new, |host| format!(" on host `{host}`"));
            Err(Problem::new(
                Code::VmRunning,
                cannot(kind, vm.name),
                format!("it is running{place}"),
                format!("stop it with `ward vm stop {}`, then try again", vm.name),
            ))
        }
    }
}
