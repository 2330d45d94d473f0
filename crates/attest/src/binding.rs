//! What ties evidence and tokens to one end of a TLS session.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::hash::HashAlg;

/// SHA-256 of a certificate in DER: `x5t#S256` of RFC 8705, section 3.1. Written in base64url without padding.
///
/// A peer that shows the certificate in a TLS handshake proves that it has the certificate's private key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertThumbprint([u8; 32]);

impl CertThumbprint {
    /// The thumbprint of this certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(HashAlg::Sha256.digest(&[der]).bytes());
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CertThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for CertThumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not a thumbprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the thumbprint of a certificate: it must be SHA-256 in base64url without padding, 43 characters")]
pub struct ThumbprintSyntax;

impl FromStr for CertThumbprint {
    type Err = ThumbprintSyntax;

    fn from_str(text: &str) -> Result<Self, ThumbprintSyntax> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ThumbprintSyntax)?;
        bytes.try_into().map(Self).map_err(|_| ThumbprintSyntax)
    }
}

impl Serialize for CertThumbprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CertThumbprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
