//! What lies in the root key's file: the key as it is, 32 bytes; or JSON, which has it sealed, and says under what.

use std::path::Path;

use serde::{Deserialize, Serialize};
use ward_secret::{SealKey, Zeroizing};
use ward_tpm::{SealedKey, Tpm, TpmError};

use super::passphrase::Stretching;
use super::{passphrase, unusable};
use crate::Error;
use crate::config::{RootKey, RootKeyWay};

/// The service manager's credential.
const CREDENTIAL: &str = "ward-root-key";
const PURPOSE: &str = "root-key";
const VERSION: u32 = 1;
/// The length of a key that lies as it is; no JSON of this format is so short.
const PLAIN: usize = 32;

/// The root key, sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(flatten)]
    under: Under,
}

/// Under what.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kept", rename_all = "kebab-case")]
enum Under {
    /// The TPM seals it itself.
    Tpm { key: SealedKey },
    /// The credential is the key that seals it.
    Credential { sealed: String },
    /// What a passphrase gives is.
    Passphrase { stretching: Stretching, sealed: String },
}

impl Under {
    const fn way(&self) -> RootKeyWay {
        match self {
            Self::Tpm { .. } => RootKeyWay::Tpm,
            Self::Credential { .. } => RootKeyWay::Credential,
            Self::Passphrase { .. } => RootKeyWay::Passphrase,
        }
    }
}

/// How the key in a file is kept.
pub(super) fn way(path: &Path, content: &[u8]) -> Result<RootKeyWay, Error> {
    if content.len() == PLAIN { Ok(RootKeyWay::File) } else { Ok(parse(path, content)?.way()) }
}

/// The key in a file that lies at `path`.
pub(super) fn open(
    path: &Path,
    source: &RootKey,
    mut content: Zeroizing<Vec<u8>>,
) -> Result<(SealKey, RootKeyWay), Error> {
    let way = way(path, &content)?;
    let from = || path.display().to_string();
    if let Some(said) = source.way
        && said != way
    {
        let why = format!(
            "it is kept {way}, not {said}; leave `--root-key` out, or change it with `ward controller root-key --to {}`",
            said.as_str()
        );
        return Err(unusable(from(), why));
    }
    if way == RootKeyWay::File {
        return Ok((SealKey::take(&mut content)?, way));
    }
    let opened = match parse(path, &content)? {
        Under::Tpm { key } => return Ok((tpm(source)?.unseal(&key).map_err(|error| lost(&error))?, way)),
        Under::Credential { sealed } => super::open(&credential()?, PURPOSE, &sealed)
            .map_err(|_| unusable(credential_name(), "it is not the one under which the root key was sealed")),
        Under::Passphrase { stretching, sealed } => {
            let key = stretching.key(&passphrase::get(source, false)?).map_err(|why| unusable(from(), why))?;
            super::open(&key, PURPOSE, &sealed).map_err(|_| unusable(from(), "the passphrase is wrong"))
        }
    };
    Ok((SealKey::take(&mut opened?)?, way))
}

/// What lies in a file with the key, kept this way.
pub(super) fn close(
    path: &Path,
    source: &RootKey,
    way: RootKeyWay,
    key: &SealKey,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let under = match way {
        RootKeyWay::File => return Ok(Zeroizing::new(key.expose().to_vec())),
        RootKeyWay::Tpm => Under::Tpm { key: tpm(source)?.seal(key).map_err(|error| unusable(tpm_name(), error))? },
        RootKeyWay::Credential => Under::Credential { sealed: super::seal(&credential()?, PURPOSE, key.expose())? },
        RootKeyWay::Passphrase => {
            let passphrase = passphrase::get(source, true)?;
            let stretching = Stretching::new()?;
            let stretched = stretching.key(&passphrase).map_err(|why| unusable(path.display().to_string(), why))?;
            Under::Passphrase { stretching, sealed: super::seal(&stretched, PURPOSE, key.expose())? }
        }
    };
    let kept = serde_json::to_vec_pretty(&Kept { version: VERSION, under });
    Ok(Zeroizing::new(kept.map_err(|error| unusable(path.display().to_string(), error))?))
}

fn parse(path: &Path, content: &[u8]) -> Result<Under, Error> {
    let refuse = |why: String| Err(unusable(path.display().to_string(), format!("{why}; restore it from a backup")));
    match serde_json::from_slice::<Kept>(content) {
        Ok(kept) if kept.version == VERSION => Ok(kept.under),
        Ok(kept) => refuse(format!("it is of version {}, which this program does not know", kept.version)),
        Err(error) => refuse(format!("it is no root key ({error})")),
    }
}

fn tpm_name() -> String {
    "this machine's TPM".to_owned()
}

fn tpm(source: &RootKey) -> Result<Tpm, Error> {
    Tpm::open(&source.tcti, &source.pcrs).map_err(|error| unusable(tpm_name(), error))
}

fn lost(error: &TpmError) -> Error {
    let why = match error {
        TpmError::Changed(_) | TpmError::NotOurs => format!(
            "{error}; if nobody changed the machine, find out who did. Boot it as it was, or put a copy of the root key \
             in its place that was made with `ward controller root-key --to passphrase --copy FILE`"
        ),
        error => error.to_string(),
    };
    unusable(tpm_name(), why)
}

fn credential_name() -> String {
    format!("the credential `{CREDENTIAL}`")
}

fn credential() -> Result<SealKey, Error> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else {
        let why = "the service manager gives none; set LoadCredentialEncrypted= in the controller's unit";
        return Err(unusable(credential_name(), why));
    };
    let path = Path::new(&directory).join(CREDENTIAL);
    let content = std::fs::read(&path).map_err(|error| unusable(credential_name(), error))?;
    SealKey::take(&mut Zeroizing::new(content)).map_err(|error| unusable(credential_name(), error))
}
