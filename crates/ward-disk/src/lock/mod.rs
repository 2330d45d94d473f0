//! Who may use an image: one writer, or readers.
//!
//! The lock is an open-file-description lock over the whole file. QEMU locks single bytes of its images in the same
//! way, so a lock of ours refuses a QEMU that has the image open, and the other way round. It goes with the open file:
//! a process that is killed leaves none behind.

mod ofd;

use std::fs::{File, OpenOptions};
use std::path::Path;

use crate::error::{DiskError, DiskErrorKind, Doing, Result};

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
    match ofd::try_lock(file, access == Access::Exclusive) {
        Ok(true) => Ok(()),
        Ok(false) => Err(locked(path)),
        Err(source) => Err(DiskError::io("lock the image", &source).at_path(path)),
    }
}

/// Says whether anybody uses the image, without keeping a lock. What it says may be outdated at once; it serves to
/// refuse early.
///
/// # Errors
/// [`DiskErrorKind::ImageLocked`] where somebody does, and what opening the file says.
pub fn check_unused(path: &Path) -> Result<()> {
    let file = File::open(path).doing("open the image", path)?;
    match ofd::is_locked(&file) {
        Ok(false) => Ok(()),
        Ok(true) => Err(locked(path)),
        Err(source) => Err(DiskError::io("look at the locks of the image", &source).at_path(path)),
    }
}

/// Opens an image for reading, locked against all other use.
///
/// It is opened for writing as well, since the kernel grants an exclusive lock on nothing less; on storage that can
/// only be read, nobody can write, and a shared lock serves.
pub(crate) fn open_exclusively_to_read(path: &Path) -> Result<File> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            lock(&file, path, Access::Exclusive)?;
            Ok(file)
        }
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            let file = File::open(path).doing("open the image", path)?;
            lock(&file, path, Access::Shared)?;
            Ok(file)
        }
        Err(error) => Err(DiskError::io("open the image", &error).at_path(path)),
    }
}

fn locked(path: &Path) -> DiskError {
    let why = "another process uses it; stop the virtual machine or job that has it open";
    DiskError::new(DiskErrorKind::ImageLocked, "lock the image", why).at_path(path)
}
