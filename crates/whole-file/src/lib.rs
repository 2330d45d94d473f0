//! Files that are whole and on disk, or not there: what a service makes once and then relies on.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file or directory can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = path.display())]
pub struct Error {
    /// Which one.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// All users of the machine.
    Everyone,
    /// Its owner.
    Owner,
}

/// Makes a directory that only its owner may enter, or makes it so.
///
/// # Errors
/// [`Error`]
pub fn private_directory(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700))).map_err(about(path))
}

/// All that is in a file.
///
/// # Errors
/// [`Error`]
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(about(path))
}

/// Writes a new file, durably: after a crash it is there whole or not at all. One that is there already is an error.
///
/// # Errors
/// [`Error`]
pub fn write_new(path: &Path, contents: &[u8], readers: Readers) -> Result<(), Error> {
    let mode = if readers == Readers::Owner { 0o600 } else { 0o644 };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Left over from a crash.
    remove(&temporary)?;
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        // Unlike a rename, a link does not replace what is there.
        let linked = fs::hard_link(&temporary, path);
        fs::remove_file(&temporary)?;
        linked?;
        sync_parent(path)
    };
    write().map_err(about(path))
}

/// Removes a file; one that is not there is removed already.
///
/// # Errors
/// [`Error`]
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(about(path)(error)),
        _ => Ok(()),
    }
}

/// Makes the file's name last.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn about(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_whole_readable_by_whom_it_may_be_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Of a process that was killed.
        fs::write(at("secret.new"), "half of i").unwrap();
        write_new(&at("secret"), b"all of it", Readers::Owner).unwrap();
        write_new(&at("public"), b"", Readers::Everyone).unwrap();
        assert_eq!((read(&at("secret")).unwrap(), mode(&at("secret"))), (b"all of it".to_vec(), 0o600));
        assert_eq!(mode(&at("public")) & 0o600, 0o600);
        let error = write_new(&at("secret"), b"other", Readers::Owner).unwrap_err();
        assert_eq!((error.source.kind(), &error.path), (io::ErrorKind::AlreadyExists, &at("secret")));
        assert_eq!(read(&at("secret")).unwrap(), b"all of it");
        assert!(!at("secret.new").exists(), "nothing is left behind");
        assert!(error.to_string().contains("secret"));
        remove(&at("secret")).unwrap();
        remove(&at("secret")).unwrap();
        assert_eq!(read(&at("secret")).unwrap_err().source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_private_directory_is_made_so() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        private_directory(&inner).unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        private_directory(&inner).unwrap();
        assert_eq!(mode(&inner), 0o700);
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(private_directory(&dir.path().join("file")).is_err());
    }
}
