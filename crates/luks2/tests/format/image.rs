//! Small images, and headers edited by hand.

use aws_lc_rs::digest::{SHA256, digest};
use luks2::{Device, Error, KeyslotId, Params, SectorSize, Token, VOLUME_KEY_LEN};
use serde_json::{Map, Value};

use crate::memory::Memory;

/// The size of one copy of the header.
pub(crate) const COPY: usize = 16 << 10;

/// Where the data start.
pub(crate) const DATA: usize = 2 << 20;

/// The size of a whole image.
pub(crate) const IMAGE: usize = DATA + 8192;

/// What a keyslot takes.
pub(crate) const AREA: usize = 258_048;

/// The offset of the checksum in a binary header, and where that ends.
const CHECKSUM: usize = 448;
pub(crate) const HEAD: usize = 4096;

pub(crate) fn params() -> Params {
    Params {
        metadata_size: COPY as u64,
        // Four of them, and not a byte more.
        keyslots_size: 4 * AREA as u64,
        data_offset: DATA as u64,
        sector_size: SectorSize::B4096,
        ..Params::default()
    }
}

pub(crate) fn volume_key() -> [u8; VOLUME_KEY_LEN] {
    std::array::from_fn(|i| u8::try_from(i * 37 % 251).unwrap())
}

pub(crate) fn token(kind: &str, text: &str) -> Token {
    Token::new(kind, Map::from_iter([("text".to_owned(), Value::from(text))]))
}

/// An image with one keyslot.
pub(crate) fn formatted(passphrase: &str) -> Vec<u8> {
    let memory = Memory::zeros(IMAGE);
    let params = params();
    Device::format(&memory, &params, &volume_key(), passphrase.as_bytes()).unwrap();
    memory.bytes()
}

pub(crate) fn open(bytes: &[u8]) -> Result<Device<Memory>, Error> {
    Device::open(Memory::new(bytes.to_vec()))
}

/// The keyslot that the passphrase opens; panics if what comes out is not the volume key.
pub(crate) fn opens<I: luks2::Io>(device: &Device<I>, passphrase: &str) -> Option<KeyslotId> {
    let mut key = [0xaa; VOLUME_KEY_LEN];
    match device.unlock(passphrase.as_bytes(), &mut key) {
        Ok(id) => {
            assert_eq!(key, volume_key());
            Some(id)
        }
        Err(Error::NoKeyslotOpens { .. }) => {
            assert_eq!(key, [0; VOLUME_KEY_LEN], "nothing may be left in the buffer");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// The metadata of the first copy.
pub(crate) fn metadata(bytes: &[u8]) -> Value {
    let json = &bytes[HEAD..COPY];
    let end = json.iter().position(|byte| *byte == 0).unwrap();
    serde_json::from_slice(&json[..end]).unwrap()
}

/// Puts `json` into both copies.
pub(crate) fn set_json(bytes: &mut [u8], json: &[u8]) {
    for copy in bytes[..2 * COPY].chunks_exact_mut(COPY) {
        copy[HEAD..].fill(0);
        copy[HEAD..HEAD + json.len()].copy_from_slice(json);
        seal(copy);
    }
}

/// Changes the metadata in both copies.
pub(crate) fn edit(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value = metadata(bytes);
    change(&mut value);
    let mut bytes = bytes.to_vec();
    set_json(&mut bytes, &serde_json::to_vec(&value).unwrap());
    bytes
}

/// Makes the checksum of a copy right.
pub(crate) fn seal(copy: &mut [u8]) {
    copy[CHECKSUM..CHECKSUM + 64].fill(0);
    let checksum = digest(&SHA256, copy);
    copy[CHECKSUM..CHECKSUM + 32].copy_from_slice(checksum.as_ref());
}
