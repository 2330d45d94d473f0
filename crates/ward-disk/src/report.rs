//! What a disk process says, and what it may be told after its order.

use serde::{Deserialize, Serialize};

use crate::error::DiskError;

/// What a disk process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Report {
    /// Export: every socket listens. Conversion: everything has been checked and reserved, copying begins.
    Ready,
    /// Conversion: that many bytes of the disk are written, about ten times a second.
    Progress {
        /// Bytes that are written.
        done: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// The answer to [`Command::Stats`].
    Stats(Stats),
    /// All done; nothing follows.
    Done(Summary),
    /// Failed; nothing follows.
    Failed(DiskError),
}

/// What an export has done so far, over all disks and queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Read requests that succeeded.
    pub reads: u64,
    /// Bytes that these read.
    pub read_bytes: u64,
    /// Write requests that succeeded.
    pub writes: u64,
    /// Bytes that these wrote.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Requests that failed or were refused.
    pub errors: u64,
    /// Front ends that are connected now.
    pub connected: u32,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Conversion: the disk's size in bytes. Export: 0.
    pub bytes: u64,
    /// Conversion: bytes that needed no reading since the source has holes there.
    pub zero_bytes: u64,
    /// Conversion: where it went on from an earlier, interrupted attempt; 0 where it began anew.
    pub resumed_at: u64,
    /// Export: what the guest did.
    pub stats: Stats,
}

/// What a disk process may be told after its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Export: finish what is in flight, flush and end. Conversion: as [`Command::Cancel`].
    Stop,
    /// Conversion: give up, leaving what is written. Export: as [`Command::Stop`].
    Cancel,
    /// Export: say what was done so far.
    Stats,
}
