//! Making VMs from others, and making them encrypted from the beginning.

use ward_rpc::api::host::{CreateVm, DiskSource, NewFirmware};
use ward_types::{
    Boot, Code, Component, CryptoRequest, CryptoSpec, DiskConfig, DiskCrypto, DiskId, FileName, Firmware, HomeCrypto,
    KeyWish, Name, Nvram, PlainFormat, PolicyName, Power, Problem, TaskKind, VmConfig,
};

use super::crypt::crypt_as;
use super::policy::set_policy_as;
use super::{CryptPlan, ProviderFacts, VmFacts, cannot, keys, off};
use crate::api::types::{CloneKeys, SetPolicy, TpmClone};
use crate::store::policy::PolicyRow;

/// What somebody asks of a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct CloneWish {
    pub(crate) keys: CloneKeys,
    pub(crate) key: KeyWish,
    /// What is asked of single components, besides.
    pub(crate) crypto: CryptoRequest,
    /// What becomes of the vTPM, where something is said of it; else it is copied.
    pub(crate) tpm: Option<TpmClone>,
}

/// Plans a clone: what changes of its encryption on the way. All rules are those of a change to the VM itself.
pub(crate) fn clone(
    vm: VmFacts<'_>,
    wish: &CloneWish,
    exists: bool,
    new: &Name,
    providers: &[ProviderFacts],
) -> Result<CryptPlan, Problem> {
    let kind = TaskKind::VmClone;
    let config = off(kind, vm)?;
    let refuse = |code, why: String, remedy: &str| Err(Problem::new(code, cannot(kind, vm.name), why, remedy));
    if exists {
        let why = format!("there is a VM `{new}` already");
        return refuse(Code::Exists, why, "choose another name; `ward vm ls` lists those in use");
    }
    if wish.tpm.is_some() && config.tpm.is_none() {
        let why = "it has no vTPM that could be copied or replaced".to_owned();
        return refuse(Code::TpmNone, why, "leave `--tpm` out");
    }
    let spec = match wish.keys {
        CloneKeys::Same => CryptoSpec::NoOp,
        CloneKeys::NewKek => CryptoSpec::ShallowRecrypt(wish.key.clone()),
        CloneKeys::New => CryptoSpec::DeepRecrypt(wish.key.clone()),
    };
    let encrypted = keys(config).into_iter().filter(|(_, key)| key.is_some()).map(|(component, _)| component);
    let mut request = CryptoRequest::of(encrypted, &spec);
    if spec != CryptoSpec::NoOp && request == CryptoRequest::default() {
        let why = "nothing of it is encrypted, so there are no keys to replace".to_owned();
        return refuse(
            Code::NotEncrypted,
            why,
            "leave `--new-kek` and `--new-keys` out; `--encrypt` encrypts the clone",
        );
    }
    // What is said of a component by itself goes before what is said of all.
    for (component, spec) in wish.crypto.specs().filter(|(_, spec)| **spec != CryptoSpec::NoOp) {
        match component {
            Component::Home => request.home = spec.clone(),
            Component::Disk(disk) => {
                request.disks.insert(disk, spec.clone());
            }
        }
    }
    if request.specs().all(|(_, spec)| *spec == CryptoSpec::NoOp) {
        return Ok(CryptPlan::default());
    }
    crypt_as(kind, vm, &request, providers)
}

/// Plans what the storage policies of a new VM ask. One with a vTPM has an encrypted home, under whatever policy.
pub(crate) fn create_under(
    kind: TaskKind,
    new: &CreateVm,
    wanted: Option<&SetPolicy>,
    policies: &[PolicyRow],
    providers: &[ProviderFacts],
) -> Result<(CryptPlan, Vec<(Component, PolicyName)>), Problem> {
    let config = as_if_plain(new);
    let vm = VmFacts {
        name: &new.name,
        config: Some(&config),
        power: Power::Off,
        host: None,
        busy: None,
        locked: None,
        template: false,
    };
    let (mut request, assigned) = match wanted {
        None => Default::default(),
        Some(wanted) => set_policy_as(kind, vm, wanted, policies)?,
    };
    if new.tpm && request.home == CryptoSpec::NoOp {
        if let Some((_, policy)) = assigned.iter().find(|(component, _)| *component == Component::Home) {
            return Err(Problem::new(
                Code::Composition,
                cannot(kind, &new.name),
                format!(
                    "it has a vTPM, which takes an encrypted VM home, and storage policy `{policy}` does not encrypt"
                ),
                "name a policy that encrypts, name none, or leave `--tpm` out",
            ));
        }
        request.home = CryptoSpec::Encrypt(KeyWish::default());
    }
    let plan = if request == CryptoRequest::default() {
        CryptPlan::default()
    } else {
        crypt_as(kind, vm, &request, providers)?
    };
    Ok((plan, assigned))
}

/// A VM as it would be if nothing of it were encrypted: what its policies are laid upon.
fn as_if_plain(new: &CreateVm) -> VmConfig {
    let disk = |(n, source): (u16, &DiskSource)| DiskConfig {
        id: DiskId(n),
        file: FileName::of_disk(DiskId(n), PlainFormat::Raw),
        size: match source {
            DiskSource::Blank { size, .. } => *size,
            DiskSource::Copy { .. } => 0,
        },
        plain_format: PlainFormat::Raw,
        crypto: DiskCrypto::Plain,
        attached: true,
    };
    VmConfig {
        version: VmConfig::VERSION,
        id: new.id,
        name: new.name.clone(),
        cpus: new.cpus,
        memory_mib: new.memory_mib,
        boot: Boot::Disk,
        home: HomeCrypto::Plain,
        disks: (0..).zip(&new.disks).map(disk).collect(),
        firmware: match new.firmware {
            NewFirmware::Bios => Firmware::Bios,
            NewFirmware::Uefi { secure_boot, .. } => {
                Firmware::Uefi { secure_boot, nvram: Nvram { file: FileName::nvram(), size: 0 } }
            }
        },
        // It gets that with its keys.
        tpm: None,
    }
}
