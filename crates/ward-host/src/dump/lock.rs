//! Who may open a dump: its key, wrapped under a host key or sealed under a password.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_secret::{DumpKey, Kek, SealKey, Sealed, WrappedKey, Zeroizing};
use ward_types::{Code, KeyRef};

use crate::fault::{Fault, Result};

/// For what a password seals.
const PURPOSE: &str = "ward dump key v1";
/// What a file may ask of whoever opens it.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 64;

/// The key of a dump as it lies in its file. Not secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lock", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Lock {
    /// Wrapped under a host key (AES-KWP), base64.
    HostKey {
        /// Which.
        key: KeyRef,
        wrapped: String,
    },
    /// Sealed (AES-256-GCM) under what a password gives (argon2id), base64.
    Password { salt: String, memory_kib: u32, passes: u32, lanes: u32, sealed: String },
}

fn damaged() -> Fault {
    Fault::new(Code::DumpInvalid, "its lock is damaged", "take another copy of it")
}

impl Lock {
    pub(crate) fn under_host_key(key: KeyRef, kek: &Kek, dump: &DumpKey) -> Result<Self> {
        Ok(Self::HostKey { key, wrapped: STANDARD.encode(kek.wrap_dump_key(dump)?.as_bytes()) })
    }

    pub(crate) fn under_password(password: &str, dump: &DumpKey) -> Result<Self> {
        // 16 random bytes; the kernel's generator, by way of a key that is used for nothing else.
        let salt = Zeroizing::new(SealKey::generate()?.expose()[..16].to_vec());
        let params = Params::DEFAULT;
        let stretched = stretch(password, &salt, &params)?;
        Ok(Self::Password {
            salt: STANDARD.encode(&salt),
            memory_kib: params.m_cost(),
            passes: params.t_cost(),
            lanes: params.p_cost(),
            sealed: STANDARD.encode(stretched.seal(PURPOSE, dump.expose())?.as_bytes()),
        })
    }

    /// The host key that opens it, where one does.
    pub(crate) const fn host_key(&self) -> Option<&KeyRef> {
        match self {
            Self::HostKey { key, .. } => Some(key),
            Self::Password { .. } => None,
        }
    }

    pub(crate) fn open_with_host_key(&self, kek: &Kek) -> Result<DumpKey> {
        let Self::HostKey { key, wrapped } = self else {
            return Err(Fault::new(Code::DumpInvalid, "a password opens it, no host key", "give the password"));
        };
        let wrapped = WrappedKey::from_bytes(STANDARD.decode(wrapped).map_err(|_| damaged())?);
        kek.unwrap_dump_key(&wrapped).map_err(|_| {
            let why = format!("its lock is damaged, or host key {key} is another one than it was");
            Fault::new(Code::DumpInvalid, why, "restore that key at its key server, or take another copy of the dump")
        })
    }

    pub(crate) fn open_with_password(&self, password: &str) -> Result<DumpKey> {
        let Self::Password { salt, memory_kib, passes, lanes, sealed } = self else {
            return Err(Fault::new(Code::DumpInvalid, "a host key opens it, no password", "open it on its host"));
        };
        if *memory_kib > MAX_MEMORY_KIB || *passes > MAX_PASSES || *lanes > MAX_LANES {
            return Err(damaged());
        }
        let params = Params::new(*memory_kib, *passes, *lanes, Some(32)).map_err(|_| damaged())?;
        let stretched = stretch(password, &STANDARD.decode(salt).map_err(|_| damaged())?, &params)?;
        let sealed = Sealed::from_bytes(STANDARD.decode(sealed).map_err(|_| damaged())?);
        let mut key = stretched.open(PURPOSE, &sealed).map_err(|_| {
            Fault::new(Code::PasswordWrong, "the password is wrong, or the lock damaged", "try another")
        })?;
        Ok(DumpKey::take(&mut key)?)
    }
}

fn stretch(password: &str, salt: &[u8], params: &Params) -> Result<SealKey> {
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into(password.as_bytes(), salt, &mut key[..])
        .map_err(|_| damaged())?;
    Ok(SealKey::take(&mut key[..])?)
}
