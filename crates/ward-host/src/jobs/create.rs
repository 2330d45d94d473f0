//! Making a VM.
//!
//! Its home is filled under a hidden name in the datastore, `.NAME.creating`, and gets its own name when it is whole:
//! that rename is the moment. What an interrupted attempt left is thrown away and made anew.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, SeekFrom, renameat_with, seek};
use ward_disk::image::{self, ImageKind};
use ward_disk::lock::{self, Access};
use ward_disk::{DiskError, ImageFormat};
use ward_rpc::api::host::{CreateVm, DiskSource, HomeRef, JobOutcome};
use ward_types::{Boot, Code, DiskConfig, DiskCrypto, DiskId, HomeCrypto, PlainFormat, TaskId, VmConfig};

use super::control::{Control, Stop};
use super::convert::{self, End};
use super::{Ended, Environment};
use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};
use crate::home::{Holder, Home, HomeLock, Use, VM_TOML, check_datastore, codec, lock_file};

/// What is read and written at a time.
const CHUNK: u64 = 1 << 20;
/// What a blank disk and the description take, at most.
const SPARE: u64 = 1 << 20;

/// A VM of which everything has been checked.
pub(crate) enum Prepared {
    /// It was made already.
    Made(Box<VmConfig>),
    /// It is to be made.
    Make(Box<Making>),
}

pub(crate) struct Making {
    lock: HomeLock,
    hidden: PathBuf,
    place: PathBuf,
    config: VmConfig,
    copies: Vec<Copy>,
    blanks: Vec<Blank>,
}

/// A file that is taken into the home.
struct Copy {
    source: Source,
    name: String,
}

/// Something to copy, which nobody can change meanwhile where it is a disk.
struct Source {
    file: File,
    path: PathBuf,
    size: u64,
    /// What of it is no hole.
    data: u64,
}

struct Blank {
    name: String,
    size: u64,
    format: PlainFormat,
}

/// Checks everything, and takes the place where the home will be.
pub(crate) fn prepare(environment: &Environment, job: TaskId, at: &HomeRef, vm: CreateVm) -> Result<Prepared> {
    check_datastore(at)?;
    let place = at.path();
    if files::exists(&place)? {
        return made_already(at, &vm);
    }
    let mut config = VmConfig {
        version: VmConfig::VERSION,
        id: vm.id,
        name: vm.name,
        cpus: vm.cpus,
        memory_mib: vm.memory_mib,
        boot: Boot::Disk,
        home: HomeCrypto::Plain,
        disks: Vec::new(),
    };
    let (mut copies, mut blanks) = (Vec::new(), Vec::new());
    if let Some(kernel) = vm.kernel {
        let mut take = |path: PathBuf, name: &str| -> Result<_> {
            copies.push(Copy { source: Source::open_file(path)?, name: name.to_owned() });
            name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
        };
        config.boot = Boot::Kernel {
            kernel: take(kernel.kernel, "kernel")?,
            initrd: kernel.initrd.map(|initrd| take(initrd, "initrd")).transpose()?,
            command_line: kernel.command_line,
        };
    }
    for (number, source) in (0..).zip(vm.disks) {
        let id = DiskId(number);
        let (size, plain_format, source) = match source {
            DiskSource::Blank { size, format } => (size, format, None),
            DiskSource::Copy { path } => {
                let (source, format, size) = Source::open_image(path)?;
                (size, format, Some(source))
            }
        };
        let name = format!("{id}.{plain_format}");
        let file = name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))?;
        config.disks.push(DiskConfig { id, file, size, plain_format, crypto: DiskCrypto::Plain });
        match source {
            Some(source) => copies.push(Copy { source, name }),
            None => blanks.push(Blank { name, size, format: plain_format }),
        }
    }
    // Whether it makes sense, before anything is done.
    codec::encode(&config, None).map_err(|fault| Fault { code: Code::RequestInvalid, ..fault })?;
    let (hidden, lock) = take_place(environment, job, at)?;
    let needed = SPARE + copies.iter().map(|copy| copy.source.data).sum::<u64>() + SPARE * blanks.len() as u64;
    let free = files::free_space(&hidden)?;
    if needed > free {
        let _ = files::remove_tree(&hidden);
        return Err(Fault::new(
            Code::StorageFull,
            format!("{needed} bytes are needed, {} has {free} free", at.datastore.display()),
            "make room on the datastore, or take another",
        ));
    }
    Ok(Prepared::Make(Box::new(Making { lock, hidden, place, config, copies, blanks })))
}

/// The same VM at the same place is what this job made before the agent was interrupted.
fn made_already(at: &HomeRef, vm: &CreateVm) -> Result<Prepared> {
    if let Ok(described) = Home::open(at).and_then(|home| home.read())
        && described.unverified().id == vm.id
    {
        files::sync_dir(&at.datastore)?;
        return Ok(Prepared::Made(Box::new(described.unverified().clone())));
    }
    Err(Fault::new(
        Code::Exists,
        format!("{} is there already", at.path().display()),
        "choose another name; if it is a VM's home, register that VM with `ward vm register`",
    ))
}

fn hidden(at: &HomeRef) -> PathBuf {
    at.datastore.join(format!(".{}.creating", at.directory))
}

/// Removes what an interrupted creation left at that place, unless another one is under way there.
pub(crate) fn abandon(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<()> {
    let hidden = hidden(at);
    if !files::exists(&hidden)? {
        return Ok(());
    }
    let _lock = lock_file(&hidden, &Holder { host: environment.host, r#use: Use::Job(job) })?;
    files::remove_tree(&hidden)
}

fn take_place(environment: &Environment, job: TaskId, at: &HomeRef) -> Result<(PathBuf, HomeLock)> {
    let hidden = hidden(at);
    files::make_private_dir(&hidden)?;
    let lock = lock_file(&hidden, &Holder { host: environment.host, r#use: Use::Job(job) })?;
    for name in files::names(&hidden)? {
        if name != ".lock" {
            files::remove(&hidden.join(name))?;
        }
    }
    Ok((hidden, lock))
}

impl Prepared {
    /// Makes it.
    pub(crate) fn run(self, environment: &Environment, control: &Control) -> Ended {
        let making = match self {
            Self::Made(config) => return done(*config),
            Self::Make(making) => making,
        };
        match making.make(environment, control) {
            Ok(()) => done(making.config),
            Err(Stop::Suspended) => Ended::Suspended,
            Err(Stop::Failed(mut fault)) => {
                if let Err(second) = files::remove_tree(&making.hidden) {
                    fault.why.push_str(&format!("; and what was begun could not be removed: {}", second.why));
                }
                drop(making.lock);
                Ended::Failed(fault)
            }
        }
    }
}

impl Making {
    fn make(&self, environment: &Environment, control: &Control) -> std::result::Result<(), Stop> {
        let total = self.copies.iter().map(|copy| copy.source.size).sum();
        let mut before = 0;
        control.progress(0, total);
        for copy in &self.copies {
            control.step(format!("copying {}", copy.source.path.display()));
            copy.source.copy_to(&self.hidden.join(&copy.name), control, &mut |done| {
                control.progress(before + done, total);
            })?;
            crash_point::reach("create.copied");
            before += copy.source.size;
        }
        for blank in &self.blanks {
            control.step(format!("making {}", blank.name));
            self.make_blank(environment, control, blank)?;
            crash_point::reach("create.blank-made");
        }
        control.check()?;
        let moments = Moments { written: "create.description-written", renamed: "create.described" };
        let content = codec::encode(&self.config, None)?;
        files::write_atomically(&self.hidden.join(VM_TOML), &content, moments)?;
        self.put_in_place()?;
        Ok(())
    }

    fn make_blank(&self, environment: &Environment, control: &Control, blank: &Blank) -> std::result::Result<(), Stop> {
        let path = self.hidden.join(&blank.name);
        let raw = match blank.format {
            PlainFormat::Raw => path.clone(),
            PlainFormat::Qcow2 => files::path_with(&path, ".raw"),
        };
        let file = create(&raw)?;
        file.set_len(blank.size).and_then(|()| file.sync_all()).doing("enlarge", &raw)?;
        if blank.format == PlainFormat::Raw {
            return Ok(());
        }
        let checkpoint = files::path_with(&path, codec::CHECKPOINT);
        let conversion = convert::Conversion { source: &raw, target: &path, size: blank.size, checkpoint: &checkpoint };
        let ends = || Ok((End::Plain(ImageFormat::Raw), End::Plain(ImageFormat::Qcow2)));
        convert::run(&environment.exe, &conversion, control, ends, |_| {})?;
        files::remove(&raw)?;
        files::remove(&checkpoint)?;
        Ok(())
    }

    fn put_in_place(&self) -> Result<()> {
        files::sync_dir(&self.hidden)?;
        match renameat_with(CWD, &self.hidden, CWD, &self.place, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let why = format!("{} was made by somebody else meanwhile", self.place.display());
                return Err(Fault::new(Code::Exists, why, "choose another name"));
            }
            // Not every file system knows that; the place was free when this began.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::rename(&self.hidden, &self.place).doing("rename", &self.hidden)?;
            }
            Err(error) => return Err(Fault::io("rename", &self.hidden, &error.into())),
        }
        crash_point::reach("create.committed");
        files::sync_parent(&self.place)
    }
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).doing("create", path)
}

fn done(config: VmConfig) -> Ended {
    Ended::With(JobOutcome::Done { config: Some(Box::new(config)), notices: Vec::new() })
}

impl Source {
    /// A file of any kind.
    fn open_file(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|error| DiskError::io("open", &error).at_path(&path))?;
        let metadata = file.metadata().doing("look at", &path)?;
        if !metadata.is_file() {
            return Err(Fault::invalid(format!("{} is no regular file", path.display())));
        }
        Ok(Self { file, path, size: metadata.len(), data: metadata.len() })
    }

    /// A disk image, locked.
    fn open_image(path: PathBuf) -> Result<(Self, PlainFormat, u64)> {
        lock::check_unused(&path)?;
        let (file, access) = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => (file, Access::Exclusive),
            // Who may only read can only keep others from writing.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                (File::open(&path).doing("open", &path)?, Access::Shared)
            }
            Err(error) => return Err(DiskError::io("open the image", &error).at_path(&path).into()),
        };
        lock::lock(&file, &path, access)?;
        let info = image::probe(&path)?;
        info.check_plain(&path)?;
        let format = match info.format {
            ImageKind::Raw => PlainFormat::Raw,
            ImageKind::Qcow2 => PlainFormat::Qcow2,
            ImageKind::Luks { .. } => return Err(Fault::internal("an encrypted image passed for a plain one")),
        };
        Ok((Self { file, path, size: info.file_size, data: info.allocated }, format, info.virtual_size))
    }

    /// Copies it, leaving out its holes.
    fn copy_to(&self, path: &Path, control: &Control, progress: &mut dyn FnMut(u64)) -> std::result::Result<(), Stop> {
        let target = create(path)?;
        target.set_len(self.size).doing("enlarge", path)?;
        let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(usize::MAX)];
        let mut at = 0;
        while let Some((from, to)) = self.data_from(at)? {
            at = from;
            while at < to {
                control.check()?;
                let length = usize::try_from((to - at).min(CHUNK)).unwrap_or(buffer.len());
                self.file.read_exact_at(&mut buffer[..length], at).doing("read", &self.path)?;
                target.write_all_at(&buffer[..length], at).doing("write", path)?;
                at += length as u64;
                progress(at);
            }
        }
        target.sync_all().doing("sync", path)?;
        progress(self.size);
        Ok(())
    }

    /// The next stretch that is no hole.
    fn data_from(&self, at: u64) -> Result<Option<(u64, u64)>> {
        if at >= self.size {
            return Ok(None);
        }
        let from = match seek(&self.file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // The storage doesn't tell.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(Some((at, self.size))),
            Err(error) => return Err(Fault::io("read", &self.path, &error.into())),
        };
        let to = seek(&self.file, SeekFrom::Hole(from)).doing("read", &self.path)?.min(self.size);
        Ok((from < to).then_some((from, to)))
    }
}
