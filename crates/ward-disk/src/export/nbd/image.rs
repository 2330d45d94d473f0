//! An image that is read and written at any byte, by one thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ward_secret::Dek;

use super::super::cipher;
use super::super::disk::{Layout, lock_and_measure};
use crate::buffer::Buffer;
use crate::cipher::PayloadCipher;
use crate::error::{DiskError, Doing, Result};
use crate::order::NbdDisk;

/// What is ciphered at a time; a multiple of any sector.
const CHUNK: usize = 64 << 10;

pub(super) struct Image {
    file: File,
    path: PathBuf,
    data_offset: u64,
    /// What must be read and written as a whole: an encrypted sector, or a single byte.
    unit: u64,
    cipher: Option<PayloadCipher>,
    chunk: Buffer,
    /// Whether something is not known to be on the storage.
    pub(super) unsynced: bool,
}

impl Image {
    pub(super) fn open(order: &NbdDisk, file: File, deks: &[Dek]) -> Result<Self> {
        let Layout { data_offset, sector, .. } =
            lock_and_measure(&file, &order.path, order.format, order.size, order.read_only)?;
        let cipher = cipher(order.format, order.dek, deks)?;
        let chunk = Buffer::new(CHUNK).map_err(|error| DiskError::io("get memory", &error))?;
        let unit = if cipher.is_some() { sector } else { 1 };
        Ok(Self { file, path: order.path.clone(), data_offset, unit, cipher, chunk, unsynced: false })
    }

    /// Reads what must be there.
    pub(super) fn read(&mut self, mut offset: u64, mut into: &mut [u8]) -> Result<()> {
        while !into.is_empty() {
            let Piece { first, skip, length, whole } = self.piece(offset, into.len());
            self.fetch(first, whole)?;
            let (now, rest) = into.split_at_mut(length);
            now.copy_from_slice(&self.chunk[skip..skip + length]);
            into = rest;
            offset += length as u64;
        }
        Ok(())
    }

    /// Writes over what must be there. Killed meanwhile, each unit has its old content or its new one.
    pub(super) fn write(&mut self, mut offset: u64, mut from: &[u8]) -> Result<()> {
        while !from.is_empty() {
            let Piece { first, skip, length, whole } = self.piece(offset, from.len());
            if skip > 0 || length < whole {
                self.fetch(first, whole)?;
            }
            let (now, rest) = from.split_at(length);
            self.chunk[skip..skip + length].copy_from_slice(now);
            if let Some(cipher) = &mut self.cipher {
                cipher.encrypt(first, &mut self.chunk[..whole])?;
            }
            self.unsynced = true;
            let at = self.data_offset + first;
            self.file.write_all_at(&self.chunk[..whole], at).doing_at("write", &self.path, at)?;
            crash_point::reach("nbd.written");
            from = rest;
            offset += length as u64;
        }
        Ok(())
    }

    /// Brings everything to the storage.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.unsynced {
            self.file.sync_data().doing("sync the image", &self.path)?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// The first part of a stretch, with the whole units that it lies in.
    fn piece(&self, offset: u64, length: usize) -> Piece {
        let first = offset - offset % self.unit;
        let skip = usize::try_from(offset - first).unwrap_or_default();
        let length = length.min(CHUNK - skip);
        let unit = usize::try_from(self.unit).unwrap_or(CHUNK);
        Piece { first, skip, length, whole: (skip + length).next_multiple_of(unit) }
    }

    fn fetch(&mut self, first: u64, whole: usize) -> Result<()> {
        let at = self.data_offset + first;
        self.file.read_exact_at(&mut self.chunk[..whole], at).doing_at("read", &self.path, at)?;
        match &mut self.cipher {
            Some(cipher) => cipher.decrypt(first, &mut self.chunk[..whole]),
            None => Ok(()),
        }
    }
}

struct Piece {
    /// Where its first unit begins.
    first: u64,
    /// Where in that it begins itself.
    skip: usize,
    length: usize,
    /// The length of all its units.
    whole: usize,
}
