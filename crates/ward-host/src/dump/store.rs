//! The dumps that a host keeps: one file each in a directory of its own, encrypted from its first byte.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use ward_secret::DumpKey;
use ward_types::{DumpAbout, DumpInfo, DumpSubject, KeyRef, Name};

use super::{Head, Lock, seal, write_head};
use crate::fault::{Doing as _, Fault, Result};
use crate::files;
use crate::keys::{ResolvedKek, SharedKeys};

const DIRECTORY: &str = "dumps";
const ENDING: &str = "dump";
/// The ending of what is not whole.
const PART: &str = "part";

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

    /// Takes away what was never finished: the kernel's handler was killed.
    pub(crate) fn tidy(&self) -> Result<()> {
        for path in self.files(PART)? {
            files::remove(&path)?;
        }
        Ok(())
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
        let name = name_of(about)?;
        let (path, part) = (self.path(&name), self.dir.join(format!("{name}.{PART}")));
        let kept = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
            let file = file.as_mut().map_err(|error| Fault::io("create", &part, error))?;
            let head = write_head(file, &part, lock, about)?;
            seal(&head, key, (input, Path::new("the dump")), (file, &part))?;
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
    fn finish(&self, file: &File, part: &Path, path: &Path) -> Result<()> {
        let owner = fs::metadata(&self.dir).doing("look at", &self.dir)?;
        if file.metadata().doing("look at", part)?.uid() != owner.uid() {
            fchown(file, Some(owner.uid()), Some(owner.gid())).doing("give away", part)?;
        }
        file.sync_all().doing("sync", part)?;
        fs::rename(part, path).doing("rename the new", path)?;
        files::sync_parent(path)
    }

    /// Puts all dumps under a new host key whose own one is here; the others stay as they are.
    pub(crate) fn relock(&self, keys: &SharedKeys, new: &ResolvedKek) -> Result<()> {
        for dump in self.list().into_iter().filter(|dump| dump.key != *new.reference()) {
            let Ok(old) = keys.lock().resolve(&dump.key) else { continue };
            let path = self.path(&dump.name);
            let part = path.with_extension(PART);
            let (mut file, head) = open(&path)?;
            let key = head.lock.open_with_host_key(old.kek())?;
            let lock = Lock::under_host_key(new.reference().clone(), new.kek(), &key)?;
            files::remove(&part)?;
            let mut moved =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).doing("create", &part)?;
            moved.write_all(&head.with_lock(&lock)?).doing("write", &part)?;
            io::copy(&mut file, &mut moved).doing("copy", &path)?;
            self.finish(&moved, &part, &path)?;
        }
        Ok(())
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

/// When, what and which: `20261125T040000Z-qemu-17`.
fn name_of(about: &DumpAbout) -> Result<Name> {
    let what = match &about.subject {
        DumpSubject::Process { pid, command, .. } => {
            let name: String = command.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
            format!("{name}-{pid}")
        }
        DumpSubject::Guest { vm } => format!("guest-{vm}"),
    };
    let name = format!("{}-{what}", about.taken.strftime("%Y%m%dT%H%M%SZ"));
    name.parse().map_err(|error: ward_types::NameError| Fault::internal(error.to_string()))
}
