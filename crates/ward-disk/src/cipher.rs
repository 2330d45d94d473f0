//! The cipher of one LUKS2 payload, which offsets say where they lie.

use ward_secret::Dek;
use xts::{IV_UNIT, Xts};

use crate::error::{DiskError, DiskErrorKind, Result};
use crate::order::SectorSize;

/// An expanded key, for one thread.
#[derive(Debug)]
pub(crate) struct PayloadCipher {
    xts: Xts,
    sector: xts::SectorSize,
}

impl PayloadCipher {
    pub(crate) fn new(dek: &Dek, sector: SectorSize) -> Result<Self> {
        let sector = match sector {
            SectorSize::B512 => xts::SectorSize::B512,
            SectorSize::B4096 => xts::SectorSize::B4096,
        };
        let xts = Xts::new(dek.expose()).map_err(|source| failed("set up the cipher", &source))?;
        Ok(Self { xts, sector })
    }

    /// Encrypts in place what lies at that offset of the payload, a whole number of sectors from a whole sector on.
    pub(crate) fn encrypt(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset)?;
        self.xts
            .encrypt(self.sector, offset / IV_UNIT, buffer)
            .map_err(|source| failed("encrypt", &source).at_offset(offset))
    }

    /// The reverse of [`PayloadCipher::encrypt`].
    pub(crate) fn decrypt(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset)?;
        self.xts
            .decrypt(self.sector, offset / IV_UNIT, buffer)
            .map_err(|source| failed("decrypt", &source).at_offset(offset))
    }

    fn check(&self, offset: u64) -> Result<()> {
        if offset.is_multiple_of(self.sector.bytes() as u64) {
            return Ok(());
        }
        Err(DiskError::new(DiskErrorKind::Cipher, "use the cipher", "the offset is no whole sector").at_offset(offset))
    }
}

fn failed(what: &str, source: &xts::XtsError) -> DiskError {
    DiskError::new(DiskErrorKind::Cipher, what, source.to_string())
}
