//! The KEKs of standard providers, kept over a restart where somebody said so: off unless it is switched on.

use std::path::PathBuf;

use ward_rpc::KeyPush;
use ward_types::Code;

use super::{Vault, damaged};
use crate::fault::{Fault, Result};
use crate::files;

const FILE: &str = "keys.sealed";
const PURPOSE: &str = "standard-keys";

impl Vault {
    fn keks(&self) -> PathBuf {
        self.path.with_file_name(FILE)
    }

    /// Refuses where there is nothing to seal keys to.
    pub(crate) fn needs_tpm(&self) -> Result<()> {
        if self.has_tpm() {
            return Ok(());
        }
        let why = match &self.trouble {
            Some(problem) => format!("the host's TPM can't be used: {}", problem.why),
            None => "the host has no TPM 2.0 to seal keys to".to_owned(),
        };
        Err(Fault::new(Code::HostUnfit, why, "run its agent with `--tpm`, if the machine has one"))
    }

    /// Keeps these keys in the place of those that were kept. Where they can't be sealed none is kept: what was dropped must
    /// not come back.
    pub(crate) fn keep_keks(&mut self, keys: &KeyPush) -> Result<()> {
        let path = self.keks();
        let encoded = keys.encode().map_err(|error| Fault::internal(error.to_string()));
        encoded.and_then(|body| self.seal_file(&path, PURPOSE, &body)).or_else(|fault| {
            files::remove(&path)?;
            Err(fault)
        })
    }

    /// Keeps none any more.
    pub(crate) fn forget_keks(&mut self) -> Result<()> {
        files::remove(&self.keks())
    }

    /// What is kept; nothing where it does not open, which is said.
    pub(crate) fn kept_keks(&mut self) -> KeyPush {
        let path = self.keks();
        let read = || match self.unseal_file(&path, PURPOSE)? {
            Some(body) => KeyPush::decode(&body).map_err(|error| damaged(&path, &error)),
            None => Ok(KeyPush::default()),
        };
        let kept: Result<KeyPush> = read();
        kept.unwrap_or_else(|fault| {
            self.complain("cannot unseal the keys that this host keeps", fault);
            KeyPush::default()
        })
    }
}
