//! The keys of an attestation service.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::IssueError;
use crate::hash::HashAlg;

/// The public key of an attestation service: a point on P-256, as SEC 1 writes it. In base64url without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPublicKey([u8; 65]);

impl TokenPublicKey {
    /// The key with these bytes: 4, x, y. That the point is on the curve shows when a signature is checked.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().filter(|bytes: &[u8; 65]| bytes[0] == 4).map(Self)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `kid`: SHA-256 of its bytes, in base64url.
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(HashAlg::Sha256.digest(&[&self.0]).bytes())
    }
}

impl fmt::Debug for TokenPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

impl Serialize for TokenPublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for TokenPublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        Self::from_bytes(&bytes).ok_or_else(|| serde::de::Error::custom("not a point on P-256 of 65 bytes"))
    }
}

/// The private key of an attestation service. It shows itself to nobody.
pub struct TokenKey {
    encoding: EncodingKey,
    public: TokenPublicKey,
}

impl TokenKey {
    /// A fresh key, as PKCS #8 in DER: to be kept sealed.
    ///
    /// # Errors
    /// [`IssueError::Key`]
    pub fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, IssueError> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        document.map(|pkcs8| Zeroizing::new(pkcs8.as_ref().to_vec())).map_err(|_| IssueError::Key("made"))
    }

    /// The key in this PKCS #8 document.
    ///
    /// # Errors
    /// [`IssueError::Key`] if it is not one on P-256.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, IssueError> {
        let bad = IssueError::Key("taken in: it is not PKCS #8 with a key on P-256");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| bad.clone())?;
        let public = TokenPublicKey::from_bytes(pair.public_key().as_ref()).ok_or(bad)?;
        Ok(Self { encoding: EncodingKey::from_ec_der(pkcs8), public })
    }

    pub(super) fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }

    /// The public key.
    pub fn public(&self) -> &TokenPublicKey {
        &self.public
    }
}
