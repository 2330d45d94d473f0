//! The NBD export on real files, through QEMU's own client, against a model and the bare cipher.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use common::*;
use proptest::prelude::*;
use tempfile::TempDir;
use ward_disk::{DiskErrorKind, DiskProcess, ExportOrder, ImageFormat, NbdDisk, Order, Report, SectorSize};

disk_process!();

/// As large as OVMF's variables.
const SIZE: usize = 540_672;

struct Room {
    dir: TempDir,
    format: ImageFormat,
}

impl Room {
    fn new(format: ImageFormat) -> Self {
        let room = Self { dir: TempDir::new().unwrap(), format };
        match format {
            ImageFormat::Luks2 { .. } => {
                make_luks_target(&room.image());
                let mut payload = vec![0; SIZE.next_multiple_of(4096)];
                xts::Xts::new(dek(1).expose()).unwrap().encrypt(room.sector(), 0, &mut payload).unwrap();
                fs::OpenOptions::new().append(true).open(room.image()).unwrap().write_all(&payload).unwrap();
            }
            _ => File::create(room.image()).unwrap().set_len(SIZE as u64).unwrap(),
        }
        room
    }

    fn sector(&self) -> xts::SectorSize {
        match self.format {
            ImageFormat::Luks2 { sector_size, .. } => xts::SectorSize::from_bytes(sector_size.bytes()).unwrap(),
            _ => xts::SectorSize::B512,
        }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", text(&self.socket()))
    }

    fn disk(&self) -> NbdDisk {
        NbdDisk {
            path: self.image(),
            format: self.format,
            size: SIZE as u64,
            socket: self.socket(),
            read_only: false,
            dek: self.format.is_encrypted().then_some(0),
        }
    }

    fn start(&self, disk: NbdDisk) -> Export {
        let deks = if disk.dek.is_some() { vec![dek(1)] } else { vec![] };
        let order = Order::Export(ExportOrder { disks: vec![], nbd: vec![disk] });
        let mut process = DiskProcess::spawn_command(disk_command(), &order, deks).unwrap();
        match process.recv().unwrap() {
            Report::Ready => Export(process),
            other => panic!("{other:?}"),
        }
    }

    /// What is in the image, read by the bare cipher.
    fn contents(&self) -> Vec<u8> {
        match self.format {
            ImageFormat::Luks2 { sector_size, .. } => decrypt_payload(&self.image(), &dek(1), sector_size, SIZE),
            _ => fs::read(self.image()).unwrap(),
        }
    }
}

/// A disk process that doesn't outlive a test that fails.
struct Export(DiskProcess);

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

impl Export {
    fn stats(&mut self) -> ward_disk::Stats {
        match self.0.recv().unwrap() {
            Report::Done(summary) => summary.stats,
            other => panic!("{other:?}"),
        }
    }
}

/// A client of the test's own, to say what QEMU's would not.
struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Self {
        let mut client = Self(UnixStream::connect(socket).unwrap());
        assert_eq!(client.read(18), b"NBDMAGICIHAVEOPT\x00\x03");
        client
    }

    /// As far as to where requests are taken.
    fn ready(socket: &Path) -> Self {
        let mut client = Self::connect(socket);
        client.write(&3u32.to_be_bytes());
        client.write(&[&b"IHAVEOPT"[..], &[0, 0, 0, 1], &[0; 4]].concat());
        assert_eq!(client.read(10)[..8], (SIZE as u64).to_be_bytes());
        client
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn send(&mut self, flags: u16, command: u16, offset: u64, length: usize, data: &[u8]) {
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend([flags.to_be_bytes(), command.to_be_bytes()].concat());
        bytes.extend(9u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend(data);
        self.write(&bytes);
    }

    /// The error in the answer.
    fn answer(&mut self) -> u32 {
        let answer = self.read(16);
        assert_eq!(answer[..4], 0x6744_6698u32.to_be_bytes());
        assert_eq!(answer[8..], 9u64.to_be_bytes());
        u32::from_be_bytes(answer[4..8].try_into().unwrap())
    }

    fn put(&mut self, fua: bool, offset: usize, data: &[u8]) {
        self.send(u16::from(fua), 1, offset as u64, data.len(), data);
        assert_eq!(self.answer(), 0);
    }

    fn get(&mut self, offset: usize, length: usize) -> Vec<u8> {
        self.send(0, 0, offset as u64, length, &[]);
        assert_eq!(self.answer(), 0);
        self.read(length)
    }

    fn flush(&mut self) {
        self.send(0, 3, 0, 0, &[]);
        assert_eq!(self.answer(), 0);
    }

    /// Nothing more comes.
    fn gets_no_more(mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

#[test]
fn qemus_client_reads_and_writes_it() {
    for format in [ImageFormat::Raw, luks(SectorSize::B4096), luks(SectorSize::B512)] {
        let room = Room::new(format);
        let mut export = room.start(room.disk());
        assert_eq!(fs::metadata(room.socket()).unwrap().permissions().mode() & 0o777, 0o600);
        let script = ["write -P 0xab 4096 8192", "write -P 0xcd 5000 100", "write -f -P 0xef 540671 1", "flush"];
        let mut args = vec!["-f", "raw"];
        script.iter().for_each(|line| args.extend(["-c", line]));
        let uri = room.uri();
        args.push(&uri);
        let said = run("qemu-io", &args);
        assert!(!String::from_utf8_lossy(&said.stdout).contains("failed"), "{said:?}");
        let stats = export.stats();
        assert_eq!((stats.written_bytes, stats.errors), (8192 + 100 + 1, 0));
        let mut model = vec![0; SIZE];
        model[4096..12_288].fill(0xab);
        model[5000..5100].fill(0xcd);
        model[540_671] = 0xef;
        assert_eq!(room.contents(), model);

        let mut export = room.start(room.disk());
        let copy = room.dir.path().join("copy");
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &room.uri(), text(&copy)]);
        assert_eq!(fs::read(copy).unwrap(), model);
        assert!(export.stats().reads > 0);
        assert!(!room.socket().exists());
    }
}

#[test]
fn one_client_at_a_time_and_those_that_break_the_rules_are_dropped() {
    let room = Room::new(luks(SectorSize::B4096));
    let mut read_only = room.disk();
    read_only.read_only = true;
    let mut export = room.start(read_only);
    let mut first = Client::ready(&room.socket());
    // The second one waits.
    let mut second = UnixStream::connect(room.socket()).unwrap();
    second.set_nonblocking(true).unwrap();
    assert_eq!(first.get(0, 100), vec![0; 100]);
    assert_eq!(second.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    for (command, offset, data, error) in
        [(1, 0, &[1u8; 512][..], 1), (1, 0, &[], 1), (0, 1 << 40, &[], 22), (4, 0, &[], 22), (6, 0, &[], 22)]
    {
        first.send(0, command, offset, data.len(), data);
        assert_eq!(first.answer(), error, "{command}");
    }
    assert_eq!(first.get(SIZE - 1, 1), [0], "the connection is in order after what was refused");
    // The whole process would end with its last client.
    export.0.stop().unwrap();
    assert!(first.gets_no_more());
    assert_eq!(export.stats().errors, 5);

    for (say, why) in [
        (&[0, 0, 0, 0][..], "flags"),
        (&[0, 0, 0, 7], "flags"),
        (&[0, 0, 0, 3, b'x', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "magic"),
        (&[&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 7, 0, 1, 0, 0]].concat(), "length"),
        (&[&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 1, 0, 0, 0, 1], b"x"].concat(), "name"),
    ] {
        let _export = room.start(room.disk());
        let mut client = Client::connect(&room.socket());
        client.write(say);
        assert!(client.gets_no_more(), "{why}");
    }
}

#[test]
fn what_was_flushed_is_there_after_a_kill_and_every_sector_is_old_or_new() {
    for format in [ImageFormat::Raw, luks(SectorSize::B4096)] {
        for kill_after in [1, 7, 40] {
            let room = Room::new(format);
            let mut export = room.start(room.disk());
            let mut client = Client::ready(&room.socket());
            let old = noise(1, SIZE);
            for (at, data) in old.chunks(100_000).enumerate() {
                client.put(false, at * 100_000, data);
            }
            client.flush();
            let new = noise(2, SIZE);
            let (mut answered, mut sent) = (0, 0);
            for (n, data) in new.chunks(6000).enumerate() {
                client.send(0, 1, (n * 6000) as u64, data.len(), data);
                sent += data.len();
                if n == kill_after {
                    break;
                }
                assert_eq!(client.answer(), 0);
                answered += data.len();
            }
            let _ = export.0.kill();
            let after = room.contents();
            assert_eq!(after[..answered], new[..answered]);
            assert_eq!(after[sent..], old[sent..]);
            for at in (answered..sent).step_by(1) {
                assert!(after[at] == new[at] || after[at] == old[at], "byte {at}");
            }
        }
    }
}

#[test]
fn an_order_that_makes_no_sense_is_refused() {
    let room = Room::new(luks(SectorSize::B4096));
    let refused = |disk: NbdDisk| {
        let deks = if disk.dek.is_some() { vec![dek(1)] } else { vec![] };
        let order = Order::Export(ExportOrder { disks: vec![], nbd: vec![disk] });
        match DiskProcess::spawn_command(disk_command(), &order, deks).and_then(|mut process| process.recv()) {
            Ok(Report::Failed(error)) | Err(error) => error.kind,
            Ok(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(NbdDisk { dek: None, ..room.disk() }), DiskErrorKind::Protocol);
    assert_eq!(refused(NbdDisk { size: 1000, ..room.disk() }), DiskErrorKind::Protocol);
    assert_eq!(refused(NbdDisk { size: 1 << 30, ..room.disk() }), DiskErrorKind::ImageTruncated);
    let qcow2 = NbdDisk { format: ImageFormat::Qcow2, dek: None, ..room.disk() };
    assert_eq!(refused(qcow2), DiskErrorKind::ImageUnsupported);
    let _export = room.start(room.disk());
    assert_eq!(refused(NbdDisk { socket: room.dir.path().join("2"), ..room.disk() }), DiskErrorKind::ImageLocked);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Any reads and writes at any bytes are those of a model.
    #[test]
    fn it_is_as_a_model(
        encrypted: bool,
        steps in prop::collection::vec((0..SIZE, 1usize..200_000, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let room = Room::new(if encrypted { luks(SectorSize::B4096) } else { ImageFormat::Raw });
        let mut export = room.start(room.disk());
        let mut client = Client::ready(&room.socket());
        let mut model = vec![0; SIZE];
        for (n, (offset, length, write, fua)) in steps.into_iter().enumerate() {
            let length = length.min(SIZE - offset);
            if write {
                let data = noise(n as u64, length);
                client.put(fua, offset, &data);
                model[offset..offset + length].copy_from_slice(&data);
            } else {
                prop_assert_eq!(client.get(offset, length), &model[offset..offset + length]);
            }
        }
        client.send(0, 2, 0, 0, &[]);
        prop_assert!(client.gets_no_more());
        prop_assert_eq!(export.stats().errors, 0);
        prop_assert_eq!(room.contents(), model);
    }
}
