//! The root key: seals the secrets that the database holds.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ward_secret::{SealKey, Sealed, Zeroize as _, Zeroizing};

use crate::{Error, files};

/// The name of the root key's file in the state directory.
pub(crate) const FILE: &str = "root.key";

/// The root key of a state directory; made where there is none and `may_make`.
pub(crate) fn load(state_dir: &Path, may_make: bool) -> Result<SealKey, Error> {
    let path = state_dir.join(FILE);
    let mut bytes = match std::fs::read(&path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !may_make {
                return Err(Error::RootKeyMissing { path });
            }
            let key = SealKey::generate()?;
            files::write_private(&path, key.expose())?;
            return Ok(key);
        }
        Err(source) => return Err(Error::File { path, source }),
    };
    let key = SealKey::take(&mut bytes).map_err(|source| Error::RootKey { path, source });
    bytes.zeroize();
    key
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
