//! What a host remembers of its encryption mode: the name of its host key, and whether it keeps keys over a restart.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ward_types::KeyRef;

use crate::fault::{Fault, Result};
use crate::files::{self, Moments};

const FILE: &str = "crypto.json";
const MAX_FILE: u64 = 64 << 10;
const MOMENTS: Moments = Moments { written: "crypto.written", renamed: "crypto.kept" };
/// Where the kernel shows the machine's UUID, to root; and where the system keeps its own.
const HARDWARE: [&str; 2] = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    /// The host key.
    pub(crate) key: Option<KeyRef>,
    /// Whether keys are kept over a restart.
    pub(crate) persistent: bool,
}

/// Where it is remembered.
pub(crate) struct Memory {
    path: PathBuf,
    now: Remembered,
}

impl Memory {
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let now = match files::read_small(&path, MAX_FILE)? {
            None => Remembered::default(),
            Some(text) => serde_json::from_slice(&text).map_err(|error| {
                let why = format!("{} makes no sense: {error}", path.display());
                Fault::unfit(why, "remove it: the controller says again what stood there")
            })?,
        };
        Ok(Self { path, now })
    }

    pub(crate) const fn now(&self) -> &Remembered {
        &self.now
    }

    /// Remembers something else.
    pub(crate) fn set(&mut self, new: Remembered) -> Result<()> {
        if self.now != new {
            let json = serde_json::to_vec(&new).map_err(|error| Fault::internal(error.to_string()))?;
            files::write_atomically(&self.path, &json, MOMENTS)?;
            self.now = new;
        }
        Ok(())
    }
}

/// The machine's hardware UUID, or its machine ID where the firmware tells none.
pub(crate) fn hardware() -> Option<Uuid> {
    let read = |path: &&str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    HARDWARE.iter().find_map(read)
}
