//! A heap that forgets.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use zeroize::Zeroize;

/// The system's allocator, which wipes each block as it is freed.
///
/// Set as the global allocator of the binary. A key passes through buffers of libraries that know nothing of secrets
/// (TLS records, HTTP bodies, SQL rows); this is what keeps them from lying in free memory afterwards.
pub struct WipingAllocator;

// SAFETY: all calls go to `System` unchanged; a block is written to only while it is still allocated, within its size.
unsafe impl GlobalAlloc for WipingAllocator {
    // SAFETY: GlobalAlloc's contract is the caller's to keep, here and below.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as of `alloc`.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: as of `alloc`.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller owns `block` of `layout.size()` bytes until this call returns; uninitialised bytes may be
        // overwritten.
        unsafe {
            std::slice::from_raw_parts_mut(block.cast::<std::mem::MaybeUninit<u8>>(), layout.size()).zeroize();
            System.dealloc(block, layout);
        }
    }

    // `realloc` is the default one: allocate, copy, `dealloc`; the system's own could leave the old block unwiped.
}
