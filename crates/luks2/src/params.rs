//! What a new device shall look like.

use uuid::Uuid;
use xts::SectorSize;

use crate::token::Token;

/// How long the data segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentSize {
    /// As long as the device goes on; it may grow.
    Dynamic,
    /// That many bytes.
    Fixed(u64),
}

/// Parameters of [`Device::format`](crate::Device::format).
///
/// The sizes are fixed for the device's life. The defaults leave room for tokens and for 16 keyslots.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// The device's UUID.
    pub uuid: Uuid,
    /// Its label, at most 47 bytes.
    pub label: String,
    /// Its subsystem label, at most 47 bytes.
    pub subsystem: String,
    /// The size of an encryption sector of the data.
    pub sector_size: SectorSize,
    /// The size of one copy of the header: 16 KiB to 4 MiB, a power of two (specification 2.2).
    pub metadata_size: u64,
    /// The size of the area that holds the keyslots' material, a multiple of 4096.
    pub keyslots_size: u64,
    /// Where the data start: beyond both copies and the keyslots, a multiple of 4096.
    pub data_offset: u64,
    /// How long the data are.
    pub data_size: SegmentSize,
    /// PBKDF2-SHA256 iterations of keyslots; at least 1000.
    ///
    /// The default is that minimum, which is right where passphrases are random keys and **wrong** where people choose
    /// them.
    pub iterations: u32,
    /// Tokens to store, each bound to the first keyslot.
    pub tokens: Vec<Token>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            uuid: Uuid::new_v4(),
            label: String::new(),
            subsystem: String::new(),
            sector_size: SectorSize::B4096,
            metadata_size: 64 << 10,
            keyslots_size: 4 << 20,
            data_offset: 16 << 20,
            data_size: SegmentSize::Dynamic,
            iterations: 1000,
            tokens: Vec::new(),
        }
    }
}
