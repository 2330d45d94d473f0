//! What a request comes to: pure functions from what is known to a plan or a refusal.
//!
//! Each is asked before its task is made, so that a refusal comes before anything has begun.

mod clone;
mod create;
mod crypt;
mod destroy;
mod disks;
mod host_mode;
mod key;
mod place;
mod policy;
mod power;
mod tpm;

#[cfg(test)]
mod tests;

pub(crate) use clone::{CloneWish, clone, create_under};
pub(crate) use create::{NewDisk, NewVm, create};
pub(crate) use crypt::{CryptPlan, KeyChoice, PlannedAction, Selection, Verb, crypt, keys, kind, named_key, whole};
pub(crate) use destroy::{KeyFacts, destroy, kept_until};
pub(crate) use disks::{DiskVerb, DiskWish, NewDiskPlan, Origin, add_disk, change_disk};
pub(crate) use host_mode::{ModeChange, change_mode, on_demand};
pub(crate) use key::{KeyUse, judge_state, trusted};
pub(crate) use place::{Needs, parts, place};
pub(crate) use policy::{rotated_otherwise, set_policy};
pub(crate) use power::{reload, remove, set_template, start, stop, unregister};
pub(crate) use tpm::{add_tpm, with_tpm_off};

use ward_rpc::api::host::HostParts;
use ward_types::{Code, HostId, HostMode, Name, Power, Problem, ProviderName, TaskInfo, TaskKind, VmConfig};

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
    /// Why it can't be used, if it can't: a key that it needs is not to be had.
    pub(crate) locked: Option<&'a Problem>,
    /// Whether it is a template.
    pub(crate) template: bool,
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
    /// What else it has for VMs.
    pub(crate) parts: HostParts,
    /// The trusted providers that it was told of; with each why it can't have its keys, if it can't.
    pub(crate) trust: Vec<(ProviderName, Option<Problem>)>,
    /// How many VMs it runs.
    pub(crate) vms: usize,
    /// Its encryption mode.
    pub(crate) mode: HostMode,
}

/// What is known of a key provider.
#[derive(Clone, Debug)]
pub(crate) struct ProviderFacts {
    pub(crate) name: ProviderName,
    pub(crate) is_default: bool,
    /// What is known of one whose keys have no IDs: a native one, or a trusted one, which counts as backed up and gives keys
    /// to hosts with a TPM only.
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
        TaskKind::VmRecrypt => "recrypt",
        TaskKind::VmReconfigure => "reconfigure",
        TaskKind::VmDisks => "change the disks of",
        TaskKind::VmClone => "clone",
    };
    format!("cannot {verb} VM `{vm}`")
}

/// The VM's description, where no other task works on the VM and it is not locked.
fn idle<'a>(kind: TaskKind, vm: VmFacts<'a>) -> Result<&'a VmConfig, Problem> {
    let config = free(&cannot(kind, vm.name), vm)?;
    match vm.locked {
        None => Ok(config),
        Some(problem) => Err(Problem::new(
            problem.code,
            cannot(kind, vm.name),
            format!("it is locked: {}", problem.why),
            format!("{}; then `ward vm unlock {}`", problem.remedy, vm.name),
        )),
    }
}

/// The VM's description, where no other task works on the VM.
fn free<'a>(what: &str, vm: VmFacts<'a>) -> Result<&'a VmConfig, Problem> {
    if let Some(task) = vm.busy {
        return Err(Problem::new(
            Code::Busy,
            what,
            format!("task {} ({}, asked for by `{}`) works on it", task.id, task.kind, task.user),
            format!("wait for it with `ward task watch {}`, then try again", task.id),
        ));
    }
    vm.config.ok_or_else(|| {
        Problem::new(
            Code::HomeInvalid,
            what,
            "its home was never finished",
            format!("delete it with `ward vm rm {}` and make it again", vm.name),
        )
    })
}

/// As [`idle`], where the VM is off too.
fn off<'a>(kind: TaskKind, vm: VmFacts<'a>) -> Result<&'a VmConfig, Problem> {
    let config = idle(kind, vm)?;
    stopped(&cannot(kind, vm.name), vm)?;
    Ok(config)
}

fn stopped(what: &str, vm: VmFacts<'_>) -> Result<(), Problem> {
    match vm.power {
        Power::Off => Ok(()),
        Power::On => {
            let place = vm.host.map_or_else(String::new, |host| format!(" on host `{host}`"));
            Err(Problem::new(
                Code::VmRunning,
                what,
                format!("it is running{place}"),
                format!("stop it with `ward vm stop {}`, then try again", vm.name),
            ))
        }
    }
}
