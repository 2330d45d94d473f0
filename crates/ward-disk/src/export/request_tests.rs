#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::*;
use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};

const MEMORY: u64 = 1 << 20;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x8000;
const USED: u64 = 0x9000;
const HEADER_AT: u64 = 0x1_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

type Descriptor = (u64, u32, u16, u16);

fn memory() -> GuestMemoryMmap<()> {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(MEMORY).unwrap())]).unwrap()
}

fn parsed(memory: &GuestMemoryMmap<()>, table: &[Descriptor], limits: Limits) -> Option<Result<Request, Refused>> {
    for (index, (address, length, flags, next)) in table.iter().enumerate() {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        memory.write_slice(&bytes, GuestAddress(TABLE + 16 * index as u64)).unwrap();
    }
    // One entry, the table's first.
    memory.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(AVAILABLE)).unwrap();
    let mut queue = Queue::new(256).unwrap();
    queue.set_size(256);
    queue.try_set_desc_table_address(GuestAddress(TABLE)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_ready(true);
    let chain = queue.iter(memory).unwrap().next()?;
    Some(parse(chain, limits))
}

fn header(memory: &GuestMemoryMmap<()>, kind: u32, sector: u64) {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    memory.write_slice(&bytes, GuestAddress(HEADER_AT)).unwrap();
}

const LIMITS: Limits = Limits { size: 1 << 20, read_only: false };

#[test]
fn framing_means_nothing() {
    let memory = memory();
    header(&memory, VIRTIO_BLK_T_IN, 3);
    let usual: &[Descriptor] = &[(HEADER_AT, 16, NEXT, 1), (0x2_0000, 1024, NEXT | WRITE, 2), (0x3_0000, 1, WRITE, 0)];
    let cut: &[Descriptor] = &[
        (HEADER_AT, 5, NEXT, 1),
        (HEADER_AT + 5, 0, NEXT, 2),
        (HEADER_AT + 5, 11, NEXT, 3),
        (0x2_0000, 1000, NEXT | WRITE, 4),
        (0x2_03e8, 25, WRITE, 0),
    ];
    for (table, status) in [(usual, 0x3_0000), (cut, 0x2_0400)] {
        let request = parsed(&memory, table, LIMITS).unwrap().unwrap();
        assert_eq!((request.kind, request.offset, request.length), (Kind::Read, 1536, 1024));
        assert_eq!(request.status, GuestAddress(status));
        copy_out(&memory, &request.data, 1020, &[9; 4]).unwrap();
        let mut tail = [0; 5];
        memory.read_slice(&mut tail, GuestAddress(0x2_0000 + 1019)).unwrap();
        assert_eq!(tail, [0, 9, 9, 9, 9]);
        assert_eq!(copy_out(&memory, &request.data, 1021, &[9; 4]), None);
        memory.write_slice(&[0; 1024], GuestAddress(0x2_0000)).unwrap();
    }
    header(&memory, VIRTIO_BLK_T_OUT, 0);
    let joined: &[Descriptor] = &[(HEADER_AT, 16 + 512, NEXT, 1), (0x3_0000, 1, WRITE, 0)];
    let request = parsed(&memory, joined, LIMITS).unwrap().unwrap();
    assert_eq!(request.data, [Segment { address: GuestAddress(HEADER_AT + 16), length: 512 }]);
}

#[test]
fn nonsense_is_refused_each_in_its_way() {
    let memory = memory();
    let chain = |kind: u32, sector: u64, data: &[(u32, u16)]| {
        header(&memory, kind, sector);
        let mut table = vec![(HEADER_AT, 16, NEXT, 1)];
        for (length, flags) in data {
            table.push((0x2_0000, *length, NEXT | flags, u16::try_from(table.len() + 1).unwrap()));
        }
        table.push((0x3_0000, 1, WRITE, 0));
        parsed(&memory, &table, LIMITS).unwrap()
    };
    let answered = |with: u8| Err(Refused { answer: Some((GuestAddress(0x3_0000), with)) });
    let io_error = || answered(STATUS_IO_ERROR);
    assert_eq!(chain(11, 0, &[(512, 0)]), answered(STATUS_UNSUPPORTED), "discard");
    assert_eq!(chain(13, 0, &[(16, 0)]), answered(STATUS_UNSUPPORTED), "write zeroes");
    assert_eq!(chain(0xffff_ffff, 0, &[]), answered(STATUS_UNSUPPORTED));
    assert_eq!(chain(VIRTIO_BLK_T_IN, 0, &[]), io_error(), "nothing to read");
    assert_eq!(chain(VIRTIO_BLK_T_IN, 0, &[(100, WRITE)]), io_error(), "part of a sector");
    assert_eq!(chain(VIRTIO_BLK_T_IN, 0, &[(512, 0)]), io_error(), "wrong direction");
    assert_eq!(chain(VIRTIO_BLK_T_OUT, 0, &[(512, WRITE)]), io_error(), "wrong direction");
    assert_eq!(chain(VIRTIO_BLK_T_IN, 2047, &[(1024, WRITE)]), io_error(), "beyond the end");
    assert_eq!(chain(VIRTIO_BLK_T_IN, 1 << 55, &[(512, WRITE)]), io_error());
    assert_eq!(chain(VIRTIO_BLK_T_IN, u64::MAX, &[(512, WRITE)]), io_error());
    assert!(chain(VIRTIO_BLK_T_IN, 2047, &[(512, WRITE)]).is_ok());
    assert!(chain(VIRTIO_BLK_T_FLUSH, u64::MAX, &[]).is_ok());
    assert!(chain(VIRTIO_BLK_T_GET_ID, 0, &[(20, WRITE)]).is_ok());
    header(&memory, VIRTIO_BLK_T_OUT, 0);
    let table = [(HEADER_AT, 16, NEXT, 1), (0x2_0000, 512, NEXT, 2), (0x3_0000, 1, WRITE, 0)];
    assert!(parsed(&memory, &table, LIMITS).unwrap().is_ok());
    assert_eq!(parsed(&memory, &table, Limits { read_only: true, ..LIMITS }).unwrap(), io_error());

    let unheard = || Some(Err(Refused { answer: None }));
    assert_eq!(parsed(&memory, &[(HEADER_AT, 16, 0, 0)], LIMITS), unheard(), "no status");
    assert_eq!(parsed(&memory, &[(HEADER_AT, 16, NEXT, 0)], LIMITS), unheard(), "a circle");
    assert_eq!(parsed(&memory, &[(HEADER_AT, 16, NEXT, 9999)], LIMITS), unheard(), "out of the table");
    let reversed = [(0x3_0000, 1, NEXT | WRITE, 1), (HEADER_AT, 16, 0, 0)];
    assert_eq!(parsed(&memory, &reversed, LIMITS), unheard(), "the wrong way round");
    let nowhere = [(u64::MAX - 3, 16, NEXT, 1), (0x3_0000, 1, WRITE, 0)];
    assert_eq!(parsed(&memory, &nowhere, LIMITS).unwrap(), io_error(), "a header that isn't there");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a guest writes, what is accepted lies on the disk and copying it stays within its data.
    #[test]
    fn any_descriptors_at_all(
        table in prop::collection::vec(
            (
                prop_oneof![0..MEMORY + 4096, any::<u64>(), Just(HEADER_AT), Just(TABLE)],
                prop_oneof![0..2048u32, any::<u32>(), Just(16), Just(1), Just(512), Just(32)],
                prop_oneof![any::<u16>(), 0..8u16],
                prop_oneof![0..12u16, any::<u16>()],
            ),
            1..12,
        ),
        kind in prop_oneof![0..16u32, any::<u32>()],
        sector in prop_oneof![0..2100u64, any::<u64>()],
        read_only: bool,
    ) {
        let memory = memory();
        header(&memory, kind, sector);
        let limits = Limits { read_only, ..LIMITS };
        if let Some(Ok(request)) = parsed(&memory, &table, limits) {
            let total: u64 = request.data.iter().map(|segment| u64::from(segment.length)).sum();
            prop_assert_eq!(total, request.length);
            prop_assert!(request.data.len() <= MAX_DESCRIPTORS);
            if matches!(request.kind, Kind::Read | Kind::Write) {
                prop_assert!(request.length > 0 && request.offset + request.length <= limits.size);
                prop_assert!(request.offset % SECTOR == 0 && request.length % SECTOR == 0);
            }
            prop_assert!(request.kind != Kind::Write || !read_only);
            let mut buffer = vec![0; usize::try_from(request.length.min(4096)).unwrap()];
            let _ = copy_in(&memory, &request.data, 0, &mut buffer);
            let _ = copy_out(&memory, &request.data, request.length / 2, &buffer);
        }
    }
}
