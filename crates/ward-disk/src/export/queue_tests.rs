//! The engine against guests of all kinds, without a socket between them.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{GuestAddress, GuestRegionMmap};
use ward_secret::Dek;

use super::*;
use crate::order::{ExportDisk, ImageFormat, SectorSize};

const MEMORY: u64 = 4 << 20;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x8000;
const USED: u64 = 0xa000;
const HEADERS: u64 = 0x1_0000;
const STATUSES: u64 = 0x1_8000;
const DATA: u64 = 0x10_0000;
const SIZE: u16 = 64;
const DISK: u64 = 256 << 10;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// What a status byte is before it is written.
const UNTOUCHED: u8 = 0xcc;

struct Guest {
    memory: AtomicMemory,
    vring: VringRwLock<AtomicMemory>,
    worker: QueueWorker,
    image: std::path::PathBuf,
    next_descriptor: u16,
    next_available: u16,
    _dir: TempDir,
}

impl Guest {
    fn new(encrypted: bool, read_only: bool) -> Self {
        let dir = TempDir::new_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")).unwrap();
        let image = dir.path().join("disk");
        File::create(&image).unwrap().set_len(DISK).unwrap();
        let format = if encrypted {
            ImageFormat::Luks2 { data_offset: 0, sector_size: SectorSize::B4096 }
        } else {
            ImageFormat::Raw
        };
        let order = ExportDisk {
            path: image.clone(),
            format,
            size: DISK,
            socket: dir.path().join("socket"),
            serial: "serial-of-a-disk".into(),
            read_only,
            num_queues: 1,
            dek: encrypted.then_some(0),
        };
        let file = File::options().read(true).write(!read_only).open(&image).unwrap();
        let disk = Disk::open(&order, file).unwrap();
        let key = Dek::generate().unwrap();
        let cipher = encrypted.then(|| PayloadCipher::new(&key, SectorSize::B4096).unwrap());
        let worker = QueueWorker::new(Arc::new(disk), 0, cipher, 1).unwrap();
        let regions = [(GuestAddress(0), usize::try_from(MEMORY).unwrap())];
        let memory: AtomicMemory = GuestMemoryAtomic::new(Memory::from_ranges(&regions).unwrap());
        let vring = VringRwLock::new(memory.clone(), 1024).unwrap();
        vring.set_queue_size(SIZE);
        vring.set_queue_info(TABLE, AVAILABLE, USED).unwrap();
        vring.set_queue_ready(true);
        vring.set_enabled(true);
        let guest = Self { memory, vring, worker, image, next_descriptor: 0, next_available: 0, _dir: dir };
        guest.put(STATUSES, &[UNTOUCHED; 0x1000]);
        guest
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.memory().write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.memory().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn describe(&self, index: u16, (address, length, flags, next): (u64, u32, u16, u16)) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(TABLE + 16 * u64::from(index), &bytes);
    }

    /// A proper request; returns where its status goes.
    fn ask(&mut self, kind: u32, sector: u64, data: u64, length: u32, writable: bool) -> u64 {
        let first = self.next_descriptor;
        let header = HEADERS + 16 * u64::from(first);
        let status = STATUSES + u64::from(first);
        self.put(header, &[kind.to_le_bytes(), [0; 4]].concat());
        self.put(header + 8, &sector.to_le_bytes());
        self.put(status, &[UNTOUCHED]);
        self.describe(first, (header, 16, NEXT, first + 1));
        self.describe(first + 1, (data, length, NEXT | if writable { WRITE } else { 0 }, first + 2));
        self.describe(first + 2, (status, 1, WRITE, 0));
        self.next_descriptor += 3;
        self.offer(first);
        status
    }

    fn offer(&mut self, head: u16) {
        self.put(AVAILABLE + 4 + 2 * u64::from(self.next_available % SIZE), &head.to_le_bytes());
        self.next_available = self.next_available.wrapping_add(1);
        self.put(AVAILABLE + 2, &self.next_available.to_le_bytes());
    }

    /// Runs until everything that was taken is answered.
    fn settle(&mut self) {
        loop {
            self.worker.run(&self.vring, &self.memory, || {});
            if self.worker.is_idle() {
                return;
            }
            assert!(self.worker.ring.wait().unwrap(), "something is unanswered and nothing in flight");
        }
    }

    fn used(&self) -> u16 {
        u16::from_le_bytes(self.get(USED + 2, 2).try_into().unwrap())
    }

    fn answer(&mut self, kind: u32, sector: u64, data: u64, length: u32, writable: bool) -> u8 {
        let status = self.ask(kind, sector, data, length, writable);
        self.settle();
        self.get(status, 1)[0]
    }
}

#[test]
fn reads_writes_flushes_and_tells_its_serial() {
    let mut guest = Guest::new(true, false);
    guest.put(DATA, &[7; 8192]);
    assert_eq!(guest.answer(1, 3, DATA, 8192, false), 0);
    assert_eq!(guest.get(DATA, 8192), [7; 8192], "guest memory was changed by a write");
    assert_eq!(guest.answer(0, 4, DATA + 8192, 512, true), 0);
    assert_eq!(guest.get(DATA + 8192, 512), [7; 512]);
    assert_eq!(guest.answer(4, 0, DATA, 0, false), 0);
    assert_eq!(guest.answer(8, 0, DATA + 16384, 20, true), 0);
    assert_eq!(guest.get(DATA + 16384, 21), b"serial-of-a-disk\0\0\0\0\0");
    assert_eq!(guest.answer(11, 0, DATA, 512, false), 2);
    assert_eq!(guest.used(), 5);
    assert!(!fs::read(&guest.image).unwrap().windows(16).any(|bytes| bytes == [7; 16]), "plaintext in the image");
}

/// A front end may share memory at any time and use it in its very next request, also while this one is at work.
#[test]
fn a_request_may_use_memory_that_was_shared_just_before_it() {
    let mut guest = Guest::new(true, false);
    let region = GuestRegionMmap::from_range(GuestAddress(MEMORY), 4096, None).unwrap();
    let extended = guest.memory.memory().insert_region(Arc::new(region)).unwrap();
    extended.write_slice(&[7; 4096], GuestAddress(MEMORY)).unwrap();
    let statuses = [guest.ask(0, 0, DATA, 512, true), guest.ask(1, 8, MEMORY, 4096, false)];

    // The second is there only once the first is taken.
    guest.put(AVAILABLE + 2, &1u16.to_le_bytes());
    let share = || {
        extended.write_slice(&2u16.to_le_bytes(), GuestAddress(AVAILABLE + 2)).unwrap();
        guest.memory.lock().unwrap().replace(extended.clone());
    };
    guest.worker.run(&guest.vring, &guest.memory, share);
    guest.settle();
    assert_eq!(statuses.map(|status| guest.get(status, 1)[0]), [0, 0]);
    assert_eq!(guest.answer(0, 8, DATA, 4096, true), 0);
    assert_eq!(guest.get(DATA, 4096), [7; 4096]);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut guest = Guest::new(false, true);
    guest.put(DATA, &[7; 512]);
    assert_eq!(guest.answer(1, 0, DATA, 512, false), 1);
    assert_eq!(guest.answer(0, 0, DATA, 512, true), 0);
    assert_eq!(guest.get(DATA, 512), [0; 512]);
    assert_eq!(fs::read(&guest.image).unwrap(), vec![0; usize::try_from(DISK).unwrap()]);
}

#[test]
fn data_where_the_guest_has_no_memory_is_an_error_and_writes_nothing() {
    for encrypted in [false, true] {
        let mut guest = Guest::new(encrypted, false);
        let before = fs::read(&guest.image).unwrap();
        for (sector, length) in [(0, 4096), (1, 512), (0, 1 << 17)] {
            assert_eq!(guest.answer(1, sector, MEMORY - 256, length, false), 1);
            assert_eq!(guest.answer(0, sector, MEMORY - 256, length, true), 1);
            assert_eq!(guest.answer(1, sector, u64::MAX - 100, length, false), 1);
        }
        assert_eq!(fs::read(&guest.image).unwrap(), before);
        assert_eq!(guest.worker.disk.counters.errors.load(Ordering::Relaxed), 9);
        assert!(guest.worker.disk.try_hold(0, 1 << 20, true).is_some(), "a stripe is still held");
    }
}

#[test]
fn a_ring_that_lies_about_its_index_gets_nothing() {
    let mut guest = Guest::new(true, false);
    guest.put(AVAILABLE + 2, &1000u16.to_le_bytes());
    guest.settle();
    assert_eq!(guest.used(), 0);
}

#[test]
fn a_ring_that_is_stopped_or_disabled_is_left_alone() {
    let mut guest = Guest::new(true, false);
    let status = guest.ask(0, 0, DATA, 512, true);
    guest.vring.set_enabled(false);
    guest.settle();
    assert_eq!(guest.get(status, 1), [UNTOUCHED]);
    guest.vring.set_enabled(true);
    guest.vring.set_queue_ready(false);
    guest.settle();
    assert_eq!(guest.get(status, 1), [UNTOUCHED]);
    guest.vring.set_queue_ready(true);
    guest.settle();
    assert_eq!(guest.get(status, 1), [0]);
}

#[test]
fn spans_cover_a_request_without_gaps() {
    for (offset, length, unit) in [(0, 512, 512), (512, 1 << 20, 4096), (4096 * 7 + 512, 300_000 / 512 * 512, 4096)] {
        let mut begun = 0;
        while begun < length {
            let span = Span::next(offset, length, begun, unit);
            assert_eq!(span.offset + span.from as u64, offset + begun);
            assert!(span.offset.is_multiple_of(unit) && (span.length as u64).is_multiple_of(unit));
            assert!(span.from < span.to && span.to <= span.length && span.length <= LARGE);
            begun += (span.to - span.from) as u64;
        }
        assert_eq!(begun, length);
    }
}

/// Values that are sometimes right.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let address = prop_oneof![
        4 => (0..40u64).prop_map(|index| HEADERS + 16 * index),
        4 => (0..64u64).prop_map(|index| DATA + 512 * index),
        2 => (0..40u64).prop_map(|index| STATUSES + index),
        1 => Just(MEMORY - 8), 1 => Just(TABLE), 1 => Just(USED), 1 => any::<u64>(),
    ];
    let length = prop_oneof![3 => Just(16u32), 3 => Just(1), 3 => (0..600u32).prop_map(|n| n * 512), 1 => any::<u32>()];
    let flags =
        prop_oneof![4 => Just(NEXT), 3 => Just(NEXT | WRITE), 3 => Just(WRITE), 1 => Just(4), 1 => any::<u16>()];
    (address, length, flags, prop_oneof![6 => 0..40u16, 1 => any::<u16>()])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a guest puts into its memory: every request that it offers is answered once, nothing is written beyond
    /// the disk, and nothing stays behind.
    #[test]
    fn hostile_rings(
        descriptors in prop::collection::vec(descriptor(), 40),
        headers in prop::collection::vec((prop_oneof![4 => 0..2u32, 1 => 0..14u32], prop_oneof![4 => 0..500u64, 1 => any::<u64>()]), 40),
        heads in prop::collection::vec(prop_oneof![9 => 0..40u16, 1 => any::<u16>()], 1..60),
        encrypted: bool,
    ) {
        let mut guest = Guest::new(encrypted, false);
        for (index, (kind, sector)) in headers.iter().enumerate() {
            guest.put(HEADERS + 16 * index as u64, &[kind.to_le_bytes(), [0; 4]].concat());
            guest.put(HEADERS + 16 * index as u64 + 8, &sector.to_le_bytes());
        }
        for (index, descriptor) in descriptors.iter().enumerate() {
            guest.describe(u16::try_from(index).unwrap(), *descriptor);
        }
        for head in &heads {
            guest.offer(*head);
        }
        guest.settle();
        // A guest may have had its rings overwritten by its own reads; then their numbers say nothing.
        let rings = descriptors.iter().any(|(address, length, flags, _)| {
            flags & WRITE != 0 && *address < USED + 0x1000 && address.saturating_add((*length).into()) > TABLE
        });
        let expected = heads.iter().filter(|head| **head < SIZE).count();
        prop_assert!(rings || usize::from(guest.used()) == expected, "{} of {expected}", guest.used());
        prop_assert_eq!(fs::metadata(&guest.image).unwrap().len(), DISK);
        prop_assert!(guest.worker.disk.try_hold(0, 1 << 20, true).is_some(), "a stripe is still held");
    }
}
