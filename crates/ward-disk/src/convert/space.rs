//! Room on the storage, made sure of before work begins.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use crate::error::{DiskError, DiskErrorKind, Doing, Result};

/// Gives the file its room now, so that no later write can fail for want of it. Takes back what a failure left.
pub(super) fn reserve(file: &File, path: &Path, offset: u64, length: u64) -> Result<()> {
    let before = file.metadata().doing("look at the target image", path)?.len();
    match fallocate(file, FallocateFlags::empty(), offset, length) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            check(file, path, length)?;
            file.set_len(before.max(offset + length)).doing("enlarge the target image", path)
        }
        Err(error) => {
            // What it was before; that this fails too would change nothing about the answer.
            let _ = file.set_len(before);
            match error {
                rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT => Err(no_space(path, length, free(file))),
                other => Err(other).doing("reserve room for the target image", path),
            }
        }
    }
}

/// Refuses where the storage has less than that much free.
pub(super) fn check(file: &File, path: &Path, needed: u64) -> Result<()> {
    match free(file) {
        Some(free) if free < needed => Err(no_space(path, needed, Some(free))),
        // Storage that doesn't say how much is free shows it when it is full.
        _ => Ok(()),
    }
}

fn free(file: &File) -> Option<u64> {
    let stat = fstatvfs(file).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

fn no_space(path: &Path, needed: u64, free: Option<u64>) -> DiskError {
    let why = match free {
        Some(free) => format!("the storage has {free} bytes free, and {needed} are needed"),
        None => format!("the storage has not the {needed} bytes free that are needed"),
    };
    DiskError::new(DiskErrorKind::NoSpace, "reserve room for the target image", why).at_path(path)
}
