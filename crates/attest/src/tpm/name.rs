//! The Name of an object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::AlgId;
use crate::hash::HashAlg;

/// The Name of a TPM object: its nameAlg and the digest of its public area. Part 1, section 16. Written in hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    pub(super) fn of(alg: HashAlg, public_area: &[u8]) -> Self {
        let mut bytes = alg.id().0.to_be_bytes().to_vec();
        bytes.extend_from_slice(alg.digest(&[public_area]).bytes());
        Self(bytes.into())
    }

    /// The Name from its bytes: a TPM_ALG_ID, then a digest of that length. One made with SHA-1 is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (alg, digest) = bytes.split_first_chunk()?;
        let alg = HashAlg::from_id(AlgId(u16::from_be_bytes(*alg)))?;
        (alg.is_strong() && digest.len() == alg.len()).then(|| Self(bytes.into()))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a Name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the Name of a TPM object: it must be the hexadecimal digits of a TPM_ALG_ID (not SHA-1's) and a digest")]
pub struct NameSyntax;

impl FromStr for Name {
    type Err = NameSyntax;

    fn from_str(text: &str) -> Result<Self, NameSyntax> {
        hex::decode(text).ok().and_then(|bytes| Self::from_bytes(&bytes)).ok_or(NameSyntax)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
