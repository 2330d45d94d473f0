//! Conversion on real files, against QEMU's tools and the bare cipher.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::*;
use tempfile::TempDir;
use ward_disk::lock::Access;
use ward_disk::{ConvertOrder, DiskErrorKind, DiskProcess, ImageFormat, Order, Report, SectorSize};

disk_process!();

const MIB: usize = 1 << 20;

struct Room {
    _dir: TempDir,
    at: PathBuf,
}

impl Room {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { at: dir.path().to_owned(), _dir: dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn order(
        &self,
        from: (&str, ImageFormat, Option<usize>),
        to: (&str, ImageFormat, Option<usize>),
        size: usize,
    ) -> ConvertOrder {
        ConvertOrder {
            source: side(&self.path(from.0), from.1, from.2),
            target: side(&self.path(to.0), to.1, to.2),
            size: size as u64,
            checkpoint: self.path("checkpoint"),
        }
    }
}

/// A disk with data, holes within chunks and whole chunks of holes.
fn sparse_disk(path: &Path, size: usize) -> Vec<u8> {
    let mut model = vec![0; size];
    let file = File::create(path).unwrap();
    file.set_len(size as u64).unwrap();
    let mut put = |at: usize, length: usize, seed: u64| {
        let length = length.min(size.saturating_sub(at));
        if length == 0 {
            return;
        }
        let bytes = noise(seed, length);
        file.write_all_at(&bytes, at as u64).unwrap();
        model[at..at + length].copy_from_slice(&bytes);
    };
    put(0, 70_000, 1);
    put(MIB + 12 * 4096, 4096, 2);
    put(3 * MIB - 8192, 3 * MIB, 3);
    put(9 * MIB + 512, 1024, 4);
    put(size - 512, 512, 5);
    model
}

#[test]
fn raw_to_luks_and_back_at_both_sector_sizes_and_odd_sizes() {
    for sector in [SectorSize::B512, SectorSize::B4096] {
        for size in [512, 4096, 12 * MIB, 12 * MIB + 512, 11 * MIB - 1024] {
            let room = Room::new();
            let model = sparse_disk(&room.path("plain"), size);
            make_luks_target(&room.path("crypt"));
            let order = room.order(("plain", ImageFormat::Raw, None), ("crypt", luks(sector), Some(0)), size);
            let outcome = convert(order, vec![dek(1)]);
            let summary = outcome.result.unwrap();
            assert_eq!(summary.bytes, size as u64);
            if size > MIB {
                assert!(summary.zero_bytes > 5 * MIB as u64, "{summary:?}");
            }
            assert_eq!(outcome.reports.first(), Some(&Report::Ready));
            assert_eq!(outcome.reports.last(), Some(&Report::Progress { done: size as u64, total: size as u64 }));
            assert!(decrypt_payload(&room.path("crypt"), &dek(1), sector, size) == model);
            // The header is its owner's.
            assert_eq!(fs::read(room.path("crypt")).unwrap()[..MIB], vec![0xa5; MIB]);
            // Encrypted zeros are stored, not left out.
            let blocks = fs::metadata(room.path("crypt")).unwrap().blocks() * 512;
            assert!(blocks >= size as u64 + OFFSET, "{blocks}");

            fs::remove_file(room.path("checkpoint")).unwrap();
            let order = room.order(("crypt", luks(sector), Some(0)), ("back", ImageFormat::Raw, None), size);
            convert(order, vec![dek(1)]).result.unwrap();
            assert!(fs::read(room.path("back")).unwrap() == model);
            assert!(fs::read(room.path("plain")).unwrap() == model);
            let back = fs::metadata(room.path("back")).unwrap();
            assert_eq!(back.mode() & 0o777, 0o600);
            assert!(size < MIB || back.blocks() * 512 < 5 * MIB as u64, "no holes: {}", back.blocks());
        }
    }
}

#[test]
fn luks_to_luks_under_another_key_and_sector_size() {
    let room = Room::new();
    let size = 7 * MIB + 1536;
    let model = sparse_disk(&room.path("plain"), size);
    for name in ["old", "new"] {
        make_luks_target(&room.path(name));
    }
    let order = room.order(("plain", ImageFormat::Raw, None), ("old", luks(SectorSize::B512), Some(0)), size);
    convert(order, vec![dek(1)]).result.unwrap();
    let order = room.order(("old", luks(SectorSize::B512), Some(0)), ("new", luks(SectorSize::B4096), Some(1)), size);
    // The first conversion's checkpoint is about other files: it must not mislead the second.
    let summary = convert(order, vec![dek(1), dek(2)]).result.unwrap();
    assert_eq!(summary.resumed_at, 0);
    assert!(decrypt_payload(&room.path("new"), &dek(2), SectorSize::B4096, size) == model);
    assert!(decrypt_payload(&room.path("old"), &dek(1), SectorSize::B512, size) == model);
}

#[test]
fn qcow2_to_luks_and_back_equals_for_qemu() {
    let room = Room::new();
    let size = 20 * MIB + 512;
    sparse_disk(&room.path("plain"), size);
    let plain = room.path("plain");
    let variants: &[(&str, &[&str])] = &[
        ("standard", &["-O", "qcow2"]),
        ("compressed", &["-O", "qcow2", "-c"]),
        ("small-clusters", &["-O", "qcow2", "-o", "cluster_size=512"]),
        ("large-clusters", &["-O", "qcow2", "-o", "cluster_size=2M"]),
        ("version-2", &["-O", "qcow2", "-o", "compat=0.10"]),
        ("preallocated", &["-O", "qcow2", "-o", "preallocation=metadata"]),
    ];
    for (name, args) in variants {
        let image = room.path(name);
        run("qemu-img", &[&["convert", "-f", "raw"], *args, &[text(&plain), text(&image)]].concat());
        let before = fs::read(&image).unwrap();
        let crypt = room.path("crypt");
        make_luks_target(&crypt);
        let _ = fs::remove_file(room.path("checkpoint"));
        let order = room.order((name, ImageFormat::Qcow2, None), ("crypt", luks(SectorSize::B4096), Some(0)), size);
        convert(order, vec![dek(3)]).result.unwrap_or_else(|error| panic!("{name}: {error}"));
        let model = fs::read(&plain).unwrap();
        assert!(decrypt_payload(&crypt, &dek(3), SectorSize::B4096, size) == model, "{name}");
        assert!(fs::read(&image).unwrap() == before, "{name} was changed");

        let order = room.order(("crypt", luks(SectorSize::B4096), Some(0)), ("back", ImageFormat::Qcow2, None), size);
        convert(order, vec![dek(3)]).result.unwrap();
        let back = room.path("back");
        run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", text(&plain), text(&back)]);
        run("qemu-img", &["check", "-f", "qcow2", text(&back)]);
        assert!(fs::metadata(&back).unwrap().blocks() * 512 < 6 * MIB as u64);
    }
}

#[test]
fn qcow2_zero_clusters_and_overwrites_are_read_right() {
    let room = Room::new();
    let image = room.path("image");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "16M"]);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -P 7 0 4M",
            "-c",
            "write -z 1M 1M",
            "-c",
            "write -P 9 1100k 4k",
            "-c",
            "write -z -u 2M 64k",
            "-c",
            "discard 3M 512k",
            "-c",
            "write -P 3 15M 1000k",
            text(&image),
        ],
    );
    make_luks_target(&room.path("crypt"));
    let order = room.order(("image", ImageFormat::Qcow2, None), ("crypt", luks(SectorSize::B4096), Some(0)), 16 * MIB);
    convert(order, vec![dek(3)]).result.unwrap();
    let raw = room.path("raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(&image), text(&raw)]);
    let found = decrypt_payload(&room.path("crypt"), &dek(3), SectorSize::B4096, 16 * MIB);
    assert!(found == fs::read(&raw).unwrap());
}

#[test]
fn refuses_before_it_begins() {
    let room = Room::new();
    let size = 2 * MIB;
    sparse_disk(&room.path("plain"), size);
    let plain = room.path("plain");
    make_luks_target(&room.path("crypt"));
    let before = fs::read(room.path("crypt")).unwrap();
    let refusal = |from: (&str, ImageFormat), size: usize| {
        let order = room.order((from.0, from.1, None), ("crypt", luks(SectorSize::B4096), Some(0)), size);
        let outcome = convert(order, vec![dek(1)]);
        assert_eq!(outcome.reports, [], "{}", from.0);
        assert!(fs::read(room.path("crypt")).unwrap() == before, "{}", from.0);
        assert!(!room.path("checkpoint").exists());
        outcome.result.unwrap_err().kind
    };
    let image = |name: &str, args: &[&str]| {
        let path = room.path(name);
        run("qemu-img", &[&["create", "-q", "-f", "qcow2"], args, &[text(&path), "2M"]].concat());
        path
    };
    assert_eq!(refusal(("absent", ImageFormat::Raw), size), DiskErrorKind::ImageMissing);
    assert_eq!(refusal(("plain", ImageFormat::Raw), size + 512), DiskErrorKind::ImageTruncated);
    assert_eq!(refusal(("plain", ImageFormat::Raw), size - 512), DiskErrorKind::ImageInvalid);
    assert_eq!(refusal(("plain", ImageFormat::Qcow2), size), DiskErrorKind::ImageInvalid);
    image("overlay", &["-b", text(&plain), "-F", "raw"]);
    assert_eq!(refusal(("overlay", ImageFormat::Qcow2), size), DiskErrorKind::ImageHasBackingFile);
    image("external", &["-o", &format!("data_file={}", text(&room.path("data")))]);
    assert_eq!(refusal(("external", ImageFormat::Qcow2), size), DiskErrorKind::ImageHasDataFile);
    image(
        "encrypted",
        &["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"],
    );
    assert_eq!(refusal(("encrypted", ImageFormat::Qcow2), size), DiskErrorKind::ImageEncrypted);
    let snapshot = image("snapshot", &[]);
    run("qemu-img", &["snapshot", "-c", "s", text(&snapshot)]);
    assert_eq!(refusal(("snapshot", ImageFormat::Qcow2), size), DiskErrorKind::ImageHasSnapshots);
    image("extended", &["-o", "extended_l2=on,cluster_size=128k"]);
    assert_eq!(refusal(("extended", ImageFormat::Qcow2), size), DiskErrorKind::ImageUnsupported);
    for (name, bit, kind) in
        [("dirty", 0x01, DiskErrorKind::ImageDirty), ("corrupt", 0x02, DiskErrorKind::ImageInvalid)]
    {
        let path = image(name, &[]);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[bit], 79).unwrap();
        assert_eq!(refusal((name, ImageFormat::Qcow2), size), kind);
    }

    let order = room.order(("plain", ImageFormat::Raw, None), ("absent", luks(SectorSize::B4096), Some(0)), size);
    let error = convert(order, vec![dek(1)]).result.unwrap_err();
    assert_eq!((error.kind, error.path), (DiskErrorKind::ImageMissing, Some(room.path("absent"))));
    let order = room.order(("plain", ImageFormat::Raw, None), ("plain", ImageFormat::Raw, None), size);
    let error = convert(order, vec![]).result.unwrap_err();
    // The source's own lock says so first.
    assert_eq!(error.kind, DiskErrorKind::ImageLocked);
}

#[test]
fn a_truncated_qcow2_is_refused_wherever_it_was_cut() {
    let room = Room::new();
    let whole = room.path("whole");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&whole), "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 1M", "-c", "write -P 8 5M 64k", text(&whole)]);
    let bytes = fs::read(&whole).unwrap();
    make_luks_target(&room.path("crypt"));
    for cut in [60, 100, 4096, 65536, 3 * 65536, 4 * 65536 + 100, 6 * 65536, bytes.len() - 65536, bytes.len() - 1] {
        fs::write(room.path("cut"), &bytes[..cut]).unwrap();
        let order = room.order(("cut", ImageFormat::Qcow2, None), ("crypt", luks(SectorSize::B4096), Some(0)), 8 * MIB);
        let error = convert(order, vec![dek(1)]).result.unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::ImageTruncated, "cut at {cut}: {error}");
    }
    let order = room.order(("whole", ImageFormat::Qcow2, None), ("crypt", luks(SectorSize::B4096), Some(0)), 8 * MIB);
    convert(order, vec![dek(1)]).result.unwrap();
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_in_use_by_qemu_is_refused_on_either_side() {
    let room = Room::new();
    sparse_disk(&room.path("plain"), 2 * MIB);
    make_luks_target(&room.path("crypt"));
    let order = || room.order(("plain", ImageFormat::Raw, None), ("crypt", luks(SectorSize::B4096), Some(0)), 2 * MIB);
    for name in ["plain", "crypt"] {
        let socket = room.path(&format!("{name}.sock"));
        let image = room.path(name);
        let qemu = Running(
            std::process::Command::new("qemu-nbd")
                .args(["-t", "-f", "raw", "-k", text(&socket), text(&image)])
                .stdin(std::process::Stdio::null())
                .spawn()
                .unwrap(),
        );
        // Its socket is there before it has opened the image.
        let locked =
            || ward_disk::lock::check_unused(&image).is_err_and(|error| error.kind == DiskErrorKind::ImageLocked);
        eventually("qemu-nbd has the image", locked);
        let error = convert(order(), vec![dek(1)]).result.unwrap_err();
        assert_eq!((error.kind, error.path), (DiskErrorKind::ImageLocked, Some(room.path(name))));
        drop(qemu);
        ward_disk::lock::check_unused(&room.path(name)).unwrap();
    }
    convert(order(), vec![dek(1)]).result.unwrap();
}

#[test]
fn readers_share_an_image_with_qemu_too_and_keep_writers_out() {
    let room = Room::new();
    let image = room.path("plain");
    sparse_disk(&image, 2 * MIB);
    let open = || ward_disk::lock::open_to_read(&image);
    let readers = (open().unwrap(), open().unwrap());
    let qemu_io = |options: &[&str], command: &str| {
        let arguments = [&["-f", "raw"], options, &["-c", command, text(&image)]].concat();
        std::process::Command::new("qemu-io").args(arguments).output().unwrap().status.success()
    };
    assert!(qemu_io(&["-r"], "read 0 64k"));
    assert!(!qemu_io(&[], "write 0 64k"));
    let writer = OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let lock = |access| ward_disk::lock::lock(&writer, &image, access);
    assert_eq!(lock(Access::Exclusive).unwrap_err().kind, DiskErrorKind::ImageLocked);
    drop(readers);
    lock(Access::Exclusive).unwrap();
    assert_eq!(open().unwrap_err().kind, DiskErrorKind::ImageLocked);
    assert!(!qemu_io(&["-r"], "read 0 64k"));
}

/// A small file system of its own, unmounted at the end.
struct SmallStorage(TempDir);

impl SmallStorage {
    fn new(size: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", text(dir.path())])
            .status()
            .unwrap();
        // Only root may mount.
        mounted.success().then_some(Self(dir))
    }
}

impl Drop for SmallStorage {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_storage_is_found_before_work_begins() {
    let Some(storage) = SmallStorage::new("8M") else { return };
    let room = Room::new();
    let size = 12 * MIB;
    let model = sparse_disk(&room.path("plain"), size);
    let target = storage.0.path().join("crypt");
    make_luks_target(&target);
    let mut order = room.order(("plain", ImageFormat::Raw, None), ("-", luks(SectorSize::B4096), Some(0)), size);
    order.target.path = target.clone();
    let outcome = convert(order.clone(), vec![dek(1)]);
    let error = outcome.result.unwrap_err();
    assert_eq!((error.kind, error.path), (DiskErrorKind::NoSpace, Some(target.clone())));
    assert_eq!(outcome.reports, []);
    let left = fs::metadata(&target).unwrap();
    assert_eq!((left.len(), left.blocks() * 512), (OFFSET, OFFSET), "the room was not given back");
    assert!(fs::read(room.path("plain")).unwrap() == model);

    // The same for a plain target: the disk's data are 3 MiB, which fit; with the rest filled they don't.
    fs::remove_file(&target).unwrap();
    fs::write(storage.0.path().join("ballast"), vec![1; 6 * MIB]).unwrap();
    order.target = side(&storage.0.path().join("raw"), ImageFormat::Raw, None);
    assert_eq!(convert(order.clone(), vec![]).result.unwrap_err().kind, DiskErrorKind::NoSpace);
    fs::remove_file(storage.0.path().join("ballast")).unwrap();
    convert(order, vec![]).result.unwrap();
    assert!(fs::read(storage.0.path().join("raw")).unwrap() == model);
}

#[test]
fn killed_at_every_point_it_goes_on_and_the_source_is_whole() {
    let room = Room::new();
    let size = 12 * MIB + 512;
    let model = sparse_disk(&room.path("plain"), size);
    let log = room.path("log");
    let fresh = || {
        let _ = fs::remove_file(room.path("checkpoint"));
        make_luks_target(&room.path("crypt"));
    };
    let order = || room.order(("plain", ImageFormat::Raw, None), ("crypt", luks(SectorSize::B4096), Some(0)), size);
    fresh();
    let mut logged = disk_command();
    logged.env("WARD_CRASH_LOG", &log);
    convert_with(logged, order(), vec![dek(1)]).result.unwrap();
    let mut points: Vec<String> = Vec::new();
    for name in fs::read_to_string(&log).unwrap().lines() {
        let nth = 1 + points.iter().filter(|point| point.split('#').next() == Some(name)).count();
        points.push(format!("{name}#{nth}"));
    }
    assert!(points.len() > 15, "{points:?}");
    for point in points {
        fresh();
        let mut armed = disk_command();
        armed.env("WARD_CRASH_AT", &point);
        let error = convert_with(armed, order(), vec![dek(1)]).result.unwrap_err();
        assert_eq!(error.kind, DiskErrorKind::ProcessGone, "{point}");
        assert!(fs::read(room.path("plain")).unwrap() == model, "{point}: the source was changed");
        convert(order(), vec![dek(1)]).result.unwrap_or_else(|error| panic!("{point}: {error}"));
        assert!(decrypt_payload(&room.path("crypt"), &dek(1), SectorSize::B4096, size) == model, "{point}");
    }
}

#[test]
fn goes_on_at_the_watermark_only_where_everything_is_as_it_was() {
    let room = Room::new();
    let size = 12 * MIB;
    let model = sparse_disk(&room.path("plain"), size);
    make_luks_target(&room.path("crypt"));
    let order = || room.order(("plain", ImageFormat::Raw, None), ("crypt", luks(SectorSize::B4096), Some(0)), size);
    convert(order(), vec![dek(1)]).result.unwrap();
    let note = fs::read_to_string(room.path("checkpoint")).unwrap();
    let whole = format!("\"watermark\":{size}");
    assert!(note.contains(&whole), "{note}");
    let note = note.replace(&whole, &format!("\"watermark\":{}", 5 * MIB));

    fs::write(room.path("checkpoint"), &note).unwrap();
    assert_eq!(convert(order(), vec![dek(1)]).result.unwrap().resumed_at, 5 * MIB as u64);
    // Another key: what is there was not written under it.
    fs::write(room.path("checkpoint"), &note).unwrap();
    assert_eq!(convert(order(), vec![dek(2)]).result.unwrap().resumed_at, 0);
    assert!(decrypt_payload(&room.path("crypt"), &dek(2), SectorSize::B4096, size) == model);
    // A note that says nonsense.
    for nonsense in
        ["", "{}", &note.replace(&(5 * MIB).to_string(), "77"), &note.replace(&(5 * MIB).to_string(), "99999999999")]
    {
        fs::write(room.path("checkpoint"), nonsense).unwrap();
        assert_eq!(convert(order(), vec![dek(2)]).result.unwrap().resumed_at, 0);
    }
    // Another source in its place.
    fs::write(room.path("checkpoint"), &note).unwrap();
    fs::write(room.path("plain"), noise(77, size)).unwrap();
    assert_eq!(convert(order(), vec![dek(2)]).result.unwrap().resumed_at, 0);
    assert!(decrypt_payload(&room.path("crypt"), &dek(2), SectorSize::B4096, size) == noise(77, size));
}

/// A disk so large that converting it lasts: sparse, so that it takes no room.
fn long_order(room: &Room) -> ConvertOrder {
    let size = 1usize << 40;
    File::create(room.path("huge")).unwrap().set_len(size as u64).unwrap();
    OpenOptions::new().write(true).open(room.path("huge")).unwrap().write_all_at(b"end", size as u64 - 3).unwrap();
    // As if it were ciphertext, all of it must be read; what comes out is random, of which the storage is soon full.
    room.order(
        ("huge", ImageFormat::Luks2 { data_offset: 0, sector_size: SectorSize::B4096 }, Some(0)),
        ("out", ImageFormat::Qcow2, None),
        size,
    )
}

#[test]
fn cancelled_it_stops_and_says_so() {
    let room = Room::new();
    let mut process =
        DiskProcess::spawn_command(disk_command(), &Order::Convert(long_order(&room)), vec![dek(1)]).unwrap();
    let mut asked = false;
    let error = loop {
        match process.recv().unwrap() {
            Report::Progress { .. } if !asked => {
                asked = true;
                process.commander().unwrap().cancel().unwrap();
            }
            Report::Failed(error) => break error,
            Report::Done(_) => panic!("it was to be cancelled"),
            _ => {}
        }
    };
    assert_eq!(error.kind, DiskErrorKind::Cancelled);
    assert!(!process.wait().unwrap().success() || cfg!(test));
}

#[test]
fn abandoned_it_gives_up() {
    let room = Room::new();
    let mut process =
        DiskProcess::spawn_command(disk_command(), &Order::Convert(long_order(&room)), vec![dek(1)]).unwrap();
    while !matches!(process.recv().unwrap(), Report::Progress { .. }) {}
    let pid = process.pid();
    drop(process);
    // Nobody has waited for it, so it stays as a zombie.
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    eventually("the process ends", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z ")));
}
