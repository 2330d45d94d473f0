//! What the trust administrators sign: hosts and services go by it, whoever carried it to them.

use std::fs;
use std::path::Path;

use attest::token::TokenPublicKey;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use whole_file::Readers;
use zeroize::Zeroizing;

use crate::Error;

/// The longest signed file that is read, in bytes.
pub const MAX_SIGNED: usize = 4 << 20;

/// Something that can be signed.
pub trait Content: Serialize + DeserializeOwned {
    /// What it is: a signature over one kind is none over another.
    const PURPOSE: &'static str;
}

/// The key of the trust administrators, with which they sign. It shows itself to nobody.
pub struct AdminKey {
    pair: EcdsaKeyPair,
    public: TokenPublicKey,
}

impl AdminKey {
    /// Makes one, in a file that only its owner reads. It fails where there is a file already.
    ///
    /// # Errors
    /// If it can't be made or written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let failed = || Error::invalid("the administrators' key", "none could be made");
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = Zeroizing::new(document.map_err(|_| failed())?.as_ref().to_vec());
        let key = Self::from_pkcs8(&pkcs8)?;
        whole_file::write_new(path, &pkcs8, Readers::Owner)?;
        Ok(key)
    }

    /// Reads one.
    ///
    /// # Errors
    /// If there is none, or it is none.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::from_pkcs8(&Zeroizing::new(whole_file::read(path)?))
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Error> {
        let bad = || Error::invalid("the administrators' key", "the file holds no private key on P-256 in PKCS #8");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| bad())?;
        let public = TokenPublicKey::from_bytes(pair.public_key().as_ref()).ok_or_else(bad)?;
        Ok(Self { pair, public })
    }

    /// What its signatures are checked with.
    #[must_use]
    pub fn public(&self) -> &TokenPublicKey {
        &self.public
    }

    /// Signs.
    ///
    /// # Errors
    /// If the library refuses.
    pub fn sign<C: Content>(&self, content: &C) -> Result<Signed, Error> {
        let failed = |why: &dyn ToString| Error::invalid("the administrators' signature", why.to_string());
        let payload = serde_json::to_string(content).map_err(|error| failed(&error))?;
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message::<C>(&payload).as_bytes())
            .map_err(|_| failed(&"it could not be made"))?;
        Ok(Signed { payload, signer: self.public.clone(), signature: hex::encode(signature.as_ref()) })
    }
}

/// Content with a signature: a file, or a text that somebody carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The content as JSON, to the byte.
    payload: String,
    /// By whom it says that it is signed.
    signer: TokenPublicKey,
    /// ECDSA on P-256 with SHA-256, in hexadecimal.
    signature: String,
}

/// Why signed content is not gone by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// The text is none.
    #[error("it is not signed content: {0}")]
    Malformed(String),
    /// Somebody else has signed it.
    #[error("it is signed by the key {found}, and only {expected} is trusted")]
    Signer {
        /// By whom.
        found: String,
        /// By whom it must be.
        expected: String,
    },
    /// The signature is wrong.
    #[error("its signature is not that of the key {0}: it was altered, or is of something else")]
    Signature(String),
}

impl Signed {
    /// Reads the text form.
    ///
    /// # Errors
    /// [`SignedError::Malformed`]
    pub fn parse(text: &str) -> Result<Self, SignedError> {
        if text.len() > MAX_SIGNED {
            return Err(SignedError::Malformed("it is too long".to_owned()));
        }
        serde_json::from_str(text).map_err(|error| SignedError::Malformed(error.to_string()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read, or is no signed content.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text =
            String::from_utf8(whole_file::read(path)?).map_err(|error| Error::invalid("a signed file", error))?;
        Self::parse(&text).map_err(|error| Error::invalid("a signed file", error))
    }

    /// Writes a file, which must not be there.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        if fs::exists(path).unwrap_or(false) {
            return Err(Error::Exists { what: "file", name: path.display().to_string() });
        }
        Ok(whole_file::write_new(path, self.to_string().as_bytes(), Readers::Everyone)?)
    }

    /// By whom it says that it is signed. Whether it is, [`Signed::open`] tells.
    #[must_use]
    pub fn signer(&self) -> &TokenPublicKey {
        &self.signer
    }

    /// What tells one content from another: the first half of SHA-256 of its payload, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        hex::encode(&attest::hash::HashAlg::Sha256.digest(&[self.payload.as_bytes()]).bytes()[..16])
    }

    /// The content, if `signer` has signed it.
    ///
    /// # Errors
    /// [`SignedError`]
    pub fn open<C: Content>(&self, signer: &TokenPublicKey) -> Result<C, SignedError> {
        if self.signer != *signer {
            return Err(SignedError::Signer { found: self.signer.id(), expected: signer.id() });
        }
        let signature = hex::decode(&self.signature).map_err(|_| SignedError::Signature(signer.id()))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, signer.as_bytes())
            .verify(message::<C>(&self.payload).as_bytes(), &signature)
            .map_err(|_| SignedError::Signature(signer.id()))?;
        serde_json::from_str(&self.payload).map_err(|error| SignedError::Malformed(error.to_string()))
    }
}

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string_pretty(self).map_err(|_| std::fmt::Error)?)
    }
}

fn message<C: Content>(payload: &str) -> String {
    format!("{}\0{payload}", C::PURPOSE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct One(u32);
    impl Content for One {
        const PURPOSE: &'static str = "one";
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Other(u32);
    impl Content for Other {
        const PURPOSE: &'static str = "other";
    }

    #[test]
    fn a_signature_holds_for_its_content_its_kind_and_its_signer() {
        let dir = tempfile::tempdir().unwrap();
        let key = AdminKey::create(&dir.path().join("a")).unwrap();
        let other = AdminKey::create(&dir.path().join("b")).unwrap();
        assert!(AdminKey::create(&dir.path().join("a")).is_err(), "it is not replaced");
        assert_eq!(AdminKey::load(&dir.path().join("a")).unwrap().public(), key.public());
        let signed = Signed::parse(&key.sign(&One(7)).unwrap().to_string()).unwrap();
        assert_eq!(signed.open::<One>(key.public()), Ok(One(7)));
        assert!(matches!(signed.open::<Other>(key.public()), Err(SignedError::Signature(_))));
        assert!(matches!(signed.open::<One>(other.public()), Err(SignedError::Signer { .. })));
        let forged = Signed { signer: other.public().clone(), ..signed.clone() };
        assert!(matches!(forged.open::<One>(other.public()), Err(SignedError::Signature(_))));
        let changed = Signed { payload: "8".to_owned(), ..signed.clone() };
        assert!(matches!(changed.open::<One>(key.public()), Err(SignedError::Signature(_))));
    }

    #[test]
    fn any_altered_bit_of_the_signature_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = AdminKey::create(&dir.path().join("a")).unwrap();
        let signed = key.sign(&One(7)).unwrap();
        let bytes = hex::decode(&signed.signature).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let altered = Signed { signature: hex::encode(altered), ..signed.clone() };
            assert!(altered.open::<One>(key.public()).is_err(), "bit {bit}");
        }
    }
}
