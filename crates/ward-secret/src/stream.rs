//! Long streams, sealed chunk by chunk (AES-256-GCM in the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár):
//! what is cut off, exchanged or moved within a stream does not open. The format: `docs/dump-format.md`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::{Kek, Locked, SecretError, WrappedKey};

/// Length of a [`DumpKey`], in bytes.
pub const DUMP_KEY_LEN: usize = 32;
/// How many bytes each chunk adds.
pub const CHUNK_TAG_LEN: usize = 16;

/// The key of one stream, AES-256. It seals that stream and nothing else: nonces are counted from 0.
pub struct DumpKey(Locked<DUMP_KEY_LEN>);

impl DumpKey {
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

    /// The key's bytes. Don't copy them to memory that is not wiped.
    #[must_use]
    pub fn expose(&self) -> &[u8; DUMP_KEY_LEN] {
        self.0.expose()
    }
}

impl Kek {
    /// Wraps the key of a stream (AES-KWP, RFC 5649).
    ///
    /// # Errors
    /// [`SecretError::Wrap`].
    pub fn wrap_dump_key(&self, key: &DumpKey) -> Result<WrappedKey, SecretError> {
        crate::keys::wrap(self.expose(), key.expose()).map(WrappedKey::of)
    }

    /// Opens the key of a stream that was wrapped under this KEK.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] where it was wrapped under another one or altered.
    pub fn unwrap_dump_key(&self, wrapped: &WrappedKey) -> Result<DumpKey, SecretError> {
        let mut plain = crate::keys::unwrap(self.expose(), wrapped.as_bytes())?;
        DumpKey::take(&mut plain.expose_mut()[..DUMP_KEY_LEN])
    }
}

/// Seals or opens the chunks of one stream, in their order.
pub struct ChunkCipher {
    key: LessSafeKey,
    context: [u8; SHA256_OUTPUT_LEN],
    next: Option<u64>,
}

impl ChunkCipher {
    /// At the beginning of the stream. `context` is what the stream is bound to: each chunk is authenticated with its
    /// SHA-256.
    ///
    /// # Errors
    /// [`SecretError::Wrap`] where the library refuses the key, which it does not.
    pub fn new(key: &DumpKey, context: &[u8]) -> Result<Self, SecretError> {
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| SecretError::Wrap)?;
        let context = digest(&SHA256, context).as_ref().try_into().map_err(|_| SecretError::Wrap)?;
        Ok(Self { key: LessSafeKey::new(key), context, next: Some(0) })
    }

    /// Seals the next chunk in place; its tag is appended. After the last one there is none.
    ///
    /// # Errors
    /// [`SecretError::Wrap`].
    pub fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), SecretError> {
        let nonce = self.nonce(last).ok_or(SecretError::Wrap)?;
        self.key.seal_in_place_append_tag(nonce, Aad::from(self.context), chunk).map_err(|_| SecretError::Wrap)
    }

    /// Opens the next chunk in place; its tag is taken off.
    ///
    /// # Errors
    /// [`SecretError::Unwrap`] where it is another stream's, stood elsewhere, or was altered.
    pub fn open(&mut self, chunk: &mut Vec<u8>, last: bool) -> Result<(), SecretError> {
        let nonce = self.nonce(last).ok_or(SecretError::Unwrap)?;
        let opened = self.key.open_in_place(nonce, Aad::from(self.context), chunk);
        let length = opened.map_err(|_| SecretError::Unwrap)?.len();
        chunk.truncate(length);
        Ok(())
    }

    /// The chunk's number, 11 bytes, big-endian; then 1 for the last chunk and 0 for any other.
    fn nonce(&mut self, last: bool) -> Option<Nonce> {
        let number = self.next.take()?;
        self.next = if last { None } else { number.checked_add(1) };
        let mut nonce = [0; NONCE_LEN];
        nonce[3..11].copy_from_slice(&number.to_be_bytes());
        nonce[11] = last.into();
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sealed(key: &DumpKey, context: &[u8], chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut cipher = ChunkCipher::new(key, context).unwrap();
        let seal = |(number, chunk): (usize, &&[u8])| {
            let mut chunk = chunk.to_vec();
            cipher.seal(&mut chunk, number + 1 == chunks.len()).unwrap();
            chunk
        };
        chunks.iter().enumerate().map(seal).collect()
    }

    fn opens(key: &DumpKey, context: &[u8], chunks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, SecretError> {
        let mut cipher = ChunkCipher::new(key, context).unwrap();
        let open = |(number, chunk): (usize, &Vec<u8>)| {
            let mut chunk = chunk.clone();
            cipher.open(&mut chunk, number + 1 == chunks.len()).map(|()| chunk)
        };
        chunks.iter().enumerate().map(open).collect()
    }

    #[test]
    fn a_stream_opens_only_whole_in_order_and_in_its_context() {
        let key = DumpKey::generate().unwrap();
        let plain: [&[u8]; 3] = [b"one", b"two", b""];
        let stream = sealed(&key, b"c", &plain);
        assert_eq!(opens(&key, b"c", &stream).unwrap(), plain);
        assert!(opens(&key, b"d", &stream).is_err());
        assert!(opens(&DumpKey::generate().unwrap(), b"c", &stream).is_err());
        assert!(opens(&key, b"c", &stream[..2]).is_err(), "cut");
        assert!(opens(&key, b"c", &stream[1..]).is_err(), "its beginning is missing");
        let swapped = [stream[1].clone(), stream[0].clone(), stream[2].clone()];
        assert!(opens(&key, b"c", &swapped).is_err());
        let more = [stream.clone(), vec![stream[2].clone()]].concat();
        assert!(opens(&key, b"c", &more).is_err(), "something follows");
        for bit in 0..stream[0].len() * 8 {
            let mut altered = stream.clone();
            altered[0][bit / 8] ^= 1 << (bit % 8);
            assert!(opens(&key, b"c", &altered).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn nothing_follows_the_last_chunk() {
        let mut cipher = ChunkCipher::new(&DumpKey::generate().unwrap(), b"").unwrap();
        cipher.seal(&mut vec![1], true).unwrap();
        assert_eq!(cipher.seal(&mut vec![1], true), Err(SecretError::Wrap));
    }

    #[test]
    fn a_streams_key_opens_only_under_its_kek() {
        let (kek, key) = (Kek::generate().unwrap(), DumpKey::generate().unwrap());
        let wrapped = kek.wrap_dump_key(&key).unwrap();
        assert_eq!(kek.unwrap_dump_key(&wrapped).unwrap().expose(), key.expose());
        assert_eq!(Kek::generate().unwrap().unwrap_dump_key(&wrapped).err(), Some(SecretError::Unwrap));
    }
}
