//! Small files that must be whole after a crash, and the few things about directories that `std` leaves out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::fault::{Doing, Fault, Result};

/// The names of the moments of one atomic write, for tests that kill the process there.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) written: &'static str,
    pub(crate) renamed: &'static str,
}

/// Replaces a file as a whole: after a crash there is the old content or the new.
pub(crate) fn write_atomically(path: &Path, content: &[u8], moments: Moments) -> Result<()> {
    let new = path_with(path, ".new");
    // Of an earlier attempt.
    remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).doing("create", &new)?;
    file.write_all(content).doing("write", &new)?;
    file.sync_all().doing("sync", &new)?;
    crash_point::reach(moments.written);
    fs::rename(&new, path).doing("rename the new", path)?;
    crash_point::reach(moments.renamed);
    sync_parent(path)
}

/// The path with something behind its name.
pub(crate) fn path_with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes names in a directory last.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).doing("sync", path)
}

/// Makes a file's name last.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    sync_dir(path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))
}

/// Removes a file; one that isn't there is removed already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove", path, &error)),
        _ => Ok(()),
    }
}

/// Removes a directory with all in it, following no link; one that isn't there is removed already.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove", path, &error)),
        _ => Ok(()),
    }
}

/// A directory that only its owner enters; one that is there already stays.
pub(crate) fn make_private_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Fault::io("create", path, &error)),
        _ => Ok(()),
    }
}

/// A whole small file, or `None` where there is none. Follows no link.
pub(crate) fn read_small(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open_regular(path, false)? else { return Ok(None) };
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content).doing("read", path)?;
    if content.len() as u64 > most {
        return Err(Fault::home_invalid(format!("{} is longer than {most} bytes", path.display())));
    }
    Ok(Some(content))
}

/// Reads as much of a regular file's beginning, or says that there is none.
pub(crate) fn read_start(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open_regular(path, false)? else { return Ok(None) };
    let mut content = Vec::new();
    file.take(most).read_to_end(&mut content).doing("read", path)?;
    Ok(Some(content))
}

/// Opens a regular file that is no link, or says that there is none.
pub(crate) fn open_regular(path: &Path, write: bool) -> Result<Option<File>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            let why = format!("{} is a symbolic link, which is not followed", path.display());
            return Err(Fault::home_invalid(why));
        }
        Err(error) => return Err(Fault::io("open", path, &error)),
    };
    if !file.metadata().doing("look at", path)?.is_file() {
        return Err(Fault::home_invalid(format!("{} is no regular file", path.display())));
    }
    Ok(Some(file))
}

/// How many bytes an ordinary user of the file system could still write.
pub(crate) fn free_space(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path).doing("ask for the free space of", path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The names in a directory.
pub(crate) fn names(path: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(path).doing("read", path)?;
    entries.map(|entry| entry.map(|entry| entry.file_name()).doing("read", path)).collect()
}

/// What a program said, as one line for people to read: nothing in it moves a terminal's cursor.
pub(crate) fn one_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines = text.lines().map(|line| line.chars().filter(|char| !char.is_control()).collect::<String>());
    let lines = lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Where a program is that is only named: the first of `PATH`.
pub(crate) fn in_path(program: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Whether anything has that name, a dangling link too.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Fault::io("look at", path, &error)),
    }
}
