//! One queue's engine: takes requests from the ring that it shares with the guest, carries them out, answers them.
//!
//! ```text
//! guest ring -> Request -> pieces of at most one bounce buffer:
//!     read                      read, decrypt, copy to the guest
//!     write of whole units      copy from the guest, encrypt, write
//!     write of less             read, decrypt, copy from the guest into it, encrypt, write
//! ```
//!
//! Plaintext and ciphertext meet only in bounce buffers: guest memory never holds ciphertext, and a guest that changes
//! its memory meanwhile changes at most what it reads or writes itself.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::os::fd::AsRawFd;

use vhost_user_backend::{VringRwLock, VringT};
use virtio_bindings::virtio_blk::VIRTIO_BLK_S_OK;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use super::disk::Disk;
use super::pool::{LARGE, Pool};
use super::request::{Kind, Refused, Request, STATUS_IO_ERROR, copy_in, copy_out, parse};
use super::ring::{Action, Completion, Ring};
use super::stripes::Hold;
use crate::buffer::Buffer;
use crate::cipher::PayloadCipher;

pub(super) type Memory = GuestMemoryMmap<()>;
pub(super) type AtomicMemory = GuestMemoryAtomic<Memory>;

/// Operations in flight; a power of two, as the kernel wants it.
const DEPTH: u32 = 128;
/// Requests that are taken from the guest and not answered yet.
const MAX_ACTIVE: usize = 256;
const SERIAL: usize = 20;

/// Carries out the requests of one queue, on one thread at a time.
pub(super) struct QueueWorker {
    disk: Arc<Disk>,
    cipher: Option<PayloadCipher>,
    ring: Ring<Flight>,
    pool: Pool,
    requests: Vec<Option<Active>>,
    free: Vec<usize>,
    /// Requests of which a part is not begun yet.
    waiting: VecDeque<usize>,
    /// Whether the others know that this one waits for stripes.
    parked: bool,
    /// Descriptor heads to give back, with how much was written there.
    answered: Vec<(u16, u32)>,
}

/// A request that is being carried out.
struct Active {
    head: u16,
    request: Request,
    /// How much of it is begun.
    begun: u64,
    outstanding: u32,
    failed: bool,
}

/// A piece of a request, grown to whole units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// Where it begins on the disk.
    offset: u64,
    length: usize,
    /// Which part of it the request is about.
    from: usize,
    to: usize,
    /// Where that part lies in the request's data.
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    /// Read what is to be changed.
    Fetch,
    Write,
    Flush,
}

struct Flight {
    request: usize,
    step: Step,
    span: Span,
    /// How much of the span is read or written.
    done: usize,
    hold: Option<Hold>,
}

/// Why a request could not be begun as a whole.
enum Blocked {
    /// No buffer or no place in the ring: nothing else can begin either.
    Resources,
    /// Another write holds what it needs.
    Stripe,
}

impl QueueWorker {
    pub(super) fn new(disk: Arc<Disk>, index: usize, cipher: Option<PayloadCipher>, queues: usize) -> io::Result<Self> {
        let waker = disk.wakers.get(index).ok_or(io::ErrorKind::InvalidInput)?;
        let ring = Ring::new(Arc::clone(&disk.file), DEPTH, waker.as_raw_fd())?;
        Ok(Self {
            disk,
            cipher,
            ring,
            pool: Pool::new(queues),
            requests: (0..MAX_ACTIVE).map(|_| None).collect(),
            free: (0..MAX_ACTIVE).collect(),
            waiting: VecDeque::new(),
            parked: false,
            answered: Vec::new(),
        })
    }

    /// Whether nothing is unanswered.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.requests.len() && self.answered.is_empty()
    }

    /// Does everything that can be done without waiting. `busy` is told before a request is taken.
    pub(super) fn run(&mut self, vring: &VringRwLock<AtomicMemory>, shared: &AtomicMemory, busy: impl Fn()) {
        let mut asked_again = false;
        loop {
            let memory = shared.memory();
            let mut moved = false;
            while let Some(completion) = self.ring.next() {
                self.completed(completion, &memory);
                moved = true;
            }
            self.begin_waiting(&memory);
            moved |= self.accept(vring, shared, &busy);
            if let Err(error) = self.ring.submit() {
                // What was pushed stays pushed; completions that are reaped first make room.
                tracing::warn!(%error, "the kernel takes no more operations");
            }
            self.answer(vring);
            if moved {
                asked_again = false;
            } else if asked_again || !self.more_to_accept(vring) {
                // A ring that says that there is more and gives nothing must not keep this thread busy.
                return;
            } else {
                asked_again = true;
            }
        }
    }

    /// Forgets what the guest asked for, once what is in flight has landed. For a front end that is gone.
    pub(super) fn abandon(&mut self) {
        loop {
            while let Some(Completion { tag, buffer, .. }) = self.ring.next() {
                self.put_away(tag.hold, buffer);
            }
            match self.ring.wait() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for operations in flight");
                    break;
                }
            }
        }
        self.requests.iter_mut().for_each(|request| *request = None);
        self.free = (0..self.requests.len()).collect();
        self.waiting.clear();
        self.answered.clear();
        self.set_parked(false);
    }

    /// Whether another request can be begun. One that waits is an earlier one, of which a part could not.
    fn can_accept(&self) -> bool {
        self.waiting.is_empty() && !self.free.is_empty() && self.ring.has_room()
    }

    /// Takes requests from the guest.
    fn accept(&mut self, vring: &VringRwLock<AtomicMemory>, shared: &AtomicMemory, busy: &impl Fn()) -> bool {
        let mut accepted = false;
        while self.can_accept() {
            let (chain, memory) = {
                // One that is being stopped is made not ready under this lock; after that nothing is taken any more.
                let mut vring = vring.get_mut();
                if !vring.is_enabled() {
                    return accepted;
                }
                let queue = vring.get_queue_mut();
                let available = queue.avail_idx(&*shared.memory(), Ordering::Acquire);
                if !available.is_ok_and(|index| index.0 != queue.next_avail()) {
                    return accepted;
                }
                // Only memory looked up after the request was seen has all that the front end shared before it asked.
                let memory = shared.memory();
                let Some(chain) = queue.pop_descriptor_chain(memory.clone()) else { return accepted };
                busy();
                (chain, memory)
            };
            accepted = true;
            let head = chain.head_index();
            match parse(chain, self.disk.limits) {
                Ok(request) => self.begin(head, request, &memory),
                Err(Refused { answer }) => {
                    count(&self.disk.counters.errors, 1);
                    let written = answer.map_or(0, |(address, status)| {
                        // Whether the guest has memory there is its own concern.
                        let _ = memory.write_obj(status, address);
                        1
                    });
                    self.answered.push((head, written));
                }
            }
        }
        accepted
    }

    /// Asks to be told of more; says whether there is more already that can be taken now.
    fn more_to_accept(&mut self, vring: &VringRwLock<AtomicMemory>) -> bool {
        let mut vring = vring.get_mut();
        if !vring.is_enabled() || !vring.get_queue().ready() {
            return false;
        }
        vring.enable_notification().unwrap_or(false) && self.can_accept()
    }

    fn begin(&mut self, head: u16, request: Request, memory: &Memory) {
        let Some(id) = self.free.pop() else { return };
        let kind = request.kind;
        let active = Active { head, request, begun: 0, outstanding: 0, failed: false };
        self.requests[id] = Some(active);
        match kind {
            Kind::Read | Kind::Write => {
                self.waiting.push_back(id);
                self.begin_waiting(memory);
            }
            Kind::Flush => {
                if let Some(active) = &mut self.requests[id] {
                    active.outstanding = 1;
                }
                let flight = Flight { request: id, step: Step::Flush, span: Span::NONE, done: 0, hold: None };
                self.push(flight, None, true);
                self.conclude(id, memory);
            }
            Kind::GetId => {
                let mut serial = [0u8; SERIAL];
                let known = self.disk.serial.as_bytes();
                serial[..known.len().min(SERIAL)].copy_from_slice(&known[..known.len().min(SERIAL)]);
                if let Some(active) = &mut self.requests[id] {
                    let length = usize::try_from(active.request.length).unwrap_or(SERIAL).min(SERIAL);
                    active.failed = copy_out(memory, &active.request.data, 0, &serial[..length]).is_none();
                }
                self.conclude(id, memory);
            }
        }
    }

    /// Begins what waits, as far as there is room and nothing else is in the way.
    fn begin_waiting(&mut self, memory: &Memory) {
        let mut stripe = self.begin_each(memory);
        if stripe && !self.parked {
            // Whoever releases a stripe from here on says so; who did just before did not.
            self.set_parked(true);
            stripe = self.begin_each(memory);
        }
        if !stripe {
            self.set_parked(false);
        }
    }

    /// Whether something waits for a stripe.
    fn begin_each(&mut self, memory: &Memory) -> bool {
        let mut stripe = false;
        for _ in 0..self.waiting.len() {
            let Some(id) = self.waiting.pop_front() else { break };
            match self.begin_pieces(id, memory) {
                Ok(()) => {}
                Err(Blocked::Stripe) => {
                    stripe = true;
                    self.waiting.push_back(id);
                }
                Err(Blocked::Resources) => {
                    self.waiting.push_front(id);
                    break;
                }
            }
        }
        stripe
    }

    fn set_parked(&mut self, parked: bool) {
        match (self.parked, parked) {
            (false, true) => self.disk.park(),
            (true, false) => self.disk.unpark(),
            _ => {}
        }
        self.parked = parked;
    }

    fn begin_pieces(&mut self, id: usize, memory: &Memory) -> Result<(), Blocked> {
        loop {
            let Some(active) = &mut self.requests[id] else { return Ok(()) };
            if active.failed || active.begun == active.request.length {
                // A failed one whose last piece has landed already is answered here.
                if active.outstanding == 0 {
                    self.conclude(id, memory);
                }
                return Ok(());
            }
            if !self.ring.has_room() {
                return Err(Blocked::Resources);
            }
            let request = &active.request;
            let span = Span::next(request.offset, request.length, active.begun, self.disk.unit);
            let writes = request.kind == Kind::Write;
            let hold = if writes && self.disk.excludes() {
                Some(self.disk.try_hold(span.offset, span.length, !span.is_whole()).ok_or(Blocked::Stripe)?)
            } else {
                None
            };
            let Some(mut buffer) = self.pool.take(span.length) else {
                if let Some(hold) = &hold {
                    self.disk.release(hold);
                }
                return Err(Blocked::Resources);
            };
            let step = match (writes, span.is_whole()) {
                (false, _) => Step::Read,
                (true, true) => Step::Write,
                (true, false) => Step::Fetch,
            };
            active.begun += (span.to - span.from) as u64;
            active.outstanding += 1;
            let ready = step != Step::Write || {
                let bytes = &mut buffer[..span.length];
                copy_in(memory, &request.data, span.at, bytes).is_some()
                    && encrypt(&mut self.cipher, span.offset, bytes)
            };
            self.push(Flight { request: id, step, span, done: 0, hold }, Some(buffer), ready);
        }
    }

    /// Gives an operation to the kernel; where it can't (`ready` is false, or there is no place), the request fails.
    fn push(&mut self, flight: Flight, buffer: Option<Buffer>, ready: bool) {
        let action = match flight.step {
            Step::Read | Step::Fetch => Action::Read,
            Step::Write => Action::Write { durable: self.disk.write_through() },
            Step::Flush => Action::Sync,
        };
        let offset = self.disk.data_offset + flight.span.offset + flight.done as u64;
        let range = flight.done..flight.span.length;
        let refused =
            if ready { self.ring.push(action, offset, range, buffer, flight).err() } else { Some((flight, buffer)) };
        if let Some((flight, buffer)) = refused {
            self.landed(flight, buffer, false);
        }
    }

    fn completed(&mut self, completion: Completion<Flight>, memory: &Memory) {
        let Completion { tag: mut flight, buffer, result } = completion;
        let id = flight.request;
        match result {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                // Its place in the ring has just become free.
                self.push(flight, buffer, true);
            }
            Err(error) => {
                tracing::error!(%error, step = ?flight.step, offset = flight.span.offset, "an operation failed");
                self.landed(flight, buffer, false);
            }
            Ok(0) if flight.step != Step::Flush => {
                tracing::error!(step = ?flight.step, offset = flight.span.offset, "the image ends here");
                self.landed(flight, buffer, false);
            }
            Ok(count) => {
                flight.done += count;
                if flight.done < flight.span.length {
                    self.push(flight, buffer, true);
                } else {
                    self.finished(flight, buffer, memory);
                }
            }
        }
        self.conclude(id, memory);
    }

    /// An operation has done all that it was to do.
    fn finished(&mut self, flight: Flight, mut buffer: Option<Buffer>, memory: &Memory) {
        let span = flight.span;
        let Some(active) = &self.requests[flight.request] else { return self.put_away(flight.hold, buffer) };
        let data = &active.request.data;
        let bytes = buffer.as_mut().map(|buffer| &mut buffer[..span.length]).unwrap_or_default();
        match flight.step {
            Step::Write | Step::Flush => self.landed(flight, buffer, true),
            Step::Read => {
                let good = decrypt(&mut self.cipher, span.offset, bytes)
                    && copy_out(memory, data, span.at, &bytes[span.from..span.to]).is_some();
                self.landed(flight, buffer, good);
            }
            Step::Fetch => {
                let good = decrypt(&mut self.cipher, span.offset, bytes)
                    && copy_in(memory, data, span.at, &mut bytes[span.from..span.to]).is_some()
                    && encrypt(&mut self.cipher, span.offset, bytes);
                self.push(Flight { step: Step::Write, done: 0, ..flight }, buffer, good);
            }
        }
    }

    /// A piece is done with, one way or the other.
    fn landed(&mut self, flight: Flight, buffer: Option<Buffer>, good: bool) {
        if let Some(active) = &mut self.requests[flight.request] {
            active.outstanding -= 1;
            active.failed |= !good;
        }
        self.put_away(flight.hold, buffer);
    }

    fn put_away(&mut self, hold: Option<Hold>, buffer: Option<Buffer>) {
        if let Some(hold) = hold {
            self.disk.release(&hold);
        }
        if let Some(buffer) = buffer {
            self.pool.give_back(buffer);
        }
    }

    /// Answers a request of which nothing is left to do.
    fn conclude(&mut self, id: usize, memory: &Memory) {
        let Some(active) = &self.requests[id] else { return };
        let begun = active.failed || active.begun == active.request.length || active.request.kind == Kind::GetId;
        if active.outstanding > 0 || !begun {
            return;
        }
        let Some(Active { head, request, failed, .. }) = self.requests[id].take() else { return };
        self.free.push(id);
        let counters = &self.disk.counters;
        match (request.kind, failed) {
            (_, true) => count(&counters.errors, 1),
            (Kind::Read, _) => {
                count(&counters.reads, 1);
                count(&counters.read_bytes, request.length);
            }
            (Kind::Write, _) => {
                count(&counters.writes, 1);
                count(&counters.written_bytes, request.length);
            }
            (Kind::Flush, _) => count(&counters.flushes, 1),
            (Kind::GetId, _) => {}
        }
        let status = if failed { STATUS_IO_ERROR } else { STATUS_OK };
        // Whether the guest has memory there is its own concern.
        let _ = memory.write_obj(status, request.status);
        let data = if request.kind == Kind::Read && !failed {
            u32::try_from(request.length).unwrap_or(u32::MAX - 1)
        } else {
            0
        };
        self.answered.push((head, data + 1));
    }

    /// Tells the guest what is done.
    fn answer(&mut self, vring: &VringRwLock<AtomicMemory>) {
        if self.answered.is_empty() {
            return;
        }
        let mut vring = vring.get_mut();
        for (head, written) in self.answered.drain(..) {
            if let Err(error) = vring.add_used(head, written) {
                tracing::warn!(%error, head, "the guest's ring takes no answer");
            }
        }
        if vring.needs_notification().unwrap_or(true)
            && let Err(error) = vring.signal_used_queue()
        {
            tracing::warn!(%error, "cannot notify the guest");
        }
    }
}

#[allow(clippy::cast_possible_truncation)]
const STATUS_OK: u8 = VIRTIO_BLK_S_OK as u8;

impl Span {
    const NONE: Self = Self { offset: 0, length: 0, from: 0, to: 0, at: 0 };

    /// The next piece of a request of which `begun` bytes are begun: as much as fits a buffer, up to a whole unit.
    fn next(offset: u64, length: u64, begun: u64, unit: u64) -> Self {
        let start = offset + begun;
        let first = start - start % unit;
        let end = (offset + length).min(first + LARGE as u64);
        let last = end.next_multiple_of(unit);
        Self {
            offset: first,
            length: small(last - first),
            from: small(start - first),
            to: small(end - first),
            at: begun,
        }
    }

    fn is_whole(&self) -> bool {
        self.from == 0 && self.to == self.length
    }
}

/// Nothing longer than a buffer is meant.
#[allow(clippy::cast_possible_truncation)]
fn small(length: u64) -> usize {
    debug_assert!(length <= LARGE as u64);
    length as usize
}

fn encrypt(cipher: &mut Option<PayloadCipher>, offset: u64, bytes: &mut [u8]) -> bool {
    cipher.as_mut().is_none_or(|cipher| cipher.encrypt(offset, bytes).is_ok())
}

fn decrypt(cipher: &mut Option<PayloadCipher>, offset: u64, bytes: &mut [u8]) -> bool {
    cipher.as_mut().is_none_or(|cipher| cipher.decrypt(offset, bytes).is_ok())
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
