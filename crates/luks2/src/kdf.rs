//! Key derivation (specification 3.2.1): from a passphrase to the key of a keyslot's area.

use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Block, Version};
use aws_lc_rs::pbkdf2;
use zeroize::{Zeroize as _, Zeroizing};

use crate::VOLUME_KEY_LEN;
use crate::error::{Error, Unsupported};
use crate::hash::Hash;
use crate::metadata::{Base64, Kdf};
use crate::random;

/// The fewest iterations that cryptsetup accepts (RFC 2898 and NIST SP 800-132).
pub(crate) const MIN_ITERATIONS: u32 = 1000;

/// The most PBKDF2 iterations that a header may ask for: minutes of work, and far beyond what cryptsetup chooses.
const MAX_ITERATIONS: u32 = 200_000_000;

/// The most memory that a header may ask for, which is the most that cryptsetup chooses.
const MAX_MEMORY_KIB: u32 = 4 << 20;

/// The most that memory times passes may come to, in KiB: 1 TiB, minutes of work.
const MAX_WORK_KIB: u64 = 1 << 30;

/// The key of a keyslot's area. On the heap, so that moving it leaves no copies.
pub(crate) type AreaKey = Box<Zeroizing<[u8; VOLUME_KEY_LEN]>>;

/// A key derivation function whose parameters are within bounds.
#[derive(Debug)]
pub(crate) enum Function<'a> {
    Pbkdf2 { hash: Hash, iterations: NonZeroU32, salt: &'a [u8] },
    Argon2 { algorithm: Algorithm, params: argon2::Params, salt: &'a [u8] },
}

impl<'a> Function<'a> {
    /// The function that a keyslot names.
    pub(crate) fn of(kdf: &'a Kdf) -> Result<Self, Unsupported> {
        let salt = kdf.salt.0.as_slice();
        let algorithm = match kdf.kind.as_str() {
            "pbkdf2" => {
                let hash = Hash::by_name(kdf.hash.as_deref().ok_or(Unsupported::KdfParameters)?)?;
                let iterations = kdf.iterations.and_then(NonZeroU32::new).ok_or(Unsupported::KdfParameters)?;
                return bounded_iterations(iterations).map(|iterations| Self::Pbkdf2 { hash, iterations, salt });
            }
            "argon2i" => Algorithm::Argon2i,
            "argon2id" => Algorithm::Argon2id,
            other => return Err(Unsupported::Kdf(other.to_owned())),
        };
        let (Some(time), Some(memory), Some(lanes)) = (kdf.time, kdf.memory, kdf.cpus) else {
            return Err(Unsupported::KdfParameters);
        };
        if memory > MAX_MEMORY_KIB {
            return Err(Unsupported::KdfCost("memory"));
        }
        if u64::from(memory) * u64::from(time) > MAX_WORK_KIB {
            return Err(Unsupported::KdfCost("time"));
        }
        if !(argon2::MIN_SALT_LEN..=1024).contains(&salt.len()) || lanes > argon2::Params::MAX_P_COST {
            return Err(Unsupported::KdfParameters);
        }
        let params =
            argon2::Params::new(memory, time, lanes, Some(VOLUME_KEY_LEN)).map_err(|_| Unsupported::KdfParameters)?;
        Ok(Self::Argon2 { algorithm, params, salt })
    }

    pub(crate) fn derive(&self, passphrase: &[u8]) -> Result<AreaKey, Error> {
        let mut key: AreaKey = Box::new(Zeroizing::new([0; VOLUME_KEY_LEN]));
        match self {
            Self::Pbkdf2 { hash, iterations, salt } => {
                pbkdf2::derive(hash.pbkdf2(), *iterations, salt, passphrase, &mut key[..]);
            }
            Self::Argon2 { algorithm, params, salt } => {
                let mut memory = Memory::new(params.block_count())?;
                Argon2::new(*algorithm, Version::V0x13, params.clone())
                    .hash_password_into_with_memory(passphrase, salt, &mut key[..], &mut memory.0)
                    .map_err(|_| Error::Crypto("derive a key by Argon2"))?;
            }
        }
        Ok(key)
    }
}

/// Refuses iterations that only serve to keep the reader busy.
pub(crate) fn bounded_iterations(iterations: NonZeroU32) -> Result<NonZeroU32, Unsupported> {
    if iterations.get() > MAX_ITERATIONS { Err(Unsupported::KdfCost("iterations")) } else { Ok(iterations) }
}

/// Refuses iterations that cryptsetup would not accept, and such as [`Function::of`] would not.
pub(crate) fn enough_iterations(iterations: u32) -> Result<u32, Error> {
    if (MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
        Ok(iterations)
    } else {
        Err(Error::Params("PBKDF2 takes 1000 to 200 million iterations"))
    }
}

/// PBKDF2-SHA256 under a fresh salt, as it stands in a keyslot.
pub(crate) fn new_pbkdf2(iterations: u32) -> Result<Kdf, Error> {
    Ok(Kdf {
        kind: "pbkdf2".into(),
        salt: Base64(random::salt()?),
        hash: Some(Hash::Sha256.name().into()),
        iterations: Some(iterations),
        time: None,
        memory: None,
        cpus: None,
        rest: Default::default(),
    })
}

/// Argon2's memory, which is as secret as what comes out.
struct Memory(Vec<Block>);

impl Memory {
    fn new(blocks: usize) -> Result<Self, Error> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| Error::Crypto("find the memory that Argon2 asks for"))?;
        memory.resize(blocks, Block::new());
        Ok(Self(memory))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|block| block.zeroize());
    }
}
