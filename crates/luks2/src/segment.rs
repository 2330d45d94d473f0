//! The data segment (specification 3.3): what the caller's data path must know.

use xts::SectorSize;

/// Where the data are and how they are encrypted, with `aes-xts-plain64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSegment {
    /// Where the data start on the device, in bytes.
    pub offset: u64,
    /// How long they are, in bytes: whole sectors.
    pub len: u64,
    /// The size of an encryption sector.
    pub sector_size: SectorSize,
    /// The tweak of the first sector. Tweaks count units of 512 bytes, whatever the size of a sector.
    pub iv_tweak: u64,
}
