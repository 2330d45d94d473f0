//! Disks and what is on them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::{lossy, run, text};

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

/// Writes a disk that boots: its guest says the text and waits; gives its content.
pub(crate) fn boot_disk(path: &Path, text: &str) -> Vec<u8> {
    #[rustfmt::skip]
    let code: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // ds, es, ss = 0
        0xbc, 0x00, 0x7c,                               // sp = 0x7c00
        0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, 0xb6, 0x00, // read one sector, cylinder 0, sector 2, head 0
        0xbb, 0x00, 0x7e, 0xcd, 0x13,                   // to 0x7e00, by the BIOS
        0xbe, 0x00, 0x7e,                               // si = 0x7e00
        0xac, 0x84, 0xc0, 0x74, 0x06,                   // next character; ends with zero
        0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5,             // to the serial port, and again
        0xf4, 0xeb, 0xfd,                               // wait
    ];
    let mut disk = vec![0; usize::try_from(2 * MIB).unwrap()];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512..512 + text.len()].copy_from_slice(text.as_bytes());
    fs::write(path, &disk).unwrap();
    disk
}

/// Whether a KEK opens an encrypted disk, as cryptsetup says.
pub(crate) fn cryptsetup_opens(disk: &Path, kek: &[u8]) -> bool {
    let key_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&key_file, kek).unwrap();
    let arguments = ["open", "--test-passphrase", "--type", "luks2", "--key-file", text(key_file.path()), text(disk)];
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new("cryptsetup").args(arguments).env("PATH", path).output().unwrap();
    // 2: no key with this passphrase. All else is a defect of the header, or of the test.
    assert!(matches!(output.status.code(), Some(0 | 2)), "{}", lossy(&output.stderr));
    output.status.success()
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
