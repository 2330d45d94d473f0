//! One disk that is served: its file, its shape, and what its queues share.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vmm_sys_util::eventfd::EventFd;

use super::request::{Limits, SECTOR};
use super::stripes::{Hold, Stripes};
use crate::buffer::Buffer;
use crate::error::{DiskError, DiskErrorKind, Doing, Result};
use crate::image::{self, ImageKind};
use crate::lock::{self, Access};
use crate::order::{ExportDisk, ImageFormat};
use crate::report::Stats;

/// What the queues of a disk share; nothing of it is locked.
pub(super) struct Disk {
    /// What is read and written, with direct I/O where the storage can; it holds the lock.
    pub(super) file: Arc<File>,
    pub(super) limits: Limits,
    /// Where the disk begins in the file.
    pub(super) data_offset: u64,
    /// What must be read and written as a whole: an encrypted sector, or what direct I/O wants.
    pub(super) unit: u64,
    pub(super) serial: String,
    pub(super) queues: u16,
    /// Whether each write must be on the storage when it is done.
    write_through: AtomicBool,
    pub(super) counters: Counters,
    stripes: Stripes,
    /// How many queues wait for a stripe.
    parked: AtomicU32,
    /// Wakes each queue's thread.
    pub(super) wakers: Vec<EventFd>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) errors: AtomicU64,
}

impl Disk {
    pub(super) fn open(order: &ExportDisk, file: File) -> Result<Self> {
        let path = &order.path;
        let Layout { data_offset, sector, payload } =
            lock_and_measure(&file, path, order.format, order.size, order.read_only)?;
        set_direct(&file, true).doing("set up the image", path)?;
        let unit = match alignment(&file, data_offset) {
            // Whole units must be on the disk, or its end could not be written.
            Some(alignment) if payload.is_multiple_of(sector.max(alignment)) => sector.max(alignment),
            _ => {
                set_direct(&file, false).doing("set up the image", path)?;
                sector
            }
        };
        let wakers = (0..order.num_queues)
            .map(|_| EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))
            .collect::<std::io::Result<_>>()
            .doing("make an event for", path)?;
        Ok(Self {
            file: Arc::new(file),
            limits: Limits { size: order.size, read_only: order.read_only },
            data_offset,
            unit,
            serial: order.serial.clone(),
            queues: order.num_queues,
            write_through: AtomicBool::new(false),
            counters: Counters::default(),
            stripes: Stripes::new(),
            parked: AtomicU32::new(0),
            wakers,
        })
    }

    /// Brings everything to the storage.
    pub(super) fn sync(&self, path: &Path) -> Result<()> {
        if self.limits.read_only {
            return Ok(());
        }
        self.file.sync_data().doing("sync the image", path)
    }

    /// Whether each write must be on the storage when it is done: so for a guest that never flushes.
    pub(super) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }

    pub(super) fn set_write_through(&self, on: bool) {
        self.write_through.store(on, Ordering::Relaxed);
    }

    /// Whether writes can be of less than a unit at all.
    pub(super) fn excludes(&self) -> bool {
        self.unit > SECTOR
    }

    pub(super) fn try_hold(&self, offset: u64, length: usize, alone: bool) -> Option<Hold> {
        self.stripes.try_hold(offset, length, alone)
    }

    pub(super) fn release(&self, hold: &Hold) {
        self.stripes.release(hold);
        if self.parked.load(Ordering::SeqCst) > 0 {
            for waker in &self.wakers {
                // Its counter being full, the thread is awake anyhow.
                let _ = waker.write(1);
            }
        }
    }

    /// A queue begins to wait for stripes; it must try once more afterwards.
    pub(super) fn park(&self) {
        self.parked.fetch_add(1, Ordering::SeqCst);
    }

    /// A queue waits no more.
    pub(super) fn unpark(&self) {
        self.parked.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn add_to(&self, stats: &mut Stats) {
        self.counters.add_to(stats);
    }
}

impl Counters {
    pub(super) fn add_to(&self, stats: &mut Stats) {
        let Self { reads, read_bytes, writes, written_bytes, flushes, errors } = self;
        stats.reads += reads.load(Ordering::Relaxed);
        stats.read_bytes += read_bytes.load(Ordering::Relaxed);
        stats.writes += writes.load(Ordering::Relaxed);
        stats.written_bytes += written_bytes.load(Ordering::Relaxed);
        stats.flushes += flushes.load(Ordering::Relaxed);
        stats.errors += errors.load(Ordering::Relaxed);
    }
}

/// Where a volume lies in its file.
pub(super) struct Layout {
    /// Where it begins.
    pub(super) data_offset: u64,
    /// What must be ciphered as a whole, or a sector of a plain one.
    pub(super) sector: u64,
    /// How long it is, in whole sectors.
    pub(super) payload: u64,
}

/// Locks an image for oneself, and makes sure that a volume of that size is in it.
pub(super) fn lock_and_measure(
    file: &File,
    path: &Path,
    format: ImageFormat,
    size: u64,
    read_only: bool,
) -> Result<Layout> {
    lock::lock(file, path, if read_only { Access::Shared } else { Access::Exclusive })?;
    let (data_offset, sector, payload) = match format {
        ImageFormat::Luks2 { data_offset, sector_size } => {
            let payload = size.next_multiple_of(sector_size.bytes());
            let has = file.metadata().doing("look at the image", path)?.len();
            let needs = data_offset.saturating_add(payload);
            if has < needs {
                let why = format!("it ends after {has} bytes and should have {needs}");
                return Err(DiskError::new(DiskErrorKind::ImageTruncated, "export", why).at_path(path));
            }
            (data_offset, sector_size.bytes(), payload)
        }
        ImageFormat::Raw => {
            let has = image::probe_file(file, path, Some(ImageKind::Raw))?.virtual_size;
            if has != size {
                let kind = if has < size { DiskErrorKind::ImageTruncated } else { DiskErrorKind::ImageInvalid };
                let why = format!("its disk has {has} bytes, not the {size} that were ordered");
                return Err(DiskError::new(kind, "export", why).at_path(path));
            }
            (0, SECTOR, size)
        }
        ImageFormat::Qcow2 => {
            return Err(DiskError::new(DiskErrorKind::ImageUnsupported, "export", "qcow2").at_path(path));
        }
    };
    Ok(Layout { data_offset, sector, payload })
}

/// Switches direct I/O. Storage that can't do it may say so here, or when it is read.
fn set_direct(file: &File, on: bool) -> std::io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    match fcntl_setfl(file, flags) {
        Err(rustix::io::Errno::INVAL) if on => Ok(()),
        set => Ok(set?),
    }
}

/// The alignment that direct I/O wants; none where the storage has none.
fn alignment(file: &File, data_offset: u64) -> Option<u64> {
    if !fcntl_getfl(file).ok()?.contains(OFlags::DIRECT) {
        return None;
    }
    let mut buffer = Buffer::new(4096).ok()?;
    // The only way to know the alignment everywhere is to try.
    let alignment = [512usize, 4096].into_iter().find(|alignment| {
        // At an odd multiple, which the next larger alignment would refuse.
        let at = data_offset + *alignment as u64;
        data_offset.is_multiple_of(*alignment as u64) && file.read_at(&mut buffer[..*alignment], at).is_ok()
    })?;
    Some(alignment as u64)
}
