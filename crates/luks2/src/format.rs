//! A new header.

use std::collections::{BTreeMap, BTreeSet};

use crate::VOLUME_KEY_LEN;
use crate::binary::{HEAD_LEN, Header, MAX_LABEL, is_secondary};
use crate::copies;
use crate::digest;
use crate::error::Error;
use crate::hash::Hash;
use crate::id::{DigestId, KeyslotId, SegmentId};
use crate::io::Io;
use crate::kdf;
use crate::keyslot::{self, AREA_LEN};
use crate::metadata::{Config, Metadata, Segment};
use crate::params::{Params, SegmentSize};
use crate::token::{self, TokenChange};
use crate::validate::{BINARY_LEN, CIPHER, MAX_KEYSLOTS_SIZE, copy_sizes};

/// Writes a new header with one keyslot and returns it.
///
/// Headers go last: a crash before leaves a device without any, on which formatting starts afresh.
pub(crate) fn format(
    io: &impl Io,
    params: &Params,
    volume_key: &[u8; VOLUME_KEY_LEN],
    passphrase: &[u8],
) -> Result<Header, Error> {
    check(params, volume_key)?;
    let size = io.size().map_err(Error::io("tell the size of the device"))?;
    let needed = match params.data_size {
        SegmentSize::Dynamic => params.data_offset,
        // Checked not to overflow.
        SegmentSize::Fixed(data) => params.data_offset + data,
    };
    if size < needed {
        return Err(Error::TooSmall { needed, size });
    }
    let slots = 2 * params.metadata_size;
    let (slot, material) = keyslot::seal(slots, params.iterations, passphrase, volume_key)?;

    let (id, segment) = (KeyslotId::new(0), SegmentId::new(0));
    let mut digest = digest::new(volume_key)?;
    digest.keyslots = BTreeSet::from([id]);
    digest.segments = BTreeSet::from([segment]);
    let mut metadata = Metadata {
        keyslots: BTreeMap::from([(id, slot)]),
        tokens: BTreeMap::new(),
        segments: BTreeMap::from([(segment, data_segment(params))]),
        digests: BTreeMap::from([(DigestId::new(0), digest)]),
        config: Config {
            json_size: params.metadata_size - BINARY_LEN,
            keyslots_size: params.keyslots_size,
            requirements: None,
            rest: Default::default(),
        },
        rest: Default::default(),
    };
    let tokens: Vec<TokenChange> = params.tokens.iter().cloned().map(TokenChange::Add).collect();
    token::apply(&mut metadata, &tokens, Some(id))?;
    let header = Header {
        size: params.metadata_size,
        sequence: 1,
        label: params.label.clone(),
        subsystem: params.subsystem.clone(),
        uuid: params.uuid,
        checksum: Hash::Sha256,
        metadata,
    };
    // Whatever doesn't fit is known before anything is overwritten.
    header.check()?;

    erase_old_headers(io, params)?;
    io.write_all_at(&material, slots).map_err(Error::io("write a keyslot"))?;
    keyslot::wipe(io, slots + AREA_LEN, params.keyslots_size - AREA_LEN)?;
    io.sync().map_err(Error::io("make the keyslots durable"))?;
    copies::write(io, &header)?;
    Ok(header)
}

fn check(params: &Params, volume_key: &[u8; VOLUME_KEY_LEN]) -> Result<(), Error> {
    let refuse = |why| Err(Error::Params(why));
    if !copy_sizes().any(|size| size == params.metadata_size) {
        return refuse("the metadata size must be a power of two from 16 KiB to 4 MiB");
    }
    if !params.keyslots_size.is_multiple_of(4096) || !(AREA_LEN..=MAX_KEYSLOTS_SIZE).contains(&params.keyslots_size) {
        return refuse("the keyslots area must be 252 KiB to 128 MiB and a multiple of 4096 bytes");
    }
    if !params.data_offset.is_multiple_of(4096) || params.data_offset < 2 * params.metadata_size + params.keyslots_size
    {
        return refuse("the data must start at a multiple of 4096 bytes beyond the header and the keyslots");
    }
    if let SegmentSize::Fixed(size) = params.data_size
        && (size == 0
            || !size.is_multiple_of(params.sector_size.bytes() as u64)
            || params.data_offset.checked_add(size).is_none())
    {
        return refuse("the data must be one sector long or more, and whole sectors");
    }
    if [&params.label, &params.subsystem].iter().any(|label| label.len() > MAX_LABEL || label.contains('\0')) {
        return refuse("a label must be 47 bytes or less, without NUL");
    }
    kdf::enough_iterations(params.iterations)?;
    // XTS forbids it, and no random key is like that.
    if volume_key[..VOLUME_KEY_LEN / 2] == volume_key[VOLUME_KEY_LEN / 2..] {
        return refuse("the two halves of the volume key are equal");
    }
    Ok(())
}

fn data_segment(params: &Params) -> Segment {
    Segment {
        kind: "crypt".into(),
        offset: params.data_offset,
        size: params.data_size,
        iv_tweak: Some(0),
        encryption: Some(CIPHER.into()),
        sector_size: Some(params.sector_size.bytes() as u64),
        integrity: None,
        flags: None,
        rest: Default::default(),
    }
}

/// Clears the place of the new copies, and the second copy of an earlier header where that stands elsewhere: a reader that
/// finds the first copy damaged would look there. Nothing else yet: as long as the earlier header can be read, its
/// keyslots must open.
fn erase_old_headers(io: &impl Io, params: &Params) -> Result<(), Error> {
    let erase = |offset: u64, len: usize| {
        io.write_all_at(&vec![0; len], offset).map_err(Error::io("erase the header that was there"))
    };
    let copies = 2 * params.metadata_size;
    let len = usize::try_from(copies).map_err(|_| Error::Params("the header does not fit in memory"))?;
    erase(0, len)?;
    for offset in copy_sizes().filter(|offset| (copies..params.data_offset).contains(offset)) {
        let mut head = [0; HEAD_LEN];
        io.read_exact_at(&mut head, offset).map_err(Error::io("look for an earlier header"))?;
        if is_secondary(&head) {
            erase(offset, HEAD_LEN)?;
        }
    }
    io.sync().map_err(Error::io("make that durable"))
}
