//! The anti-forensic splitter (LUKS1 specification 2.4): spreads a key over so many bytes that losing any of them
//! loses the key, so that a keyslot can be destroyed on media that keep some old sectors.

use aws_lc_rs::digest;
use zeroize::{Zeroize as _, Zeroizing};

use crate::VOLUME_KEY_LEN;
use crate::error::Error;
use crate::hash::Hash;
use crate::random;

/// How many times a key is spread; cryptsetup knows no other number.
pub(crate) const STRIPES: u32 = 4000;

/// The length of a spread volume key.
pub(crate) const SPLIT_LEN: usize = STRIPES as usize * VOLUME_KEY_LEN;

/// Spreads `key` over the first [`SPLIT_LEN`] bytes of `material`, which is longer or as long.
pub(crate) fn split(key: &[u8; VOLUME_KEY_LEN], hash: Hash, material: &mut [u8]) -> Result<(), Error> {
    let Some((stripes, last)) =
        material.get_mut(..SPLIT_LEN).and_then(|material| material.split_last_chunk_mut::<VOLUME_KEY_LEN>())
    else {
        return Err(Error::Crypto("spread the volume key"));
    };
    random::fill(stripes)?;
    let mut state = Zeroizing::new([0; VOLUME_KEY_LEN]);
    for stripe in stripes.chunks_exact(VOLUME_KEY_LEN) {
        xor(&mut state, stripe);
        diffuse(&mut state, hash);
    }
    last.copy_from_slice(&*state);
    xor(last, key);
    Ok(())
}

/// Gathers into `key` what [`split`] has spread over the first [`SPLIT_LEN`] bytes of `material`.
pub(crate) fn merge(material: &[u8], hash: Hash, key: &mut [u8; VOLUME_KEY_LEN]) -> Result<(), Error> {
    key.zeroize();
    let Some((stripes, last)) =
        material.get(..SPLIT_LEN).and_then(|material| material.split_last_chunk::<VOLUME_KEY_LEN>())
    else {
        return Err(Error::Crypto("gather the volume key"));
    };
    for stripe in stripes.chunks_exact(VOLUME_KEY_LEN) {
        xor(key, stripe);
        diffuse(key, hash);
    }
    xor(key, last);
    Ok(())
}

fn xor(target: &mut [u8; VOLUME_KEY_LEN], source: &[u8]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target ^= source;
    }
}

/// Replaces each hash-sized block by the hash of its number and itself.
fn diffuse(state: &mut [u8; VOLUME_KEY_LEN], hash: Hash) {
    for (number, block) in (0u32..).zip(state.chunks_mut(hash.len())) {
        let mut context = digest::Context::new(hash.algorithm());
        context.update(&number.to_be_bytes());
        context.update(block);
        // The library does not wipe this value. It is worth nothing without the last stripe, which is wiped.
        let digest = context.finish();
        block.copy_from_slice(&digest.as_ref()[..block.len()]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_split_merges() {
        for hash in [Hash::Sha256, Hash::Sha512] {
            let key: [u8; VOLUME_KEY_LEN] = std::array::from_fn(|i| u8::try_from(i).unwrap());
            let mut material = vec![0; SPLIT_LEN];
            split(&key, hash, &mut material).unwrap();
            let mut merged = [0; VOLUME_KEY_LEN];
            merge(&material, hash, &mut merged).unwrap();
            assert_eq!(merged, key);

            material[SPLIT_LEN / 2] ^= 1;
            merge(&material, hash, &mut merged).unwrap();
            assert_ne!(merged, key, "one bit lost must lose the key");
        }
    }

    #[test]
    fn short_material_is_refused() {
        let mut key = [1; VOLUME_KEY_LEN];
        assert!(merge(&[0; SPLIT_LEN - 1], Hash::Sha256, &mut key).is_err());
        assert_eq!(key, [0; VOLUME_KEY_LEN]);
    }
}
