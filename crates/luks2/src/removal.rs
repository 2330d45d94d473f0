//! How a keyslot goes that another one takes the place of in the same moment, or that goes with all others: it is *retired*
//! in one write of the header, then its area is overwritten, then it is forgotten.
//!
//! A header in which a keyslot is retired must be sound to other software too, and cryptsetup wants every keyslot to
//! belong to exactly one digest. So a retired keyslot belongs to a digest that no key has: one of zeros, for no segment.
//! cryptsetup shows it as unbound, and does not try it, since its priority says so.

use crate::error::Error;
use crate::hash::Hash;
use crate::id::{DigestId, KeyslotId};
use crate::kdf::MIN_ITERATIONS;
use crate::metadata::{Base64, Digest, Keyslot, Metadata};
use crate::random;
use crate::validate::MAX_DIGESTS;

/// Makes keyslot `id` one that opens nothing.
pub(crate) fn retire(metadata: &mut Metadata, id: KeyslotId) -> Result<(), Error> {
    detach(metadata, id);
    if let Some(Keyslot::Luks2(slot)) = metadata.keyslots.get_mut(&id) {
        slot.priority = Some(0);
    }
    if let Some(digest) = metadata.digests.values_mut().find(|digest| is_of_retired(digest)) {
        digest.keyslots.insert(id);
        return Ok(());
    }
    let free = (0..MAX_DIGESTS)
        .map(DigestId::new)
        .find(|id| !metadata.digests.contains_key(id))
        .ok_or(Error::NoFreeDigest(MAX_DIGESTS))?;
    metadata.digests.insert(free, digest_of_retired(id)?);
    Ok(())
}

/// The keyslots that are retired and not yet forgotten.
pub(crate) fn retired(metadata: &Metadata) -> impl Iterator<Item = KeyslotId> {
    let digests = metadata.digests.values().filter(|digest| is_of_retired(digest));
    // Keyslots of other types are never retired, so one that seems to be is none of ours.
    let ours = |id: &KeyslotId| matches!(metadata.keyslots.get(id), Some(Keyslot::Luks2(_)));
    digests.flat_map(|digest| digest.keyslots.iter().copied()).filter(ours)
}

/// Takes a keyslot whose area is destroyed out of the metadata.
pub(crate) fn forget(metadata: &mut Metadata, id: KeyslotId) {
    detach(metadata, id);
    metadata.keyslots.remove(&id);
}

/// Takes a keyslot out of all tokens and digests. A digest that is then for nothing goes too.
fn detach(metadata: &mut Metadata, id: KeyslotId) {
    for token in metadata.tokens.values_mut() {
        token.keyslots.remove(&id);
    }
    metadata.digests.retain(|_, digest| {
        let was_there = digest.keyslots.remove(&id);
        !(was_there && digest.keyslots.is_empty() && digest.segments.is_empty())
    });
}

fn digest_of_retired(id: KeyslotId) -> Result<Digest, Error> {
    let hash = Hash::Sha256;
    Ok(Digest {
        kind: "pbkdf2".into(),
        keyslots: [id].into(),
        segments: Default::default(),
        hash: Some(hash.name().into()),
        iterations: Some(MIN_ITERATIONS),
        salt: Some(Base64(random::salt()?)),
        digest: Some(Base64(vec![0; hash.len()])),
        rest: Default::default(),
    })
}

fn is_of_retired(digest: &Digest) -> bool {
    let zeros = |value: &Base64| !value.0.is_empty() && value.0.iter().all(|byte| *byte == 0);
    digest.kind == "pbkdf2" && digest.segments.is_empty() && digest.digest.as_ref().is_some_and(zeros)
}
