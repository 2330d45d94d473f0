//! What a host keeps of native providers' keys over a restart: all of them, under a key that its TPM seals; without a TPM
//! nothing.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ward_rpc::NativePush;
use ward_secret::{SealKey, Sealed};
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
    pub(crate) fn open(state_dir: &std::path::Path, config: Option<&TpmConfig>) -> (Self, NativePush) {
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

    /// Keeps these keys in the place of all others, as far as this host can.
    pub(crate) fn keep(&mut self, push: &NativePush) {
        self.sealed = false;
        match self.store(push) {
            Ok(()) => {
                self.sealed = self.has_tpm();
                if self.sealed {
                    self.trouble = None;
                }
            }
            Err(fault) => self.complain("cannot seal the keys of native providers", fault),
        }
    }

    fn complain(&mut self, what: &str, fault: Fault) {
        let problem = fault.problem(what);
        tracing::warn!(%problem, remedy = problem.remedy, "native providers");
        self.trouble = Some(problem);
    }

    fn load(&self) -> Result<Option<NativePush>> {
        let (Some(tpm), Some(content)) = (&self.tpm, files::read_small(&self.path, MAX_FILE)?) else {
            return Ok(None);
        };
        let damaged = |why: String| Fault::unfit(format!("{} makes no sense: {why}", self.path.display()), "remove it");
        let kept: Kept = serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
        if kept.version != VERSION {
            return Err(damaged(format!("its version {} is unknown", kept.version)));
        }
        let key = tpm.unseal(&kept.key)?;
        let sealed = STANDARD.decode(&kept.keys).map_err(|error| damaged(error.to_string()))?;
        let body = key.open(PURPOSE, &Sealed::from_bytes(sealed)).map_err(|error| damaged(error.to_string()))?;
        NativePush::decode(&body).map(Some).map_err(|error| damaged(error.to_string()))
    }

    fn store(&self, push: &NativePush) -> Result<()> {
        let Some(tpm) = &self.tpm else {
            // Of a time when there was one.
            return files::remove(&self.path);
        };
        let internal = |error: &dyn std::fmt::Display| Fault::internal(error.to_string());
        // A new one each time: an older file is of no use with it.
        let key = SealKey::generate()?;
        let body = push.encode().map_err(|error| internal(&error))?;
        let kept = Kept {
            version: VERSION,
            key: tpm.seal(&key)?,
            keys: STANDARD.encode(key.seal(PURPOSE, &body)?.as_bytes()),
        };
        let json = serde_json::to_vec(&kept).map_err(|error| internal(&error))?;
        files::write_atomically(&self.path, &json, MOMENTS)
    }
}
