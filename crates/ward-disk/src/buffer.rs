//! Memory for disk contents: aligned as direct I/O wants it, left out of core dumps, wiped before it is given back.
#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// A region of zeros at first, aligned to a page.
pub(crate) struct Buffer {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone and has no thread affinity.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        if length == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let buffer = Self { start, length };
        // SAFETY: the range is the mapping just made.
        unsafe { madvise(start.as_ptr().cast(), length, Advice::LinuxDontDump) }?;
        Ok(buffer)
    }

    /// Where it begins, for the kernel to read or write while nobody else does.
    pub(crate) fn as_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is live, `length` bytes long and initialised, being zero or written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.zeroize_all();
        // SAFETY: the mapping is live and no reference to it remains. It can only fail on bad arguments.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl Buffer {
    fn zeroize_all(&mut self) {
        self.deref_mut().zeroize();
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Whole words in blocks, which the compiler turns into vector instructions; leaves early at the first block.
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}
