//! What can go wrong, by who can do something about it: the device, the header, the format's limits, the caller.

use std::io;

use crate::id::{DigestId, KeyslotId, SegmentId, TokenId};

/// Why something could not be done. Never says anything about a key or a passphrase.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device failed.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the device said.
        source: io::Error,
    },
    /// Neither copy of a LUKS2 header is there.
    #[error("the device holds no LUKS2 header")]
    NotLuks2,
    /// The device holds LUKS version 1.
    #[error(
        "the device holds a LUKS1 header; only LUKS2 is supported (`cryptsetup convert --type luks2` turns it into one)"
    )]
    Luks1,
    /// Neither copy of the header can be used.
    #[error("both copies of the LUKS2 header are damaged: the primary: {primary}; the secondary: {secondary}")]
    BothDamaged {
        /// What is wrong with the first copy.
        primary: Damage,
        /// What is wrong with the second copy.
        secondary: Damage,
    },
    /// The header is sound but uses something that is not supported.
    #[error("the LUKS2 device is not supported: {0}")]
    Unsupported(#[from] Unsupported),
    /// The passphrase opens none of the keyslots.
    #[error("the passphrase opens none of the keyslots ({tried} tried{})", skipped_text(.skipped))]
    NoKeyslotOpens {
        /// How many keyslots were tried.
        tried: usize,
        /// Those that could not be tried, and why.
        skipped: Vec<(KeyslotId, Unsupported)>,
    },
    /// The volume key offered is not that of this device.
    #[error("the volume key is not that of this device")]
    WrongVolumeKey,
    /// The keyslot isn't there.
    #[error("there is no keyslot {0}")]
    NoSuchKeyslot(KeyslotId),
    /// The token isn't there.
    #[error("there is no token {0}")]
    NoSuchToken(TokenId),
    /// Without that keyslot nothing could open the device.
    #[error("keyslot {0} is the last that opens the device; removing it would lose the data")]
    LastKeyslot(KeyslotId),
    /// All keyslot numbers are taken.
    #[error("all {0} keyslots are in use")]
    NoFreeKeyslot(u32),
    /// All token numbers are taken.
    #[error("all {0} tokens are in use")]
    NoFreeToken(u32),
    /// All digest numbers are taken.
    #[error("all {0} digests are in use")]
    NoFreeDigest(u32),
    /// The keyslots area has no gap that is large enough.
    #[error(
        "the keyslots area has no {needed} bytes left for another keyslot; its size is fixed when the device is formatted"
    )]
    NoKeyslotSpace {
        /// What a keyslot takes.
        needed: u64,
    },
    /// The metadata do not fit in the header.
    #[error(
        "the metadata take {needed} bytes, the header has room for {room}; its size is fixed when the device is formatted"
    )]
    NoMetadataSpace {
        /// What they take.
        needed: usize,
        /// What there is.
        room: usize,
    },
    /// The device is too small for what is asked.
    #[error("the device is {size} bytes long, {needed} are needed")]
    TooSmall {
        /// What is needed.
        needed: u64,
        /// What there is.
        size: u64,
    },
    /// The parameters contradict the format or each other.
    #[error("cannot format the device: {0}")]
    Params(&'static str),
    /// The token cannot be stored as it is.
    #[error("the token cannot be stored: {0}")]
    Token(&'static str),
    /// Random bytes, memory or a cipher were refused.
    #[error("the cryptographic library failed to {0}")]
    Crypto(&'static str),
}

fn skipped_text(skipped: &[(KeyslotId, Unsupported)]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (id, why) in skipped {
        // Writing to a string does not fail.
        let _ = write!(text, "; keyslot {id} could not be: {why}");
    }
    text
}

impl Error {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// What makes one copy of a header unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The device fails or ends there.
    #[error("it cannot be read ({0})")]
    Unreadable(io::Error),
    /// The magic bytes are not there.
    #[error("its magic bytes are missing")]
    NoMagic,
    /// The version is not 2.
    #[error("it says that its version is {0}")]
    Version(u16),
    /// The size of the copy is none that the specification knows.
    #[error("it says that it is {0} bytes long, which no LUKS2 header is")]
    Size(u64),
    /// The copy says that it stands elsewhere.
    #[error("it stands at {actual} but says that it stands at {claimed}")]
    Offset {
        /// What it says.
        claimed: u64,
        /// Where it stands.
        actual: u64,
    },
    /// A fixed-size text field is not terminated or not UTF-8, or the UUID is none.
    #[error("its field {0} is malformed")]
    Field(&'static str),
    /// The checksum algorithm is not known.
    #[error("its checksum algorithm is {0:?}, which is not known")]
    ChecksumAlgorithm(String),
    /// The checksum differs.
    #[error("its checksum does not match")]
    Checksum,
    /// The JSON area is not one JSON text followed by zeros.
    #[error("its metadata are no JSON text ({0})")]
    Json(String),
    /// The metadata contradict the specification or themselves.
    #[error("its metadata are invalid: {0}")]
    Invalid(#[from] Invalid),
}

/// How metadata contradict the specification or themselves.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invalid {
    /// `config.json_size` does not match the size of the header.
    #[error("the size of the JSON area is given as {claimed}, it is {actual}")]
    JsonSize {
        /// `config.json_size`.
        claimed: u64,
        /// What the binary header leaves.
        actual: u64,
    },
    /// `config.keyslots_size` is too large or no multiple of 4096.
    #[error("the size of the keyslots area, {0}, is too large or no multiple of 4096")]
    KeyslotsSize(u64),
    /// More objects of a kind than the format has.
    #[error("there are more than {limit} {what}, or one is numbered beyond that")]
    TooMany {
        /// Which objects.
        what: &'static str,
        /// How many there may be.
        limit: u32,
    },
    /// A keyslot's area lies outside of the keyslots area.
    #[error("the area of keyslot {0} lies outside of the keyslots area")]
    AreaOutside(KeyslotId),
    /// A keyslot's area does not start on a sector.
    #[error("the area of keyslot {0} is not aligned to 512 bytes")]
    AreaMisaligned(KeyslotId),
    /// A keyslot's area cannot hold its key material.
    #[error("the area of keyslot {0} is too small for its key material")]
    AreaTooSmall(KeyslotId),
    /// Two keyslots share bytes.
    #[error("the areas of keyslots {0} and {1} overlap")]
    AreasOverlap(KeyslotId, KeyslotId),
    /// A keyslot says something that no keyslot may.
    #[error("keyslot {id}: {why}")]
    Keyslot {
        /// Which keyslot.
        id: KeyslotId,
        /// What is wrong.
        why: &'static str,
    },
    /// Something refers to a keyslot that isn't there.
    #[error("{0} {1} refers to a keyslot that is not there")]
    DanglingKeyslot(&'static str, u32),
    /// A digest refers to a segment that isn't there.
    #[error("digest {0} refers to a segment that is not there")]
    DanglingSegment(u32),
    /// A digest says something that no digest may.
    #[error("digest {id}: {why}")]
    Digest {
        /// Which digest.
        id: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// A segment has an offset or size that is not whole sectors, or that cannot be.
    #[error("segment {id}: {why}")]
    Segment {
        /// Which segment.
        id: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// No segment at all.
    #[error("there is no data segment")]
    NoSegment,
}

impl Invalid {
    pub(crate) fn digest(id: DigestId, why: &'static str) -> Self {
        Self::Digest { id: id.number(), why }
    }

    pub(crate) fn segment(id: SegmentId, why: &'static str) -> Self {
        Self::Segment { id: id.number(), why }
    }
}

/// What a sound header asks for that this crate does not do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// A mandatory requirement that isn't known.
    #[error("it requires {0:?}, which is not known")]
    Requirement(String),
    /// A re-encryption is under way.
    #[error("a re-encryption by cryptsetup is under way; finish it with `cryptsetup reencrypt --resume-only`")]
    Reencryption,
    /// The header belongs to a data device that stands elsewhere.
    #[error("its header is detached: it belongs to data on another device")]
    DetachedHeader,
    /// More than one data segment.
    #[error("it has {0} data segments, one is supported")]
    Segments(usize),
    /// A data segment of another type than `crypt`.
    #[error("its data segment is of type {0:?}, only \"crypt\" is supported")]
    SegmentType(String),
    /// Data with integrity protection.
    #[error("its data have integrity protection, which is not supported")]
    Integrity,
    /// A cipher other than `aes-xts-plain64`.
    #[error("{what} uses the cipher {cipher:?}, only \"aes-xts-plain64\" is supported")]
    Cipher {
        /// The data or a keyslot.
        what: &'static str,
        /// The cipher named.
        cipher: String,
    },
    /// Sectors other than 512 or 4096 bytes.
    #[error("its sectors are {0} bytes long, 512 and 4096 are supported")]
    SectorSize(u64),
    /// A key of another length than 64 bytes.
    #[error("{what} is {bytes} bytes long, 64 is supported")]
    KeySize {
        /// Which key.
        what: &'static str,
        /// Its length.
        bytes: u32,
    },
    /// A keyslot that is not of type `luks2`.
    #[error("it is of type {0:?}")]
    KeyslotType(String),
    /// A key derivation function that isn't known.
    #[error("its key derivation function is {0:?}")]
    Kdf(String),
    /// A key derivation that would cost more than the limit.
    #[error("its key derivation costs more {0} than is allowed")]
    KdfCost(&'static str),
    /// A key derivation with parameters that the function refuses.
    #[error("the parameters of its key derivation are invalid")]
    KdfParameters,
    /// A hash that isn't known.
    #[error("it uses the hash {0:?}; sha256 and sha512 are supported")]
    Hash(String),
    /// An anti-forensic splitter that isn't known.
    #[error("its anti-forensic splitter is {0:?}")]
    AntiForensic(String),
    /// A digest of a type other than `pbkdf2`, or none for the data segment.
    #[error("the digest of its volume key is of no supported type")]
    Digest,
}
