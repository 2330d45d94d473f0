//! How KEKs travel: binary, in one call of their own.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ward_secret::{Kek, SecretError};
use ward_types::{Code, KeyRef, Problem};

use crate::framing;

/// The path under which keys are posted.
pub const PUSH_KEYS_PATH: &str = "/v1/push-keys";

/// Keys on their way to a host.
///
/// On the wire, for each key: the length of its reference (4 bytes, big-endian), the reference (JSON), the KEK (32 bytes).
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
        framing::encode(&self.keys, Kek::expose)
    }

    /// Reads a body. The caller wipes it afterwards.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn decode(body: &[u8]) -> Result<Self, PushError> {
        Ok(Self { keys: framing::decode(body, Kek::take)? })
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
