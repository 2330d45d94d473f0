//! The work itself: chunks, handed out in order, copied by several threads, noted when they are on the storage.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::checkpoint::Checkpoint;
use super::source::{Extent, Source};
use super::target::Target;
use super::{CHUNK, Ciphers};
use crate::buffer::Buffer;
use crate::cipher::PayloadCipher;
use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use crate::order::ConvertOrder;
use crate::report::Report;

const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How much work a crash may cost.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(2);

/// What is to be copied.
pub(super) struct Job<'a> {
    pub(super) order: &'a ConvertOrder,
    pub(super) source: &'a Source,
    pub(super) target: &'a Target,
    pub(super) cancelled: &'a AtomicBool,
}

/// What was copied.
pub(super) struct Copied {
    pub(super) zero_bytes: u64,
}

/// Copies everything from the checkpoint's watermark on.
pub(super) fn run(
    job: Job<'_>,
    ciphers: Vec<Ciphers>,
    mut checkpoint: Checkpoint,
    report: &mut dyn FnMut(Report),
) -> Result<Copied> {
    let planner = Mutex::new(Planner { next: checkpoint.watermark, known: None, zero_bytes: 0 });
    let tally = Mutex::new(Tally {
        watermark: checkpoint.watermark,
        ahead: BTreeSet::new(),
        working: ciphers.len(),
        failure: None,
    });
    let changed = Condvar::new();
    let buffers = ciphers.iter().map(|_| Buffer::new(chunk_size()).doing("allocate a buffer", job.source.path()));
    let buffers = buffers.collect::<Result<Vec<_>>>()?;
    let outcome = std::thread::scope(|scope| {
        for (ciphers, buffer) in ciphers.into_iter().zip(buffers) {
            let (job, planner, tally, changed) = (&job, &planner, &tally, &changed);
            scope.spawn(move || {
                let _leaving = Leaving { tally, changed };
                if let Err(error) = (Worker { job, ciphers, buffer }).run(planner, tally) {
                    // The first is the cause; the others stop because of it.
                    held(tally).failure.get_or_insert(error);
                }
            });
        }
        watch(&job, &tally, &changed, &mut checkpoint, report)
    });
    outcome?;
    let zero_bytes = planner.into_inner().unwrap_or_else(PoisonError::into_inner).zero_bytes;
    Ok(Copied { zero_bytes })
}

/// Signs a worker off, however it ends.
struct Leaving<'a> {
    tally: &'a Mutex<Tally>,
    changed: &'a Condvar,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut tally = held(self.tally);
        tally.working -= 1;
        if std::thread::panicking() {
            let error = DiskError::new(DiskErrorKind::Io, "convert", "a thread failed; this is a defect");
            tally.failure.get_or_insert(error);
        }
        self.changed.notify_one();
    }
}

/// Reports and takes notes until the workers are done.
fn watch(
    job: &Job<'_>,
    tally: &Mutex<Tally>,
    changed: &Condvar,
    checkpoint: &mut Checkpoint,
    report: &mut dyn FnMut(Report),
) -> Result<()> {
    let total = job.order.size;
    let mut noted = Instant::now();
    loop {
        let (working, watermark) = {
            let guard = held(tally);
            let (guard, _) = changed
                .wait_timeout_while(guard, PROGRESS_EVERY, |tally| tally.working > 0)
                .unwrap_or_else(PoisonError::into_inner);
            if guard.working == 0
                && let Some(failure) = &guard.failure
            {
                return Err(failure.clone());
            }
            (guard.working, guard.watermark.min(total))
        };
        report(Report::Progress { done: watermark, total });
        // An image that can't be resumed needs no notes.
        if job.target.can_resume()
            && watermark > checkpoint.watermark
            && (working == 0 || noted.elapsed() >= CHECKPOINT_EVERY)
        {
            job.target
                .sync_data()
                .and_then(|()| {
                    crash_point::reach("convert.synced");
                    checkpoint.watermark = watermark;
                    checkpoint.save(&job.order.checkpoint)
                })
                .inspect_err(|error| {
                    // The workers must not go on for hours over storage that can't keep the result.
                    held(tally).failure.get_or_insert(error.clone());
                })?;
            noted = Instant::now();
        }
        if working == 0 {
            return Ok(());
        }
    }
}

/// Hands out the chunks in order.
struct Planner {
    next: u64,
    known: Option<Extent>,
    zero_bytes: u64,
}

struct Chunk {
    offset: u64,
    length: u64,
    /// What in it need not be read; these follow each other from its beginning to its end.
    extents: Vec<Extent>,
}

impl Planner {
    fn claim(&mut self, source: &Source, size: u64) -> Result<Option<Chunk>> {
        if self.next >= size {
            return Ok(None);
        }
        let offset = self.next;
        let end = size.min(offset + CHUNK);
        let mut extents = Vec::new();
        let mut at = offset;
        while at < end {
            let known = match self.known {
                Some(known) if known.end > at => known,
                _ => source.extent(at)?,
            };
            self.known = Some(known);
            let part = Extent { zero: known.zero, end: known.end.min(end) };
            if part.zero {
                self.zero_bytes += part.end - at;
            }
            at = part.end;
            extents.push(part);
        }
        self.next = end;
        Ok(Some(Chunk { offset, length: end - offset, extents }))
    }
}

/// Which chunks are written.
struct Tally {
    /// Everything before it is.
    watermark: u64,
    /// Ends of chunks that were finished before an earlier one, by their beginning.
    ahead: BTreeSet<(u64, u64)>,
    working: usize,
    failure: Option<DiskError>,
}

impl Tally {
    fn finished(&mut self, offset: u64, length: u64) {
        self.ahead.insert((offset, offset + length));
        while let Some((from, to)) = self.ahead.first().copied().filter(|(from, _)| *from == self.watermark) {
            self.ahead.remove(&(from, to));
            self.watermark = to;
        }
    }
}

struct Worker<'a> {
    job: &'a Job<'a>,
    ciphers: Ciphers,
    buffer: Buffer,
}

impl Worker<'_> {
    fn run(&mut self, planner: &Mutex<Planner>, tally: &Mutex<Tally>) -> Result<()> {
        loop {
            if self.job.cancelled.load(Ordering::Relaxed) {
                return Err(DiskError::new(DiskErrorKind::Cancelled, "convert", "it was cancelled"));
            }
            if held(tally).failure.is_some() {
                return Ok(());
            }
            let Some(chunk) = held(planner).claim(self.job.source, self.job.order.size)? else { return Ok(()) };
            self.copy(&chunk)?;
            crash_point::reach("convert.chunk");
            held(tally).finished(chunk.offset, chunk.length);
        }
    }

    fn copy(&mut self, chunk: &Chunk) -> Result<()> {
        let Self { job, ciphers: (decrypt, encrypt), buffer } = self;
        let all_zero = chunk.extents.iter().all(|extent| extent.zero);
        if all_zero && !job.target.stores_zeros() {
            return Ok(());
        }
        if all_zero {
            buffer.fill(0);
        } else {
            read(job.source, chunk, decrypt, buffer)?;
        }
        let written = job.target.padded(chunk.length);
        let bytes = &mut buffer[..to_usize(written)];
        bytes[to_usize(chunk.length)..].fill(0);
        if let Some(cipher) = encrypt {
            cipher.encrypt(chunk.offset, bytes)?;
        }
        job.target.write(chunk.offset, bytes)
    }
}

/// Reads a chunk's plain contents.
fn read(source: &Source, chunk: &Chunk, decrypt: &mut Option<PayloadCipher>, buffer: &mut Buffer) -> Result<()> {
    if let Some(cipher) = decrypt {
        let bytes = &mut buffer[..to_usize(source.padded(chunk.length))];
        source.read(chunk.offset, bytes)?;
        return cipher.decrypt(chunk.offset, bytes);
    }
    let mut at = 0;
    for extent in &chunk.extents {
        let end = to_usize(extent.end - chunk.offset);
        let part = &mut buffer[at..end];
        if extent.zero {
            part.fill(0);
        } else {
            source.read(chunk.offset + at as u64, part)?;
        }
        at = end;
    }
    Ok(())
}

/// Whether the last chunk before that offset of the target is the source's: the proof that both are still the disks
/// that the checkpoint was about, and that the keys are.
pub(super) fn agrees_before(
    watermark: u64,
    source: &Source,
    target: &Target,
    size: u64,
    ciphers: &mut Ciphers,
) -> Result<bool> {
    if watermark == 0 {
        return Ok(true);
    }
    let (decrypt, encrypt) = ciphers;
    let offset = (watermark - 1) / CHUNK * CHUNK;
    let mut planner = Planner { next: offset, known: None, zero_bytes: 0 };
    let Some(chunk) = planner.claim(source, size)? else { return Ok(false) };
    let allocate = || Buffer::new(chunk_size()).doing("allocate a buffer", source.path());
    let (mut expected, mut found) = (allocate()?, allocate()?);
    read(source, &chunk, decrypt, &mut expected)?;
    let found = &mut found[..to_usize(target.padded(chunk.length))];
    match target.read_back(offset, found) {
        Err(error) if error.kind == DiskErrorKind::ImageTruncated => return Ok(false),
        other => other?,
    }
    if let Some(cipher) = encrypt {
        cipher.decrypt(offset, found)?;
    }
    let length = to_usize(chunk.length);
    Ok(expected[..length] == found[..length])
}

fn chunk_size() -> usize {
    to_usize(CHUNK)
}

/// Nothing longer than a chunk is meant.
#[allow(clippy::cast_possible_truncation)]
fn to_usize(length: u64) -> usize {
    debug_assert!(length <= CHUNK);
    length as usize
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
