//! The dumps that a host keeps: one file each in a directory of its own, encrypted from its first byte.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::fstatvfs;
use ward_secret::DumpKey;
use ward_types::{Code, DumpAbout, DumpInfo, DumpSubject, KeyRef, LostDump, Name};

use super::{Head, Lock, seal, write_head};
use crate::fault::{Doing as _, Fault, Result};
use crate::files;
use crate::keys::{ResolvedKek, SharedKeys};

const DIRECTORY: &str = "dumps";
const ENDING: &str = "dump";
/// The ending of what is not whole.
const PART: &str = "part";
/// The ending of a note of one that could not be kept.
const LOST: &str = "lost";
/// How many dumps a host keeps: their heads are read whenever it says how it is.
const MAX_DUMPS: usize = 64;
/// How many notes of lost ones.
const MAX_LOST: usize = 16;
const MAX_NOTE: u64 = 16 << 10;
/// One part in so many of the file system stays free, and no more than so many bytes; looked at after each so many.
const MIN_FREE: u64 = 20;
const MAX_FREE: u64 = 1 << 30;
const LOOK_EVERY: u64 = 64 << 20;

/// Where the dumps are.
#[derive(Clone)]
pub(crate) struct Dumps {
    dir: PathBuf,
}

impl Dumps {
    /// Those of the host with that state directory.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join(DIRECTORY) }
    }

    /// Takes away what was never finished: who wrote it was killed. What somebody writes is locked.
    pub(crate) fn tidy(&self) -> Result<()> {
        for path in self.files(PART)? {
            if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    /// The keys of dumps that are being written.
    pub(crate) fn under_way(&self) -> Vec<KeyRef> {
        let parts = self.files(PART).unwrap_or_default();
        parts.iter().filter_map(|path| open(path).ok()?.1.lock.host_key().cloned()).collect()
    }

    /// Whether there is room for one more.
    pub(crate) fn check_room(&self) -> Result<()> {
        let kept = self.files(ENDING)?.len();
        if kept < MAX_DUMPS {
            return Ok(());
        }
        let why = format!("the host keeps {kept} dumps already, in {}", self.dir.display());
        Err(Fault::new(Code::StorageFull, why, "take those that are of use, and delete them there"))
    }

    /// Those that could not be kept, the newest of them.
    pub(crate) fn lost(&self) -> Vec<LostDump> {
        let paths = self.files(LOST).unwrap_or_default();
        let newest = paths.iter().rev().take(MAX_LOST);
        let read = |path: &PathBuf| serde_json::from_slice(&files::read_small(path, MAX_NOTE).ok()??).ok();
        let mut lost: Vec<LostDump> = newest.filter_map(read).collect();
        lost.sort_by_key(|lost| lost.taken);
        lost
    }

    /// Notes that a dump could not be kept: where its memory went nobody else knows. Of many only the newest stay noted.
    pub(crate) fn note_lost(&self, subject: &DumpSubject, taken: Timestamp, why: &str) -> Result<()> {
        files::make_private_dir(&self.dir)?;
        let name = Self::name(subject, taken)?;
        let path = self.dir.join(format!("{name}.{LOST}"));
        let note = LostDump { name, taken, subject: subject.clone(), why: why.to_owned() };
        let json = serde_json::to_vec(&note).map_err(|error| Fault::internal(error.to_string()))?;
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).doing("create", &path)?;
        file.write_all(&json).doing("write", &path)?;
        self.give_to_agent(&file, &path)?;
        let paths = self.files(LOST)?;
        paths.iter().rev().skip(MAX_LOST).try_for_each(|path| files::remove(path))
    }

    fn files(&self, ending: &str) -> Result<Vec<PathBuf>> {
        if !files::exists(&self.dir)? {
            return Ok(Vec::new());
        }
        let paths = files::names(&self.dir)?.into_iter().map(|name| self.dir.join(name));
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
        paths.sort();
        Ok(paths)
    }

    /// What there is. A file that is none is left out, and said to the log.
    pub(crate) fn list(&self) -> Vec<DumpInfo> {
        let paths = self.files(ENDING).unwrap_or_else(|fault| {
            tracing::warn!(why = fault.why, "cannot list dumps");
            Vec::new()
        });
        let info = |path: PathBuf| match info(&path) {
            Ok(info) => Some(info),
            Err(fault) => {
                tracing::warn!(why = fault.why, "a file among the dumps is none");
                None
            }
        };
        paths.into_iter().filter_map(info).collect()
    }

    /// The name of a dump: when, what and which, such as `20261125T040000.123Z-qemu-17`.
    pub(crate) fn name(subject: &DumpSubject, taken: Timestamp) -> Result<Name> {
        let what = match subject {
            DumpSubject::Process { pid, command, .. } => {
                let name: String = command.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
                format!("{name}-{pid}")
            }
            DumpSubject::Guest { vm } => format!("guest-{vm}"),
        };
        let name = format!("{}-{what}", taken.strftime("%Y%m%dT%H%M%S.%3fZ"));
        name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
    }

    /// Whether a file tells of that dump: it is whole, or its head is, or it is lost.
    pub(crate) fn has(&self, name: &Name) -> bool {
        let file = |ending: &str| self.dir.join(format!("{name}.{ending}"));
        file(ENDING).exists() || file(LOST).exists() || open(&file(PART)).is_ok()
    }

    /// The path of one.
    pub(crate) fn path(&self, name: &Name) -> PathBuf {
        self.dir.join(format!("{name}.{ENDING}"))
    }

    /// Keeps all of `input`, sealed. Nothing remains of what fails.
    pub(crate) fn keep(
        &self,
        lock: &Lock,
        key: &DumpKey,
        about: &DumpAbout,
        input: &mut impl Read,
    ) -> Result<DumpInfo> {
        files::make_private_dir(&self.dir)?;
        let name = Self::name(&about.subject, about.taken)?;
        let (path, part) = (self.path(&name), self.dir.join(format!("{name}.{PART}")));
        let kept = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
            let file = file.as_mut().map_err(|error| Fault::io("create", &part, error))?;
            file.lock().doing("lock", &part)?;
            let head = write_head(file, &part, lock, about)?;
            let mut output = Spare { file, path: &part, until_look: 0 };
            seal(&head, key, (input, Path::new("the dump")), (&mut output, &part))?;
            self.finish(file, &part, &path)
        })();
        match kept {
            Ok(()) => info(&path),
            Err(fault) => {
                let _ = files::remove(&part);
                Err(fault)
            }
        }
    }

    /// The kernel runs its handler as root, and the agent may be another user.
    fn give_to_agent(&self, file: &File, path: &Path) -> Result<()> {
        let state_dir = self.dir.parent().unwrap_or(&self.dir);
        let owner = fs::metadata(state_dir).doing("look at", state_dir)?;
        if file.metadata().doing("look at", path)?.uid() != owner.uid() {
            fchown(file, Some(owner.uid()), Some(owner.gid())).doing("give away", path)?;
            // The directory too, if it is new.
            let dir = File::open(&self.dir).doing("open", &self.dir)?;
            fchown(&dir, Some(owner.uid()), Some(owner.gid())).doing("give away", &self.dir)?;
        }
        Ok(())
    }

    fn finish(&self, file: &File, part: &Path, path: &Path) -> Result<()> {
        self.give_to_agent(file, part)?;
        file.sync_all().doing("sync", part)?;
        fs::rename(part, path).doing("rename the new", path)?;
        files::sync_parent(path)
    }

    /// Puts all dumps under a new host key whose own one is here; the others stay as they are. One that can't be put under it
    /// keeps no other one from it.
    ///
    /// # Errors
    /// What was wrong with the last that can't.
    pub(crate) fn relock(&self, keys: &SharedKeys, new: &ResolvedKek) -> Result<()> {
        let mut done = Ok(());
        for dump in self.list().into_iter().filter(|dump| dump.key != *new.reference()) {
            let moved = keys.lock().resolve(&dump.key).and_then(|old| self.relock_one(&dump.name, &old, new));
            if let Err(fault) = moved {
                done = Err(fault);
            }
        }
        done
    }

    fn relock_one(&self, name: &Name, old: &ResolvedKek, new: &ResolvedKek) -> Result<()> {
        let path = self.path(name);
        let part = path.with_extension(PART);
        let (mut file, head) = open(&path)?;
        let key = head.lock.open_with_host_key(old.kek())?;
        let lock = Lock::under_host_key(new.reference().clone(), new.kek(), &key)?;
        files::remove(&part)?;
        let moved = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).doing("create", &part)?;
        let copied = (|| {
            moved.lock().doing("lock", &part)?;
            let mut output = Spare { file: &moved, path: &part, until_look: 0 };
            output.write_all(&head.with_lock(&lock)?).doing("write", &part)?;
            io::copy(&mut file, &mut output).doing("copy", &path)?;
            self.finish(&moved, &part, &path)
        })();
        if copied.is_err() {
            let _ = files::remove(&part);
        }
        copied
    }
}

/// A file that is written as long as its file system keeps some room: the host's own state lies there too.
struct Spare<'a> {
    file: &'a File,
    path: &'a Path,
    /// How many bytes may be written before it is looked at again.
    until_look: u64,
}

impl io::Write for Spare<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.until_look == 0 {
            let storage = fstatvfs(self.file)?;
            let bytes = |blocks: u64| blocks.saturating_mul(storage.f_frsize);
            let spare = (bytes(storage.f_blocks) / MIN_FREE).min(MAX_FREE);
            if bytes(storage.f_bavail) < spare {
                let why = format!("{}: no more than {spare} bytes of the file system are free", self.path.display());
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
            self.until_look = LOOK_EVERY;
        }
        let written = self.file.write(bytes)?;
        self.until_look = self.until_look.saturating_sub(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A dump's file, at its chunks, and its head.
pub(crate) fn open(path: &Path) -> Result<(File, Head)> {
    let mut file = File::open(path).doing("open", path)?;
    let head = Head::read(&mut file, path)?;
    file.seek(io::SeekFrom::Start(head.length)).doing("read", path)?;
    Ok((file, head))
}

fn info(path: &Path) -> Result<DumpInfo> {
    let (file, head) = open(path)?;
    let name = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let name = name.ok_or_else(|| super::format::invalid(path, "its name is none of a dump"))?;
    let key: KeyRef =
        head.lock.host_key().cloned().ok_or_else(|| super::format::invalid(path, "no host key opens it"))?;
    Ok(DumpInfo { name, about: head.about, key, size: file.metadata().doing("look at", path)?.len() })
}
