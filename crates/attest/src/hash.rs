//! The hash algorithms of PCR banks, Names and signatures, and digests that know which one made them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::tpm::AlgId;

/// A hash algorithm that this crate can compute. TPM 2.0 Library part 2, section 6.3 (TPM_ALG_ID).
///
/// SHA-1 is here so that event logs with a SHA-1 bank can be read and replayed; nothing accepts a quote, a Name or a
/// signature that rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashAlg {
    /// TPM_ALG_SHA1
    Sha1,
    /// TPM_ALG_SHA256
    Sha256,
    /// TPM_ALG_SHA384
    Sha384,
    /// TPM_ALG_SHA512
    Sha512,
}

impl HashAlg {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The algorithm with this TPM_ALG_ID, if it is one of these.
    pub fn from_id(id: AlgId) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.id() == id)
    }

    /// Its TPM_ALG_ID.
    pub const fn id(self) -> AlgId {
        match self {
            Self::Sha1 => AlgId::SHA1,
            Self::Sha256 => AlgId::SHA256,
            Self::Sha384 => AlgId::SHA384,
            Self::Sha512 => AlgId::SHA512,
        }
    }

    /// Length of its digests, in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no digest is empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Whether what it protects may be relied upon: all but SHA-1.
    pub const fn is_strong(self) -> bool {
        !matches!(self, Self::Sha1)
    }

    /// Its name in lower case, without a hyphen: `sha256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The digest of the concatenation of `parts`.
    pub fn digest(self, parts: &[&[u8]]) -> Digest {
        let mut context = digest::Context::new(match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        });
        for part in parts {
            context.update(part);
        }
        Digest { alg: self, bytes: context.finish().as_ref().into() }
    }
}

impl fmt::Display for HashAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest, or a PCR value, with its algorithm. Written `sha256:00ff…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    alg: HashAlg,
    bytes: Box<[u8]>,
}

impl Digest {
    /// A digest from its bytes, if there are as many as `alg` makes.
    pub fn new(alg: HashAlg, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == alg.len()).then(|| Self { alg, bytes: bytes.into() })
    }

    /// A digest with every byte the same.
    pub fn filled(alg: HashAlg, byte: u8) -> Self {
        Self { alg, bytes: vec![byte; alg.len()].into() }
    }

    /// The algorithm that made it.
    pub fn alg(&self) -> HashAlg {
        self.alg
    }

    /// Its bytes, as many as [`HashAlg::len`] says.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// This PCR value after `measurement` was extended into it. TPM 2.0 Library part 1, section 17.
    pub(crate) fn extend(&self, measurement: &[u8]) -> Self {
        self.alg.digest(&[&self.bytes, measurement])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.alg, hex::encode(&self.bytes))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a digest: it must be the algorithm's name, a colon and hexadecimal digits, such as sha256:00ff…")]
pub struct DigestSyntax(String);

impl FromStr for Digest {
    type Err = DigestSyntax;

    fn from_str(text: &str) -> Result<Self, DigestSyntax> {
        let parse = || {
            let (name, digits) = text.split_once(':')?;
            let alg = HashAlg::ALL.into_iter().find(|alg| alg.name() == name)?;
            Self::new(alg, &hex::decode(digits).ok()?)
        };
        parse().ok_or_else(|| DigestSyntax(text.chars().take(160).collect()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
