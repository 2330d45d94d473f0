//! How KEKs travel: binary, in one call of their own.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ward_secret::{KEK_LEN, Kek, SecretError, Zeroizing};
use ward_types::{Code, KeyRef, Problem};

/// The path under which keys are posted.
pub const PUSH_KEYS_PATH: &str = "/v1/push-keys";

/// The longest key reference that is accepted, in bytes.
const MAX_REF: usize = 16 * 1024;

/// Keys on their way to a host.
///
/// On the wire, for each key: the length of its reference (4 bytes, big-endian), the reference (JSON), the KEK (32
/// bytes).
#[derive(Default)]
pub struct KeyPush {
    /// The keys.
    pub keys: Vec<(KeyRef, Kek)>,
}

/// What a host did with keys.
#[derive(Debug, Serialize, Deserialize)]
pub struct PushReply {
    /// How many it holds now that it did not hold before.
    pub added: usize,
}

/// A body that is no key push.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It ends in the middle of a key, or says a length that can't be.
    #[error("the body is not a whole number of keys")]
    Framing,
    /// A reference that makes no sense.
    #[error("a key reference makes no sense: {0}")]
    Reference(#[from] serde_json::Error),
    /// No memory for a key.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl From<PushError> for Problem {
    fn from(error: PushError) -> Self {
        let (code, remedy) = match &error {
            PushError::Secret(_) => (Code::HostUnfit, "raise the limit of locked memory (RLIMIT_MEMLOCK)"),
            _ => (Code::RequestInvalid, "controller and agent must be of versions that understand each other"),
        };
        Self::new(code, "cannot hand over keys", error.to_string(), remedy)
    }
}

impl KeyPush {
    /// The body. Its memory is wiped when it is dropped.
    ///
    /// # Errors
    /// Where a reference can't be written as JSON, which does not happen.
    pub fn encode(&self) -> Result<Bytes, PushError> {
        let references: Vec<Vec<u8>> =
            self.keys.iter().map(|(reference, _)| serde_json::to_vec(reference)).collect::<Result<_, _>>()?;
        let length = references.iter().map(|reference| 4 + reference.len() + KEK_LEN).sum();
        // Of the right size from the start: growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(length));
        for (reference, (_, kek)) in references.iter().zip(&self.keys) {
            let length = u32::try_from(reference.len()).map_err(|_| PushError::Framing)?;
            body.extend_from_slice(&length.to_be_bytes());
            body.extend_from_slice(reference);
            body.extend_from_slice(kek.expose());
        }
        Ok(Bytes::from_owner(body))
    }

    /// Reads a body. The caller wipes it afterwards.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn decode(mut body: &[u8]) -> Result<Self, PushError> {
        let mut keys = Vec::new();
        while !body.is_empty() {
            let (length, rest) = body.split_first_chunk::<4>().ok_or(PushError::Framing)?;
            let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| PushError::Framing)?;
            if length > MAX_REF {
                return Err(PushError::Framing);
            }
            let (reference, rest) = rest.split_at_checked(length).ok_or(PushError::Framing)?;
            let (kek, rest) = rest.split_first_chunk::<KEK_LEN>().ok_or(PushError::Framing)?;
            let kek = Kek::take(&mut Zeroizing::new(*kek)[..])?;
            keys.push((serde_json::from_slice(reference)?, kek));
            body = rest;
        }
        Ok(Self { keys })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ward_types::KeyId;

    use super::*;

    fn push() -> KeyPush {
        let key = |id: &str| KeyRef::standard("p".parse().unwrap(), KeyId::try_from(id.to_owned()).unwrap());
        KeyPush { keys: vec![(key("1"), Kek::generate().unwrap()), (key("2"), Kek::generate().unwrap())] }
    }

    #[test]
    fn round_trip() {
        let sent = push();
        let got = KeyPush::decode(&sent.encode().unwrap()).unwrap();
        assert_eq!(got.keys.len(), 2);
        for ((sent_ref, sent_kek), (got_ref, got_kek)) in sent.keys.iter().zip(&got.keys) {
            assert_eq!(sent_ref, got_ref);
            assert!(sent_kek.same(got_kek));
        }
    }

    #[test]
    fn a_cut_body_is_refused_whole() {
        let body = push().encode().unwrap();
        let boundary = body.len() / 2;
        for length in (0..body.len()).filter(|&length| length != 0 && length != boundary) {
            assert!(KeyPush::decode(&body[..length]).is_err(), "cut to {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(body: Vec<u8>) {
            let _ = KeyPush::decode(&body);
        }
    }
}
