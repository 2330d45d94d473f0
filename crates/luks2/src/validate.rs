//! Whether metadata agree with the specification and with themselves, and whether this crate can serve them.

use std::collections::BTreeSet;

use xts::SectorSize;

use crate::error::{Invalid, Unsupported};
use crate::id::{DigestId, KeyslotId, SegmentId};
use crate::metadata::{Digest, Keyslot, Luks2Keyslot, Metadata, Segment};
use crate::params::SegmentSize;

/// The binary header's size (specification 2.1); the rest of a copy is JSON.
pub(crate) const BINARY_LEN: u64 = 4096;

/// The largest keyslots area that cryptsetup accepts.
pub(crate) const MAX_KEYSLOTS_SIZE: u64 = 128 << 20;

/// How many objects of each kind cryptsetup accepts.
pub(crate) const MAX_KEYSLOTS: u32 = 32;
pub(crate) const MAX_TOKENS: u32 = 32;
pub(crate) const MAX_DIGESTS: u32 = 8;
const MAX_SEGMENTS: u32 = 32;

pub(crate) const CIPHER: &str = "aes-xts-plain64";

/// The sizes that one copy of a header may have (specification 2.2).
pub(crate) fn copy_sizes() -> impl Iterator<Item = u64> {
    (14..=22).map(|shift| 1 << shift)
}

/// Where the keyslots area ends.
pub(crate) fn keyslots_end(metadata: &Metadata, copy_size: u64) -> u64 {
    2 * copy_size + metadata.config.keyslots_size
}

/// Checks metadata that stand in a copy of `copy_size` bytes.
pub(crate) fn validate(metadata: &Metadata, copy_size: u64) -> Result<(), Invalid> {
    let config = &metadata.config;
    if config.json_size != copy_size - BINARY_LEN {
        return Err(Invalid::JsonSize { claimed: config.json_size, actual: copy_size - BINARY_LEN });
    }
    if config.keyslots_size > MAX_KEYSLOTS_SIZE || !config.keyslots_size.is_multiple_of(4096) {
        return Err(Invalid::KeyslotsSize(config.keyslots_size));
    }
    let count = |what, limit, last: Option<u32>| match last {
        Some(number) if number >= limit => Err(Invalid::TooMany { what, limit }),
        _ => Ok(()),
    };
    count("keyslots", MAX_KEYSLOTS, metadata.keyslots.keys().last().map(|id| id.number()))?;
    count("tokens", MAX_TOKENS, metadata.tokens.keys().last().map(|id| id.number()))?;
    count("digests", MAX_DIGESTS, metadata.digests.keys().last().map(|id| id.number()))?;
    count("segments", MAX_SEGMENTS, metadata.segments.keys().last().map(|id| id.number()))?;

    areas(metadata, copy_size)?;
    for (id, slot) in &metadata.keyslots {
        if let Keyslot::Luks2(slot) = slot {
            luks2_keyslot(*id, slot)?;
            // As cryptsetup has it: a keyslot without one is as suspect as one with two.
            if metadata.digests.values().filter(|digest| digest.keyslots.contains(id)).count() != 1 {
                return Err(Invalid::Keyslot { id: *id, why: "it belongs to no digest, or to several" });
            }
        }
    }
    for (id, digest) in &metadata.digests {
        one_digest(metadata, *id, digest)?;
    }
    if metadata.segments.is_empty() {
        return Err(Invalid::NoSegment);
    }
    for (id, segment) in &metadata.segments {
        one_segment(*id, segment)?;
    }
    for (id, token) in &metadata.tokens {
        if !known(metadata, &token.keyslots) {
            return Err(Invalid::DanglingKeyslot("token", id.number()));
        }
    }
    Ok(())
}

fn known(metadata: &Metadata, ids: &BTreeSet<KeyslotId>) -> bool {
    ids.iter().all(|id| metadata.keyslots.contains_key(id))
}

fn areas(metadata: &Metadata, copy_size: u64) -> Result<(), Invalid> {
    let mut areas = Vec::with_capacity(metadata.keyslots.len());
    for (id, slot) in &metadata.keyslots {
        let (offset, size) = slot.area();
        let end = offset.checked_add(size).ok_or(Invalid::AreaOutside(*id))?;
        if offset < 2 * copy_size || end > keyslots_end(metadata, copy_size) {
            return Err(Invalid::AreaOutside(*id));
        }
        if !offset.is_multiple_of(512) || !size.is_multiple_of(512) {
            return Err(Invalid::AreaMisaligned(*id));
        }
        areas.push((offset, end, *id));
    }
    areas.sort_unstable();
    match areas.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(Invalid::AreasOverlap(pair[0].2, pair[1].2)),
        None => Ok(()),
    }
}

fn luks2_keyslot(id: KeyslotId, slot: &Luks2Keyslot) -> Result<(), Invalid> {
    let wrong = |why| Err(Invalid::Keyslot { id, why });
    if slot.area.kind != "raw" {
        return wrong("its area is not of type \"raw\"");
    }
    if slot.key_size == 0 || slot.area.key_size == 0 {
        return wrong("it says that its key is of no length");
    }
    if slot.priority.is_some_and(|priority| priority > 2) {
        return wrong("its priority is none of 0, 1 and 2");
    }
    // Cannot overflow: both are 32 bits wide.
    if u64::from(slot.key_size) * u64::from(slot.af.stripes) > slot.area.size {
        return Err(Invalid::AreaTooSmall(id));
    }
    Ok(())
}

fn one_digest(metadata: &Metadata, id: DigestId, digest: &Digest) -> Result<(), Invalid> {
    if !known(metadata, &digest.keyslots) {
        return Err(Invalid::DanglingKeyslot("digest", id.number()));
    }
    if !digest.segments.iter().all(|id| metadata.segments.contains_key(id)) {
        return Err(Invalid::DanglingSegment(id.number()));
    }
    if digest.kind == "pbkdf2" {
        if digest.iterations.is_none_or(|iterations| iterations == 0) {
            return Err(Invalid::digest(id, "its iterations are missing or none"));
        }
        if digest.hash.is_none() || digest.salt.is_none() || digest.digest.is_none() {
            return Err(Invalid::digest(id, "its hash, salt or value is missing"));
        }
    }
    Ok(())
}

fn one_segment(id: SegmentId, segment: &Segment) -> Result<(), Invalid> {
    let sector = match (segment.kind.as_str(), segment.sector_size) {
        ("crypt", None) => return Err(Invalid::segment(id, "its sector size is missing")),
        ("crypt", Some(size)) if !matches!(size, 512 | 1024 | 2048 | 4096) => {
            return Err(Invalid::segment(id, "its sector size is none that exists"));
        }
        ("crypt", Some(size)) => {
            if segment.iv_tweak.is_none() || segment.encryption.is_none() {
                return Err(Invalid::segment(id, "its tweak or its cipher is missing"));
            }
            size
        }
        _ => 512,
    };
    if !segment.offset.is_multiple_of(sector) {
        return Err(Invalid::segment(id, "its offset is not a whole number of sectors"));
    }
    if let SegmentSize::Fixed(size) = segment.size {
        if size == 0 || !size.is_multiple_of(sector) {
            return Err(Invalid::segment(id, "its size is not a whole number of sectors"));
        }
        if segment.offset.checked_add(size).is_none() {
            return Err(Invalid::segment(id, "it ends beyond 64 bits"));
        }
    }
    Ok(())
}

/// What the one data segment of a supported device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) digest: DigestId,
    pub(crate) offset: u64,
    pub(crate) size: SegmentSize,
    pub(crate) sector_size: SectorSize,
    pub(crate) iv_tweak: u64,
}

/// Finds the one data segment of valid metadata and refuses what is beyond this crate.
pub(crate) fn supported(metadata: &Metadata, copy_size: u64) -> Result<Data, Unsupported> {
    // Requirements first: they say that the rest means something else than it seems to.
    let required = metadata.config.requirements.as_ref().map_or(&[][..], |requirements| &requirements.mandatory);
    if required.iter().any(|name| name.contains("reencrypt")) {
        return Err(Unsupported::Reencryption);
    }
    if let Some(name) = required.first() {
        return Err(Unsupported::Requirement(name.clone()));
    }
    let flagged =
        |segment: &Segment| segment.flags.iter().flatten().any(|flag| flag == "in-reencryption" || backup(flag));
    if metadata.segments.values().any(flagged) {
        return Err(Unsupported::Reencryption);
    }
    let (id, segment) = match metadata.segments.first_key_value() {
        Some(first) if metadata.segments.len() == 1 => first,
        _ => return Err(Unsupported::Segments(metadata.segments.len())),
    };
    if segment.kind != "crypt" {
        return Err(Unsupported::SegmentType(segment.kind.clone()));
    }
    if segment.integrity.is_some() {
        return Err(Unsupported::Integrity);
    }
    let cipher = segment.encryption.as_deref().unwrap_or_default();
    if cipher != CIPHER {
        return Err(Unsupported::Cipher { what: "its data", cipher: cipher.to_owned() });
    }
    let bytes = segment.sector_size.unwrap_or_default();
    let sector_size = SectorSize::from_bytes(bytes).ok_or(Unsupported::SectorSize(bytes))?;
    if segment.offset < keyslots_end(metadata, copy_size) {
        return Err(Unsupported::DetachedHeader);
    }
    let mut digests = metadata.digests.iter().filter(|(_, digest)| digest.segments.contains(id));
    let digest = match (digests.next(), digests.next()) {
        (Some((digest, value)), None) if value.kind == "pbkdf2" => *digest,
        _ => return Err(Unsupported::Digest),
    };
    Ok(Data {
        digest,
        offset: segment.offset,
        size: segment.size,
        sector_size,
        iv_tweak: segment.iv_tweak.unwrap_or_default(),
    })
}

/// cryptsetup keeps segments as they were before a re-encryption under flags of that kind.
fn backup(flag: &str) -> bool {
    flag.starts_with("backup-")
}
