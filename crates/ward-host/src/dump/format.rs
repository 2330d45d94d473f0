//! The file format, version 1: see `docs/dump-format.md`, which has test vectors.

use std::io::{self, Read, Write};
use std::path::Path;

use ward_secret::{CHUNK_TAG_LEN, ChunkCipher, DumpKey, Zeroizing};
use ward_types::{Code, DumpAbout};

use super::Lock;
use crate::fault::{Doing as _, Fault, Result};

/// What a file begins with: its kind, and the version of its format.
const MAGIC: [u8; 8] = *b"WARDDMP\x01";
/// How many bytes of the dump each chunk holds, but for the last one, which may hold fewer.
const CHUNK: usize = 64 * 1024;
/// The longest part of a head, in bytes.
const MAX_PART: usize = 64 * 1024;

/// What stands before the chunks.
pub(crate) struct Head {
    /// Who can open it.
    pub(crate) lock: Lock,
    /// What it is.
    pub(crate) about: DumpAbout,
    /// How many bytes all that has.
    pub(crate) length: u64,
    /// What the chunks are bound to. Not the lock: that may be exchanged.
    bound: Vec<u8>,
}

/// Why something is no dump that can be read.
pub(super) fn invalid(path: &Path, why: &str) -> Fault {
    let remedy = "take another copy of it; what is damaged can't be decrypted";
    Fault::new(Code::DumpInvalid, format!("{}: {why}", path.display()), remedy)
}

/// What the chunks of a dump are bound to.
fn bound(about: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(about.len()).map_err(|_| Fault::internal("a dump with too long a description"))?;
    Ok([MAGIC.as_slice(), &length.to_be_bytes(), about].concat())
}

/// Writes a head; tells what the chunks are to be bound to.
pub(crate) fn write_head(output: &mut impl Write, path: &Path, lock: &Lock, about: &DumpAbout) -> Result<Head> {
    let internal = |error: serde_json::Error| Fault::internal(error.to_string());
    let (lock_text, about_text) =
        (serde_json::to_vec(lock).map_err(internal)?, serde_json::to_vec(about).map_err(internal)?);
    let bound = bound(&about_text)?;
    let head = head_bytes(&lock_text, &bound)?;
    output.write_all(&head).doing("write", path)?;
    Ok(Head { lock: lock.clone(), about: about.clone(), length: head.len() as u64, bound })
}

fn head_bytes(lock: &[u8], bound: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(lock.len()).map_err(|_| Fault::internal("a dump with too long a lock"))?;
    Ok([&MAGIC, length.to_be_bytes().as_slice(), lock, &bound[MAGIC.len()..]].concat())
}

impl Head {
    /// Reads a head; the chunks follow.
    pub(crate) fn read(input: &mut impl Read, path: &Path) -> Result<Self> {
        let mut magic = [0; MAGIC.len()];
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid(path, "it ends within its head"),
            _ => Fault::io("read", path, &error),
        };
        input.read_exact(&mut magic).map_err(cut)?;
        if magic[..7] != MAGIC[..7] {
            return Err(invalid(path, "it is no dump of Ward's"));
        }
        if magic != MAGIC {
            let why = format!("it is of version {} of the format, which this program does not know", magic[7]);
            return Err(invalid(path, &why));
        }
        let mut part = || -> Result<Vec<u8>> {
            let mut length = [0; 4];
            input.read_exact(&mut length).map_err(cut)?;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length > MAX_PART {
                return Err(invalid(path, "its head says a length that can't be"));
            }
            let mut part = vec![0; length];
            input.read_exact(&mut part).map_err(cut)?;
            Ok(part)
        };
        let (lock, about) = (part()?, part()?);
        let senseless = |error: serde_json::Error| invalid(path, &format!("its head makes no sense: {error}"));
        Ok(Self {
            length: (MAGIC.len() + 4 + lock.len() + 4 + about.len()) as u64,
            bound: bound(&about)?,
            lock: serde_json::from_slice(&lock).map_err(senseless)?,
            about: serde_json::from_slice(&about).map_err(senseless)?,
        })
    }

    /// The same head with another lock.
    pub(crate) fn with_lock(&self, lock: &Lock) -> Result<Vec<u8>> {
        let lock = serde_json::to_vec(lock).map_err(|error| Fault::internal(error.to_string()))?;
        head_bytes(&lock, &self.bound)
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(input: &mut impl Read, length: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for the tag from the start: growing would leave a copy behind.
    let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK + CHUNK_TAG_LEN));
    input.by_ref().take(length as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// Does something with each chunk of so many bytes, and says which is the last.
fn each_chunk(
    input: &mut impl Read,
    path: &Path,
    length: usize,
    mut done: impl FnMut(&mut Vec<u8>, bool) -> Result<()>,
) -> Result<()> {
    let mut chunk = fill(input, length).doing("read", path)?;
    loop {
        let next = if chunk.len() == length { fill(input, length).doing("read", path)? } else { Zeroizing::default() };
        done(&mut chunk, next.is_empty())?;
        if next.is_empty() {
            return Ok(());
        }
        chunk = next;
    }
}

/// Seals all of `input` behind a head.
pub(crate) fn seal(
    head: &Head,
    key: &DumpKey,
    (input, from): (&mut impl Read, &Path),
    (output, to): (&mut impl Write, &Path),
) -> Result<()> {
    let mut cipher = ChunkCipher::new(key, &head.bound)?;
    each_chunk(input, from, CHUNK, |chunk, last| {
        cipher.seal(chunk, last)?;
        output.write_all(chunk).doing("write", to)
    })
}

/// Opens all that follows a head. What was written to `output` before an error was there, and is not all.
pub(super) fn unseal(
    head: &Head,
    key: &DumpKey,
    (input, from): (&mut impl Read, &Path),
    output: &mut impl Write,
) -> Result<()> {
    let mut cipher = ChunkCipher::new(key, &head.bound)?;
    each_chunk(input, from, CHUNK + CHUNK_TAG_LEN, |chunk, last| {
        cipher.open(chunk, last).map_err(|_| invalid(from, "it was altered, or ends before its end"))?;
        output.write_all(chunk).doing("write", Path::new("the decrypted dump"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_secret::Kek;
    use ward_types::{DumpSubject, KeyRef};

    use super::*;

    fn about() -> DumpAbout {
        DumpAbout {
            host: "0190c5b2-8a1e-7b3c-8d4e-5f60718293a4".parse().unwrap(),
            taken: "2026-11-25T04:00:00Z".parse().unwrap(),
            subject: DumpSubject::Process { pid: 7, command: "qemu".to_owned(), signal: 11 },
        }
    }

    fn host_key() -> (KeyRef, Kek) {
        let key = KeyRef::standard("kms".parse().unwrap(), "42".to_owned().try_into().unwrap());
        (key, Kek::take(&mut (0u8..32).collect::<Vec<_>>()).unwrap())
    }

    fn key() -> DumpKey {
        DumpKey::take(&mut (0x40u8..0x60).collect::<Vec<_>>()).unwrap()
    }

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let (reference, kek) = host_key();
        let lock = Lock::under_host_key(reference, &kek, &key()).unwrap();
        let mut file = Vec::new();
        let path = Path::new("dump");
        let head = write_head(&mut file, path, &lock, &about()).unwrap();
        assert_eq!(head.length, file.len() as u64);
        seal(&head, &key(), (&mut &plain[..], path), (&mut file, path)).unwrap();
        file
    }

    fn opened(file: &[u8]) -> Result<Vec<u8>> {
        let (mut input, path) = (file, Path::new("dump"));
        let head = Head::read(&mut input, path)?;
        let key = head.lock.open_with_host_key(&host_key().1)?;
        let mut plain = Vec::new();
        unseal(&head, &key, (&mut input, path), &mut plain)?;
        Ok(plain)
    }

    #[test]
    fn comes_back_whole_at_every_length_about_a_chunks() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7] {
            let plain: Vec<u8> = (0..251).cycle().take(length).collect();
            let file = sealed(&plain);
            assert!(opened(&file).unwrap() == plain, "{length}");
        }
    }

    #[test]
    fn cut_anywhere_it_is_no_dump() {
        let file = sealed(&[9; 2 * CHUNK]);
        let head = file.len() - 2 * (CHUNK + CHUNK_TAG_LEN);
        let ends = (0..head).chain([head, head + 1, head + CHUNK, head + CHUNK + CHUNK_TAG_LEN, file.len() - 1]);
        for length in ends {
            assert_eq!(opened(&file[..length]).unwrap_err().code, Code::DumpInvalid, "cut to {length}");
        }
        let longer = [file.as_slice(), &[0]].concat();
        assert_eq!(opened(&longer).unwrap_err().code, Code::DumpInvalid);
    }

    #[test]
    fn no_byte_of_it_can_be_changed() {
        let file = sealed(b"the memory of a process");
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            // The key's name may be changed: the key is another one then, or the same one.
            if let Ok(plain) = opened(&altered) {
                let mut input = altered.as_slice();
                let head = Head::read(&mut input, Path::new("dump")).unwrap();
                assert_eq!(head.about, about(), "byte {at}");
                assert_eq!(plain, b"the memory of a process");
            }
        }
    }

    #[test]
    fn another_lock_opens_the_same_dump() {
        let file = sealed(b"memory");
        let mut input = file.as_slice();
        let head = Head::read(&mut input, Path::new("dump")).unwrap();
        let lock = Lock::under_password("correct horse", &key()).unwrap();
        let moved = [head.with_lock(&lock).unwrap().as_slice(), input].concat();
        let mut input = moved.as_slice();
        let head = Head::read(&mut input, Path::new("dump")).unwrap();
        assert_eq!(head.lock.open_with_password("wrong").err().unwrap().code, Code::PasswordWrong);
        let opened = head.lock.open_with_password("correct horse").unwrap();
        let mut plain = Vec::new();
        unseal(&head, &opened, (&mut input, Path::new("dump")), &mut plain).unwrap();
        assert_eq!(plain, b"memory");
        assert!(head.lock.open_with_host_key(&host_key().1).is_err());
    }

    /// The vector of `docs/dump-format.md`.
    #[test]
    fn is_as_the_document_says() {
        let file = hex::encode(sealed(b"Ward"));
        let document = include_str!("../../../../docs/dump-format.md");
        let (_, vector) = document.split_once("```hex\n").unwrap();
        let vector: String = vector.split("```").next().unwrap().split_whitespace().collect();
        assert_eq!(file, vector);
    }
}
