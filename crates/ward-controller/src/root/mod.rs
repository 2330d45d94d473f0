//! The root key: seals the secrets that the database holds.
//!
//! It is made once and stays. How it is kept is the operator's choice, and one file says which that is, [`FILE`]: it has
//! either the key itself, or the key sealed and what opens it. So a change from one way to another is one rename.
//!
//! ```text
//! kept         the file's content: made and opened, one way or another
//! passphrase   a key that a passphrase gives
//! change       from one way to another, and copies
//! ```

mod change;
mod kept;
mod passphrase;

#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ward_secret::{SealKey, Sealed, Zeroizing};

use crate::config::{RootKey, RootKeyWay};
use crate::{Error, files};

pub use change::{RootKeyChange, change_root_key, root_key_way};

/// The name of the root key's file in the state directory.
const FILE: &str = "root.key";

/// The root key, and how it is kept; made where there is none and `may_make`.
pub(crate) fn load(state_dir: &Path, source: &RootKey, may_make: bool) -> Result<(SealKey, RootKeyWay), Error> {
    let path = file_of(state_dir);
    // What a change that was interrupted has not put into use.
    match std::fs::remove_file(files::temporary(&path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::File { path, source: error }),
        _ => {}
    }
    let Some(content) = read(&path)? else {
        if !may_make {
            return Err(Error::RootKeyMissing { path });
        }
        let (key, way) = (SealKey::generate()?, source.way.unwrap_or_default());
        files::write_private(&path, &kept::close(&path, source, way, &key)?)?;
        return Ok((key, way));
    };
    kept::open(&path, source, content)
}

/// What lies in the file; none where there is none.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let why = "others than its owner may read it; see who did, then `chmod 600` it".to_owned();
            return Err(Error::RootKeySource { from: path.display().to_string(), why });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let content = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(Some(Zeroizing::new(content)))
}

/// Where the key that seals it is not to be had.
fn unusable(from: impl Into<String>, why: impl ToString) -> Error {
    Error::RootKeySource { from: from.into(), why: why.to_string() }
}

/// Where it lies.
pub(crate) fn file_of(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// A secret sealed, as text.
pub(crate) fn seal(key: &SealKey, purpose: &str, secret: &[u8]) -> Result<String, ward_secret::SecretError> {
    Ok(STANDARD.encode(key.seal(purpose, secret)?.as_bytes()))
}

/// What [`seal`] gave, opened.
pub(crate) fn open(key: &SealKey, purpose: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, ward_secret::SecretError> {
    let bytes = STANDARD.decode(sealed).map_err(|_| ward_secret::SecretError::Unwrap)?;
    key.open(purpose, &Sealed::from_bytes(bytes))
}
