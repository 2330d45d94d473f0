//! An io_uring whose memory safety does not depend on its user: a buffer goes in with the operation and comes back with
//! its completion; in between, only the kernel has it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};

use crate::buffer::Buffer;

/// What the kernel is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    Write {
        /// Whether it must be on the storage when it completes.
        durable: bool,
    },
    /// Bring everything that was written to the storage.
    Sync,
}

/// A finished operation.
pub(super) struct Completion<T> {
    pub(super) tag: T,
    pub(super) buffer: Option<Buffer>,
    /// How many bytes were read or written.
    pub(super) result: io::Result<usize>,
}

struct Flight<T> {
    tag: T,
    buffer: Option<Buffer>,
}

/// A ring for one file and one thread.
pub(super) struct Ring<T> {
    uring: IoUring,
    /// Keeps the descriptor open that operations in flight use.
    file: Arc<File>,
    flights: Vec<Option<Flight<T>>>,
    free: Vec<usize>,
    /// Pushed, not yet handed to the kernel.
    pushed: usize,
}

impl<T> Ring<T> {
    /// At most `depth` operations are in flight, so that the completion queue, twice as long, never overflows.
    pub(super) fn new(file: Arc<File>, depth: u32, event: RawFd) -> io::Result<Self> {
        let uring = IoUring::builder().setup_r_disabled().build(depth)?;
        let submitter = uring.submitter();
        submitter.register_eventfd(event)?;
        // No filter of system calls sees what goes through a ring: from here on no more than this can.
        let codes = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE];
        submitter.register_restrictions(&mut codes.map(Restriction::sqe_op))?;
        submitter.register_enable_rings()?;
        let flights: Vec<_> = (0..depth).map(|_| None).collect();
        let free = (0..flights.len()).collect();
        Ok(Self { uring, file, flights, free, pushed: 0 })
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Takes an operation on `range` of the buffer, at that offset of the file. Gives everything back where there is no
    /// room or the range is not in the buffer.
    pub(super) fn push(
        &mut self,
        action: Action,
        offset: u64,
        range: Range<usize>,
        mut buffer: Option<Buffer>,
        tag: T,
    ) -> Result<(), (T, Option<Buffer>)> {
        let descriptor = types::Fd(self.file.as_raw_fd());
        let memory = match (action, &mut buffer) {
            (Action::Sync, _) => None,
            (_, Some(buffer)) if range.start <= range.end && range.end <= buffer.len() => {
                let Ok(length) = u32::try_from(range.len()) else { return Err((tag, None)) };
                // SAFETY: `start` is within the buffer's mapping, as was just checked.
                Some((unsafe { buffer.as_ptr().add(range.start) }, length))
            }
            _ => return Err((tag, buffer)),
        };
        let Some(slot) = self.free.pop() else { return Err((tag, buffer)) };
        let entry = match (action, memory) {
            (Action::Read, Some((pointer, length))) => {
                opcode::Read::new(descriptor, pointer, length).offset(offset).build()
            }
            (Action::Write { durable }, Some((pointer, length))) => opcode::Write::new(descriptor, pointer, length)
                .offset(offset)
                .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                .build(),
            _ => opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build(),
        };
        // SAFETY: the kernel uses the memory and the descriptor until the entry's completion is reaped. The buffer is
        // kept in `flights` and the file in `file` until then, and `drop` waits for all of them.
        let queued = unsafe { self.uring.submission().push(&entry.user_data(slot as u64)) };
        if queued.is_err() {
            self.free.push(slot);
            return Err((tag, buffer));
        }
        self.flights[slot] = Some(Flight { tag, buffer });
        self.pushed += 1;
        Ok(())
    }

    /// Hands what was pushed to the kernel.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        while self.pushed > 0 {
            match self.uring.submit() {
                Ok(count) => self.pushed = self.pushed.saturating_sub(count),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next finished operation, without waiting.
    pub(super) fn next(&mut self) -> Option<Completion<T>> {
        let entry = self.uring.completion().next()?;
        let slot = usize::try_from(entry.user_data()).ok()?;
        let Flight { tag, buffer } = self.flights.get_mut(slot)?.take()?;
        self.free.push(slot);
        let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some(Completion { tag, buffer, result })
    }

    /// Waits until something has finished or nothing is in flight; `false` for the latter.
    pub(super) fn wait(&mut self) -> io::Result<bool> {
        if self.in_flight() == 0 {
            return Ok(false);
        }
        loop {
            match self.uring.submit_and_wait(1) {
                Ok(count) => {
                    self.pushed = self.pushed.saturating_sub(count);
                    return Ok(true);
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.next().is_none() && self.wait().is_err() {
                // The kernel may still write to these buffers: better lost than reused.
                self.flights.drain(..).for_each(std::mem::forget);
                return;
            }
        }
    }
}
