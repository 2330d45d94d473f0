//! Tasks: long work that survives a restart of the controller.
//!
//! A task is a row with what was asked ([`Work`]) and which durable steps are behind it. Its flow (`flow/`) runs from
//! the first step that is not; killed at any moment it is run again and goes on there. Steps that others than the
//! controller take (a key server, a host) have names that stay the same, so that asking twice does no harm.

mod board;
mod engine;
mod flow;
mod job;
pub(crate) mod may;
pub(crate) mod may_disk;
pub(crate) mod may_key;
mod run;
pub(crate) mod submit;

use serde::{Deserialize, Serialize};
use ward_rpc::api::host::{CreateVm, HomeRef, HostParts, NewFirmware, TpmChange};
use ward_types::{Component, DiskId, HostId, KeyRef, Name, PolicyName, ProviderName, TaskKind, VmConfig};

pub(crate) use board::Board;
pub(crate) use engine::{cancel, resume_all};

use crate::plan::{self, CryptPlan, DiskVerb, KeyChoice, NewDiskPlan, PlannedAction};

/// What a task takes, and which durable steps are behind it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Make a VM.
    Make {
        spec: CreateVm,
        /// The storage policies under which its components are.
        #[serde(default)]
        policies: Vec<(Component, PolicyName)>,
        host: Option<HostId>,
    },
    /// Change the encryption of components of one.
    Crypt {
        plan: CryptPlan,
        /// How far each of the plan's keys is.
        marks: Vec<KeyMark>,
        /// The storage policies under which components are afterwards.
        policies: Vec<(Component, PolicyName)>,
        host: Option<HostId>,
    },
    /// Make a VM that is encrypted from its beginning.
    MakeEncrypted {
        spec: CreateVm,
        plan: CryptPlan,
        marks: Vec<KeyMark>,
        policies: Vec<(Component, PolicyName)>,
        host: Option<HostId>,
    },
    /// Make a VM from another one.
    Clone {
        source: Name,
        from: HomeRef,
        /// The keys with which that one opens.
        keys: Vec<KeyRef>,
        plan: CryptPlan,
        marks: Vec<KeyMark>,
        policies: Vec<(Component, PolicyName)>,
        host: Option<HostId>,
        /// Whether its vTPM is a new one instead of a copy.
        #[serde(default)]
        replace_tpm: bool,
        /// Whether there is one.
        #[serde(default)]
        has_tpm: bool,
    },
    /// Give one a vTPM or take it away, and encrypt its home where that takes it.
    Tpm { change: TpmChange, plan: CryptPlan, marks: Vec<KeyMark>, host: Option<HostId> },
    /// Give one another disk.
    AddDisk {
        /// The keys that it takes to make it, and that there are.
        keys: Vec<KeyRef>,
        plan: NewDiskPlan,
        marks: Vec<KeyMark>,
        policies: Vec<(Component, PolicyName)>,
        host: Option<HostId>,
    },
    /// Attach, detach or delete a disk of one.
    ChangeDisk { keys: Vec<KeyRef>, disk: DiskId, verb: DiskVerb, host: Option<HostId> },
    /// Start one.
    Start { asked: Option<Name>, keys: Vec<KeyRef>, host: Option<HostId> },
    /// Stop one.
    Stop { host: HostId, force: bool, wait_ms: u32 },
    /// Delete one.
    Remove { keys: Vec<KeyRef>, host: Option<HostId> },
}

/// How far a key that a task takes is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum KeyMark {
    /// Nothing was asked of the key server.
    #[default]
    None,
    /// A key may have been asked for; what came of it is not known.
    Wanted,
    /// The key exists.
    Made { key: KeyRef },
    /// It can be used, and says at the key server what for.
    Ready { key: KeyRef },
}

impl Work {
    /// The host that a host job was placed on.
    pub(crate) const fn host(&self) -> Option<HostId> {
        match self {
            Self::Make { host, .. }
            | Self::Crypt { host, .. }
            | Self::MakeEncrypted { host, .. }
            | Self::Clone { host, .. }
            | Self::Tpm { host, .. }
            | Self::AddDisk { host, .. }
            | Self::ChangeDisk { host, .. }
            | Self::Start { host, .. }
            | Self::Remove { host, .. } => *host,
            Self::Stop { host, .. } => Some(*host),
        }
    }

    /// What it takes on its host beside keys and a QEMU; of a VM that is there with its description.
    pub(crate) fn parts(&self, config: Option<&VmConfig>) -> HostParts {
        let swtpm = |swtpm| HostParts { swtpm, ..HostParts::default() };
        match self {
            Self::Make { spec, .. } | Self::MakeEncrypted { spec, .. } => {
                let (uefi, secure_boot) = match spec.firmware {
                    NewFirmware::Bios => (false, false),
                    NewFirmware::Uefi { secure_boot, .. } => (true, secure_boot),
                };
                HostParts { uefi, secure_boot, swtpm: spec.tpm }
            }
            Self::Clone { has_tpm, .. } => swtpm(*has_tpm),
            Self::Tpm { change: TpmChange::Remove, .. } => swtpm(false),
            Self::Tpm { .. } => swtpm(true),
            // A new key of the vTPM's state.
            Self::Crypt { plan, .. } => {
                let home = plan.steps.iter().find(|step| step.component == Component::Home);
                let anew = home.is_some_and(|step| !matches!(step.action, PlannedAction::ShallowRecrypt(_)));
                swtpm(anew && config.is_some_and(|config| config.tpm.is_some()))
            }
            Self::Start { .. } => config.map_or_else(HostParts::default, plan::parts),
            Self::AddDisk { .. } | Self::ChangeDisk { .. } | Self::Stop { .. } | Self::Remove { .. } => swtpm(false),
        }
    }

    /// The providers without which it can't go on.
    pub(crate) fn providers(&self) -> impl Iterator<Item = &ProviderName> {
        let same: &[KeyRef] = match self {
            Self::Clone { keys, .. } | Self::AddDisk { keys, .. } => keys,
            _ => &[],
        };
        self.keys().map(|(choice, _)| choice.provider()).chain(same.iter().map(|key| &key.provider))
    }

    /// The keys that it takes, and how far each is.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&KeyChoice, &KeyMark)> {
        let (choices, marks): (&[_], &[_]) = match self {
            Self::Crypt { plan, marks, .. }
            | Self::MakeEncrypted { plan, marks, .. }
            | Self::Tpm { plan, marks, .. }
            | Self::Clone { plan, marks, .. } => (&plan.keys, marks),
            Self::AddDisk { plan, marks, .. } => (&plan.crypt.keys, marks),
            _ => (&[], &[]),
        };
        choices.iter().zip(marks)
    }

    /// The storage policies under which it puts components.
    pub(crate) fn policies(&self) -> &[(Component, PolicyName)] {
        match self {
            Self::Make { policies, .. }
            | Self::Crypt { policies, .. }
            | Self::MakeEncrypted { policies, .. }
            | Self::Clone { policies, .. }
            | Self::AddDisk { policies, .. } => policies,
            Self::Tpm { .. }
            | Self::ChangeDisk { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Remove { .. } => &[],
        }
    }

    /// The keys of others that it is to take.
    pub(crate) fn named_keys(&self) -> impl Iterator<Item = &KeyRef> {
        self.keys().filter_map(|(choice, _)| match choice {
            KeyChoice::Existing(key) => Some(key),
            KeyChoice::New(_) => None,
        })
    }

    /// Every key that it needs or takes, as far as each is known.
    pub(crate) fn all_keys(&self) -> impl Iterator<Item = &KeyRef> {
        let there: &[KeyRef] = match self {
            Self::Clone { keys, .. } | Self::Start { keys, .. } | Self::Remove { keys, .. } => keys,
            _ => &[],
        };
        let taken = self.keys().filter_map(|(choice, mark)| match (mark, choice) {
            (KeyMark::Made { key } | KeyMark::Ready { key }, _) | (_, KeyChoice::Existing(key)) => Some(key),
            _ => None,
        });
        there.iter().chain(taken)
    }

    /// How far one of its keys is, to be changed.
    pub(crate) fn mark_mut(&mut self, key: usize) -> Option<&mut KeyMark> {
        match self {
            Self::Crypt { marks, .. }
            | Self::MakeEncrypted { marks, .. }
            | Self::Tpm { marks, .. }
            | Self::Clone { marks, .. }
            | Self::AddDisk { marks, .. } => marks.get_mut(key),
            _ => None,
        }
    }

    /// Writes down where the host job is placed.
    pub(crate) const fn set_host(&mut self, id: HostId) {
        match self {
            Self::Make { host, .. }
            | Self::Crypt { host, .. }
            | Self::MakeEncrypted { host, .. }
            | Self::Clone { host, .. }
            | Self::Tpm { host, .. }
            | Self::AddDisk { host, .. }
            | Self::ChangeDisk { host, .. }
            | Self::Start { host, .. }
            | Self::Remove { host, .. } => *host = Some(id),
            Self::Stop { host, .. } => *host = id,
        }
    }
}

/// "cannot encrypt VM `web-1`", for a problem of a task.
pub(crate) fn cannot(kind: TaskKind, vm: &Name) -> String {
    plan::cannot(kind, vm)
}
