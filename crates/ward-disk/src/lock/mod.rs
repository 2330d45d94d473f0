//! Who may use an image: one writer, or readers.
//!
//! Locks belong to the open file: a process that is killed leaves none behind. A writer locks all of the file. Readers
//! speak QEMU's language, in which each byte stands for something that a user of the image does, or does not suffer from
//! others. So a lock of ours refuses a QEMU that has the image open otherwise, and the other way round.

mod ofd;

use std::fs::File;
use std::path::Path;

use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use ofd::Range;

/// Locked by who reads an image, writes to it, changes its size.
const READS: Range = Range::Byte(100);
const WRITES: Range = Range::Byte(101);
const RESIZES: Range = Range::Byte(103);
/// Locked by who suffers nobody that does.
const NO_READERS: Range = Range::Byte(200);
const NO_WRITERS: Range = Range::Byte(201);
const NO_RESIZERS: Range = Range::Byte(203);

/// What a lock keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// From writing.
    Shared,
    /// From using the image at all.
    Exclusive,
}

/// Locks an open image for as long as the file, or a duplicate of its descriptor, stays open.
///
/// # Errors
/// [`DiskErrorKind::ImageLocked`] where somebody else uses the image.
pub fn lock(file: &File, path: &Path, access: Access) -> Result<()> {
    let locked = match access {
        Access::Exclusive => ofd::try_lock(file, Range::Whole, true),
        Access::Shared => lock_shared(file),
    };
    match locked {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use(path)),
        Err(source) => Err(DiskError::io("lock the image", &source).at_path(path)),
    }
}

/// First says what it does, then looks what others do: of two who do so at once, at least one sees the other.
fn lock_shared(file: &File) -> std::io::Result<bool> {
    for byte in [READS, NO_WRITERS, NO_RESIZERS] {
        if !ofd::try_lock(file, byte, false)? {
            return Ok(false);
        }
    }
    for byte in [NO_READERS, WRITES, RESIZES] {
        if ofd::is_locked(file, byte)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says whether anybody uses the image, without keeping a lock. What it says may be outdated at once; it serves to
/// refuse early.
///
/// # Errors
/// [`DiskErrorKind::ImageLocked`] where somebody does, and what opening the file says.
pub fn check_unused(path: &Path) -> Result<()> {
    let file = File::open(path).doing("open the image", path)?;
    match ofd::is_locked(&file, Range::Whole) {
        Ok(false) => Ok(()),
        Ok(true) => Err(in_use(path)),
        Err(source) => Err(DiskError::io("look at the locks of the image", &source).at_path(path)),
    }
}

/// Opens an image for reading, locked against all who would change it.
///
/// # Errors
/// [`DiskErrorKind::ImageLocked`] where somebody has it open to change it, and what opening the file says.
pub fn open_to_read(path: &Path) -> Result<File> {
    let file = File::open(path).doing("open the image", path)?;
    lock(&file, path, Access::Shared)?;
    Ok(file)
}

fn in_use(path: &Path) -> DiskError {
    let why = "another process uses it; stop the virtual machine or job that has it open";
    DiskError::new(DiskErrorKind::ImageLocked, "lock the image", why).at_path(path)
}
