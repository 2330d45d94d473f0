//! Encrypting, decrypting and recrypting.
//!
//! ```text
//! check everything                                       refused: nothing was touched
//! job.json                                               from here on, killed: goes on, or is undone
//! for each disk: NEW.part is made and converted into
//!   or, where only its KEK is replaced: a keyslot of the new KEK is added to that of the old one
//! NEW.part -> NEW
//! vm.toml is replaced                                    THE MOMENT: before it all is undone, after it all is finished
//! the old files, the old keyslots and the checkpoints are removed
//! job.json is removed
//! ```
//!
//! Whether the moment has passed is read from `vm.toml` itself. At every moment the key that it names opens each disk, so
//! a job that only replaces KEKs works beside the running VM.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use ward_disk::image::{self, ImageKind};
use ward_disk::{DiskErrorKind, ImageFormat, lock};
use ward_rpc::api::host::{HomeRef, JobOutcome, Notice};
use ward_secret::HomeKey;
use ward_types::{Code, CryptoPlan, HomeCrypto, PlainFormat, TaskId, VmConfig, WrappedHomeKey};

use super::control::{Control, Stop};
use super::convert::{self, End};
use super::plan::{self, Conversion, Form, HomeStep, Image, Names, Planned, Rekeying, Work};
use super::record::{Record, checkpoint, part};
use super::{Ended, Environment};
use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};
use crate::home::{Described, Holder, Home, JobLock, Use, VerifiedHome, codec};
use crate::keys::ResolvedKeks;
use crate::volume::{self, DATA_OFFSET, Label, Unlocked, Volume};

/// What a file system keeps for itself, at most, for what a job writes beside the disks.
const SPARE: u64 = 1 << 20;
/// How long a disk process without an agent may take to finish what it is at.
const ORPHANS_END_WITHIN: Duration = Duration::from_secs(10);
const ORPHANS_ASKED_EVERY: Duration = Duration::from_millis(50);

/// A job of which everything has been checked.
pub(crate) struct Prepared {
    lock: JobLock,
    home: Home,
    job: TaskId,
    next: Next,
}

enum Next {
    /// It was carried out already; at most there is something to tidy up.
    Finish { config: Box<VmConfig>, record: Option<Record> },
    /// It is to be done, or to be gone on with.
    Work(Box<Task>),
}

struct Task {
    verified: VerifiedHome,
    plan: CryptoPlan,
    work: Work,
    keys: ResolvedKeks,
    record: Option<Record>,
}

/// Checks everything, and settles what another job left.
pub(crate) fn prepare(environment: &Environment, job: TaskId, at: &HomeRef, plan: CryptoPlan) -> Result<Prepared> {
    let home = Home::open(at)?;
    let holder = Holder { host: environment.host, r#use: Use::Job(job) };
    let lock = home.lock_for_job(&holder, !plan.is_online())?;
    let record = Record::read(&home)?;
    if let Some(record) = &record {
        wait_for_orphans(&home, record)?;
    }
    let record = match record {
        Some(record) if record.job == job && record.plan != plan => {
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
        Some(record) => plan::plan(config, &plan, &Names::Noted(&record.files)),
        None => {
            let taken =
                files::names(home.path())?.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
            plan::plan(config, &plan, &Names::New { taken: &taken })
        }
    };
    let next = match planned? {
        Planned::AlreadyDone => Next::Finish { config: Box::new(config.clone()), record },
        Planned::Work(work) => {
            Next::Work(Box::new(check(environment, &home, described, lock.is_alone(), plan, work, record)?))
        }
    };
    Ok(Prepared { lock, home, job, next })
}

/// A disk process whose agent was killed gives up by itself, but may not have done so yet.
fn wait_for_orphans(home: &Home, record: &Record) -> Result<()> {
    let deadline = Instant::now() + ORPHANS_END_WITHIN;
    let names = record.files.iter().flat_map(|files| [files.from.to_string(), files.to.to_string(), part(&files.to)]);
    for path in names.map(|name| home.file(&name)) {
        loop {
            match lock::check_unused(&path) {
                Err(error) if error.kind == DiskErrorKind::ImageLocked && Instant::now() < deadline => {
                    std::thread::sleep(ORPHANS_ASKED_EVERY);
                }
                Err(error) if error.kind == DiskErrorKind::ImageLocked => return Err(error.into()),
                // Whatever else is wrong with it is seen where it matters.
                _ => break,
            }
        }
    }
    Ok(())
}

/// What a record's job comes to where another one is to follow: forward if its moment has passed, else back.
fn settle(home: &Home, record: &Record) -> Result<()> {
    tracing::warn!(job = %record.job, home = %home.path().display(), "a job was interrupted and is settled now");
    let described = home.read()?;
    if is_done(described.unverified(), record)? {
        finish(home, described.unverified(), record)
    } else {
        undo(home, described.unverified(), record)
    }
}

/// Settles what an interrupted job left in a home that the caller has locked.
pub(crate) fn settle_left(home: &Home) -> Result<()> {
    let Some(record) = Record::read(home)? else { return Ok(()) };
    wait_for_orphans(home, &record)?;
    settle(home, &record)
}

/// The same for that job only; tells what the VM is then.
pub(crate) fn abandon(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<Option<VmConfig>> {
    if !files::exists(&at.path())? {
        return Ok(None);
    }
    let home = Home::open(at)?;
    let Some(record) = Record::read(&home)?.filter(|record| record.job == job) else { return Ok(None) };
    let holder = Holder { host: environment.host, r#use: Use::Job(job) };
    let _lock = home.lock_for_job(&holder, !record.plan.is_online())?;
    if Record::read(&home)?.is_none_or(|record| record.job != job) {
        return Ok(None);
    }
    settle_left(&home)?;
    Ok(Some(home.read()?.unverified().clone()))
}

fn is_done(config: &VmConfig, record: &Record) -> Result<bool> {
    Ok(plan::plan(config, &record.plan, &Names::Noted(&record.files))? == Planned::AlreadyDone)
}

fn check(
    environment: &Environment,
    home: &Home,
    described: Described,
    alone: bool,
    plan: CryptoPlan,
    work: Work,
    record: Option<Record>,
) -> Result<Task> {
    let home_key = match &described.unverified().home {
        HomeCrypto::Plain => None,
        HomeCrypto::Encrypted { key, .. } => Some(key.clone()),
    };
    let keys = environment.keys.lock().resolve_all(home_key.iter().chain(work.keys()))?;
    let verified = described.verify(|key| keys.get(key))?;
    let config = verified.config();
    home.check_files(config)?;
    for disk in config.disks.iter().filter(|_| alone) {
        // Another host may run it without our lock, or a program of somebody else have it open.
        lock::check_unused(&home.file(disk.file.as_str()))?;
    }
    let task = Task { verified, plan, work, keys, record };
    for rekeying in &task.work.rekeyings {
        let path = home.file(rekeying.file.as_str());
        let volume = Volume::open(home.open_file(&rekeying.file, true)?, &path, &rekeying.from)?;
        volume.unlock(task.keys.get(&rekeying.from)?, rekeying.size)?;
        volume.check_label(&task.label(rekeying.disk, &rekeying.from))?;
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
        let (record, home_key) = match self.begin(home, job) {
            Ok(begun) => begun,
            Err(fault) => return Ended::Failed(fault),
        };
        let before = self.verified.config();
        let mut notices = Vec::new();
        let worked = self
            .convert_all(environment, control, home, &mut notices)
            .and_then(|()| self.add_keys(control, home, &mut notices))
            .and_then(|()| Ok(self.put_in_place(home, &record, home_key.as_ref())?));
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
    fn begin(&mut self, home: &Home, job: TaskId) -> Result<(Record, Option<HomeKey>)> {
        let kek = match &self.work.home {
            HomeStep::Encrypt(key) | HomeStep::Recrypt(key) => Some(self.keys.get(key)?),
            HomeStep::Keep | HomeStep::Rewrap(_) | HomeStep::Decrypt => None,
        };
        if let Some(record) = self.record.take() {
            let opened = match (kek, &record.home_key) {
                (None, _) => Some(None),
                // One that was altered is as good as none: nothing depends on it before the moment.
                (Some(kek), Some(wrapped)) => codec::unwrap(wrapped, kek).ok().map(Some),
                (Some(_), None) => None,
            };
            if let Some(home_key) = opened {
                return Ok((record, home_key));
            }
        }
        let home_key = kek.map(|_| HomeKey::generate()).transpose()?;
        let wrapped = match (kek, &home_key) {
            (Some(kek), Some(home_key)) => Some(codec::wrap(home_key, kek)?),
            _ => None,
        };
        let record = Record::new(job, self.plan.clone(), &self.work, wrapped);
        record.write(home)?;
        Ok((record, home_key))
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
            control.step(format!("{verb} {}", conversion.disk));
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
            control.step(format!("giving {} its new key", rekeying.disk));
            notices.extend(self.add_key(home, rekeying)?);
            crash_point::reach("crypt.key-added");
        }
        control.check()
    }

    fn add_key(&self, home: &Home, Rekeying { disk, file, from, to, .. }: &Rekeying) -> Result<Option<Notice>> {
        let path = home.file(file.as_str());
        let mut volume = Volume::open(home.open_file(file, true)?, &path, from)?;
        let notice = volume.repair(from)?;
        let (old, new) = (self.label(*disk, from), self.label(*disk, to));
        volume.add_key((self.keys.get(from)?, &old), (self.keys.get(to)?, &new))?;
        Ok(notice)
    }

    fn label(&self, disk: ward_types::DiskId, key: &ward_types::KeyRef) -> Label {
        Label::new(key.clone(), self.verified.config().id, disk)
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
        convert::run(&environment.exe, &paths, control, ends, progress)?;
        crash_point::reach("crypt.converted");
        Ok(())
    }

    /// Makes the encrypted file, unless an earlier attempt left one that opens.
    fn make_target(&self, home: &Home, conversion: &Conversion, key: &ward_types::KeyRef) -> Result<()> {
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
        volume::format(file, &path, self.keys.get(key)?, &self.label(conversion.disk, key))?;
        home.sync()
    }

    fn open_target(&self, home: &Home, name: &str, key: &ward_types::KeyRef) -> Result<Unlocked> {
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
                volume.check_label(&self.label(conversion.disk, key))?;
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

    /// Gives the new files their names and the VM its new description.
    fn put_in_place(&self, home: &Home, record: &Record, new_key: Option<&HomeKey>) -> Result<VmConfig> {
        for Conversion { to: Image { file, .. }, .. } in &self.work.conversions {
            if !home.has(file.as_str())? {
                home.rename(&part(file), file.as_str())?;
                crash_point::reach("crypt.renamed");
            }
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
        let after = self.work.after(self.verified.config(), wrapped)?;
        home.write(&after, key, Moments { written: "crypt.description-written", renamed: "crypt.committed" })?;
        Ok(after)
    }
}

/// Removes from disks whose KEK was to be replaced the one that the description doesn't name: the old one or the new one.
/// Takes no key, so that it can always be done.
fn settle_keys(home: &Home, config: &VmConfig, record: &Record) -> Result<()> {
    let disks = record.rekeyed.iter().filter_map(|id| config.disk(*id));
    for (disk, key) in disks.filter_map(|disk| disk.key().map(|key| (disk, key))) {
        let path = home.file(disk.file.as_str());
        let mut volume = Volume::open(home.open_file(&disk.file, true)?, &path, key)?;
        volume.keep_only(&Label::new(key.clone(), config.id, disk.id))?;
        crash_point::reach("crypt.other-key-removed");
    }
    Ok(())
}

/// Removes the old files of a job whose moment has passed.
fn finish(home: &Home, config: &VmConfig, record: &Record) -> Result<()> {
    let in_use: BTreeSet<_> = config.disks.iter().map(|disk| &disk.file).collect();
    // What the VM needs must be there, and last, before what it came from goes.
    home.check_files(config)?;
    home.sync()?;
    for files in record.files.iter().filter(|files| !in_use.contains(&files.from)) {
        home.remove(files.from.as_str())?;
        crash_point::reach("crypt.old-removed");
    }
    settle_keys(home, config, record)?;
    record.remove(home)
}

/// Removes the new files of a job whose moment has not come.
fn undo(home: &Home, config: &VmConfig, record: &Record) -> Result<()> {
    let in_use: BTreeSet<_> = config.disks.iter().map(|disk| &disk.file).collect();
    for files in record.files.iter().filter(|files| !in_use.contains(&files.to)) {
        home.remove(files.to.as_str())?;
        crash_point::reach("crypt.new-removed");
    }
    settle_keys(home, config, record)?;
    record.remove(home)
}

fn undone(undone: Result<()>, mut fault: Fault) -> Ended {
    if let Err(second) = undone {
        fault.why.push_str(&format!(
            "; and not all of it could be undone ({}): the next job on the VM does that",
            second.why
        ));
    }
    Ended::Failed(fault)
}

fn not_tidied(fault: Fault) -> Fault {
    let why = format!("it is done, but old files or keyslots remain: {}", fault.why);
    Fault::new(fault.code, why, "put the storage right and ask again: only these are then removed")
}

fn done(config: VmConfig, notices: Vec<Notice>) -> Ended {
    Ended::With(JobOutcome::Done { config: Some(Box::new(config)), notices })
}

fn image_format(format: PlainFormat) -> ImageFormat {
    match format {
        PlainFormat::Raw => ImageFormat::Raw,
        PlainFormat::Qcow2 => ImageFormat::Qcow2,
    }
}
