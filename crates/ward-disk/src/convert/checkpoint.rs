//! A note of how far a conversion has come, that a power cut can't falsify.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::source::Source;
use super::target::Target;
use super::{CHUNK, FileIdentity, sync_directory_of};
use crate::error::{Doing, Result};
use crate::order::{ConvertOrder, ImageFormat};

const VERSION: u32 = 1;

/// What is known to be written, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    version: u32,
    source: FileIdentity,
    source_version: (u64, i64, i64),
    source_format: ImageFormat,
    target: FileIdentity,
    target_format: ImageFormat,
    size: u64,
    /// Everything before it is on the target's storage.
    pub(crate) watermark: u64,
}

impl Checkpoint {
    pub(crate) fn new(order: &ConvertOrder, source: &Source, target: &Target) -> Self {
        Self {
            version: VERSION,
            source: source.identity(),
            source_version: source.version(),
            source_format: order.source.format,
            target: target.identity(),
            target_format: order.target.format,
            size: order.size,
            watermark: 0,
        }
    }

    /// Whatever can't be read as one counts as none: the work then begins anew.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether it is about the same work and says something possible.
    pub(crate) fn continues(&self, other: &Self) -> bool {
        let place = self.watermark == self.size || self.watermark.is_multiple_of(CHUNK);
        place && self.watermark <= self.size && Self { watermark: other.watermark, ..self.clone() } == *other
    }

    /// Replaces the note as a whole: after a crash there is the old one or the new one.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let what = "write the checkpoint";
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let mut file: File =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new).doing(what, &new)?;
        let json = serde_json::to_vec(self).map_err(std::io::Error::from).doing(what, &new)?;
        file.write_all(&json).doing(what, &new)?;
        file.sync_all().doing(what, &new)?;
        crash_point::reach("convert.checkpoint.written");
        fs::rename(&new, path).doing(what, path)?;
        crash_point::reach("convert.checkpoint.renamed");
        sync_directory_of(path)
    }
}
