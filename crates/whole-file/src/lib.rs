//! Files that are whole and on disk, or not there: what a service makes once and then relies on.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

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

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Everyone => 0o644,
            Self::Owner => 0o600,
        }
    }
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
    let write = || -> io::Result<()> {
        draft(path, contents, readers)?.persist_noclobber(path)?;
        sync_parent(path)
    };
    write().map_err(about(path))
}

/// Writes a file in the place of one that is there, or a new one: after a crash there is the old content or the new.
///
/// # Errors
/// [`Error`]
pub fn replace(path: &Path, contents: &[u8], readers: Readers) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        draft(path, contents, readers)?.persist(path)?;
        sync_parent(path)
    };
    write().map_err(about(path))
}

/// The content of a file, on disk under a name of its own beside it, which is gone unless it gets the file's.
fn draft(path: &Path, contents: &[u8], readers: Readers) -> io::Result<NamedTempFile> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut draft = tempfile::Builder::new().prefix(name).suffix(".new").tempfile_in(parent(path))?;
    // Exactly that, whatever the process's umask is.
    draft.as_file().set_permissions(Permissions::from_mode(readers.mode()))?;
    draft.write_all(contents)?;
    draft.as_file().sync_all()?;
    Ok(draft)
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

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// Makes the file's name last.
fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
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

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn of_many_who_write_one_new_file_at_once_one_has_written_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let start = std::sync::Barrier::new(8);
        let written = std::thread::scope(|scope| {
            let write = |byte: u8| {
                start.wait();
                write_new(&path, &[byte; 100_000], Readers::Owner).is_ok().then_some(byte)
            };
            let writers: Vec<_> = (0..8).map(|byte| scope.spawn(move || write(byte))).collect();
            writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        let [byte] = written[..] else { panic!("{written:?}") };
        assert!(read(&path).unwrap() == [byte; 100_000]);
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn what_can_t_be_written_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        write_new(&dir.path().join("taken"), b"x", Readers::Owner).unwrap_err();
        write_new(&dir.path().join("none/x"), b"x", Readers::Owner).unwrap_err();
        write_new(Path::new("/"), b"x", Readers::Owner).unwrap_err();
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn a_new_file_is_whole_readable_by_whom_it_may_be_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Somebody else's.
        fs::write(at("secret.new"), "another file").unwrap();
        write_new(&at("secret"), b"all of it", Readers::Owner).unwrap();
        write_new(&at("public"), b"", Readers::Everyone).unwrap();
        assert_eq!((read(&at("secret")).unwrap(), mode(&at("secret"))), (b"all of it".to_vec(), 0o600));
        assert_eq!(mode(&at("public")), 0o644);
        let error = write_new(&at("secret"), b"other", Readers::Owner).unwrap_err();
        assert_eq!((error.source.kind(), &error.path), (io::ErrorKind::AlreadyExists, &at("secret")));
        assert_eq!(read(&at("secret")).unwrap(), b"all of it");
        assert_eq!(read(&at("secret.new")).unwrap(), b"another file");
        assert_eq!(names(dir.path()), ["public", "secret", "secret.new"], "nothing is left behind");
        assert!(error.to_string().contains("secret"));
        // Unless it is to.
        replace(&at("secret"), b"other", Readers::Owner).unwrap();
        replace(&at("public"), b"mine now", Readers::Owner).unwrap();
        assert_eq!((read(&at("secret")).unwrap(), mode(&at("secret"))), (b"other".to_vec(), 0o600));
        assert_eq!((read(&at("public")).unwrap(), mode(&at("public"))), (b"mine now".to_vec(), 0o600));
        assert_eq!(names(dir.path()), ["public", "secret", "secret.new"], "nothing is left behind");
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
