//! Which parts of a disk are being written, so that a write of less than a unit, which reads the unit, changes it and
//! writes it back, doesn't undo another write that happens meanwhile.
//!
//! The disk is cut into stripes of 1 MiB that share a fixed number of counters. Writes of whole units hold their
//! stripes together; a write of less holds them alone. Nobody waits here: who can't have its stripes comes again after
//! somebody released theirs. All or none are held, so that two can't wait for each other.
//!
//! Reads hold nothing. AES-XTS enciphers blocks of 16 bytes each by itself, so a read that meets a write half done sees
//! each block as it was before or as it is after, just as on a disk that is not encrypted.

use std::sync::atomic::{AtomicU32, Ordering};

const STRIPE_BITS: u32 = 20;
const STRIPES: usize = 256;

/// One holds it alone.
const ALONE: u32 = 1 << 31;
/// One waits to hold it alone: no more may hold it together, lest it waits forever.
const WANTED: u32 = 1 << 30;

pub(super) struct Stripes([AtomicU32; STRIPES]);

/// What is held; to be given to [`Stripes::release`].
#[derive(Debug)]
#[must_use]
pub(super) struct Hold {
    first: u64,
    last: u64,
    alone: bool,
}

impl Stripes {
    pub(super) fn new() -> Self {
        Self([const { AtomicU32::new(0) }; STRIPES])
    }

    /// Tries to hold the stripes of `length` bytes, of which there must be less than there are counters.
    pub(super) fn try_hold(&self, offset: u64, length: usize, alone: bool) -> Option<Hold> {
        let first = offset >> STRIPE_BITS;
        let last = offset.saturating_add(length.saturating_sub(1) as u64) >> STRIPE_BITS;
        debug_assert!(last - first < STRIPES as u64);
        for stripe in first..=last {
            let took = if alone { take_alone(self.counter(stripe)) } else { take_together(self.counter(stripe)) };
            if !took {
                (first..stripe).for_each(|stripe| self.give_back(stripe, alone));
                return None;
            }
        }
        Some(Hold { first, last, alone })
    }

    pub(super) fn release(&self, hold: &Hold) {
        (hold.first..=hold.last).for_each(|stripe| self.give_back(stripe, hold.alone));
    }

    fn give_back(&self, stripe: u64, alone: bool) {
        let counter = self.counter(stripe);
        if alone {
            counter.fetch_and(!ALONE, Ordering::SeqCst);
        } else {
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[allow(clippy::cast_possible_truncation)]
    fn counter(&self, stripe: u64) -> &AtomicU32 {
        &self.0[(stripe % STRIPES as u64) as usize]
    }
}

fn take_together(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now & (ALONE | WANTED) == 0).then_some(now + 1))
        .is_ok()
}

fn take_alone(counter: &AtomicU32) -> bool {
    // Whoever takes it also takes the wish away; another that still has it wishes again when it tries again.
    let free = |now: u32| (now & !WANTED == 0).then_some(ALONE);
    if counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok() {
        return true;
    }
    counter.fetch_or(WANTED, Ordering::SeqCst);
    // The holder may have gone between the two, and would tell nobody any more.
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn together_or_alone_and_all_or_none() {
        let stripes = Stripes::new();
        let one = stripes.try_hold(0, 4096, false).unwrap();
        let two = stripes.try_hold(8192, 4096, false).unwrap();
        assert!(stripes.try_hold(512, 512, true).is_none());
        assert!(stripes.try_hold(4096, 4096, false).is_none(), "one waits to be alone");
        let elsewhere = stripes.try_hold(5 * MIB, 512, true).unwrap();
        stripes.release(&one);
        stripes.release(&two);
        let alone = stripes.try_hold(MIB - 512, 1024, true).unwrap();
        assert!(stripes.try_hold(MIB + 4096, 4096, false).is_none());
        assert!(stripes.try_hold(4 * MIB, 1 << 21, true).is_none());
        stripes.release(&alone);
        stripes.release(&elsewhere);
        // That attempt wished for stripe 4 or 5 only; the wish goes when it is tried again.
        let again = stripes.try_hold(4 * MIB, 1 << 21, true).unwrap();
        stripes.release(&again);
        let after = stripes.try_hold(0, 16 << 20, false).unwrap();
        stripes.release(&after);
        assert!(stripes.0.iter().all(|counter| counter.load(Ordering::SeqCst) == 0));
    }
}
