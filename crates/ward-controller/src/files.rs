//! Files that only the controller's user may read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Error;

/// Makes a directory of mode 0700, or makes one that is there so.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// The name under which [`write_private`] prepares a file.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a file of mode 0600, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| Error::File { path: path.to_owned(), source })
}
