//! Bounce buffers of one queue: made when first needed, kept, never more than a fixed number.

use crate::buffer::Buffer;

/// What most requests need.
const SMALL: usize = 16 << 10;
/// The most that is read, written and ciphered at a time; longer requests are cut.
pub(super) const LARGE: usize = 256 << 10;

/// How much memory all queues of a process may take together, as far as each gets its least.
const ALL_SMALL: usize = 16 << 20;
const ALL_LARGE: usize = 16 << 20;

pub(super) struct Pool {
    small: Class,
    large: Class,
}

struct Class {
    size: usize,
    left: usize,
    free: Vec<Buffer>,
}

impl Pool {
    /// One of `queues` pools.
    pub(super) fn new(queues: usize) -> Self {
        let share = |all: usize, size: usize, least: usize, most: usize| Class {
            size,
            left: (all / size / queues.max(1)).clamp(least, most),
            free: Vec::new(),
        };
        Self { small: share(ALL_SMALL, SMALL, 8, 128), large: share(ALL_LARGE, LARGE, 2, 32) }
    }

    /// A buffer of at least that length, which must be at most [`LARGE`]. Its contents are anything.
    pub(super) fn take(&mut self, length: usize) -> Option<Buffer> {
        let small = if length <= SMALL { self.small.take() } else { None };
        small.or_else(|| if length <= LARGE { self.large.take() } else { None })
    }

    pub(super) fn give_back(&mut self, buffer: Buffer) {
        let class = if buffer.len() == SMALL { &mut self.small } else { &mut self.large };
        class.free.push(buffer);
    }
}

impl Class {
    fn take(&mut self) -> Option<Buffer> {
        self.free.pop().or_else(|| {
            self.left = self.left.checked_sub(1)?;
            Buffer::new(self.size).ok()
        })
    }
}
