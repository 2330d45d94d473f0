//! The LUKS2 on-disk format, specification 1.1.x: create, open, validate, repair; keyslots, tokens, segments.
//!
//! Pure Rust over positioned I/O ([`Io`]), without device-mapper. What this crate writes, `cryptsetup` opens, and the
//! other way round. It never touches the data: [`Device::data_segment`] says where that is and how it is encrypted,
//! [`Device::unlock`] gives the volume key, and the rest is the caller's.
//!
//! ```
//! # use luks2::{Device, Params, VOLUME_KEY_LEN};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = tempfile::tempfile()?;
//! file.set_len(32 << 20)?;
//! let volume_key: [u8; VOLUME_KEY_LEN] = std::array::from_fn(|i| i as u8); // random in earnest
//! let device = Device::format(file, &Params::default(), &volume_key, b"passphrase")?;
//!
//! let mut opened = [0; VOLUME_KEY_LEN];
//! device.unlock(b"passphrase", &mut opened)?;
//! assert_eq!(opened, volume_key);
//! # Ok(())
//! # }
//! ```
//!
//! # What is supported
//!
//! One `crypt` segment, `aes-xts-plain64` with a 512-bit volume key and sectors of 512 or 4096 bytes, without integrity
//! protection; keyslots of type `luks2` behind PBKDF2, Argon2i or Argon2id. All else is refused by name. Fields, tokens
//! and keyslots of a kind that this crate doesn't know survive a rewrite.
//!
//! # Crashes
//!
//! A header has two copies, each with a checksum and a sequence number. A change writes one copy whole, makes it
//! durable, then the other: so whenever the power goes, the device opens with the old or with the new content, and each
//! change below takes effect at one such moment. [`Device::open`] reports what a crash left behind and changes nothing;
//! [`Device::repair`], and any other change, first puts it right.
//!
//! # Keys
//!
//! The volume key is written to the caller's buffer and nowhere else. Keys derived from passphrases, and the key
//! material of a keyslot, are wiped after use.
//!
//! # Not for two writers
//!
//! Nothing here locks the device. The caller must see to it that one writer uses it at a time.

#![deny(unsafe_code)]

mod af;
mod binary;
mod copies;
mod device;
mod digest;
mod error;
mod format;
mod hash;
mod header;
mod id;
mod io;
mod kdf;
mod keyslot;
mod metadata;
mod params;
mod random;
mod removal;
mod segment;
mod token;
mod validate;

pub use device::Device;
pub use error::{Damage, Error, Invalid, Unsupported};
pub use header::{Health, KeyslotInfo, Priority};
pub use id::{KeyslotId, TokenId};
pub use io::Io;
pub use params::{Params, SegmentSize};
pub use segment::DataSegment;
pub use token::{Token, TokenChange};
pub use xts::SectorSize;

/// Length of a volume key in bytes: that of AES-256-XTS.
pub const VOLUME_KEY_LEN: usize = xts::KEY_LEN;
