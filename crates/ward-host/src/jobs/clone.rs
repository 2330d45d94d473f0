//! What is in the home of a clone: worked out and checked before anything is made.
//!
//! The rules are those of a change to the VM itself ([`super::plan`]); only that it is made to the copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use ward_disk::image::{self, ImageKind};
use ward_disk::lock;
use ward_rpc::api::host::{CloneVm, HomeRef};
use ward_secret::{HomeKey, TpmKey};
use ward_types::{
    Boot, Code, Component, CryptoPlan, DiskConfig, DiskCrypto, FileName, Firmware, HomeCrypto, KeyRef, Nvram,
    PlainFormat, StepAction, TaskId, VirtualTpm, VmConfig, VolumeId, VolumeRef,
};

use super::Environment;
use super::fill::{Form, Part, Source};
use super::make::{self, Content, Prepared};
use super::plan::{self, Names, Planned};
use crate::fault::{Fault, Result};
use crate::home::{Holder, Home, JOB_JSON, Use, VerifiedHome, codec};
use crate::isolate::Isolator;
use crate::keys::ResolvedKeks;
use crate::volume::{Label, Volume};
use crate::vtpm;

/// Checks everything, locks the VM that is cloned, and takes the place where the clone's home will be.
pub(crate) fn prepare(environment: &Environment, job: TaskId, at: &HomeRef, clone: CloneVm) -> Result<Prepared> {
    if let Some(made) = make::made_already(at, clone.id)? {
        return Ok(made);
    }
    let home = Home::open(&clone.from)?;
    let lock = home.lock_for_job(&Holder { host: environment.host, r#use: Use::Job(job) }, true)?;
    if home.has(JOB_JSON)? {
        let why = format!("a job on {} was interrupted and has not ended", home.path().display());
        return Err(Fault::new(Code::Busy, why, "let the job go on, or cancel it, and clone the VM then"));
    }
    let described = home.read()?;
    check_plan(described.unverified(), &clone.plan)?;
    let new = clone.plan.steps().iter().filter_map(|step| step.action.key());
    let mut keys = environment.resolve(described.unverified().keys(), new)?;
    let verified = described.verify(|key| keys.get(key))?;
    home.check_files(verified.config())?;
    let mut kept = BTreeMap::new();
    for key in verified.config().keys() {
        // The same KEK, which the clone knows by its own reference where it was bound to the other VM.
        let own = environment.keys.lock().rebind(key, clone.id)?;
        kept.insert(key.clone(), own.reference().clone());
        keys.add(own);
    }
    let cloning = Cloning {
        isolator: &environment.isolator,
        home: &home,
        verified: &verified,
        keys: &keys,
        kept: &kept,
        clone: &clone,
    };
    let (config, home_key, parts) = cloning.content()?;
    make::prepare(environment, job, at, Content { config, home_key, parts, keys, _source: Some(lock) })
}

/// Whether it could be done to the VM itself.
fn check_plan(config: &VmConfig, steps: &CryptoPlan) -> Result<()> {
    let taken = Default::default();
    match plan::plan(config, steps, None, &Names::New { taken: &taken })? {
        Planned::AlreadyDone if !steps.steps().is_empty() => {
            Err(Fault::new(Code::KeyUnchanged, "the VM is as the clone is to be", "leave the change out"))
        }
        Planned::AlreadyDone | Planned::Work(_) => Ok(()),
    }
}

struct Cloning<'a> {
    isolator: &'a Arc<Isolator>,
    home: &'a Home,
    verified: &'a VerifiedHome,
    keys: &'a ResolvedKeks,
    /// By which references the clone knows the keys of the other VM.
    kept: &'a BTreeMap<KeyRef, KeyRef>,
    clone: &'a CloneVm,
}

impl Cloning<'_> {
    fn content(&self) -> Result<(VmConfig, Option<HomeKey>, Vec<Part>)> {
        let source = self.verified.config();
        let (home, home_key) = self.new_home()?;
        let mut parts = Vec::new();
        if let Boot::Kernel { kernel, initrd, .. } = &source.boot {
            for file in std::iter::once(kernel).chain(initrd) {
                let name = file.to_string();
                parts.push(Part::Copy { source: Source::open_file(self.home.file(&name))?, name });
            }
        }
        let mut firmware = source.firmware.clone();
        if let (Firmware::Uefi { nvram, .. }, Some(volume)) = (&mut firmware, source.volume(VolumeId::Nvram)) {
            let (file, _, part) = self.volume(volume)?;
            *nvram = Nvram { file, size: volume.size };
            parts.push(part);
        }
        let mut disks = Vec::new();
        for disk in &source.disks {
            let (file, key, part) = self.volume(disk.into())?;
            let crypto = key.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key: key.clone() });
            disks.push(DiskConfig { file, crypto, ..disk.clone() });
            parts.push(part);
        }
        let tpm = match self.tpm(home.key())? {
            Some((tpm, part)) => {
                parts.push(part);
                Some(tpm)
            }
            None => None,
        };
        let (id, name) = (self.clone.id, self.clone.name.clone());
        Ok((VmConfig { id, name, home, disks, firmware, tpm, ..source.clone() }, home_key, parts))
    }

    /// The clone's vTPM, under a key of its own: with the secrets of the other one, or new.
    fn tpm(&self, new_kek: Option<&KeyRef>) -> Result<Option<(VirtualTpm, Part)>> {
        let source = self.verified.config();
        let (tpm, old_kek, new_kek) = match (&source.tpm, source.home.key(), new_kek) {
            (Some(tpm), Some(old), Some(new)) => (tpm, old, new),
            _ if self.clone.replace_tpm => {
                let why = "the VM has no vTPM that could be replaced";
                return Err(Fault::new(Code::TpmNone, why, "leave it out"));
            }
            _ => return Ok(None),
        };
        let key = TpmKey::generate()?;
        let from = if self.clone.replace_tpm {
            vtpm::check_installed()?;
            None
        } else {
            let old = codec::unwrap_tpm(&tpm.wrapped_key, self.keys.get(old_kek)?)?;
            let path = self.home.file(tpm.state.as_str());
            vtpm::check(&self.isolator.vm()?, &path, &old)?;
            Some((path, old))
        };
        let wrapped_key = codec::wrap_tpm(&key, self.keys.get(new_kek)?)?;
        let name = file_name("tpm")?;
        let endorsement = tpm.endorsement.clone().filter(|_| from.is_some());
        Ok(Some((VirtualTpm { state: name.clone(), wrapped_key, endorsement }, Part::Tpm { name, key, from })))
    }

    fn action(&self, component: Component) -> Option<&StepAction> {
        self.clone.plan.steps().iter().find(|step| step.component == component).map(|step| &step.action)
    }

    fn kept<'k>(&'k self, key: &'k KeyRef) -> &'k KeyRef {
        self.kept.get(key).unwrap_or(key)
    }

    /// The clone's home, and its key: the same one unless the data are encrypted anew.
    fn new_home(&self) -> Result<(HomeCrypto, Option<HomeKey>)> {
        let now = self.verified.config().home.key();
        let (key, same) = match (self.action(Component::Home), now) {
            (None, None) | (Some(StepAction::Decrypt), _) => return Ok((HomeCrypto::Plain, None)),
            (None, Some(key)) => (self.kept(key), true),
            (Some(StepAction::ShallowRecrypt { key }), _) => (key, true),
            (Some(StepAction::Encrypt { key } | StepAction::DeepRecrypt { key }), _) => (key, false),
        };
        let home_key = match self.verified.key() {
            Some(old) if same => codec::unwrap(&codec::wrap(old, self.keys.get(key)?)?, self.keys.get(key)?)?,
            _ => HomeKey::generate()?,
        };
        let wrapped_key = codec::wrap(&home_key, self.keys.get(key)?)?;
        Ok((HomeCrypto::Encrypted { key: key.clone(), wrapped_key }, Some(home_key)))
    }

    /// A volume of the clone: its file, its key, and how it comes to be.
    fn volume<'a>(&'a self, it: VolumeRef<'a>) -> Result<(FileName, Option<&'a KeyRef>, Part)> {
        let path = self.home.file(it.file.as_str());
        lock::check_unused(&path)?;
        let old = it.key.map(|key| Label::new(key.clone(), self.verified.config().id, it.id));
        match &old {
            Some(old) => {
                let volume = Volume::open(self.home.open_file(it.file, false)?, &path, &old.key)?;
                volume.unlock(self.keys.get(&old.key)?, it.size)?;
                volume.check_label(old)?;
                volume.check_room_for_key(&old.key)?;
            }
            None => check_plain(&path, it)?,
        }
        let new = |key: &KeyRef| Label::new(key.clone(), self.clone.id, it.id);
        let action = self.action(match it.id {
            VolumeId::Nvram => Component::Home,
            VolumeId::Disk(disk) => Component::Disk(disk),
        });
        let (name, key) = match action.map(StepAction::key) {
            None => (it.file.to_string(), it.key.map(|key| self.kept(key))),
            Some(Some(key)) => (format!("{}.luks", it.id), Some(key)),
            Some(None) => (format!("{}.{}", it.id, it.plain_format), None),
        };
        let part = match (action, old, key) {
            (None, None, _) => Part::Copy { source: Source::open_disk(path)?, name: name.clone() },
            (None | Some(StepAction::ShallowRecrypt { .. }), Some(old), Some(key)) => {
                Part::CopyLuks { source: Source::open_disk(path)?, name: name.clone(), old, new: new(key) }
            }
            (_, old, key) => {
                let from = old.map_or(Form::Plain(it.plain_format), Form::Luks);
                let to = key.map_or(Form::Plain(it.plain_format), |key| Form::Luks(new(key)));
                Part::Convert { source: path, from, name: name.clone(), to, size: it.size }
            }
        };
        Ok((file_name(&name)?, key, part))
    }
}

fn file_name(name: &str) -> Result<FileName> {
    name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
}

fn check_plain(path: &std::path::Path, disk: VolumeRef<'_>) -> Result<()> {
    let kind = match disk.plain_format {
        PlainFormat::Raw => ImageKind::Raw,
        PlainFormat::Qcow2 => ImageKind::Qcow2,
    };
    let info = image::probe_as(path, kind)?;
    info.check_plain(path)?;
    if info.virtual_size != disk.size {
        let why = format!("{} holds {} bytes, and should {}", path.display(), info.virtual_size, disk.size);
        return Err(Fault::new(Code::ImageInvalid, why, "restore the disk, or correct its size in vm.toml"));
    }
    Ok(())
}
