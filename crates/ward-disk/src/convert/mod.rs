//! Offline conversion: a disk copied from one format or key to another.
//!
//! ```text
//! source --- planner --- worker: read, decrypt, encrypt, write --- target
//!            (chunks)    worker: ...                               |
//!                        tally: which chunks are written ------ watermark -> fdatasync -> checkpoint
//! ```
//!
//! The workers share nothing but the planner, which hands out chunks in order, and the tally. A chunk is read, ciphered
//! and written by one thread, so that it stays in that core's cache. Everything that can be refused is refused before
//! the first chunk.

mod checkpoint;
mod copy;
mod source;
mod space;
mod target;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ward_secret::Dek;

use crate::cipher::PayloadCipher;
use crate::error::{DiskError, DiskErrorKind, Result};
use crate::order::{ConvertOrder, ConvertSide, ImageFormat};
use crate::report::{Report, Summary};
use checkpoint::Checkpoint;
use source::Source;
use target::Target;

/// What is read, ciphered and written at a time. Small enough for a core's cache, large enough for the storage.
pub(crate) const CHUNK: u64 = 1 << 20;

/// More threads than this wait for the storage rather than for a processor.
const MAX_WORKERS: usize = 4;

/// Carries out a conversion.
pub(crate) fn run(
    order: &ConvertOrder,
    deks: Vec<Dek>,
    cancelled: &AtomicBool,
    report: &mut dyn FnMut(Report),
) -> Result<Summary> {
    let source = Source::open(&order.source, order.size)?;
    let mut target = Target::open(&order.target)?;
    if source.identity() == target.identity() {
        let why = "source and target are the same file";
        return Err(DiskError::new(DiskErrorKind::Protocol, "convert", why).at_path(&order.target.path));
    }
    let mut workers = ciphers(order, &deks)?;
    // From here on the keys are only where the ciphers keep them, expanded.
    drop(deks);

    let mut checkpoint = Checkpoint::new(order, &source, &target);
    let resumed_at = match Checkpoint::load(&order.checkpoint) {
        Some(earlier) if earlier.continues(&checkpoint) && target.can_resume() => {
            let agrees = copy::agrees_before(earlier.watermark, &source, &target, order.size, &mut workers[0])?;
            if agrees { earlier.watermark } else { 0 }
        }
        _ => 0,
    };
    checkpoint.watermark = resumed_at;
    crash_point::reach("convert.checked");
    target.prepare(order.size, source.allocated(), resumed_at)?;
    crash_point::reach("convert.reserved");
    report(Report::Ready);

    let copied =
        copy::run(copy::Job { order, source: &source, target: &target, cancelled }, workers, checkpoint, report)?;
    target.finish(order.size)?;
    crash_point::reach("convert.finished");
    Ok(Summary { bytes: order.size, zero_bytes: copied.zero_bytes, resumed_at, ..Summary::default() })
}

type Ciphers = (Option<PayloadCipher>, Option<PayloadCipher>);

/// One pair for each worker.
fn ciphers(order: &ConvertOrder, deks: &[Dek]) -> Result<Vec<Ciphers>> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, MAX_WORKERS);
    (0..count).map(|_| Ok((cipher(&order.source, deks)?, cipher(&order.target, deks)?))).collect()
}

fn cipher(side: &ConvertSide, deks: &[Dek]) -> Result<Option<PayloadCipher>> {
    let ImageFormat::Luks2 { sector_size, .. } = side.format else { return Ok(None) };
    let dek = side.dek.and_then(|index| deks.get(index));
    let dek = dek.ok_or_else(|| DiskError::new(DiskErrorKind::Protocol, "convert", "a key is missing"))?;
    PayloadCipher::new(dek, sector_size).map(Some)
}

/// Makes a name that was created or replaced last: the directory's own data.
pub(crate) fn sync_directory_of(path: &Path) -> Result<()> {
    use crate::error::Doing;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).doing("sync the directory", directory)
}

/// Which file it is, however it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(crate) fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}
