//! How keys travel: each with what says which it is, binary, so that no text form of a key ever exists.
//!
//! For each key: the length of its label (4 bytes, big-endian), the label (JSON), the key (32 bytes).

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ward_secret::{SecretError, Zeroizing};

use crate::PushError;

/// The length of a key, in bytes.
const KEY_LEN: usize = 32;
/// The longest label that is accepted, in bytes.
const MAX_LABEL: usize = 16 * 1024;

/// The body. Its memory is wiped when it is dropped.
pub(crate) fn encode<L: Serialize, K>(
    keys: &[(L, K)],
    expose: impl Fn(&K) -> &[u8; KEY_LEN],
) -> Result<Bytes, PushError> {
    let labels: Vec<Vec<u8>> = keys.iter().map(|(label, _)| serde_json::to_vec(label)).collect::<Result<_, _>>()?;
    let length = labels.iter().map(|label| 4 + label.len() + KEY_LEN).sum();
    // Of the right size from the start: growing would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(length));
    for (label, (_, key)) in labels.iter().zip(keys) {
        let length = u32::try_from(label.len()).map_err(|_| PushError::Framing)?;
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(label);
        body.extend_from_slice(expose(key));
    }
    Ok(Bytes::from_owner(body))
}

/// Reads a body. The caller wipes it afterwards.
pub(crate) fn decode<L: DeserializeOwned, K>(
    mut body: &[u8],
    take: impl Fn(&mut [u8]) -> Result<K, SecretError>,
) -> Result<Vec<(L, K)>, PushError> {
    let mut keys = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_first_chunk::<4>().ok_or(PushError::Framing)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| PushError::Framing)?;
        if length > MAX_LABEL {
            return Err(PushError::Framing);
        }
        let (label, rest) = rest.split_at_checked(length).ok_or(PushError::Framing)?;
        let (key, rest) = rest.split_first_chunk::<KEY_LEN>().ok_or(PushError::Framing)?;
        let key = take(&mut Zeroizing::new(*key)[..])?;
        keys.push((serde_json::from_slice(label)?, key));
        body = rest;
    }
    Ok(keys)
}
