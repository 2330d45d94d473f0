//! Disks that a VM gets and loses.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ward_rpc::api::host::VolumeLabel;
use ward_types::{
    Code, Component, CryptoRequest, CryptoSpec, DiskConfig, DiskCrypto, DiskId, FileName, HomeCrypto, KeyRef,
    PlainFormat, PolicyName, Problem, TaskKind, VmConfig,
};

use super::create::{MAX_DISKS, check_size, is_path};
use super::crypt::crypt_as;
use super::policy::set_policy_as;
use super::{CryptPlan, PlannedAction, ProviderFacts, VmFacts, cannot, off};
use crate::api::types::SetPolicy;
use crate::store::policy::PolicyRow;

const KIND: TaskKind = TaskKind::VmDisks;

/// What a new disk is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    Blank { size: u64, format: PlainFormat },
    Image { path: PathBuf, format: Option<PlainFormat> },
    Volume { path: PathBuf, label: VolumeLabel, known: Option<(u64, PlainFormat)> },
}

impl Origin {
    /// The key under which it is.
    pub(crate) const fn key(&self) -> Option<&KeyRef> {
        match self {
            Self::Volume { label, .. } => Some(&label.key),
            Self::Blank { .. } | Self::Image { .. } => None,
        }
    }
}

/// A disk that somebody wants for a VM.
#[derive(Clone, Debug)]
pub(crate) struct DiskWish {
    pub(crate) origin: Origin,
    /// What is done to it on the way; what is encrypted keeps its key unless something is said.
    pub(crate) crypto: CryptoSpec,
    pub(crate) policy: Option<PolicyName>,
}

/// A disk that a VM gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewDiskPlan {
    pub(crate) id: DiskId,
    pub(crate) origin: Origin,
    /// What is done to it on the way, and the key that this takes.
    pub(crate) crypt: CryptPlan,
}

impl NewDiskPlan {
    /// The key under which the disk is in the VM, and whether it gets a new DEK, now that the keys are known.
    pub(crate) fn outcome(&self, keys: &[KeyRef]) -> (Option<KeyRef>, bool) {
        match self.crypt.steps.first().map(|step| step.action) {
            None => (self.origin.key().cloned(), false),
            Some(PlannedAction::Decrypt) => (None, false),
            Some(PlannedAction::ShallowRecrypt(n)) => (keys.get(n).cloned(), false),
            Some(PlannedAction::Encrypt(n) | PlannedAction::DeepRecrypt(n)) => (keys.get(n).cloned(), true),
        }
    }
}

/// A change of a disk that a VM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DiskVerb {
    Attach,
    Detach,
    Remove,
}

/// Plans a new disk. The rules are those of a change to a VM that has it already.
pub(crate) fn add_disk(
    vm: VmFacts<'_>,
    wish: DiskWish,
    policies: &[PolicyRow],
    providers: &[ProviderFacts],
) -> Result<(NewDiskPlan, Vec<(Component, PolicyName)>), Problem> {
    let config = off(KIND, vm)?;
    let refuse = |code, why: String, remedy: &str| Problem::new(code, cannot(KIND, vm.name), why, remedy);
    let DiskWish { origin, mut crypto, policy } = wish;
    let (size, format) = match &origin {
        Origin::Blank { size, format } => {
            check_size(*size).map_err(|(why, remedy)| refuse(Code::RequestInvalid, why, remedy))?;
            (*size, *format)
        }
        Origin::Image { path, .. } | Origin::Volume { path, .. } => {
            if !is_path(path) {
                let why = format!("`{}` is not an absolute path", path.display());
                return Err(refuse(
                    Code::RequestInvalid,
                    why,
                    "name the file by the path under which the hosts find it",
                ));
            }
            (0, PlainFormat::Raw)
        }
    };
    let free = (0..).map(DiskId).find(|id| config.disk(*id).is_none());
    let Some(id) = free.filter(|_| config.disks.len() < MAX_DISKS) else {
        return Err(refuse(Code::RequestInvalid, format!("it has {MAX_DISKS} disks"), "remove one first"));
    };
    let crypt = origin.key().cloned().map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
    let disk = DiskConfig {
        id,
        file: FileName::of_disk(id, format),
        size,
        plain_format: format,
        crypto: crypt,
        attached: true,
    };
    let mut disks = config.disks.clone();
    disks.push(disk);
    let with = VmConfig { disks, ..config.clone() };
    let with = VmFacts { config: Some(&with), ..vm };
    let mut assigned = Vec::new();
    if let Some(policy) = policy {
        if crypto != CryptoSpec::NoOp {
            let why = "a policy is given, and what is to be done besides".to_owned();
            return Err(refuse(Code::RequestInvalid, why, "give the one or the other"));
        }
        let wanted = SetPolicy { disks: [(id, policy)].into(), ..SetPolicy::default() };
        let (mut request, names) = set_policy_as(KIND, with, &wanted, policies)?;
        crypto = request.disks.remove(&id).unwrap_or_default();
        assigned = names;
    }
    let keeps = matches!(crypto, CryptoSpec::NoOp | CryptoSpec::Register) && origin.key().is_some();
    let crypt = if keeps || crypto == CryptoSpec::NoOp {
        CryptPlan::default()
    } else {
        let request = CryptoRequest { disks: [(id, crypto)].into(), ..CryptoRequest::default() };
        crypt_as(KIND, with, &request, providers)?
    };
    let plan = NewDiskPlan { id, origin, crypt };
    if keeps && config.home == HomeCrypto::Plain {
        let why = "the disk is encrypted, and would be in a VM home that is not".to_owned();
        return Err(refuse(
            Code::Composition,
            why,
            "encrypt the VM home first, with `ward vm encrypt --home`, or decrypt the disk on its way with `--decrypt`",
        ));
    }
    if keeps && plan.origin.key().is_some_and(|key| key.bound_to().is_some_and(|owner| owner != config.id)) {
        let why = "the disk's key is bound to another VM, as all keys of native providers are".to_owned();
        return Err(refuse(Code::Composition, why, "give it a key of this VM's own, with `--new-kek`"));
    }
    Ok((plan, assigned))
}

/// Plans a change of a disk that the VM has; tells the keys that it takes. To detach and to remove a disk its own key is
/// not needed, so that one whose key is lost can go.
pub(crate) fn change_disk(vm: VmFacts<'_>, id: DiskId, verb: DiskVerb) -> Result<Vec<KeyRef>, Problem> {
    let config = off(KIND, vm)?;
    let refuse = |code, why: String, remedy: String| Problem::new(code, cannot(KIND, vm.name), why, remedy);
    let Some(disk) = config.disk(id) else {
        return Err(refuse(
            Code::NotFound,
            format!("it has no {id}"),
            format!("`ward vm disk ls {}` lists its disks", vm.name),
        ));
    };
    let is = if disk.attached { "attached" } else { "detached" };
    match verb {
        DiskVerb::Attach if disk.attached => {
            return Err(refuse(Code::Exists, format!("{id} is {is} already"), "nothing is to be done".to_owned()));
        }
        DiskVerb::Detach if !disk.attached => {
            return Err(refuse(Code::NotFound, format!("{id} is {is} already"), "nothing is to be done".to_owned()));
        }
        DiskVerb::Detach | DiskVerb::Remove if config.boot_disk().is_some_and(|boot| boot.id == id) => {
            let remedy = format!("delete the VM with `ward vm rm {}`, if it is not needed", vm.name);
            return Err(refuse(Code::Composition, format!("it boots from {id}"), remedy));
        }
        DiskVerb::Attach | DiskVerb::Detach | DiskVerb::Remove => {}
    }
    Ok(config.home.key().cloned().into_iter().collect())
}
