//! What the hosts share: the homes of all VMs, and what a job makes of one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ward_rpc::api::host::{
    AddDisk, CreateVm, DatastoreUses, DiskChange, DiskInfo, DiskSource, FindUses, HomeRef, JobOutcome, JobSpec,
    NewFirmware, TpmChange, VolumeLabel,
};
use ward_types::{
    Boot, Code, Component, CryptoPlan, CryptoStep, DiskConfig, DiskCrypto, DiskId, Firmware, HomeCrypto, KeyRef, Nvram,
    PlainFormat, Problem, StepAction, VirtualTpm, VmConfig, WrappedHomeKey, WrappedTpmKey,
};

/// The homes, by their paths.
#[derive(Clone, Default)]
pub struct Storage(Arc<Mutex<HashMap<PathBuf, VmConfig>>>);

impl Storage {
    pub fn get(&self, home: &HomeRef) -> Option<VmConfig> {
        self.0.lock().unwrap().get(&home.path()).cloned()
    }

    /// Writes a description behind everybody's back.
    pub fn put(&self, home: &str, config: VmConfig) {
        self.0.lock().unwrap().insert(home.into(), config);
    }

    pub fn homes(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// What on some datastores needs a key.
    pub fn uses(&self, asked: &FindUses) -> Vec<DatastoreUses> {
        let homes = self.0.lock().unwrap();
        let needs = |config: &VmConfig| config.keys().contains(&&asked.key);
        let uses = |directory: &PathBuf| {
            let there = homes.iter().filter(|(path, config)| path.starts_with(directory) && needs(config));
            there.map(|(path, _)| path.clone()).collect()
        };
        let of =
            |directory: &PathBuf| DatastoreUses { directory: directory.clone(), marked: true, uses: uses(directory) };
        asked.datastores.iter().map(of).collect()
    }

    /// What a file is: an encrypted disk of a VM, or some image.
    pub fn look_at(&self, path: &Path) -> DiskInfo {
        let homes = self.0.lock().unwrap();
        let of = path.parent().and_then(|home| homes.get(home));
        let label = of.and_then(|config| {
            let disk = config.disks.iter().find(|disk| path.ends_with(disk.file.as_str()))?;
            Some(VolumeLabel { key: disk.key()?.clone(), vm: config.id, disk: disk.id })
        });
        label.map_or(DiskInfo::Plain, DiskInfo::Volume)
    }

    /// The keys without which a job can't be done.
    pub fn needs(&self, home: &HomeRef, spec: &JobSpec) -> Vec<KeyRef> {
        let (home, plan) = match spec {
            JobSpec::Crypt { plan } | JobSpec::Tpm { plan, .. } => (home, plan),
            JobSpec::Clone(clone) => (&clone.from, &clone.plan),
            JobSpec::CreateEncrypted { home, disks, .. } => {
                return std::iter::once(home).chain(disks.iter().flatten()).cloned().collect();
            }
            JobSpec::Disks(change) => {
                let key = match change {
                    DiskChange::Add(add) => add.key.clone(),
                    _ => None,
                };
                let config = self.get(home);
                return config.iter().filter_map(|config| config.home.key().cloned()).chain(key).collect();
            }
            JobSpec::Create(_) | JobSpec::Remove => return vec![],
        };
        let config = self.get(home);
        let there = config.iter().flat_map(|config| config.keys().into_iter().cloned());
        let new = plan.steps().iter().filter_map(|step| step.action.key().cloned());
        there.chain(new).collect()
    }

    /// Does a job.
    pub fn apply(&self, home: &HomeRef, spec: &JobSpec) -> JobOutcome {
        let mut homes = self.0.lock().unwrap();
        let path = home.path();
        let config = match (spec, homes.get(&path)) {
            (JobSpec::Create(_) | JobSpec::CreateEncrypted { .. } | JobSpec::Clone(_), Some(_)) => {
                let problem = Problem::new(Code::Exists, "cannot create VM", "there is a home", "choose another name");
                return JobOutcome::Failed { problem };
            }
            (JobSpec::Create(spec), None) => create(spec),
            (JobSpec::CreateEncrypted { vm, home, disks }, None) => {
                let encrypt = |(component, key): (Component, &KeyRef)| CryptoStep {
                    component,
                    action: StepAction::Encrypt { key: key.clone() },
                };
                let disks = (0..).zip(disks).filter_map(|(n, key)| Some((Component::Disk(DiskId(n)), key.as_ref()?)));
                let steps = std::iter::once((Component::Home, home)).chain(disks).map(encrypt).collect();
                crypt(create(vm), &CryptoPlan::new(steps))
            }
            (JobSpec::Clone(clone), None) => {
                let source = homes.get(&clone.from.path()).cloned().unwrap();
                let (id, name) = (clone.id, clone.name.clone());
                crypt(VmConfig { id, name, ..source }, &clone.plan)
            }
            (JobSpec::Crypt { plan }, Some(config)) => crypt(config.clone(), plan),
            (JobSpec::Tpm { plan, change }, Some(config)) => {
                let tpm = (*change == TpmChange::Add).then(|| VirtualTpm {
                    state: "tpm".parse().unwrap(),
                    wrapped_key: WrappedTpmKey("AAAA".into()),
                    endorsement: None,
                });
                crypt(VmConfig { tpm, ..config.clone() }, plan)
            }
            (JobSpec::Disks(change), Some(config)) => disks(config.clone(), change),
            (JobSpec::Crypt { .. } | JobSpec::Tpm { .. } | JobSpec::Disks(_), None) => {
                let problem = Problem::new(Code::HomeInvalid, "cannot read VM", "there is no home", "look for it");
                return JobOutcome::Failed { problem };
            }
            (JobSpec::Remove, _) => {
                homes.remove(&path);
                return JobOutcome::Done { config: None, notices: vec![] };
            }
        };
        homes.insert(path, config.clone());
        JobOutcome::Done { config: Some(Box::new(config)), notices: vec![] }
    }
}

fn disks(mut config: VmConfig, change: &DiskChange) -> VmConfig {
    match change {
        DiskChange::Add(AddDisk { id, key, .. }) => config.disks.push(DiskConfig {
            id: *id,
            file: format!("{id}.img").parse().unwrap(),
            size: 4096,
            plain_format: PlainFormat::Raw,
            crypto: key.clone().map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key }),
            attached: true,
        }),
        DiskChange::Attach { disk } | DiskChange::Detach { disk } => {
            let attached = matches!(change, DiskChange::Attach { .. });
            config.disks.iter_mut().find(|it| it.id == *disk).unwrap().attached = attached;
        }
        DiskChange::Remove { disk } => config.disks.retain(|it| it.id != *disk),
    }
    config
}

fn create(spec: &CreateVm) -> VmConfig {
    let disk = |(number, disk): (u16, &DiskSource)| {
        let (size, plain_format) = match disk {
            DiskSource::Blank { size, format } => (*size, *format),
            DiskSource::Copy { .. } => (4096, PlainFormat::Raw),
        };
        let file = format!("disk-{number}.img").parse().unwrap();
        DiskConfig { id: DiskId(number), file, size, plain_format, crypto: DiskCrypto::Plain, attached: true }
    };
    VmConfig {
        version: VmConfig::VERSION,
        id: spec.id,
        name: spec.name.clone(),
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        boot: Boot::Disk,
        home: HomeCrypto::Plain,
        disks: (0..).zip(&spec.disks).map(disk).collect(),
        firmware: match spec.firmware {
            NewFirmware::Bios => Firmware::Bios,
            NewFirmware::Uefi { secure_boot, .. } => {
                let nvram = Nvram { file: "nvram.raw".parse().unwrap(), size: 540_672 };
                Firmware::Uefi { secure_boot, nvram }
            }
        },
        tpm: spec.tpm.then(|| VirtualTpm {
            state: "tpm".parse().unwrap(),
            wrapped_key: WrappedTpmKey("AAAA".into()),
            endorsement: None,
        }),
    }
}

fn crypt(mut config: VmConfig, plan: &CryptoPlan) -> VmConfig {
    for step in plan.steps() {
        let key = step.action.key().cloned();
        match step.component {
            Component::Home => {
                config.home = key.map_or(HomeCrypto::Plain, |key| HomeCrypto::Encrypted {
                    key,
                    wrapped_key: WrappedHomeKey("AAAA".into()),
                });
            }
            Component::Disk(id) => {
                let disk = config.disks.iter_mut().find(|disk| disk.id == id).unwrap();
                disk.crypto = key.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
            }
        }
    }
    config
}
