//! From one way of keeping the root key to another. The key stays the same, so nothing else needs to change.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ward_secret::SealKey;

use super::{file_of, kept, read, unusable};
use crate::config::{RootKey, RootKeyWay};
use crate::{Error, files, server};

/// A change of how the root key is kept.
pub struct RootKeyChange {
    /// How it is opened now.
    pub now: RootKey,
    /// How it is to be kept; its way must be said.
    pub to: RootKey,
    /// A file to write instead, which must not exist: a copy for the day on which the other way fails. The root key stays
    /// as it is.
    pub copy: Option<PathBuf>,
}

/// How the root key in a state directory is kept.
///
/// # Errors
/// [`Error::RootKeyMissing`] where there is none, [`Error::RootKeySource`], [`Error::File`].
pub fn root_key_way(state_dir: &Path) -> Result<RootKeyWay, Error> {
    let path = file_of(state_dir);
    match read(&path)? {
        Some(content) => kept::way(&path, &content),
        None => Err(Error::RootKeyMissing { path }),
    }
}

/// Changes how the root key in a state directory is kept; the controller must not run meanwhile. Killed at any moment, it
/// leaves the key as it was or as it is to be. Says how it was kept before.
///
/// # Errors
/// [`Error::InUse`] where a controller runs there, [`Error::RootKeyMissing`], [`Error::RootKeySource`], [`Error::File`].
pub fn change_root_key(state_dir: &Path, change: &RootKeyChange) -> Result<RootKeyWay, Error> {
    let _lock = server::lock(state_dir)?;
    let path = file_of(state_dir);
    let (key, before) = super::load(state_dir, &change.now, false)?;
    let to = &change.to;
    let way = to.way.ok_or_else(|| unusable(path.display().to_string(), "nobody said how it is to be kept"))?;
    let content = kept::close(&path, to, way, &key)?;
    // What can't be opened again would be a lost key. (A passphrase may come down a pipe, and can't be asked for again.)
    if way != RootKeyWay::Passphrase {
        check(&path, to, &content, &key)?;
    }
    if let Some(copy) = &change.copy {
        write_new(copy, &content).map_err(|source| Error::File { path: copy.clone(), source })?;
        return Ok(before);
    }
    let failed = |source| Error::File { path: path.clone(), source };
    let mut old = OpenOptions::new().write(true).open(&path).map_err(failed)?;
    crash_point::reach("root-key.begun");
    files::write_private(&path, &content)?;
    crash_point::reach("root-key.changed");
    // The old file has no name any more; what was in it is not to stay on the disk either.
    let length = usize::try_from(old.metadata().map_err(failed)?.len()).unwrap_or_default();
    old.write_all(&vec![0; length]).and_then(|()| old.sync_all()).map_err(failed)?;
    Ok(before)
}

fn check(path: &Path, to: &RootKey, content: &[u8], key: &SealKey) -> Result<(), Error> {
    let (opened, _) = kept::open(path, to, content.to_vec().into())?;
    if opened.expose() == key.expose() {
        return Ok(());
    }
    Err(unusable(path.display().to_string(), "what was sealed does not open as what it was; nothing was changed"))
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
