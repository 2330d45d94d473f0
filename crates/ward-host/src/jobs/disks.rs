//! Giving a VM disks and taking them from it.
//!
//! ```text
//! check everything                                       refused: nothing was touched
//! job.json                                               from here on, killed: is undone and begun anew, or is finished
//! a disk that it gets: NEW.part is filled, NEW.part -> NEW
//! vm.toml is replaced                                    THE MOMENT: before it all is undone, after it all is finished
//! a disk that it loses: its file is removed
//! job.json is removed
//! ```
//!
//! To attach a disk that was detached, and to detach one, is to replace `vm.toml` and nothing else.

use std::path::Path;

use ward_disk::lock;
use ward_rpc::api::host::{AddDisk, DiskChange, DiskFrom, DiskInfo, HomeRef, VolumeLabel};
use ward_types::{
    Code, DiskConfig, DiskCrypto, DiskId, FileName, HomeCrypto, KeyRef, PlainFormat, TaskId, VmConfig, VolumeId,
};

use super::control::{Control, Stop};
use super::fill::{self, Filling, Form, Part, SPARE, Source};
use super::plan::fresh_name;
use super::record::{DiskNote, Record, part as unfinished};
use super::settle::{done, finish, not_tidied, settle, undo, undone, wait_for_orphans};
use super::{Ended, Environment};
use crate::fault::{Fault, Result};
use crate::files::{self, Moments};
use crate::home::{Holder, Home, JobLock, Use, VerifiedHome, codec};
use crate::keys::ResolvedKeks;
use crate::volume::{Label, Volume};

/// A change of which everything has been checked.
pub(crate) struct Prepared {
    lock: JobLock,
    home: Home,
    job: TaskId,
    next: Next,
}

enum Next {
    /// It was made already.
    Nothing(Box<VmConfig>),
    Change(Box<Change>),
}

struct Change {
    verified: VerifiedHome,
    after: VmConfig,
    what: What,
    keys: ResolvedKeks,
}

enum What {
    /// The description alone changes.
    Description,
    Added {
        disk: DiskId,
        file: FileName,
        part: Box<Part>,
    },
    Removed {
        disk: DiskId,
        file: FileName,
    },
}

/// Checks everything, and settles what an interrupted job left, this one too.
pub(crate) fn prepare(environment: &Environment, job: TaskId, at: &HomeRef, change: DiskChange) -> Result<Prepared> {
    let home = Home::open(at)?;
    let lock = home.lock_for_job(&Holder { host: environment.host, r#use: Use::Job(job) }, true)?;
    if let Some(record) = Record::read(&home)? {
        wait_for_orphans(&home, &record)?;
        settle(&home, &record)?;
    }
    let described = home.read()?;
    let config = described.unverified();
    if holds(config, &change) {
        let next = Next::Nothing(Box::new(config.clone()));
        return Ok(Prepared { lock, home, job, next });
    }
    let (mut old, mut new): (Vec<_>, Vec<_>) = (config.home.key().into_iter().cloned().collect(), Vec::new());
    if let DiskChange::Add(AddDisk { from, key, .. }) = &change {
        let was = match from {
            DiskFrom::Volume { label, .. } => Some(&label.key),
            DiskFrom::Blank { .. } | DiskFrom::Image { .. } => None,
        };
        old.extend(was.cloned());
        new.extend(key.iter().filter(|key| was != Some(key)).cloned());
    }
    let keys = environment.resolve(&old, &new)?;
    let verified = described.verify(|key| keys.get(key))?;
    let mut after = verified.config().clone();
    let what = match change {
        DiskChange::Add(add) => added(&home, &mut after, add, &keys)?,
        DiskChange::Attach { disk } => {
            find(&mut after, disk)?.attached = true;
            What::Description
        }
        DiskChange::Detach { disk } => {
            refuse_boot_disk(&after, disk)?;
            find(&mut after, disk)?.attached = false;
            What::Description
        }
        DiskChange::Remove { disk } => {
            refuse_boot_disk(&after, disk)?;
            let file = find(&mut after, disk)?.file.clone();
            let path = home.file(file.as_str());
            if files::exists(&path)? {
                lock::check_unused(&path)?;
            }
            after.disks.retain(|other| other.id != disk);
            What::Removed { disk, file }
        }
    };
    codec::encode(&after, verified.key()).map_err(|fault| Fault { code: Code::RequestInvalid, ..fault })?;
    let change = Change { verified, after, what, keys };
    Ok(Prepared { lock, home, job, next: Next::Change(Box::new(change)) })
}

/// Whether the VM is as it is to be. A number that is new is used for nothing else.
fn holds(config: &VmConfig, change: &DiskChange) -> bool {
    match change {
        DiskChange::Add(add) => config.disk(add.id).is_some(),
        DiskChange::Attach { disk } => config.disk(*disk).is_some_and(|disk| disk.attached),
        DiskChange::Detach { disk } => config.disk(*disk).is_some_and(|disk| !disk.attached),
        DiskChange::Remove { disk } => config.disk(*disk).is_none(),
    }
}

fn find(config: &mut VmConfig, id: DiskId) -> Result<&mut DiskConfig> {
    let found = config.disks.iter_mut().find(|disk| disk.id == id);
    found.ok_or_else(|| Fault::new(Code::NotFound, format!("the VM has no {id}"), "`ward vm disk ls` lists its disks"))
}

fn refuse_boot_disk(config: &VmConfig, id: DiskId) -> Result<()> {
    if config.boot_disk().is_some_and(|disk| disk.id == id) {
        return Err(Fault::new(
            Code::Composition,
            format!("the VM boots from {id}"),
            "remove the VM, if it is not needed",
        ));
    }
    Ok(())
}

/// Works out the new disk and its file, and checks that it can be made.
fn added(home: &Home, config: &mut VmConfig, add: AddDisk, keys: &ResolvedKeks) -> Result<What> {
    if add.key.is_some() && config.home == HomeCrypto::Plain {
        let why = format!("{} would be encrypted in a VM home that is not", add.id);
        return Err(Fault::new(Code::Composition, why, "encrypt the VM home first, or let the disk be plain"));
    }
    let taken = files::names(home.path())?.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let origin = Origin::open(add.from, keys)?;
    let extension = if add.key.is_some() { "luks".to_owned() } else { origin.plain_format.to_string() };
    let file = fresh_name(&taken, &add.id.to_string(), &format!(".{extension}"))?;
    let (size, plain_format) = (origin.size, origin.plain_format);
    let part = origin.part(unfinished(&file), add.key.as_ref().map(|key| label(key, config, add.id)), add.new_dek)?;
    let needed = SPARE + part.needed();
    let free = files::free_space(home.path())?;
    if needed > free {
        return Err(Fault::new(
            Code::StorageFull,
            format!("{needed} bytes are needed, {} has {free} free", home.path().display()),
            "make room on the datastore",
        ));
    }
    let crypto = add.key.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key });
    config.disks.push(DiskConfig { id: add.id, file: file.clone(), size, plain_format, crypto, attached: true });
    config.disks.sort_by_key(|disk| disk.id);
    Ok(What::Added { disk: add.id, file, part: Box::new(part) })
}

fn label(key: &KeyRef, config: &VmConfig, disk: DiskId) -> Label {
    Label::new(key.clone(), config.id, disk)
}

/// Where a new disk's content comes from, checked and locked.
struct Origin {
    content: Content,
    size: u64,
    plain_format: PlainFormat,
}

enum Content {
    Blank,
    Plain(Source),
    Luks(Source, Label),
}

impl Origin {
    fn open(from: DiskFrom, keys: &ResolvedKeks) -> Result<Self> {
        Ok(match from {
            DiskFrom::Blank { size, format } => Self { content: Content::Blank, size, plain_format: format },
            DiskFrom::Image { path, format } => {
                let (source, plain_format, size) = Source::open_image(path, format)?;
                Self { content: Content::Plain(source), size, plain_format }
            }
            DiskFrom::Volume { path, label, known } => {
                let source = Source::open_disk(path)?;
                let label = Label::new(label.key, label.vm, label.disk);
                let volume = open_volume(source.path(), &label.key)?;
                volume.check_label(&label)?;
                let (size, plain_format) = match known {
                    Some(known) => known,
                    None => (volume.content_len(&label.key)?, PlainFormat::Raw),
                };
                volume.unlock(keys.get(&label.key)?, size)?;
                volume.check_room_for_key(&label.key)?;
                Self { content: Content::Luks(source, label), size, plain_format }
            }
        })
    }

    /// The file to be made of it.
    fn part(self, name: String, to: Option<Label>, new_dek: bool) -> Result<Part> {
        let Self { content, size, plain_format } = self;
        let form = |label: Option<Label>| label.map_or(Form::Plain(plain_format), Form::Luks);
        Ok(match (content, to) {
            (Content::Blank, to) => Part::Blank { name, size, form: form(to) },
            (Content::Plain(source), None) => Part::Copy { source, name },
            (Content::Luks(source, old), Some(new)) if !new_dek => Part::CopyLuks { source, name, old, new },
            (Content::Plain(source), to) => {
                Part::Convert { source: source.into_path(), from: form(None), name, to: form(to), size }
            }
            (Content::Luks(source, old), to) => {
                Part::Convert { source: source.into_path(), from: Form::Luks(old), name, to: form(to), size }
            }
        })
    }
}

fn open_volume(path: &Path, key: &KeyRef) -> Result<Volume> {
    let file = files::open_regular(path, false)?;
    let file = file.ok_or_else(|| Fault::internal(format!("{} is gone", path.display())))?;
    Volume::open(file, path, key)
}

/// What a file is that is to become a disk.
pub(crate) fn look_at(path: &Path) -> Result<DiskInfo> {
    if !fill::is_encrypted(path)? {
        return Ok(DiskInfo::Plain);
    }
    let file = files::open_regular(path, false)?;
    let file = file.ok_or_else(|| Fault::internal(format!("{} is gone", path.display())))?;
    match Volume::read_label(file, path)? {
        Some(Label { key, vm, volume: VolumeId::Disk(disk), .. }) => {
            Ok(DiskInfo::Volume(VolumeLabel { key, vm, disk }))
        }
        Some(Label { vm, volume: VolumeId::Nvram, .. }) => {
            let why = format!("{} is no disk: it holds the UEFI variables of VM {vm}", path.display());
            Err(Fault::new(Code::ImageInvalid, why, "name a disk"))
        }
        None => {
            let why = format!("{} is encrypted, but not by Ward: it does not say under which key", path.display());
            Err(Fault::new(Code::ImageInvalid, why, "decrypt it with the program that encrypted it"))
        }
    }
}

impl Prepared {
    /// Makes the change.
    pub(crate) fn run(self, environment: &Environment, control: &Control) -> Ended {
        let Self { lock, home, job, next } = self;
        let ended = match next {
            Next::Nothing(config) => done(*config, Vec::new()),
            Next::Change(change) => change.run(environment, control, &home, job),
        };
        drop(lock);
        ended
    }
}

impl Change {
    fn run(self, environment: &Environment, control: &Control, home: &Home, job: TaskId) -> Ended {
        let note = match &self.what {
            What::Description => None,
            What::Added { disk, file, .. } => Some((DiskNote { id: *disk, added: true }, file)),
            What::Removed { disk, file } => Some((DiskNote { id: *disk, added: false }, file)),
        };
        let record = note.map(|(note, file)| Record::of_disk(job, note, file.clone()));
        let worked = self.work(environment, control, home, record.as_ref());
        match (worked, record) {
            (Ok(()), None) => done(self.after, Vec::new()),
            (Ok(()), Some(record)) => match finish(home, &self.after, &record) {
                Ok(()) => done(self.after, Vec::new()),
                Err(fault) => Ended::Failed(not_tidied(fault)),
            },
            (Err(Stop::Suspended), _) => Ended::Suspended,
            (Err(Stop::Failed(fault)), None) => Ended::Failed(fault),
            (Err(Stop::Failed(fault)), Some(record)) => {
                // The description may have been replaced before something failed; it alone says.
                match home.read() {
                    Ok(now) if *now.unverified() == self.after => Ended::Failed(not_tidied(fault)),
                    _ => undone(undo(home, self.verified.config(), &record), fault),
                }
            }
        }
    }

    fn work(
        &self,
        environment: &Environment,
        control: &Control,
        home: &Home,
        record: Option<&Record>,
    ) -> std::result::Result<(), Stop> {
        control.check()?;
        if let Some(record) = record {
            record.write(home)?;
        }
        if let What::Added { file, part, .. } = &self.what {
            control.step(format!("{} {file}", part.verb()));
            control.progress(0, part.size());
            let filling = Filling { dir: home.path(), keys: &self.keys };
            filling.fill(environment, control, part, &mut |done| control.progress(done, part.size()))?;
            crash_point::reach("disks.filled");
            control.check()?;
            home.rename(part.name(), file.as_str())?;
            home.sync()?;
            crash_point::reach("disks.in-place");
        }
        let moments = Moments { written: "disks.description-written", renamed: "disks.committed" };
        Ok(home.write(&self.after, self.verified.key(), moments)?)
    }
}
