//! AES-256-XTS over sectors, through AWS-LC's EVP interface.
//!
//! What dm-crypt calls `aes-xts-plain64` with a 512-bit key: each sector is one XTS data unit (IEEE 1619-2018), and its
//! tweak is the sector number as a 128-bit little-endian integer. As in dm-crypt without `iv_large_sectors`, which is
//! how LUKS2 sets it up, sector numbers count units of 512 bytes *whatever the sector size is*.

#![deny(unsafe_code)]

mod evp;

use std::fmt;

/// Length of an AES-256-XTS key: two AES-256 keys, in bytes.
pub const KEY_LEN: usize = 64;

/// The unit in which a tweak counts, in bytes, whatever the sector size.
pub const IV_UNIT: u64 = 512;

/// The size of one XTS data unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes, Ward's own choice for new disks.
    B4096,
}

impl SectorSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }

    /// The sector size of that many bytes, if it is one that is supported.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }
}

/// Why a cipher could not be set up or used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum XtsError {
    /// The two halves of the key are equal, which XTS forbids (FIPS 140 IG C.I).
    #[error("the two halves of the XTS key are equal")]
    WeakKey,
    /// The buffer is not a whole number of sectors.
    #[error("the buffer is {0} bytes long, which is not a whole number of sectors")]
    NotWholeSectors(usize),
    /// AWS-LC refused; with a valid key this means that memory ran out.
    #[error("the cryptographic library refused the operation")]
    Library,
}

/// An AES-256-XTS cipher with its expanded key for both directions.
///
/// The expanded key is wiped by AWS-LC when this is dropped. One value serves one thread at a time; make one per queue.
pub struct Xts {
    encrypt: evp::Context,
    decrypt: evp::Context,
}

// The key must not be printable, yet types that hold a cipher may want to be.
impl fmt::Debug for Xts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xts(..)")
    }
}

impl Xts {
    /// Expands a 512-bit key.
    ///
    /// # Errors
    /// [`XtsError::WeakKey`] where both halves are equal, [`XtsError::Library`] where AWS-LC refuses.
    pub fn new(key: &[u8; KEY_LEN]) -> Result<Self, XtsError> {
        // Not secret-dependent in a way that matters: a random key is never weak.
        if key[..KEY_LEN / 2] == key[KEY_LEN / 2..] {
            return Err(XtsError::WeakKey);
        }
        Ok(Self {
            encrypt: evp::Context::new(key, evp::Direction::Encrypt)?,
            decrypt: evp::Context::new(key, evp::Direction::Decrypt)?,
        })
    }

    /// Encrypts `buffer` in place. `iv` is the number of its first sector in units of [`IV_UNIT`].
    ///
    /// # Errors
    /// [`XtsError::NotWholeSectors`] before anything is changed.
    pub fn encrypt(&mut self, size: SectorSize, iv: u64, buffer: &mut [u8]) -> Result<(), XtsError> {
        each_sector(size, iv, buffer, |iv, sector| self.encrypt.in_place(iv, sector))
    }

    /// Decrypts `buffer` in place. `iv` is the number of its first sector in units of [`IV_UNIT`].
    ///
    /// # Errors
    /// [`XtsError::NotWholeSectors`] before anything is changed.
    pub fn decrypt(&mut self, size: SectorSize, iv: u64, buffer: &mut [u8]) -> Result<(), XtsError> {
        each_sector(size, iv, buffer, |iv, sector| self.decrypt.in_place(iv, sector))
    }

    /// Encrypts `source` into `target` of the same length, leaving `source` as it is.
    ///
    /// # Errors
    /// [`XtsError::NotWholeSectors`] where the lengths differ or are no whole sectors, before anything is changed.
    pub fn encrypt_to(&mut self, size: SectorSize, iv: u64, source: &[u8], target: &mut [u8]) -> Result<(), XtsError> {
        if source.len() != target.len() {
            return Err(XtsError::NotWholeSectors(source.len()));
        }
        let mut sources = source.chunks(size.bytes());
        each_sector(size, iv, target, |iv, sector| match sources.next() {
            Some(source) => self.encrypt.copy(iv, source, sector),
            None => Err(XtsError::Library),
        })
    }
}

fn each_sector(
    size: SectorSize,
    first_iv: u64,
    buffer: &mut [u8],
    mut apply: impl FnMut([u8; 16], &mut [u8]) -> Result<(), XtsError>,
) -> Result<(), XtsError> {
    let step = size.bytes();
    if !buffer.len().is_multiple_of(step) {
        return Err(XtsError::NotWholeSectors(buffer.len()));
    }
    let mut iv = first_iv;
    for sector in buffer.chunks_exact_mut(step) {
        apply(u128::from(iv).to_le_bytes(), sector)?;
        // plain64 wraps at 2^64 by definition.
        iv = iv.wrapping_add(step as u64 / IV_UNIT);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
