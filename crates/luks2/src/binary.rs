//! One copy of a header (specification 2): a binary header of 4096 bytes, then JSON text and zeros.

use aws_lc_rs::digest;
use uuid::Uuid;

use crate::error::{Damage, Error};
use crate::hash::Hash;
use crate::metadata::Metadata;
use crate::random;
use crate::validate::{BINARY_LEN, copy_sizes, validate};

/// The length of the binary header.
pub(crate) const HEAD_LEN: usize = 4096;
const _: () = assert!(HEAD_LEN as u64 == BINARY_LEN);

const VERSION: u16 = 2;

/// Offsets and lengths of the fields, as the specification lists them.
mod field {
    pub(super) const MAGIC: (usize, usize) = (0, 6);
    pub(super) const VERSION: (usize, usize) = (6, 2);
    pub(super) const SIZE: (usize, usize) = (8, 8);
    pub(super) const SEQUENCE: (usize, usize) = (16, 8);
    pub(super) const LABEL: (usize, usize) = (24, 48);
    pub(super) const CHECKSUM_ALGORITHM: (usize, usize) = (72, 32);
    pub(super) const SALT: (usize, usize) = (104, 64);
    pub(super) const UUID: (usize, usize) = (168, 40);
    pub(super) const SUBSYSTEM: (usize, usize) = (208, 48);
    pub(super) const OFFSET: (usize, usize) = (256, 8);
    pub(super) const CHECKSUM: (usize, usize) = (448, 64);
}

/// The longest label: its field ends with a NUL.
pub(crate) const MAX_LABEL: usize = field::LABEL.1 - 1;

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Primary,
    Secondary,
}

impl Which {
    const fn magic(self) -> &'static [u8; 6] {
        match self {
            Self::Primary => b"LUKS\xba\xbe",
            Self::Secondary => b"SKUL\xba\xbe",
        }
    }

    /// Where it stands: one after the other.
    pub(crate) const fn offset(self, size: u64) -> u64 {
        match self {
            Self::Primary => 0,
            Self::Secondary => size,
        }
    }
}

/// What a header says, whichever copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Header {
    /// The size of one copy.
    pub(crate) size: u64,
    pub(crate) sequence: u64,
    pub(crate) label: String,
    pub(crate) subsystem: String,
    pub(crate) uuid: Uuid,
    pub(crate) checksum: Hash,
    pub(crate) metadata: Metadata,
}

/// Whether the first bytes of a device are those of a LUKS1 header.
pub(crate) fn is_luks1(head: &[u8; HEAD_LEN]) -> bool {
    bytes(head, field::MAGIC) == Which::Primary.magic() && bytes(head, field::VERSION) == [0, 1]
}

/// Whether something starts like the second copy of a header.
pub(crate) fn is_secondary(head: &[u8; HEAD_LEN]) -> bool {
    bytes(head, field::MAGIC) == Which::Secondary.magic()
}

/// The size that the binary header of a copy at `offset` claims for the copy, if it is one that is possible.
pub(crate) fn copy_size(head: &[u8; HEAD_LEN], which: Which, offset: u64) -> Result<u64, Damage> {
    if bytes(head, field::MAGIC) != which.magic() {
        return Err(Damage::NoMagic);
    }
    let version = u16::from_be_bytes(array(head, field::VERSION));
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let size = u64::from_be_bytes(array(head, field::SIZE));
    if !copy_sizes().any(|possible| possible == size) {
        return Err(Damage::Size(size));
    }
    let claimed = u64::from_be_bytes(array(head, field::OFFSET));
    if claimed != offset || which.offset(size) != offset {
        return Err(Damage::Offset { claimed, actual: offset });
    }
    Ok(size)
}

/// Parses one whole copy, whose size [`copy_size`] has told.
pub(crate) fn parse(copy: &[u8], which: Which, offset: u64) -> Result<Header, Damage> {
    let (head, json) = copy.split_first_chunk::<HEAD_LEN>().ok_or(Damage::Size(copy.len() as u64))?;
    let size = copy_size(head, which, offset)?;
    if size != copy.len() as u64 {
        return Err(Damage::Size(size));
    }
    let algorithm = text(head, field::CHECKSUM_ALGORITHM).ok_or(Damage::Field("checksum algorithm"))?;
    let checksum = Hash::by_name(algorithm).map_err(|_| Damage::ChecksumAlgorithm(algorithm.to_owned()))?;
    if bytes(head, field::CHECKSUM)[..checksum.len()] != *checksum_of(checksum, head, json).as_ref() {
        return Err(Damage::Checksum);
    }
    let sequence = u64::from_be_bytes(array(head, field::SEQUENCE));
    if sequence == u64::MAX {
        return Err(Damage::Field("sequence number"));
    }
    let uuid = text(head, field::UUID).and_then(|text| Uuid::try_parse(text).ok()).ok_or(Damage::Field("UUID"))?;
    let label = text(head, field::LABEL).ok_or(Damage::Field("label"))?.to_owned();
    let subsystem = text(head, field::SUBSYSTEM).ok_or(Damage::Field("subsystem"))?.to_owned();

    let end = json.iter().position(|byte| *byte == 0).ok_or_else(|| Damage::Json("it does not end".into()))?;
    let (json, padding) = json.split_at(end);
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Damage::Json("something follows it".into()));
    }
    let metadata: Metadata = serde_json::from_slice(json).map_err(|error| Damage::Json(error.to_string()))?;
    validate(&metadata, size)?;
    Ok(Header { size, sequence, label, subsystem, uuid, checksum, metadata })
}

impl Header {
    /// Whether this header can be written and read again: nothing may be written that would then be refused.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let copy = self.encode(Which::Primary)?;
        match parse(&copy, Which::Primary, 0) {
            Ok(header) if header == *self => Ok(()),
            _ => Err(Error::Token("it would not be read back as it is")),
        }
    }

    /// The bytes of one copy, under a salt of its own.
    pub(crate) fn encode(&self, which: Which) -> Result<Vec<u8>, Error> {
        let size = usize::try_from(self.size).map_err(|_| Error::Params("the header does not fit in memory"))?;
        let json = serde_json::to_vec(&self.metadata).map_err(|_| Error::Token("it is no JSON"))?;
        // One byte is left, since the text must end with a NUL.
        let room = size.saturating_sub(HEAD_LEN + 1);
        if json.len() > room {
            return Err(Error::NoMetadataSpace { needed: json.len(), room });
        }
        let mut copy = vec![0; size];
        let (head, area) = copy.split_first_chunk_mut::<HEAD_LEN>().ok_or(Error::Params("the header is too small"))?;
        area[..json.len()].copy_from_slice(&json);
        put(head, field::MAGIC, which.magic());
        put(head, field::VERSION, &VERSION.to_be_bytes());
        put(head, field::SIZE, &self.size.to_be_bytes());
        put(head, field::SEQUENCE, &self.sequence.to_be_bytes());
        put(head, field::LABEL, self.label.as_bytes());
        put(head, field::CHECKSUM_ALGORITHM, self.checksum.name().as_bytes());
        put(head, field::UUID, self.uuid.hyphenated().to_string().as_bytes());
        put(head, field::SUBSYSTEM, self.subsystem.as_bytes());
        put(head, field::OFFSET, &which.offset(self.size).to_be_bytes());
        let mut salt = [0; field::SALT.1];
        random::fill(&mut salt)?;
        put(head, field::SALT, &salt);
        let checksum = checksum_of(self.checksum, head, area);
        put(head, field::CHECKSUM, checksum.as_ref());
        Ok(copy)
    }
}

/// Over the whole copy, with the checksum itself taken as zeros.
fn checksum_of(hash: Hash, head: &[u8; HEAD_LEN], json: &[u8]) -> digest::Digest {
    let (start, len) = field::CHECKSUM;
    let mut context = digest::Context::new(hash.algorithm());
    context.update(&head[..start]);
    context.update(&[0; field::CHECKSUM.1]);
    context.update(&head[start + len..]);
    context.update(json);
    context.finish()
}

fn bytes(head: &[u8; HEAD_LEN], (start, len): (usize, usize)) -> &[u8] {
    &head[start..start + len]
}

fn array<const N: usize>(head: &[u8; HEAD_LEN], (start, _): (usize, usize)) -> [u8; N] {
    std::array::from_fn(|i| head[start + i])
}

/// The text up to the NUL that must end it.
fn text(head: &[u8; HEAD_LEN], field: (usize, usize)) -> Option<&str> {
    let bytes = bytes(head, field);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// Writes a value that is no longer than its field into a field of zeros.
fn put(head: &mut [u8; HEAD_LEN], (start, len): (usize, usize), value: &[u8]) {
    let len = len.min(value.len());
    head[start..start + len].copy_from_slice(&value[..len]);
}
