//! PCR selections.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reader::{Malformed, Problem, Reader};
use super::{AlgId, Endian};

/// The highest PCR of a PC client.
pub const MAX_PCR: u8 = 23;

/// Banks in one selection, at most: TPM_NUM_PCR_BANKS of the reference code.
const MAX_BANKS: u32 = 16;

/// A set of PCRs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct PcrMask(u32);

impl PcrMask {
    /// The PCRs with these indices; one above [`MAX_PCR`] is left out.
    pub fn of(indices: impl IntoIterator<Item = u8>) -> Self {
        Self(indices.into_iter().filter(|&index| index <= MAX_PCR).fold(0, |mask, index| mask | 1 << index))
    }

    /// Whether it holds this one.
    pub fn contains(self, index: u8) -> bool {
        index <= MAX_PCR && self.0 & 1 << index != 0
    }

    /// Whether it holds all of the other's.
    pub fn contains_all(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// What this one holds and the other doesn't.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// What this one or the other holds.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their indices, ascending.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=MAX_PCR).filter(move |&index| self.contains(index))
    }

    pub(crate) fn octets(self) -> [u8; 3] {
        let [a, b, c, _] = self.0.to_le_bytes();
        [a, b, c]
    }
}

impl From<Vec<u8>> for PcrMask {
    fn from(indices: Vec<u8>) -> Self {
        Self::of(indices)
    }
}

impl From<PcrMask> for Vec<u8> {
    fn from(mask: PcrMask) -> Self {
        mask.iter().collect()
    }
}

impl fmt::Display for PcrMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, index) in self.iter().enumerate() {
            write!(f, "{}{index}", if at == 0 { "" } else { "," })?;
        }
        if self.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for PcrMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One TPMS_PCR_SELECTION: PCRs of one bank. Section 10.6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    /// The bank.
    pub hash: AlgId,
    /// Its PCRs.
    pub pcrs: PcrMask,
}

impl PcrSelection {
    /// Reads a TPML_PCR_SELECTION, section 10.9.7.
    pub(super) fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Self>, Malformed> {
        let count = reader.u32("pcrSelect.count")?;
        if count > MAX_BANKS {
            let problem = Problem::TooLong { is: count as usize, max: MAX_BANKS as usize };
            return Err(reader.error("pcrSelect.count", problem));
        }
        (0..count).map(|_| Self::read(reader)).collect()
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let hash = reader.alg("pcrSelect.hash")?;
        let size = reader.u8("pcrSelect.sizeofSelect")?;
        if size > 4 {
            return Err(reader.error("pcrSelect.sizeofSelect", Problem::TooLong { is: size.into(), max: 4 }));
        }
        let octets = reader.bytes("pcrSelect.pcrSelect", size.into())?;
        let mut mask = [0; 4];
        mask[..octets.len()].copy_from_slice(octets);
        if mask[3] != 0 {
            return Err(reader.error("pcrSelect.pcrSelect", Problem::Expected("of PCRs 0 to 23 only")));
        }
        Ok(Self { hash, pcrs: PcrMask(u32::from_le_bytes(mask)) })
    }

    /// The bytes of a TPML_PCR_SELECTION.
    pub fn list_to_bytes(list: &[Self]) -> Vec<u8> {
        let count = u32::try_from(list.len()).expect("a handful of banks");
        let mut out = count.to_be_bytes().to_vec();
        for selection in list {
            out.extend_from_slice(&selection.hash.0.to_be_bytes());
            out.push(3);
            out.extend_from_slice(&selection.pcrs.octets());
        }
        out
    }

    /// Reads the bytes of a TPML_PCR_SELECTION.
    ///
    /// # Errors
    /// [`Malformed`] names the field.
    pub fn list_from_bytes(bytes: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut reader = Reader::new("TPML_PCR_SELECTION", Endian::Big, bytes);
        let list = Self::read_list(&mut reader)?;
        reader.finish("pcrSelections")?;
        Ok(list)
    }
}
