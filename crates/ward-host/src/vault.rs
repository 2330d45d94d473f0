//! What a host keeps over a restart, under keys that its TPM seals: the keys of native providers, and where somebody said
//! so the KEKs of standard ones (`keks`). Without a TPM nothing.

mod keks;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_rpc::NativePush;
use ward_secret::{SealKey, Sealed, Zeroizing};
use ward_tpm::{SealedKey, Tpm};
use ward_types::Problem;

use crate::config::TpmConfig;
use crate::fault::{Fault, Result};
use crate::files::{self, Moments};

const FILE: &str = "native.sealed";
const PURPOSE: &str = "native-keys";
const VERSION: u32 = 1;
const MAX_FILE: u64 = 16 << 20;
const MOMENTS: Moments = Moments { written: "native.written", renamed: "native.kept" };

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    /// The key under which the rest is sealed.
    key: SealedKey,
    /// What the controller pushed, sealed (AES-256-GCM), base64.
    keys: String,
}

/// Where keys are kept.
pub(crate) struct Vault {
    path: PathBuf,
    tpm: Option<Tpm>,
    /// Whether what the host has now is kept.
    pub(crate) sealed: bool,
    /// What is wrong.
    pub(crate) trouble: Option<Problem>,
}

impl Vault {
    /// The vault in a state directory, and what is in it.
    pub(crate) fn open(state_dir: &Path, config: Option<&TpmConfig>) -> (Self, NativePush) {
        let mut vault = Self { path: state_dir.join(FILE), tpm: None, sealed: false, trouble: None };
        match config.map(|config| Tpm::open(&config.tcti, &config.pcrs)).transpose() {
            Ok(tpm) => vault.tpm = tpm,
            Err(error) => vault.complain("cannot use this host's TPM", error.into()),
        }
        let kept = match vault.load() {
            Ok(Some(push)) => {
                vault.sealed = true;
                push
            }
            Ok(None) => NativePush::default(),
            Err(fault) => {
                vault.complain("cannot unseal the keys of native providers", fault);
                NativePush::default()
            }
        };
        (vault, kept)
    }

    pub(crate) const fn has_tpm(&self) -> bool {
        self.tpm.is_some()
    }

    /// Keeps these keys in the place of all others, as far as this host can. What it can't seal it does not keep: an older
    /// state must not come back.
    ///
    /// # Errors
    /// Where an older state is still there.
    pub(crate) fn keep(&mut self, push: &NativePush) -> Result<()> {
        self.sealed = false;
        if push.keys.is_empty() {
            files::remove(&self.path)?;
        } else if let Err(fault) = self.store(push) {
            self.complain("cannot seal the keys of native providers", fault);
            return files::remove(&self.path);
        }
        self.sealed = self.has_tpm();
        if self.sealed {
            self.trouble = None;
        }
        Ok(())
    }

    pub(crate) fn complain(&mut self, what: &str, fault: Fault) {
        let problem = fault.problem(what);
        tracing::warn!(%problem, remedy = problem.remedy, "native providers");
        self.trouble = Some(problem);
    }

    fn load(&self) -> Result<Option<NativePush>> {
        let Some(body) = self.unseal_file(&self.path, PURPOSE)? else { return Ok(None) };
        NativePush::decode(&body).map(Some).map_err(|error| damaged(&self.path, &error))
    }

    fn store(&self, push: &NativePush) -> Result<()> {
        let body = push.encode().map_err(|error| Fault::internal(error.to_string()))?;
        self.seal_file(&self.path, PURPOSE, &body)
    }

    /// What a sealed file holds; none where there is no file or no TPM.
    fn unseal_file(&self, path: &Path, purpose: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let (Some(tpm), Some(content)) = (&self.tpm, files::read_small(path, MAX_FILE)?) else {
            return Ok(None);
        };
        let kept: Kept = serde_json::from_slice(&content).map_err(|error| damaged(path, &error))?;
        if kept.version != VERSION {
            return Err(damaged(path, &format!("its version {} is unknown", kept.version)));
        }
        let key = tpm.unseal(&kept.key)?;
        let sealed = STANDARD.decode(&kept.keys).map_err(|error| damaged(path, &error))?;
        key.open(purpose, &Sealed::from_bytes(sealed)).map(Some).map_err(|error| damaged(path, &error))
    }

    fn seal_file(&self, path: &Path, purpose: &str, body: &[u8]) -> Result<()> {
        let Some(tpm) = &self.tpm else {
            // Of a time when there was one.
            return files::remove(path);
        };
        // A new one each time, sealed into the file itself: an older file that is put back opens too, to the same machine.
        let key = SealKey::generate()?;
        let kept =
            Kept { version: VERSION, key: tpm.seal(&key)?, keys: STANDARD.encode(key.seal(purpose, body)?.as_bytes()) };
        let json = serde_json::to_vec(&kept).map_err(|error| Fault::internal(error.to_string()))?;
        files::write_atomically(path, &json, MOMENTS)
    }
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Fault {
    Fault::unfit(format!("{} makes no sense: {why}", path.display()), "remove it")
}
