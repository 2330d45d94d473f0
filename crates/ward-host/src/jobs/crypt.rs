//! Encrypting, decrypting and recrypting.
//!
//! ```text
//! check everything                                       refused: nothing was touched
//! job.json                                               from here on, killed: goes on, or is undone
//! for each volume: NEW.part is made and converted into
//!   or, where only its KEK is replaced: a keyslot of the new KEK is added to that of the old one
//! a new state of the vTPM, where there is to be one, in its own NEW.part
//! NEW.part -> NEW
//! vm.toml is replaced                                    THE MOMENT: before it all is undone, after it all is finished
//! the old files, the old keyslots and the checkpoints are removed
//! job.json is removed
//! ```
//!
//! Whether the moment has passed is read from `vm.toml` itself. At every moment the key that it names opens each disk, so
//! a job that only replaces KEKs works beside the running VM.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use ward_disk::image::{self, ImageKind};
use ward_disk::{ImageFormat, lock};
use ward_rpc::api::host::{HomeRef, Notice, TpmChange};
use ward_secret::{HomeKey, TpmKey};
use ward_types::{
    Code, CryptoPlan, Endorsement, KeyRef, PlainFormat, TaskId, VmConfig, VolumeId, WrappedHomeKey, WrappedTpmKey,
};

use super::control::{Control, Stop};
use super::convert::{self, End};
use super::plan::{self, Conversion, Form, HomeStep, Image, Names, NewTpm, Planned, Rekeying, TpmStep, Work};
use super::record::{Record, checkpoint, part};
use super::settle::{done, finish, is_done, not_tidied, settle, undo, undone, wait_for_orphans};
use super::{Ended, Environment};
use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};
use crate::home::{Described, Holder, Home, JobLock, Use, VerifiedHome, codec};
use crate::keys::{ResolvedKek, ResolvedKeks};
use crate::volume::{self, DATA_OFFSET, Label, Unlocked, Volume};
use crate::vtpm;

/// What a file system keeps for itself, at most, for what a job writes beside the disks.
const SPARE: u64 = 1 << 20;

/// A job of which everything has been checked.
pub(crate) struct Prepared {
    lock: JobLock,
    home: Home,
    job: TaskId,
    next: Next,
}

enum Next {
    /// It was carried out already; at most there is something to tidy up.
    Finish { config: Box<VmConfig>, record: Option<Box<Record>> },
    /// It is to be done, or to be gone on with.
    Work(Box<Task>),
}

struct Task {
    verified: VerifiedHome,
    asked: (CryptoPlan, Option<TpmChange>),
    work: Work,
    keys: ResolvedKeks,
    record: Option<Record>,
    /// The key of the vTPM that there is.
    tpm_key: Option<TpmKey>,
}

/// The new keys of a job, which its record has wrapped.
struct NewKeys {
    home: Option<HomeKey>,
    tpm: Option<TpmKey>,
}

/// Checks everything, and settles what another job left.
pub(crate) fn prepare(
    environment: &Environment,
    job: TaskId,
    at: &HomeRef,
    plan: CryptoPlan,
    tpm: Option<TpmChange>,
) -> Result<Prepared> {
    let home = Home::open(at)?;
    let holder = Holder { host: environment.host, r#use: Use::Job(job) };
    let lock = home.lock_for_job(&holder, !plan.is_online() || tpm.is_some())?;
    let record = Record::read(&home)?;
    if let Some(record) = &record {
        wait_for_orphans(&home, record)?;
    }
    let record = match record {
        Some(record)
            if record.job == job && (record.plan != plan || record.tpm.change != tpm || record.disk.is_some()) =>
        {
            return Err(Fault::invalid(format!("job {job} was begun with another plan")));
        }
        Some(record) if record.job != job => {
            settle(&home, &record)?;
            None
        }
        record => record,
    };
    let described = home.read()?;
    let config = described.unverified();
    let planned = match &record {
        Some(record) => plan::plan(config, &plan, tpm.as_ref(), &record.names()),
        None => {
            let taken =
                files::names(home.path())?.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
            plan::plan(config, &plan, tpm.as_ref(), &Names::New { taken: &taken })
        }
    };
    let next = match planned? {
        Planned::AlreadyDone => Next::Finish { config: Box::new(config.clone()), record: record.map(Box::new) },
        Planned::Work(work) => {
            Next::Work(Box::new(check(environment, &home, described, lock.is_alone(), (plan, tpm), *work, record)?))
        }
    };
    Ok(Prepared { lock, home, job, next })
}

fn check(
    environment: &Environment,
    home: &Home,
    described: Described,
    alone: bool,
    asked: (CryptoPlan, Option<TpmChange>),
    work: Work,
    record: Option<Record>,
) -> Result<Task> {
    let old = described.unverified().home.key().into_iter().chain(work.old_keys());
    let keys = environment.resolve(old, work.new_keys())?;
    let verified = described.verify(|key| keys.get(key))?;
    let config = verified.config();
    home.check_files(config)?;
    for volume in config.volumes().filter(|_| alone) {
        // Another host may run it without our lock, or a program of somebody else have it open.
        lock::check_unused(&home.file(volume.file.as_str()))?;
    }
    let tpm_key = match (&config.tpm, config.home.key()) {
        (Some(tpm), Some(kek)) => Some(codec::unwrap_tpm(&tpm.wrapped_key, keys.get(kek)?)?),
        _ => None,
    };
    match (&work.tpm, &tpm_key) {
        (TpmStep::Make { .. }, _) => vtpm::check_installed()?,
        (TpmStep::Rewrite { from, .. } | TpmStep::Certify { from, .. }, Some(key)) => {
            vtpm::check(&environment.isolator.vm()?, &home.file(from.as_str()), key)?;
        }
        _ => {}
    }
    if let (TpmStep::Certify { given, .. }, Some(known)) =
        (&work.tpm, config.tpm.as_ref().and_then(|tpm| tpm.endorsement.as_ref()))
    {
        vtpm::check_given(known, given)?;
    }
    let task = Task { verified, asked, work, keys, record, tpm_key };
    for rekeying in &task.work.rekeyings {
        let path = home.file(rekeying.file.as_str());
        let volume = Volume::open(home.open_file(&rekeying.file, true)?, &path, &rekeying.from)?;
        volume.unlock(task.keys.get(&rekeying.from)?, rekeying.size)?;
        volume.check_label(&task.label(rekeying.volume, &rekeying.from))?;
        if task.record.is_none() {
            volume.check_room_for_key(&rekeying.from)?;
        }
    }
    let mut needed = SPARE;
    for conversion in &task.work.conversions {
        task.open_source(home, conversion)?;
        needed += task.needed(home, conversion)?;
    }
    let free = files::free_space(home.path())?;
    if needed > free {
        return Err(Fault::new(
            Code::StorageFull,
            format!("{needed} bytes are needed beside the old disks, {} has {free} free", home.path().display()),
            "make room on the datastore; the old disks are deleted only when the new ones are whole",
        ));
    }
    Ok(task)
}

impl Prepared {
    /// Does it.
    pub(crate) fn run(self, environment: &Environment, control: &Control) -> Ended {
        let Self { lock, home, job, next } = self;
        let ended = match next {
            Next::Finish { config, record } => match record.map_or(Ok(()), |record| finish(&home, &config, &record)) {
                Ok(()) => done(*config, Vec::new()),
                Err(fault) => Ended::Failed(not_tidied(fault)),
            },
            Next::Work(task) => task.run(environment, control, &home, job),
        };
        drop(lock);
        ended
    }
}

impl Task {
    fn run(mut self, environment: &Environment, control: &Control, home: &Home, job: TaskId) -> Ended {
        let (record, new) = match self.begin(home, job) {
            Ok(begun) => begun,
            Err(fault) => return Ended::Failed(fault),
        };
        let before = self.verified.config();
        let mut notices = Vec::new();
        let worked = self
            .convert_all(environment, control, home, &mut notices)
            .and_then(|()| self.add_keys(control, home, &mut notices))
            .and_then(|()| self.make_tpm(environment, control, home, new.tpm.as_ref()))
            .and_then(|tpm| Ok(self.put_in_place(home, &record, new.home.as_ref(), tpm.as_ref())?));
        let config = match worked {
            Ok(config) => config,
            Err(Stop::Suspended) => return Ended::Suspended,
            Err(Stop::Failed(fault)) => {
                // The description may have been replaced before something failed; it alone says.
                let now = home.read().map(|described| described.unverified().clone());
                return match now.as_ref().map(|now| is_done(now, &record)) {
                    Ok(Ok(true)) => Ended::Failed(not_tidied(fault)),
                    _ => undone(undo(home, before, &record), fault),
                };
            }
        };
        control.step("removing what is no longer needed");
        match finish(home, &config, &record) {
            Ok(()) => done(config, notices),
            Err(fault) => Ended::Failed(not_tidied(fault)),
        }
    }

    /// Writes the record, or takes up the one that is there.
    fn begin(&mut self, home: &Home, job: TaskId) -> Result<(Record, NewKeys)> {
        let record = self.record.take();
        let home_kek = match &self.work.home {
            HomeStep::Encrypt(key) | HomeStep::Recrypt(key) => Some(self.keys.get(key)?),
            HomeStep::Keep | HomeStep::Rewrap(_) | HomeStep::Decrypt => None,
        };
        let tpm_kek = match self.work.tpm.to() {
            Some(_) => Some(self.kek_after()?),
            None => None,
        };
        if let Some(record) = record {
            // One that was altered is as good as none: nothing depends on it before the moment.
            let home_key = reopened(home_kek, record.home_key.as_ref(), codec::unwrap);
            let tpm_key = reopened(tpm_kek, record.tpm.key.as_ref(), codec::unwrap_tpm);
            if let (Some(home), Some(tpm)) = (home_key, tpm_key) {
                return Ok((record, NewKeys { home, tpm }));
            }
        }
        let (mut new, mut wrapped_home, mut wrapped_tpm) = (NewKeys { home: None, tpm: None }, None, None);
        if let Some(kek) = home_kek {
            let key = HomeKey::generate()?;
            wrapped_home = Some(codec::wrap(&key, kek)?);
            new.home = Some(key);
        }
        if let Some(kek) = tpm_kek {
            let key = TpmKey::generate()?;
            wrapped_tpm = Some(codec::wrap_tpm(&key, kek)?);
            new.tpm = Some(key);
        }
        let record = Record::new(job, self.asked.clone(), &self.work, wrapped_home, wrapped_tpm);
        record.write(home)?;
        Ok((record, new))
    }

    /// The KEK of the home when all is done.
    fn kek_after(&self) -> Result<&ResolvedKek> {
        let key = match &self.work.home {
            HomeStep::Encrypt(key) | HomeStep::Recrypt(key) | HomeStep::Rewrap(key) => Some(key),
            HomeStep::Keep => self.verified.config().home.key(),
            HomeStep::Decrypt => None,
        };
        self.keys.get(key.ok_or_else(|| Fault::internal("a vTPM would be in a plain home"))?)
    }

    fn convert_all(
        &self,
        environment: &Environment,
        control: &Control,
        home: &Home,
        notices: &mut Vec<Notice>,
    ) -> std::result::Result<(), Stop> {
        let total = self.work.total();
        let mut before = 0;
        control.progress(0, total);
        for conversion in &self.work.conversions {
            control.check()?;
            if let Form::Luks(key) = &conversion.from.form {
                let file = home.open_file(&conversion.from.file, true)?;
                let path = home.file(conversion.from.file.as_str());
                notices.extend(Volume::open(file, &path, key)?.repair(key)?);
            }
            let verb = match (&conversion.from.form, &conversion.to.form) {
                (Form::Luks(_), Form::Luks(_)) => "recrypting",
                (Form::Plain(_), Form::Luks(_)) => "encrypting",
                (_, Form::Plain(_)) => "decrypting",
            };
            control.step(format!("{verb} {}", conversion.volume));
            // Whole and in its place before an interruption.
            if !home.has(conversion.to.file.as_str())? {
                self.convert(environment, control, home, conversion, &mut |done| {
                    control.progress(before + done, total);
                })?;
            }
            before += conversion.size;
            control.progress(before, total);
        }
        control.check()
    }

    /// Lets the new KEKs open the disks beside the old ones.
    fn add_keys(&self, control: &Control, home: &Home, notices: &mut Vec<Notice>) -> std::result::Result<(), Stop> {
        for rekeying in &self.work.rekeyings {
            control.check()?;
            control.step(format!("giving {} its new key", rekeying.volume));
            notices.extend(self.add_key(home, rekeying)?);
            crash_point::reach("crypt.key-added");
        }
        control.check()
    }

    fn add_key(&self, home: &Home, Rekeying { volume: id, file, from, to, .. }: &Rekeying) -> Result<Option<Notice>> {
        let path = home.file(file.as_str());
        let mut volume = Volume::open(home.open_file(file, true)?, &path, from)?;
        let notice = volume.repair(from)?;
        let (old, new) = (self.label(*id, from), self.label(*id, to));
        volume.add_key((self.keys.get(from)?, &old), (self.keys.get(to)?, &new))?;
        Ok(notice)
    }

    fn label(&self, volume: VolumeId, key: &KeyRef) -> Label {
        Label::new(key.clone(), self.verified.config().id, volume)
    }

    /// Makes the vTPM's new state, anew where an earlier attempt left one: nothing depends on it yet. Tells what is new of
    /// its endorsement keys.
    fn make_tpm(
        &self,
        environment: &Environment,
        control: &Control,
        home: &Home,
        key: Option<&TpmKey>,
    ) -> std::result::Result<Option<Endorsement>, Stop> {
        let (Some(to), Some(key)) = (self.work.tpm.to(), key) else { return Ok(None) };
        control.check()?;
        control.step("making the state of the vTPM");
        vtpm::remove(&home.file(to.as_str()))?;
        let part = home.file(&vtpm::part(to));
        let certify = |keys| control.certify(keys);
        let isolated = environment.isolator.vm()?;
        let endorsement = match (&self.work.tpm, &self.tpm_key) {
            (TpmStep::Rewrite { from, .. }, Some(old)) => {
                vtpm::rewrite(&isolated, (&home.file(from.as_str()), old), (&part, key))?;
                None
            }
            (TpmStep::Certify { from, given, .. }, Some(old)) => {
                let known = self.verified.config().tpm.as_ref().and_then(|tpm| tpm.endorsement.as_ref());
                let from = home.file(from.as_str());
                Some(vtpm::certify(&isolated, (&from, old), (&part, key), known, given, certify)?)
            }
            _ => Some(vtpm::make(&isolated, &part, key, certify)?),
        };
        crash_point::reach("crypt.tpm-made");
        control.check()?;
        Ok(endorsement)
    }

    fn convert(
        &self,
        environment: &Environment,
        control: &Control,
        home: &Home,
        conversion: &Conversion,
        progress: &mut dyn FnMut(u64),
    ) -> std::result::Result<(), Stop> {
        if let Form::Luks(key) = &conversion.to.form {
            self.make_target(home, conversion, key)?;
        }
        crash_point::reach("crypt.target-made");
        let target = part(&conversion.to.file);
        let paths = convert::Conversion {
            source: &home.file(conversion.from.file.as_str()),
            target: &home.file(&target),
            size: conversion.size,
            checkpoint: &home.file(&checkpoint(&conversion.to.file)),
        };
        let ends = || {
            let target = match &conversion.to.form {
                Form::Plain(format) => End::Plain(image_format(*format)),
                Form::Luks(key) => End::Encrypted(self.open_target(home, &target, key)?),
            };
            Ok((self.open_source(home, conversion)?, target))
        };
        convert::run(&environment.isolator, &paths, control, ends, progress)?;
        crash_point::reach("crypt.converted");
        Ok(())
    }

    /// Makes the encrypted file, unless an earlier attempt left one that opens.
    fn make_target(&self, home: &Home, conversion: &Conversion, key: &KeyRef) -> Result<()> {
        let name = part(&conversion.to.file);
        if home.has(&name)? && self.open_target(home, &name, key).is_ok() {
            return Ok(());
        }
        // The note first: it must not speak of a file that it was not made for.
        home.remove(&checkpoint(&conversion.to.file))?;
        home.remove(&name)?;
        home.sync()?;
        let path = home.file(&name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .doing("create", &path)?;
        crash_point::reach("crypt.target-created");
        volume::format(file, &path, self.keys.get(key)?, &self.label(conversion.volume, key))?;
        home.sync()
    }

    fn open_target(&self, home: &Home, name: &str, key: &KeyRef) -> Result<Unlocked> {
        let path = home.file(name);
        let file =
            files::open_regular(&path, true)?.ok_or_else(|| Fault::internal(format!("{} is gone", path.display())))?;
        let mut volume = Volume::open(file, &path, key)?;
        volume.repair(key)?;
        volume.unlock_target(self.keys.get(key)?)
    }

    /// Opens what is to be converted, which is all the checking that it needs.
    fn open_source(&self, home: &Home, conversion: &Conversion) -> Result<End> {
        let path = home.file(conversion.from.file.as_str());
        match &conversion.from.form {
            Form::Plain(format) => {
                let kind = match format {
                    PlainFormat::Raw => ImageKind::Raw,
                    PlainFormat::Qcow2 => ImageKind::Qcow2,
                };
                let info = image::probe_as(&path, kind)?;
                info.check_plain(&path)?;
                if info.virtual_size != conversion.size {
                    let why =
                        format!("{} holds {} bytes, and should {}", path.display(), info.virtual_size, conversion.size);
                    let code =
                        if info.virtual_size < conversion.size { Code::ImageTruncated } else { Code::ImageInvalid };
                    return Err(Fault::new(code, why, "restore the disk, or correct its size in vm.toml"));
                }
                Ok(End::Plain(image_format(*format)))
            }
            Form::Luks(key) => {
                let volume = Volume::open(home.open_file(&conversion.from.file, false)?, &path, key)?;
                let kek = self.keys.get(key)?;
                let unlocked = volume.unlock(kek, conversion.size)?;
                volume.check_label(&self.label(conversion.volume, key))?;
                Ok(End::Encrypted(unlocked))
            }
        }
    }

    /// How much room the new file still takes, at most.
    fn needed(&self, home: &Home, conversion: &Conversion) -> Result<u64> {
        let overhead = match conversion.to.form {
            Form::Luks(_) => DATA_OFFSET,
            Form::Plain(PlainFormat::Raw) => 0,
            Form::Plain(PlainFormat::Qcow2) => conversion.size / 4096 + SPARE,
        };
        let mut has = 0;
        for name in [part(&conversion.to.file), conversion.to.file.to_string()] {
            if let Some(file) = files::open_regular(&home.file(&name), false)? {
                has += file.metadata().doing("look at", &home.file(&name))?.blocks() * 512;
            }
        }
        Ok((conversion.size.next_multiple_of(4096) + overhead).saturating_sub(has))
    }

    /// The home's key under its new KEK, where that is all that it gets.
    fn rewrapped(&self) -> Result<Option<WrappedHomeKey>> {
        match (&self.work.home, self.verified.key()) {
            (HomeStep::Rewrap(kek), Some(key)) => codec::wrap(key, self.keys.get(kek)?).map(Some),
            _ => Ok(None),
        }
    }

    /// The key of the vTPM as it is wrapped when all is done, where that is not as it was.
    fn wrapped_tpm(&self, record: &Record) -> Result<Option<WrappedTpmKey>> {
        match (&self.work.tpm, &self.tpm_key) {
            (TpmStep::Rewrap, Some(key)) => codec::wrap_tpm(key, self.kek_after()?).map(Some),
            _ => Ok(record.tpm.key.clone()),
        }
    }

    /// Gives the new files their names and the VM its new description.
    fn put_in_place(
        &self,
        home: &Home,
        record: &Record,
        new_key: Option<&HomeKey>,
        endorsement: Option<&Endorsement>,
    ) -> Result<VmConfig> {
        for Conversion { to: Image { file, .. }, .. } in &self.work.conversions {
            if !home.has(file.as_str())? {
                home.rename(&part(file), file.as_str())?;
                crash_point::reach("crypt.renamed");
            }
        }
        if let Some(to) = self.work.tpm.to() {
            home.rename(&vtpm::part(to), to.as_str())?;
            crash_point::reach("crypt.tpm-renamed");
        }
        home.sync()?;
        crash_point::reach("crypt.in-place");
        let rewrapped = self.rewrapped()?;
        let (wrapped, key) = match self.work.home {
            HomeStep::Keep => (None, self.verified.key()),
            HomeStep::Rewrap(_) => (rewrapped.as_ref(), self.verified.key()),
            HomeStep::Encrypt(_) | HomeStep::Recrypt(_) => (record.home_key.as_ref(), new_key),
            HomeStep::Decrypt => (None, None),
        };
        let wrapped_tpm = self.wrapped_tpm(record)?;
        let tpm = NewTpm { key: wrapped_tpm.as_ref(), endorsement };
        let after = self.work.after(self.verified.config(), wrapped, tpm)?;
        home.write(&after, key, Moments { written: "crypt.description-written", renamed: "crypt.committed" })?;
        Ok(after)
    }
}

/// A new key that a record has, or `None` where it has to be made anew; `Some(None)` where there is none to be had.
fn reopened<W, K>(
    kek: Option<&ResolvedKek>,
    wrapped: Option<&W>,
    open: impl FnOnce(&W, &ResolvedKek) -> Result<K>,
) -> Option<Option<K>> {
    match (kek, wrapped) {
        (None, _) => Some(None),
        (Some(kek), Some(wrapped)) => open(wrapped, kek).ok().map(Some),
        (Some(_), None) => None,
    }
}

fn image_format(format: PlainFormat) -> ImageFormat {
    match format {
        PlainFormat::Raw => ImageFormat::Raw,
        PlainFormat::Qcow2 => ImageFormat::Qcow2,
    }
}
