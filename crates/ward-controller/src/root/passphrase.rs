//! A key that a passphrase gives.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_secret::{SealKey, SecretError, Zeroizing};

use super::unusable;
use crate::Error;
use crate::config::RootKey;

/// How a passphrase becomes a key: argon2id (RFC 9106).
#[derive(Serialize, Deserialize)]
pub(super) struct Stretching {
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Stretching {
    /// With a new salt, and the costs of today.
    pub(super) fn new() -> Result<Self, Error> {
        let mut salt = [0; 16];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| SecretError::Random)?;
        let params = argon2::Params::DEFAULT;
        let (memory_kib, passes, lanes) = (params.m_cost(), params.t_cost(), params.p_cost());
        Ok(Self { salt: STANDARD.encode(salt), memory_kib, passes, lanes })
    }

    pub(super) fn key(&self, passphrase: &str) -> Result<SealKey, String> {
        let salt = STANDARD.decode(&self.salt).map_err(|error| error.to_string())?;
        let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let params = params.map_err(|error| error.to_string())?;
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon2.hash_password_into(passphrase.as_bytes(), &salt, &mut key[..]).map_err(|error| error.to_string())?;
        SealKey::take(&mut key[..]).map_err(|error| error.to_string())
    }
}

/// The passphrase: from its file, or asked for on the terminal; twice where something is to be sealed under it.
pub(super) fn get(source: &RootKey, twice: bool) -> Result<Zeroizing<String>, Error> {
    let Some(path) = &source.passphrase_file else { return ask(twice) };
    let from = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| unusable(&from, error))?;
    let text = Zeroizing::new(text);
    let passphrase = text.trim_end_matches(['\r', '\n']);
    if passphrase.is_empty() {
        return Err(unusable(from, "it is empty"));
    }
    Ok(Zeroizing::new(passphrase.to_owned()))
}

fn ask(twice: bool) -> Result<Zeroizing<String>, Error> {
    const TERMINAL: &str = "the terminal";
    let prompt = |prompt: &str| {
        let asked = rpassword::prompt_password(prompt).map(Zeroizing::new);
        asked.map_err(|error| unusable(TERMINAL, format!("{error}; name a file or a descriptor with the passphrase")))
    };
    let passphrase = prompt("passphrase of the root key: ")?;
    if passphrase.is_empty() {
        return Err(unusable(TERMINAL, "the passphrase is empty"));
    }
    if twice && *prompt("the same again: ")? != *passphrase {
        return Err(unusable(TERMINAL, "the two passphrases differ"));
    }
    Ok(passphrase)
}
