//! What the process makes of orders, keys and images that it should not accept.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use common::*;
use proptest::prelude::*;
use tempfile::TempDir;
use ward_disk::image::{ImageKind, probe, probe_as};
use ward_disk::{ConvertOrder, DiskErrorKind, DiskProcess, ImageFormat, Order, Report, SectorSize};

disk_process!();

/// Says that, closes, and hears the only report.
fn tell(bytes: &[u8]) -> Option<Report> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut child = disk_command().stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn().unwrap();
    let _ = ours.write_all(bytes);
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    // A process that did not want to hear all of it resets the connection after its report.
    let _ = ours.read_to_end(&mut heard);
    child.wait().unwrap();
    heard.get(4..).and_then(|json| serde_json::from_slice(json).ok())
}

fn frame(json: &str) -> Vec<u8> {
    [&u32::try_from(json.len()).unwrap().to_le_bytes()[..], json.as_bytes()].concat()
}

#[test]
fn an_order_that_is_none_is_refused_as_such() {
    let order = r#"{"convert":{"source":{"path":"/a","format":"raw","dek":null},"target":{"path":"/b","format":{"luks2":{"data_offset":4096,"sector_size":4096}},"dek":0},"size":4096,"checkpoint":"/c"}}"#;
    for bytes in [
        vec![],
        vec![1, 0],
        vec![0xff; 64],
        frame("{}"),
        frame("nonsense"),
        frame(&order.replace("4096}}", "1024}}")),
        frame(&order.replace("\"size\":4096", "\"size\":4097")),
        frame(&order.replace("\"dek\":0", "\"dek\":null")),
        frame(&order.replace("\"dek\":0", "\"dek\":99999999999")),
        // The key is missing.
        frame(order),
        [frame(order), vec![0], vec![7; 63]].concat(),
    ] {
        match tell(&bytes) {
            Some(Report::Failed(error)) => assert_eq!(error.kind, DiskErrorKind::Protocol, "{error}"),
            other => panic!("{other:?} to {bytes:?}"),
        }
    }
    // All there: now the files are looked at.
    match tell(&[frame(order), vec![0], (0..64).collect()].concat()) {
        Some(Report::Failed(error)) => assert_eq!(error.kind, DiskErrorKind::ImageMissing),
        other => panic!("{other:?}"),
    }
    // A key whose halves are equal is none for XTS.
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a"), [1; 4096]).unwrap();
    fs::write(dir.path().join("b"), []).unwrap();
    let order = order.replace("\"/", &format!("\"{}/", dir.path().display()));
    match tell(&[frame(&order), vec![0], vec![7; 64]].concat()) {
        Some(Report::Failed(error)) => assert_eq!(error.kind, DiskErrorKind::Cipher),
        other => panic!("{other:?}"),
    }
    assert!(fs::read(dir.path().join("b")).unwrap().is_empty());
}

#[test]
fn the_client_refuses_what_the_process_would() {
    let dir = TempDir::new().unwrap();
    let order = |size| {
        Order::Convert(ConvertOrder {
            source: side(&dir.path().join("a"), ImageFormat::Raw, None),
            target: side(&dir.path().join("b"), luks(SectorSize::B4096), Some(0)),
            size,
            checkpoint: dir.path().join("c"),
        })
    };
    let spawn = |order: &Order, deks| DiskProcess::spawn_command(disk_command(), order, deks).unwrap_err().kind;
    assert_eq!(spawn(&order(4096), vec![]), DiskErrorKind::Protocol);
    assert_eq!(spawn(&order(4096), vec![dek(1), dek(2)]), DiskErrorKind::Protocol);
    assert_eq!(spawn(&order(100), vec![dek(1)]), DiskErrorKind::Protocol);
    let nowhere = DiskProcess::spawn(&dir.path().join("no-such-program"), &order(4096), vec![dek(1)]).unwrap_err();
    assert_eq!(nowhere.kind, DiskErrorKind::Spawn);
    // A program that heeds nothing shows when it is told or when it is heard, whichever it outlives.
    let mut plain = order(512);
    if let Order::Convert(order) = &mut plain {
        order.target = side(&dir.path().join("b"), ImageFormat::Raw, None);
    }
    match DiskProcess::spawn(std::path::Path::new("/bin/true"), &plain, vec![]) {
        Ok(mut process) => {
            assert_eq!(process.recv().unwrap_err().kind, DiskErrorKind::ProcessGone);
            process.wait().unwrap();
        }
        Err(error) => assert_eq!(error.kind, DiskErrorKind::Spawn),
    }
}

#[test]
fn the_process_leaves_no_dump_and_shows_no_key() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let order = Order::Export(ward_disk::ExportOrder {
        disks: vec![ward_disk::ExportDisk {
            path,
            format: ImageFormat::Luks2 { data_offset: 0, sector_size: SectorSize::B4096 },
            size: 1 << 20,
            socket: dir.path().join("s"),
            serial: String::new(),
            read_only: false,
            num_queues: 1,
            dek: Some(0),
        }],
        nbd: vec![],
    });
    let mut process = DiskProcess::spawn_command(disk_command(), &order, vec![dek(1)]).unwrap();
    assert_eq!(process.recv().unwrap(), Report::Ready);
    let about = |name: &str| fs::read(format!("/proc/{}/{name}", process.pid())).unwrap();
    let limits = String::from_utf8(about("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // One byte means none at all.
    assert!(core.split_whitespace().skip(4).take(2).all(|limit| ["0", "1"].contains(&limit)), "{core}");
    let key = dek(1);
    for name in ["cmdline", "environ"] {
        assert!(!about(name).windows(16).any(|bytes| bytes == &key.expose()[..16]), "{name}");
    }
    process.stop().unwrap();
    assert!(matches!(process.recv().unwrap(), Report::Done(_)));
    process.wait().unwrap();
}

#[test]
fn images_are_recognised() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let make = |name: &str, format: &str, more: &[&str]| {
        run("qemu-img", &[&["create", "-q", "-f", format], more, &[text(&path(name)), "3M"]].concat());
        probe(&path(name))
    };
    let raw = make("raw", "raw", &[]).unwrap();
    assert_eq!(
        (raw.format, raw.virtual_size, raw.allocated, raw.encrypted),
        (ImageKind::Raw, 3 << 20, raw.allocated, false)
    );
    assert!(raw.allocated <= 4096);
    raw.check_plain(&path("raw")).unwrap();
    let qcow2 = make("qcow2", "qcow2", &[]).unwrap();
    assert_eq!((qcow2.format, qcow2.virtual_size), (ImageKind::Qcow2, 3 << 20));
    assert!(qcow2.file_size < 1 << 20 && !qcow2.has_backing_file && !qcow2.dirty);
    qcow2.check_plain(&path("qcow2")).unwrap();
    let overlay = make("overlay", "qcow2", &["-b", text(&path("raw")), "-F", "raw"]).unwrap();
    assert!(overlay.has_backing_file);
    assert_eq!(overlay.check_plain(&path("overlay")).unwrap_err().kind, DiskErrorKind::ImageHasBackingFile);
    let secret = ["--object", "secret,id=s,data=x", "-o", "key-secret=s,iter-time=10"];
    let luks = make("luks", "luks", &secret).unwrap();
    assert_eq!((luks.format, luks.encrypted), (ImageKind::Luks { version: 1 }, true));
    assert_eq!(luks.check_plain(&path("luks")).unwrap_err().kind, DiskErrorKind::ImageEncrypted);
    for format in ["vmdk", "vdi", "vhdx", "qed"] {
        assert_eq!(make(format, format, &[]).unwrap_err().kind, DiskErrorKind::ImageUnsupported, "{format}");
    }
    // A guest may write what it likes to its disk.
    assert_eq!(probe_as(&path("qcow2"), ImageKind::Raw).unwrap_err().kind, DiskErrorKind::ImageTruncated);
    OpenOptions::new().write(true).open(path("raw")).unwrap().write_all_at(b"QFI\xfb", 0).unwrap();
    assert_eq!(probe_as(&path("raw"), ImageKind::Raw).unwrap().format, ImageKind::Raw);
    assert!(probe(&path("raw")).is_err());

    fs::write(path("empty"), []).unwrap();
    fs::write(path("odd"), [1; 1000]).unwrap();
    for (name, kind) in [
        ("empty", DiskErrorKind::ImageTruncated),
        ("odd", DiskErrorKind::ImageTruncated),
        ("absent", DiskErrorKind::ImageMissing),
        (".", DiskErrorKind::ImageInvalid),
    ] {
        assert_eq!(probe(&path(name)).unwrap_err().kind, kind, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// A qcow2 image with anything in its header and tables is understood or refused, in no long time.
    #[test]
    fn any_qcow2_at_all(changes in prop::collection::vec((prop_oneof![3 => 4..112usize, 1 => 0x3_0000..0x5_0100usize], any::<u8>()), 1..6), length in prop_oneof![3 => Just(usize::MAX), 1 => 0..400_000usize]) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("image");
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "3M"]);
        run("qemu-io", &["-f", "qcow2", "-c", "write 0 128k", text(&path)]);
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in changes {
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        bytes.truncate(length);
        fs::write(&path, &bytes).unwrap();
        if let Ok(info) = probe(&path) {
            prop_assert!(info.virtual_size > 0 && info.virtual_size % 512 == 0 || info.format == ImageKind::Raw);
            // What is found whole must be readable or refused, never crash.
            if info.check_plain(&path).is_ok() && info.virtual_size < 64 << 20 {
                let order = ConvertOrder {
                    source: side(&path, ImageFormat::Qcow2, None),
                    target: side(&dir.path().join("raw"), ImageFormat::Raw, None),
                    size: info.virtual_size,
                    checkpoint: dir.path().join("c"),
                };
                if let Err(error) = convert(order, vec![]).result {
                    prop_assert!(error.kind != DiskErrorKind::ProcessGone, "{}", error);
                }
            }
        }
    }
}
