//! How the keys of native providers (KDKs) travel: binary, all of them in one call.
//!
//! A push is the present state: what is not in it, the host is not to have. So updates and deletions are one thing, and a
//! host that was away needs nothing else.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ward_secret::Kdk;
use ward_types::KdkRef;

use crate::{PushError, framing};

/// The path under which they are posted.
pub const PUSH_NATIVE_PATH: &str = "/v1/push-native-keys";

/// A native provider's key, by name, and who may have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeEntry {
    /// Which key.
    #[serde(flatten)]
    pub key: KdkRef,
    /// Whether only a host with a TPM may have it.
    pub tpm_required: bool,
}

/// All the keys of native providers that a host is to have.
///
/// On the wire, for each: the length of its entry (4 bytes, big-endian), the entry (JSON), the KDK (32 bytes).
#[derive(Default)]
pub struct NativePush {
    /// The keys.
    pub keys: Vec<(NativeEntry, Kdk)>,
}

impl NativePush {
    /// The body. Its memory is wiped when it is dropped.
    ///
    /// # Errors
    /// Where an entry can't be written as JSON, which does not happen.
    pub fn encode(&self) -> Result<Bytes, PushError> {
        framing::encode(&self.keys, Kdk::expose)
    }

    /// Reads a body. The caller wipes it afterwards.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn decode(body: &[u8]) -> Result<Self, PushError> {
        Ok(Self { keys: framing::decode(body, Kdk::take)? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ward_types::KdkId;

    use super::*;

    fn push() -> NativePush {
        let entry = |version| NativeEntry {
            key: KdkRef { provider: "n1".parse().unwrap(), key_id: KdkId::new(), version },
            tpm_required: version == 2,
        };
        NativePush { keys: vec![(entry(1), Kdk::generate().unwrap()), (entry(2), Kdk::generate().unwrap())] }
    }

    #[test]
    fn round_trip() {
        let sent = push();
        let got = NativePush::decode(&sent.encode().unwrap()).unwrap();
        assert_eq!(got.keys.len(), 2);
        for ((sent_entry, sent_kdk), (got_entry, got_kdk)) in sent.keys.iter().zip(&got.keys) {
            assert_eq!(sent_entry, got_entry);
            assert!(sent_kdk.same(got_kdk));
        }
    }

    #[test]
    fn a_cut_body_is_refused_whole() {
        let body = push().encode().unwrap();
        let boundary = body.len().div_ceil(2);
        for length in (1..body.len()).filter(|length| length.abs_diff(boundary) > 1) {
            assert!(NativePush::decode(&body[..length]).is_err(), "cut to {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(body: Vec<u8>) {
            let _ = NativePush::decode(&body);
        }
    }
}
