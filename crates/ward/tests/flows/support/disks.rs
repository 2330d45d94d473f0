//! Disks and what is on them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{run, text};

pub(crate) const MIB: u64 = 1 << 20;

/// Writes a raw disk with data, holes, and data at its end; gives its content.
pub(crate) fn disk(path: &Path, size: u64) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size).unwrap()];
    let middle = content.len() / 2;
    let end = content.len() - 5000;
    for (seed, at, length) in [(1, 0, 70_000), (2, middle, 300_000), (3, end, 5000)] {
        content[at..at + length].copy_from_slice(&noise(seed, length));
    }
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, block) in (0..).step_by(4096).zip(content.chunks(4096)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at).unwrap();
        }
    }
    content
}

/// The same disk as qcow2.
pub(crate) fn qcow2(raw: &Path, path: &Path) {
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(raw), text(path)]);
}

/// Bytes that compress badly and repeat late, the same for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

/// What is on a plain disk.
pub(crate) fn contents(image: &Path, format: &str) -> Vec<u8> {
    if format == "raw" {
        return fs::read(image).unwrap();
    }
    let raw = tempfile::NamedTempFile::new().unwrap();
    run("qemu-img", &["convert", "-f", format, "-O", "raw", text(image), text(raw.path())]);
    fs::read(raw.path()).unwrap()
}

/// What is on an encrypted disk of that size: opened by its header with the KEK, past the disk process.
pub(crate) fn decipher(image: &Path, kek: &[u8], size: usize) -> Vec<u8> {
    let device = luks2::Device::open(File::open(image).unwrap()).unwrap();
    let mut key = [0; luks2::VOLUME_KEY_LEN];
    device.unlock(kek, &mut key).unwrap();
    let start = usize::try_from(device.data_segment().unwrap().offset).unwrap();
    let mut content = fs::read(image).unwrap().split_off(start);
    xts::Xts::new(&key).unwrap().decrypt(xts::SectorSize::B4096, 0, &mut content).unwrap();
    content.truncate(size);
    content
}
