//! A cursor over bytes from outside that can't be read past its end, and the error that says where it stopped.

use std::fmt;

use super::{AlgId, EccCurve};

/// A structure could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{structure}: field {field}: {problem}")]
pub struct Malformed {
    structure: &'static str,
    field: &'static str,
    problem: Problem,
}

impl Malformed {
    /// The structure, by its TCG name.
    pub fn structure(&self) -> &'static str {
        self.structure
    }

    /// The field of it, by its TCG name.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// Whether the bytes ended before the structure did.
    pub(crate) fn is_cut_short(&self) -> bool {
        matches!(self.problem, Problem::Truncated { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Truncated { needed: usize, left: usize },
    Trailing(usize),
    TooLong { is: usize, max: usize },
    Value(String),
    Expected(&'static str),
    Algorithm(AlgId),
    Curve(EccCurve),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed, left } => write!(f, "cut short: needs {needed} bytes, {left} are left"),
            Self::Trailing(count) => write!(f, "{count} bytes are left over behind it"),
            Self::TooLong { is, max } => write!(f, "{is} is more than the {max} allowed"),
            Self::Value(value) => write!(f, "{value} is not allowed"),
            Self::Expected(what) => write!(f, "must be {what}"),
            Self::Algorithm(alg) => write!(f, "algorithm {alg} is not supported here"),
            Self::Curve(curve) => write!(f, "curve {curve} is not supported"),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Endian {
    Big,
    Little,
}

/// Reads one structure.
pub(crate) struct Reader<'a> {
    structure: &'static str,
    endian: Endian,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(structure: &'static str, endian: Endian, bytes: &'a [u8]) -> Self {
        Self { structure, endian, rest: bytes }
    }

    /// Goes on with another structure behind this one.
    pub(crate) fn for_structure(self, structure: &'static str) -> Self {
        Self { structure, ..self }
    }

    pub(crate) fn error(&self, field: &'static str, problem: Problem) -> Malformed {
        Malformed { structure: self.structure, field, problem }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error(field, Problem::Truncated { needed: len, left: self.rest.len() })),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u16::from_be_bytes(bytes),
            Endian::Little => u16::from_le_bytes(bytes),
        })
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u32::from_be_bytes(bytes),
            Endian::Little => u32::from_le_bytes(bytes),
        })
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u64::from_be_bytes(bytes),
            Endian::Little => u64::from_le_bytes(bytes),
        })
    }

    pub(crate) fn alg(&mut self, field: &'static str) -> Result<AlgId, Malformed> {
        self.u16(field).map(AlgId)
    }

    /// A TPM2B: a UINT16 length, then so many bytes, `max` at most.
    pub(crate) fn sized(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.u16(field)?);
        if len > max {
            return Err(self.error(field, Problem::TooLong { is: len, max }));
        }
        self.bytes(field, len)
    }

    pub(crate) fn finish(self, field: &'static str) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(field, Problem::Trailing(left))),
        }
    }
}

/// Appends a TPM2B. The lengths written here are those of structures that were read or made, so they fit.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("a structure of less than 64 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}
