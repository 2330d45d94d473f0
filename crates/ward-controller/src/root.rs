//! The root key: seals the secrets that the database holds.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_secret::{SealKey, Sealed, Zeroizing};

use crate::{Error, RootKey, files};

/// The name of the root key's file in the state directory.
const FILE: &str = "root.key";
/// The name of the file in which it lies under a passphrase.
const SEALED_FILE: &str = "root.sealed";
/// The name of the service manager's credential.
const CREDENTIAL: &str = "ward-root-key";
const PURPOSE: &str = "root-key";

/// The root key, from where the operator chose; made where there is none and `may_make`.
pub(crate) fn load(state_dir: &Path, source: &RootKey, may_make: bool) -> Result<SealKey, Error> {
    match source {
        RootKey::File => from_file(&state_dir.join(FILE), may_make),
        RootKey::Credential => from_credential(),
        RootKey::Passphrase(path) => {
            let lacks = |why: String| Error::RootKeySource { from: source.to_string(), why };
            let text = std::fs::read_to_string(path).map_err(|error| lacks(format!("{}: {error}", path.display())))?;
            let text = Zeroizing::new(text);
            let passphrase = text.trim_end_matches(['\r', '\n']);
            if passphrase.is_empty() {
                return Err(lacks(format!("{} is empty", path.display())));
            }
            from_passphrase(&state_dir.join(SEALED_FILE), passphrase, may_make)
        }
    }
}

fn from_file(path: &Path, may_make: bool) -> Result<SealKey, Error> {
    let from = path.display().to_string();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let why = "others than its owner may read it; see who did, then `chmod 600` it".to_owned();
            return Err(Error::RootKeySource { from, why });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && may_make => {
            let key = SealKey::generate()?;
            files::write_private(path, key.expose())?;
            return Ok(key);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::RootKeyMissing { path: path.to_owned() });
        }
        _ => {}
    }
    read(path, from)
}

fn from_credential() -> Result<SealKey, Error> {
    let from = format!("the credential `{CREDENTIAL}`");
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        let why = "the service manager gives none; set LoadCredentialEncrypted= in the controller's unit".to_owned();
        return Err(Error::RootKeySource { from, why });
    };
    read(&Path::new(&directory).join(CREDENTIAL), from)
}

fn read(path: &Path, from: String) -> Result<SealKey, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    SealKey::take(&mut Zeroizing::new(bytes)).map_err(|source| Error::RootKey { from, source })
}

/// What lies in the file: the key, sealed under one that the passphrase gives (argon2id), and how it gives it.
#[derive(Serialize, Deserialize)]
struct UnderPassphrase {
    version: u32,
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    sealed: String,
}

fn from_passphrase(path: &Path, passphrase: &str, may_make: bool) -> Result<SealKey, Error> {
    let from = || path.display().to_string();
    let unusable = |why: &dyn std::fmt::Display| Error::RootKeySource { from: from(), why: why.to_string() };
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && may_make => {
            let key = SealKey::generate()?;
            let mut salt = [0; 16];
            aws_lc_rs::rand::fill(&mut salt).map_err(|_| ward_secret::SecretError::Random)?;
            let params = argon2::Params::DEFAULT;
            let mut kept = UnderPassphrase {
                version: 1,
                salt: STANDARD.encode(salt),
                memory_kib: params.m_cost(),
                passes: params.t_cost(),
                lanes: params.p_cost(),
                sealed: String::new(),
            };
            kept.sealed = seal(&stretch(&kept, passphrase).map_err(|why| unusable(&why))?, PURPOSE, key.expose())?;
            files::write_private(path, &serde_json::to_vec(&kept).map_err(|error| unusable(&error))?)?;
            return Ok(key);
        }
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
    };
    let kept: UnderPassphrase = serde_json::from_slice(&content).map_err(|error| unusable(&error))?;
    if kept.version != 1 {
        return Err(unusable(&format!("it is of version {}, which this program does not know", kept.version)));
    }
    let stretched = stretch(&kept, passphrase).map_err(|why| unusable(&why))?;
    let mut key = open(&stretched, PURPOSE, &kept.sealed).map_err(|_| unusable(&"the passphrase is wrong"))?;
    Ok(SealKey::take(&mut key)?)
}

fn stretch(kept: &UnderPassphrase, passphrase: &str) -> Result<SealKey, String> {
    let salt = STANDARD.decode(&kept.salt).map_err(|error| error.to_string())?;
    let params = argon2::Params::new(kept.memory_kib, kept.passes, kept.lanes, Some(32));
    let params = params.map_err(|error| error.to_string())?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut key = Zeroizing::new([0; 32]);
    argon2.hash_password_into(passphrase.as_bytes(), &salt, &mut key[..]).map_err(|error| error.to_string())?;
    SealKey::take(&mut key[..]).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let load = |may_make| load(dir.path(), &RootKey::File, may_make);
        assert!(matches!(load(false), Err(Error::RootKeyMissing { .. })), "a loss, not a first start");
        let key = load(true).unwrap();
        assert_eq!(load(false).unwrap().expose(), key.expose());
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(true), Err(Error::RootKeySource { .. })));
    }

    #[test]
    fn a_passphrase_opens_what_it_was_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passphrase");
        let load = |passphrase: &str, may_make| {
            fs::write(&file, passphrase).unwrap();
            load(dir.path(), &RootKey::Passphrase(file.clone()), may_make)
        };
        assert!(load("open sesame\n", false).is_err());
        assert!(load("\n", true).is_err());
        let key = load("open sesame\n", true).unwrap();
        assert_eq!(load("open sesame", false).unwrap().expose(), key.expose());
        let why = load("open sesamE", true).err().unwrap().to_string();
        assert!(why.contains("the passphrase is wrong"), "{why}");
        let kept = fs::read(dir.path().join(SEALED_FILE)).unwrap();
        assert!(!kept.windows(32).any(|window| window == key.expose()));
    }
}
