//! Small secrets at rest: sealed with AES-256-GCM under a root key, bound to what they are.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::{Locked, SecretError};

/// A root key, AES-256, under which a process seals what it must keep (credentials, keys of a key server).
pub struct SealKey(Locked<32>);

/// A sealed secret: nonce, ciphertext and tag. Not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// What came from storage; whether it opens shows in [`SealKey::open`].
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What goes to storage: 12 bytes of nonce, then ciphertext and 16 bytes of tag.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl SealKey {
    /// A new random key.
    ///
    /// # Errors
    /// [`SecretError::Random`], [`SecretError::Memory`].
    pub fn generate() -> Result<Self, SecretError> {
        Locked::random().map(Self)
    }

    /// Takes the key in and wipes `source`, also where it refuses.
    ///
    /// # Errors
    /// [`SecretError::Length`], [`SecretError::Memory`].
    pub fn take(source: &mut [u8]) -> Result<Self, SecretError> {
        Locked::take(source).map(Self)
    }

    /// The key's bytes, to be kept where the operator chose.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The key as a line of hexadecimal digits, to be kept in a file.
    ///
    /// # Errors
    /// None that could happen: the line has the right length.
    pub fn to_text(&self) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let mut text = Zeroizing::new(vec![b'\n'; 65]);
        let line = hex::encode_to_slice(self.expose(), &mut text[..64]);
        line.map_err(|_| SecretError::Length { expected: 32, got: 0 })?;
        Ok(text)
    }

    /// Reads what [`SealKey::to_text`] has written.
    ///
    /// # Errors
    /// [`SecretError::Length`] where it is not that, [`SecretError::Memory`].
    pub fn from_text(text: &[u8]) -> Result<Self, SecretError> {
        let digits = text.trim_ascii();
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(digits, &mut *key)
            .map_err(|_| SecretError::Length { expected: 32, got: digits.len() / 2 })?;
        Self::take(&mut *key)
    }

    /// Seals `secret`. `purpose` says what it is and whose (say, `provider-key/NAME`): it must be the same to open.
    ///
    /// # Errors
    /// [`SecretError::Wrap`].
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Sealed, SecretError> {
        let key = self.key().map_err(|_| SecretError::Wrap)?;
        let mut buffer = Zeroizing::new(secret.to_vec());
        let (nonce, tag) = key
            .seal_in_place_separate_tag(Aad::from(purpose.as_bytes()), &mut buffer)
            .map_err(|_| SecretError::Wrap)?;
        Ok(Sealed([nonce.as_ref().as_slice(), &buffer, tag.as_ref()].concat()))
    }

    /// Opens what [`SealKey::seal`] made for the same purpose.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] for another key, another purpose or altered bytes.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let (nonce, ciphertext) = sealed.0.split_at_checked(NONCE_LEN).ok_or(SecretError::Unwrap)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Unwrap)?;
        let mut buffer = Zeroizing::new(ciphertext.to_vec());
        let length = self
            .key()
            .and_then(|key| key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut buffer))
            .map_err(|_| SecretError::Unwrap)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    fn key(&self) -> Result<RandomizedNonceKey, aws_lc_rs::error::Unspecified> {
        RandomizedNonceKey::new(&AES_256_GCM, self.expose())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn opens_only_unaltered_for_its_purpose_under_its_key() {
        let key = SealKey::generate().unwrap();
        let sealed = key.seal("provider-key/a", b"secret").unwrap();
        assert_eq!(&key.open("provider-key/a", &sealed).unwrap()[..], b"secret");
        assert_eq!(key.open("provider-key/b", &sealed).err(), Some(SecretError::Unwrap));
        let other = SealKey::generate().unwrap();
        assert_eq!(other.open("provider-key/a", &sealed).err(), Some(SecretError::Unwrap));
        for bit in 0..sealed.as_bytes().len() * 8 {
            let mut altered = sealed.as_bytes().to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open("provider-key/a", &Sealed::from_bytes(altered)).err(), Some(SecretError::Unwrap));
        }
        for length in 0..sealed.as_bytes().len() {
            let short = Sealed::from_bytes(sealed.as_bytes()[..length].to_vec());
            assert_eq!(key.open("provider-key/a", &short).err(), Some(SecretError::Unwrap));
        }
    }

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        let key = SealKey::generate().unwrap();
        let text = key.to_text().unwrap();
        assert_eq!((text.len(), text.ends_with(b"\n")), (65, true));
        assert_eq!(SealKey::from_text(&text).unwrap().expose(), key.expose());
        assert_eq!(SealKey::from_text(text.trim_ascii()).unwrap().expose(), key.expose());
        for bad in [&b""[..], &text[..62], b"no digits", &[text.as_slice(), b"00"].concat()] {
            assert!(matches!(SealKey::from_text(bad), Err(SecretError::Length { expected: 32, .. })));
        }
    }

    #[test]
    fn never_seals_twice_alike() {
        let key = SealKey::generate().unwrap();
        assert_ne!(key.seal("p", b"secret").unwrap(), key.seal("p", b"secret").unwrap());
    }
}
