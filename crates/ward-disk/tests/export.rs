//! The export on real files, through a vhost-user client, against a model and the bare cipher.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/frontend.rs"]
mod frontend;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::*;
use frontend::Frontend;
use proptest::prelude::*;
use tempfile::TempDir;
use ward_disk::{DiskErrorKind, DiskProcess, ExportDisk, ExportOrder, ImageFormat, Order, Report, SectorSize, Stats};

disk_process!();

const MIB: usize = 1 << 20;

struct Room {
    _dir: TempDir,
    at: PathBuf,
}

impl Room {
    /// On storage with direct I/O.
    fn new() -> Self {
        Self::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    fn within(parent: &Path) -> Self {
        let dir = TempDir::new_in(parent).unwrap();
        Self { at: dir.path().to_owned(), _dir: dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn disk(&self, name: &str, format: ImageFormat, size: usize, num_queues: u16) -> ExportDisk {
        ExportDisk {
            path: self.path(name),
            format,
            size: size as u64,
            // A socket's name must be short, which the test directory's need not be.
            socket: PathBuf::from(format!("{}.sock", self.short(name))),
            serial: "ward-test".into(),
            read_only: false,
            num_queues,
            dek: format.is_encrypted().then_some(0),
        }
    }

    fn short(&self, name: &str) -> String {
        format!("/tmp/ward-{}-{}-{name}", std::process::id(), self.at.file_name().unwrap().to_str().unwrap())
    }
}

/// An image of zeros: for an encrypted one, of encrypted zeros.
fn make_image(path: &Path, format: ImageFormat, size: usize) {
    let mut file = File::create(path).unwrap();
    match format {
        ImageFormat::Luks2 { sector_size, .. } => {
            file.write_all(&vec![0xa5; usize::try_from(OFFSET).unwrap()]).unwrap();
            let sector = usize::try_from(sector_size.bytes()).unwrap();
            let mut payload = vec![0; size.next_multiple_of(sector)];
            let sector = xts::SectorSize::from_bytes(sector_size.bytes()).unwrap();
            xts::Xts::new(dek(1).expose()).unwrap().encrypt(sector, 0, &mut payload).unwrap();
            file.write_all(&payload).unwrap();
        }
        _ => file.set_len(size as u64).unwrap(),
    }
}

fn contents(path: &Path, format: ImageFormat, size: usize) -> Vec<u8> {
    match format {
        ImageFormat::Luks2 { sector_size, .. } => decrypt_payload(path, &dek(1), sector_size, size),
        _ => fs::read(path).unwrap(),
    }
}

/// A disk process that doesn't outlive a test that fails.
struct Export(DiskProcess);

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

impl Deref for Export {
    type Target = DiskProcess;

    fn deref(&self) -> &DiskProcess {
        &self.0
    }
}

impl DerefMut for Export {
    fn deref_mut(&mut self) -> &mut DiskProcess {
        &mut self.0
    }
}

fn start(disks: Vec<ExportDisk>) -> Export {
    let deks = if disks.iter().any(|disk| disk.dek.is_some()) { vec![dek(1)] } else { vec![] };
    let mut process =
        DiskProcess::spawn_command(disk_command(), &Order::Export(ExportOrder { disks, nbd: vec![] }), deks).unwrap();
    match process.recv().unwrap() {
        Report::Ready => Export(process),
        other => panic!("{other:?}"),
    }
}

fn end(process: &mut Export) -> Stats {
    let stats = match process.recv().unwrap() {
        Report::Done(summary) => summary.stats,
        other => panic!("{other:?}"),
    };
    process.wait().unwrap();
    stats
}

fn refusal(disk: ExportDisk) -> DiskErrorKind {
    let deks = if disk.dek.is_some() { vec![dek(1)] } else { vec![] };
    let order = Order::Export(ExportOrder { disks: vec![disk], nbd: vec![] });
    let mut process = match DiskProcess::spawn_command(disk_command(), &order, deks) {
        Ok(process) => process,
        Err(error) => return error.kind,
    };
    let report = process.recv().unwrap();
    process.wait().unwrap();
    match report {
        Report::Failed(error) => error.kind,
        other => panic!("{other:?}"),
    }
}

const FORMATS: [ImageFormat; 3] = [
    ImageFormat::Raw,
    ImageFormat::Luks2 { data_offset: OFFSET, sector_size: SectorSize::B512 },
    ImageFormat::Luks2 { data_offset: OFFSET, sector_size: SectorSize::B4096 },
];

#[derive(Clone, Debug)]
enum Op {
    Read { sector: u64, sectors: usize },
    Write { sector: u64, sectors: usize, seed: u64 },
    Flush,
}

fn ops(sectors: u64, most: usize) -> impl Strategy<Value = Vec<Op>> {
    let place = (0..sectors, prop_oneof![4 => 1..24usize, 1 => 1..most]);
    let place =
        place.prop_map(move |(sector, length)| (sector, length.min(usize::try_from(sectors - sector).unwrap())));
    let aligned = place.clone().prop_map(move |(sector, length)| {
        let sector = sector / 8 * 8;
        (sector, length.next_multiple_of(8).min(usize::try_from(sectors - sector).unwrap()))
    });
    let place = prop_oneof![place, aligned];
    let op = prop_oneof![
        3 => place.clone().prop_map(|(sector, sectors)| Op::Read { sector, sectors }),
        4 => (place, any::<u64>()).prop_map(|((sector, sectors), seed)| Op::Write { sector, sectors, seed }),
        1 => Just(Op::Flush),
    ];
    prop::collection::vec(op, 1..60)
}

fn check_ops(parent: &Path, format: ImageFormat, ops: &[Op], size: usize) {
    let room = Room::within(parent);
    make_image(&room.path("disk"), format, size);
    let disk = room.disk("disk", format, size, 1);
    let socket = disk.socket.clone();
    let mut process = start(vec![disk]);
    let mut frontend = Frontend::connect(&socket, 1, 4 * MIB);
    assert_eq!(frontend.capacity(), size as u64);
    let mut model = vec![0u8; size];
    for op in ops {
        match op {
            Op::Read { sector, sectors } => {
                let from = usize::try_from(*sector).unwrap() * 512;
                let found = frontend.read(0, sector * 512, sectors * 512).unwrap();
                assert!(found == model[from..from + sectors * 512], "{op:?}");
            }
            Op::Write { sector, sectors, seed } => {
                let from = usize::try_from(*sector).unwrap() * 512;
                let bytes = noise(*seed, sectors * 512);
                assert_eq!(frontend.write(0, sector * 512, &bytes), 0);
                // The guest's memory stays its own: never ciphertext.
                assert!(frontend.get(0, bytes.len()) == bytes);
                model[from..from + bytes.len()].copy_from_slice(&bytes);
            }
            Op::Flush => assert_eq!(frontend.flush(0), 0),
        }
    }
    drop(frontend);
    assert_eq!(end(&mut process).errors, 0);
    assert!(contents(&room.path("disk"), format, size) == model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_disk_does(
        ops in ops(6 * 2048 + 5, 3000),
        format in prop::sample::select(&FORMATS[..]),
        in_memory: bool,
    ) {
        let parent = if in_memory { Path::new("/dev/shm") } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
        check_ops(parent, format, &ops, 6 * MIB + 5 * 512);
    }
}

/// Queues that write neighbouring 512-byte sectors of the same 4096-byte ones at the same time must not undo each other.
#[test]
fn writes_within_one_encrypted_sector_from_all_queues_all_survive() {
    for parent in [Path::new("/dev/shm"), Path::new(env!("CARGO_TARGET_TMPDIR"))] {
        let room = Room::within(parent);
        let (size, queues, depth) = (MIB, 4usize, 16usize);
        let format = FORMATS[2];
        make_image(&room.path("disk"), format, size);
        let disk = room.disk("disk", format, size, 4);
        let socket = disk.socket.clone();
        let mut process = start(vec![disk]);
        let mut frontend = Frontend::connect(&socket, 4, size);
        assert_eq!(frontend.number("max-queues"), 4);
        // In shared memory lies what the disk is to become; each queue has every fourth sector, so that each encrypted
        // sector is written by all four. The last 256 KiB are written in whole sectors meanwhile.
        let model = noise(42, size);
        frontend.put(0, &model);
        let mine = |queue: usize| {
            let single = (queue..1536).step_by(4).map(|sector| (sector * 512, 512usize));
            let whole = (0..64).filter(move |index| index % 4 == queue).map(|index| (768 * 1024 + index * 4096, 4096));
            single.chain(whole).collect::<Vec<_>>()
        };
        let work: Vec<_> = (0..queues).map(mine).collect();
        for round in 0..work[0].len().div_ceil(depth) {
            let mut begun = vec![0; queues];
            for (queue, work) in work.iter().enumerate() {
                for (at, length) in work.iter().skip(round * depth).take(depth) {
                    frontend.begin_write(queue, *at as u64, *at, *length, 0);
                    begun[queue] += 1;
                }
                frontend.kick(queue);
            }
            for (queue, begun) in begun.into_iter().enumerate() {
                assert!(frontend.wait(queue, begun).iter().all(|(_, result)| *result == 0));
            }
        }
        assert!(frontend.read(2, 0, size).unwrap() == model);
        process.stop().unwrap();
        assert_eq!(end(&mut process).errors, 0);
        assert!(contents(&room.path("disk"), format, size) == model);
    }
}

#[test]
fn many_large_requests_in_flight_on_a_huge_disk_take_little_memory() {
    let room = Room::new();
    let size = 1usize << 40;
    let format = ImageFormat::Luks2 { data_offset: 0, sector_size: SectorSize::B4096 };
    File::create(room.path("disk")).unwrap().set_len(size as u64).unwrap();
    let disk = room.disk("disk", format, size, 4);
    let socket = disk.socket.clone();
    let mut process = start(vec![disk]);
    let mut frontend = Frontend::connect(&socket, 4, 32 * MIB);
    for round in 0..8u64 {
        for queue in 0..4 {
            for index in 0..32u64 {
                // All over the disk, some not aligned.
                let offset = (round * 128 + queue as u64 * 32 + index) * ((size as u64 - (2 << 20)) / 1024) / 512 * 512;
                let at = usize::try_from(index).unwrap() * MIB;
                if index % 4 == 3 && round == 0 {
                    frontend.begin_write(queue, offset, at, MIB, 0);
                } else {
                    frontend.begin_read(queue, offset, at, MIB, 0);
                }
            }
            frontend.kick(queue);
        }
        for queue in 0..4 {
            assert!(frontend.wait(queue, 32).iter().all(|(_, result)| *result == 0));
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // Guest memory that was touched counts as the process's, being shared; it is not of its own making.
    let shared = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    let shared: u64 = shared.trim().trim_end_matches(" kB").parse().unwrap();
    println!("VmHWM {kib} KiB, of which guest memory {shared} KiB");
    assert!(kib - shared < 64 << 10, "{kib} KiB");
    drop(frontend);
    end(&mut process);
}

#[test]
fn refuses_before_it_listens() {
    let room = Room::new();
    let disk = |name: &str, format, size| room.disk(name, format, size, 1);
    fs::write(room.path("raw"), vec![0; MIB]).unwrap();
    assert_eq!(refusal(disk("absent", ImageFormat::Raw, MIB)), DiskErrorKind::ImageMissing);
    assert_eq!(refusal(disk("raw", ImageFormat::Raw, MIB + 512)), DiskErrorKind::ImageTruncated);
    assert_eq!(refusal(disk("raw", ImageFormat::Raw, MIB - 512)), DiskErrorKind::ImageInvalid);
    assert_eq!(refusal(disk("raw", FORMATS[2], 512)), DiskErrorKind::ImageTruncated);
    assert_eq!(refusal(disk("raw", ImageFormat::Qcow2, MIB)), DiskErrorKind::ImageUnsupported);
    assert_eq!(refusal(disk("raw", ImageFormat::Raw, 100)), DiskErrorKind::Protocol);
    let mut keyless = disk("raw", FORMATS[2], 512);
    keyless.dek = None;
    assert_eq!(refusal(keyless), DiskErrorKind::Protocol);
    let mut misplaced = disk("raw", ImageFormat::Raw, MIB);
    misplaced.socket = room.path("raw");
    assert_eq!(refusal(misplaced), DiskErrorKind::Protocol);
    assert_eq!(fs::read(room.path("raw")).unwrap(), vec![0; MIB]);
}

#[test]
fn an_image_is_served_once_and_not_with_qemu() {
    let room = Room::new();
    make_image(&room.path("disk"), ImageFormat::Raw, MIB);
    let disk = room.disk("disk", ImageFormat::Raw, MIB, 1);
    let mut process = start(vec![disk.clone()]);
    let mut second = disk.clone();
    second.socket = PathBuf::from(room.short("second"));
    assert_eq!(refusal(second.clone()), DiskErrorKind::ImageLocked);
    let image = room.path("disk");
    let qemu = std::process::Command::new("qemu-io").args(["-f", "raw", "-c", "read 0 512", text(&image)]).output();
    assert!(!qemu.unwrap().status.success());
    // A process that is killed leaves no lock and no socket that is in the way.
    process.kill().unwrap();
    assert!(disk.socket.exists());
    let mut process = start(vec![disk.clone()]);
    process.stop().unwrap();
    end(&mut process);
    assert!(!disk.socket.exists());
    run("qemu-io", &["-f", "raw", "-c", "read 0 512", text(&image)]);

    // Readers go together.
    let mut first = disk;
    first.read_only = true;
    second.read_only = true;
    let mut processes = [start(vec![first.clone()]), start(vec![second])];
    let mut frontend = Frontend::connect_as(&first.socket, 1, MIB, true);
    assert_eq!(frontend.read(0, 0, 4096).unwrap(), vec![0; 4096]);
    drop(frontend);
    processes[1].stop().unwrap();
    for process in &mut processes {
        end(process);
    }
}

#[test]
fn outlives_its_agent_and_ends_with_its_last_front_end() {
    let room = Room::new();
    let disks: Vec<_> = ["one", "two"]
        .iter()
        .map(|name| {
            make_image(&room.path(name), FORMATS[2], MIB);
            room.disk(name, FORMATS[2], MIB, 2)
        })
        .collect();
    let sockets: Vec<_> = disks.iter().map(|disk| disk.socket.clone()).collect();
    let disks = Order::Export(ExportOrder { disks, nbd: vec![] });
    let mut process = DiskProcess::spawn_command(disk_command(), &disks, vec![dek(1)]).unwrap();
    assert_eq!(process.recv().unwrap(), Report::Ready);
    for socket in &sockets {
        assert_eq!(fs::metadata(socket).unwrap().mode() & 0o777, 0o600);
    }
    let pid = process.pid();
    let alive = || !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ");
    let mut one = Frontend::connect(&sockets[0], 2, MIB);
    assert_eq!(one.write(0, 0, &[1; 4096]), 0);
    // The agent goes.
    drop(process);
    assert_eq!(one.write(1, 512, &[2; 512]), 0);
    // A front end that goes while another disk was never used, and comes again.
    drop(one);
    let mut one = Frontend::connect(&sockets[0], 1, MIB);
    let mut two = Frontend::connect(&sockets[1], 2, MIB);
    assert_eq!(one.read(0, 0, 1024).unwrap(), [[1; 512], [2; 512]].concat());
    assert_eq!(two.write(1, 8192, &[3; 512]), 0);
    drop(one);
    assert_eq!(two.read(0, 8192, 512).unwrap(), [3; 512]);
    assert!(alive());
    drop(two);
    eventually("the process ends", || !alive());
    assert!(sockets.iter().all(|socket| !socket.exists()));
    assert_eq!(contents(&room.path("one"), FORMATS[2], MIB)[..1024], [[1; 512], [2; 512]].concat());
    assert_eq!(contents(&room.path("two"), FORMATS[2], MIB)[8192..8704], [3; 512]);
}

#[test]
fn a_front_end_that_vanishes_with_requests_in_flight_does_no_harm() {
    let room = Room::new();
    let size = 64 * MIB;
    make_image(&room.path("disk"), FORMATS[2], size);
    let disk = room.disk("disk", FORMATS[2], size, 2);
    let socket = disk.socket.clone();
    let mut process = start(vec![disk]);
    let mut frontend = Frontend::connect(&socket, 2, 16 * MIB);
    frontend.put(0, &vec![7; 16 * MIB]);
    for queue in 0..2 {
        for index in 0..32 {
            frontend.begin_write(
                queue,
                (queue * 32 * MIB + index * MIB) as u64 + 512,
                (index % 15) * MIB,
                512 * 1024,
                0,
            );
        }
        frontend.kick(queue);
    }
    drop(frontend);
    end(&mut process);
    // Each sector is as it was or as it should be.
    let after = contents(&room.path("disk"), FORMATS[2], size);
    assert!(after.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
}

#[test]
fn what_the_storage_refuses_is_an_error_for_the_guest_and_no_more() {
    let room = Room::new();
    let size = 4 * MIB;
    make_image(&room.path("disk"), FORMATS[2], size);
    let disk = room.disk("disk", FORMATS[2], size, 1);
    let socket = disk.socket.clone();
    let mut process = start(vec![disk]);
    let mut frontend = Frontend::connect(&socket, 1, 4 * MIB);
    let image = OpenOptions::new().write(true).open(room.path("disk")).unwrap();
    image.set_len(OFFSET + 2 * MIB as u64).unwrap();
    let eio = -libc::EIO;
    assert_eq!(frontend.read(0, 3 * MIB as u64, 4096), Err(eio));
    assert_eq!(frontend.read(0, 0, size), Err(eio));
    assert_eq!(frontend.read(0, 0, 2 * MIB).unwrap(), vec![0; 2 * MIB]);
    // A write of less than a unit needs what is not there any more.
    assert_eq!(frontend.write(0, 3 * MIB as u64 + 512, &[1; 512]), eio);
    process.ask_stats().unwrap();
    let stats = match process.recv().unwrap() {
        Report::Stats(stats) => stats,
        other => panic!("{other:?}"),
    };
    assert_eq!((stats.reads, stats.read_bytes, stats.writes, stats.errors, stats.connected), (1, 2 << 20, 0, 3, 1));
    image.write_at(b"", 0).unwrap();
    drop(frontend);
    end(&mut process);
}
