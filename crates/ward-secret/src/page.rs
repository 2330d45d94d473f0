//! One locked page per secret.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

use crate::SecretError;

/// Secrets are far smaller than the smallest page of any platform that Linux runs on.
const REGION: usize = 4096;

/// `N` secret bytes in memory of their own: locked, left out of core dumps, wiped in forked children and on drop.
pub struct Locked<const N: usize> {
    bytes: NonNull<[u8; N]>,
}

// SAFETY: the region belongs to this value alone; shared access is read-only.
unsafe impl<const N: usize> Send for Locked<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Locked<N> {}

impl<const N: usize> Locked<N> {
    /// A region of zeros.
    ///
    /// # Errors
    /// [`SecretError::Memory`] where the kernel gives or locks no memory.
    pub fn zeroed() -> Result<Self, SecretError> {
        const { assert!(N > 0 && N <= REGION) };
        // SAFETY: a fresh private anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let address =
            unsafe { mmap_anonymous(ptr::null_mut(), REGION, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }
                .map_err(SecretError::Memory)?;
        let guard = Unmap(address);
        // SAFETY: the range is the mapping just made.
        unsafe {
            mlock(address, REGION).map_err(SecretError::Memory)?;
            madvise(address, REGION, Advice::LinuxDontDump).map_err(SecretError::Memory)?;
            madvise(address, REGION, Advice::LinuxWipeOnFork).map_err(SecretError::Memory)?;
        }
        let bytes = NonNull::new(address.cast::<[u8; N]>()).ok_or(SecretError::Memory(rustix::io::Errno::NOMEM))?;
        std::mem::forget(guard);
        Ok(Self { bytes })
    }

    /// Copies `source` in and wipes it there.
    ///
    /// # Errors
    /// [`SecretError::Length`] where it is not `N` bytes; [`SecretError::Memory`] as for [`Locked::zeroed`]. `source`
    /// is wiped in either case.
    pub fn take(source: &mut [u8]) -> Result<Self, SecretError> {
        let made = Self::zeroed().and_then(|mut locked| {
            if source.len() == N {
                locked.expose_mut().copy_from_slice(source);
                Ok(locked)
            } else {
                Err(SecretError::Length { expected: N, got: source.len() })
            }
        });
        source.zeroize();
        made
    }

    /// `N` bytes from the random generator of the cryptographic library.
    ///
    /// # Errors
    /// [`SecretError::Random`]; [`SecretError::Memory`] as for [`Locked::zeroed`].
    pub fn random() -> Result<Self, SecretError> {
        let mut locked = Self::zeroed()?;
        aws_lc_rs::rand::fill(locked.expose_mut()).map_err(|_| SecretError::Random)?;
        Ok(locked)
    }

    /// The secret bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        // SAFETY: the mapping is live, aligned to a page, at least N bytes and initialised (zero or written).
        unsafe { self.bytes.as_ref() }
    }

    /// The secret bytes, to be filled in.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `expose`, and `&mut self` makes the access exclusive.
        unsafe { self.bytes.as_mut() }
    }
}

impl<const N: usize> Drop for Locked<N> {
    fn drop(&mut self) {
        self.expose_mut().zeroize();
        drop(Unmap(self.bytes.as_ptr().cast()));
    }
}

struct Unmap(*mut std::ffi::c_void);

impl Drop for Unmap {
    fn drop(&mut self) {
        // SAFETY: the address is that of a live mapping of REGION bytes, to which no reference remains. Unmapping also
        // unlocks. It can only fail on bad arguments.
        let _ = unsafe { munmap(self.0, REGION) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn take_wipes_its_source_even_when_it_refuses() {
        let mut good = [7u8; 32];
        assert_eq!(Locked::<32>::take(&mut good).unwrap().expose(), &[7u8; 32]);
        assert_eq!(good, [0; 32]);
        let mut short = [7u8; 31];
        assert_eq!(Locked::<32>::take(&mut short).err(), Some(SecretError::Length { expected: 32, got: 31 }));
        assert_eq!(short, [0; 31]);
    }

    #[test]
    fn the_page_is_locked_and_left_out_of_dumps() {
        let secret = Locked::<32>::random().unwrap();
        let address = secret.expose().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut flags = None;
        for line in maps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            }
            if inside && let Some(found) = line.strip_prefix("VmFlags:") {
                flags = Some(found.to_owned());
            }
        }
        let flags = flags.unwrap();
        // lo: locked, dd: left out of dumps, wf: wiped on fork.
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.split_whitespace().any(|found| found == flag), "{flag} not in {flags}");
        }
    }
}
