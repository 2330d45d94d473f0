//! The two `fcntl` commands that no safe wrapper offers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What of a file a lock is about.
#[derive(Clone, Copy)]
pub(super) enum Range {
    /// All of it, however it grows.
    Whole,
    /// One byte, which need not be there.
    Byte(u8),
}

/// `false` where another open file holds a conflicting lock.
pub(super) fn try_lock(file: &File, range: Range, exclusive: bool) -> io::Result<bool> {
    let mut request = request(range, if exclusive { libc::F_WRLCK } else { libc::F_RDLCK });
    // SAFETY: the descriptor is open as long as `file` is borrowed; the kernel reads one `flock` from the pointer.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut request) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether another open file holds any lock there.
pub(super) fn is_locked(file: &File, range: Range) -> io::Result<bool> {
    let mut request = request(range, libc::F_WRLCK);
    // SAFETY: as above; the kernel also writes one `flock` back.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(request.l_type) != libc::F_UNLCK)
}

fn request(range: Range, kind: i32) -> libc::flock {
    let (start, length) = match range {
        Range::Whole => (0, 0),
        Range::Byte(at) => (at.into(), 1),
    };
    libc::flock {
        // The constants are small numbers that libc types as int.
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: length,
        // The kernel demands zero.
        l_pid: 0,
    }
}
