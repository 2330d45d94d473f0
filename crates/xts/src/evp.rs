//! The only calls into AWS-LC: one `EVP_CIPHER_CTX` with an expanded key.
#![allow(unsafe_code)]

use std::ptr::{self, NonNull};

use aws_lc_sys::{
    EVP_CIPHER_CTX, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_CipherInit_ex, EVP_CipherUpdate, EVP_aes_256_xts,
};

use crate::{KEY_LEN, XtsError};

#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Decrypt = 0,
    Encrypt = 1,
}

/// A cipher context that is keyed for one direction for its whole life.
pub(crate) struct Context {
    raw: NonNull<EVP_CIPHER_CTX>,
}

// SAFETY: an EVP_CIPHER_CTX has no thread affinity; all use goes through `&mut self`.
unsafe impl Send for Context {}

impl Context {
    pub(crate) fn new(key: &[u8; KEY_LEN], direction: Direction) -> Result<Self, XtsError> {
        // SAFETY: takes no arguments; null means out of memory and is handled.
        let raw = NonNull::new(unsafe { EVP_CIPHER_CTX_new() }).ok_or(XtsError::Library)?;
        let context = Self { raw };
        // SAFETY: the context is live; the cipher is a static table; `key` has the 64 bytes that AES-256-XTS reads;
        // a null IV is allowed and leaves it to be set before use.
        let ok = unsafe {
            EVP_CipherInit_ex(
                context.raw.as_ptr(),
                EVP_aes_256_xts(),
                ptr::null_mut(),
                key.as_ptr(),
                ptr::null(),
                direction as i32,
            )
        };
        if ok == 1 { Ok(context) } else { Err(XtsError::Library) }
    }

    pub(crate) fn in_place(&mut self, iv: [u8; 16], sector: &mut [u8]) -> Result<(), XtsError> {
        let pointer = sector.as_mut_ptr();
        self.update(iv, pointer, pointer, sector.len())
    }

    /// `source` and `target` must have one length; the caller has checked it.
    pub(crate) fn copy(&mut self, iv: [u8; 16], source: &[u8], target: &mut [u8]) -> Result<(), XtsError> {
        debug_assert_eq!(source.len(), target.len());
        let length = source.len().min(target.len());
        self.update(iv, source.as_ptr(), target.as_mut_ptr(), length)
    }

    fn update(&mut self, iv: [u8; 16], from: *const u8, to: *mut u8, length: usize) -> Result<(), XtsError> {
        let wanted = i32::try_from(length).map_err(|_| XtsError::Library)?;
        // SAFETY: the context is live and keyed; null cipher and key and direction -1 keep what `new` set; the IV has
        // the 16 bytes that XTS reads.
        let ok =
            unsafe { EVP_CipherInit_ex(self.raw.as_ptr(), ptr::null(), ptr::null_mut(), ptr::null(), iv.as_ptr(), -1) };
        if ok != 1 {
            return Err(XtsError::Library);
        }
        let mut written = 0i32;
        // SAFETY: `from` is readable and `to` writable for `length` bytes (both come from slices of that length, equal
        // or disjoint, which EVP permits); XTS writes exactly as many bytes as it reads.
        let ok = unsafe { EVP_CipherUpdate(self.raw.as_ptr(), to, &raw mut written, from, wanted) };
        if ok == 1 && written == wanted { Ok(()) } else { Err(XtsError::Library) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is live and not used again; the call wipes the expanded key.
        unsafe { EVP_CIPHER_CTX_free(self.raw.as_ptr()) }
    }
}
