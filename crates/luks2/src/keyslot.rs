//! Keyslots (specification 3.2): a volume key, spread and encrypted under a key derived from a passphrase.

use xts::{SectorSize, Xts};
use zeroize::Zeroizing;

use crate::VOLUME_KEY_LEN;
use crate::af::{self, SPLIT_LEN, STRIPES};
use crate::error::{Error, Unsupported};
use crate::hash::Hash;
use crate::io::Io;
use crate::kdf::{self, Function};
use crate::metadata::{AntiForensic, Keyslot, Luks2Keyslot, Metadata, RawArea};
use crate::random;
use crate::validate::{CIPHER, keyslots_end};

/// What a keyslot takes of the keyslots area: the spread key, rounded up to 4096 bytes.
pub(crate) const AREA_LEN: u64 = (SPLIT_LEN as u64).next_multiple_of(4096);

const KEY_LEN: u32 = 64;
const _: () = assert!(KEY_LEN as usize == VOLUME_KEY_LEN);

/// A keyslot that this crate can open.
#[derive(Debug)]
pub(crate) struct Opener<'a> {
    kdf: Function<'a>,
    hash: Hash,
    offset: u64,
}

impl<'a> Opener<'a> {
    pub(crate) fn of(slot: &'a Keyslot) -> Result<Self, Unsupported> {
        let slot = match slot {
            Keyslot::Luks2(slot) => slot,
            Keyslot::Other(slot) => return Err(Unsupported::KeyslotType(slot.kind.clone())),
        };
        if slot.key_size != KEY_LEN {
            return Err(Unsupported::KeySize { what: "its key", bytes: slot.key_size });
        }
        if slot.af.kind != "luks1" || slot.af.stripes != STRIPES {
            return Err(Unsupported::AntiForensic(format!("{} of {} stripes", slot.af.kind, slot.af.stripes)));
        }
        if slot.area.encryption != CIPHER {
            return Err(Unsupported::Cipher { what: "its area", cipher: slot.area.encryption.clone() });
        }
        if slot.area.key_size != KEY_LEN {
            return Err(Unsupported::KeySize { what: "the key of its area", bytes: slot.area.key_size });
        }
        let hash = Hash::by_name(&slot.af.hash)?;
        Ok(Self { kdf: Function::of(&slot.kdf)?, hash, offset: slot.area.offset })
    }

    /// Writes to `key` what the passphrase makes of the area: the key, or noise.
    pub(crate) fn open(&self, io: &impl Io, passphrase: &[u8], key: &mut [u8; VOLUME_KEY_LEN]) -> Result<(), Error> {
        let mut material = Zeroizing::new(vec![0; SPLIT_LEN]);
        io.read_exact_at(&mut material, self.offset).map_err(Error::io("read a keyslot"))?;
        cipher(&self.kdf, passphrase)?
            .decrypt(SectorSize::B512, 0, &mut material)
            .map_err(|_| Error::Crypto("decrypt a keyslot"))?;
        af::merge(&material, self.hash, key)
    }
}

/// The sectors of an area are 512 bytes long and numbered from its start, whatever those of the data are.
fn cipher(kdf: &Function<'_>, passphrase: &[u8]) -> Result<Xts, Error> {
    let key = kdf.derive(passphrase)?;
    Xts::new(&key).map_err(|_| Error::Crypto("set up the cipher of a keyslot"))
}

/// A keyslot for an area at `offset`, and what belongs there.
pub(crate) fn seal(
    offset: u64,
    iterations: u32,
    passphrase: &[u8],
    key: &[u8; VOLUME_KEY_LEN],
) -> Result<(Keyslot, Vec<u8>), Error> {
    let hash = Hash::Sha256;
    let kdf = kdf::new_pbkdf2(iterations)?;
    // Wiped only if the encryption fails; after it, the material is public.
    let mut material = Zeroizing::new(vec![0; SPLIT_LEN]);
    af::split(key, hash, &mut material)?;
    cipher(&Function::of(&kdf)?, passphrase)?
        .encrypt(SectorSize::B512, 0, &mut material)
        .map_err(|_| Error::Crypto("encrypt a keyslot"))?;
    let mut area = random_area(AREA_LEN)?;
    area[..SPLIT_LEN].copy_from_slice(&material);

    let slot = Luks2Keyslot {
        kind: Keyslot::LUKS2.into(),
        key_size: KEY_LEN,
        priority: None,
        af: AntiForensic { kind: "luks1".into(), stripes: STRIPES, hash: hash.name().into(), rest: Default::default() },
        area: RawArea {
            kind: "raw".into(),
            offset,
            size: AREA_LEN,
            encryption: CIPHER.into(),
            key_size: KEY_LEN,
            rest: Default::default(),
        },
        kdf,
        rest: Default::default(),
    };
    Ok((Keyslot::Luks2(Box::new(slot)), area))
}

/// Overwrites `size` bytes at `offset` with random ones.
pub(crate) fn wipe(io: &impl Io, mut offset: u64, size: u64) -> Result<(), Error> {
    const STEP: u64 = 1 << 20;
    let end = offset + size;
    while offset < end {
        let step = STEP.min(end - offset);
        io.write_all_at(&random_area(step)?, offset).map_err(Error::io("overwrite a keyslot"))?;
        offset += step;
    }
    Ok(())
}

fn random_area(size: u64) -> Result<Vec<u8>, Error> {
    let mut area = vec![0; usize::try_from(size).map_err(|_| Error::Crypto("find memory"))?];
    random::fill(&mut area)?;
    Ok(area)
}

/// The first gap between the areas that has room for another keyslot.
pub(crate) fn find_gap(metadata: &Metadata, copy_size: u64) -> Result<u64, Error> {
    let mut areas: Vec<(u64, u64)> = metadata.keyslots.values().map(Keyslot::area).collect();
    areas.sort_unstable();
    let mut start = 2 * copy_size;
    for (offset, size) in areas {
        if offset.saturating_sub(start) >= AREA_LEN {
            break;
        }
        start = start.max(offset + size).next_multiple_of(4096);
    }
    if start + AREA_LEN > keyslots_end(metadata, copy_size) {
        return Err(Error::NoKeyslotSpace { needed: AREA_LEN });
    }
    Ok(start)
}
