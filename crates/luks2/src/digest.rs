//! Digests (specification 3.4): how a volume key is known to be the right one.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::VOLUME_KEY_LEN;
use crate::error::{Error, Unsupported};
use crate::hash::Hash;
use crate::kdf::{self, bounded_iterations};
use crate::metadata::{Base64, Digest};
use crate::random;

/// A digest that can be computed.
pub(crate) struct Verifier<'a> {
    hash: Hash,
    iterations: NonZeroU32,
    salt: &'a [u8],
    value: &'a [u8],
}

impl<'a> Verifier<'a> {
    pub(crate) fn of(digest: &'a Digest) -> Result<Self, Unsupported> {
        let (Some(hash), Some(iterations), Some(salt), Some(value)) =
            (&digest.hash, digest.iterations.and_then(NonZeroU32::new), &digest.salt, &digest.digest)
        else {
            return Err(Unsupported::Digest);
        };
        let hash = Hash::by_name(hash)?;
        // A value cut short would let a wrong key pass for the right one.
        if value.0.len() != hash.len() {
            return Err(Unsupported::Digest);
        }
        Ok(Self { hash, iterations: bounded_iterations(iterations)?, salt: &salt.0, value: &value.0 })
    }

    /// Whether `key` is the one that the digest was made of.
    pub(crate) fn verify(&self, key: &[u8; VOLUME_KEY_LEN]) -> bool {
        let mut value = Zeroizing::new([0; VOLUME_KEY_LEN]);
        let value = &mut value[..self.hash.len()];
        pbkdf2::derive(self.hash.pbkdf2(), self.iterations, self.salt, key, value);
        (*value).ct_eq(self.value).into()
    }
}

/// The digest of `key`, for no keyslot and no segment yet.
pub(crate) fn new(key: &[u8; VOLUME_KEY_LEN]) -> Result<Digest, Error> {
    let hash = Hash::Sha256;
    let salt = random::salt()?;
    let mut value = vec![0; hash.len()];
    let iterations = NonZeroU32::new(kdf::MIN_ITERATIONS).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(hash.pbkdf2(), iterations, &salt, key, &mut value);
    Ok(Digest {
        kind: "pbkdf2".into(),
        keyslots: Default::default(),
        segments: Default::default(),
        hash: Some(hash.name().into()),
        iterations: Some(iterations.get()),
        salt: Some(Base64(salt)),
        digest: Some(Base64(value)),
        rest: Default::default(),
    })
}
