//! What can be wrong with images, disks and datastores.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};

use rustix::fs::{FallocateFlags, fallocate};
use ward_types::{Code, EventKind};

use crate::support::{MIB, Parts, System, contents, decipher, disk, eventually, noise, problem_of, qcow2, set, text};

const SIZE: u64 = 8 * MIB;

fn with_datastore(size: u64) -> System {
    System::of(Parts { hosts: 1, key_server: None, datastore: Some(size) })
}

impl System {
    /// Leaves so many bytes free on the datastore.
    fn fill_but(&self, free: u64) -> Ballast {
        let path = (0..).map(|n| self.datastore().join(format!("ballast-{n}"))).find(|path| !path.exists()).unwrap();
        let file = File::create(&path).unwrap();
        let stat = rustix::fs::fstatvfs(&file).unwrap();
        let there = stat.f_bavail * stat.f_frsize;
        fallocate(&file, FallocateFlags::empty(), 0, there - free).unwrap();
        Ballast(path)
    }
}

/// What fills a datastore until it goes.
struct Ballast(std::path::PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_datastore_is_seen_before_anything_is_done() {
    let system = with_datastore(64 * MIB);
    let image = system.path("image");
    let content = disk(&image, SIZE);
    let big = system.path("big");
    fs::write(&big, noise(5, 1 << 20).repeat(60)).unwrap();
    let ballast = system.fill_but(40 * MIB);
    system.refused(&["vm", "import", "big", "--disk", text(&big)], Code::StorageFull);
    assert_eq!(system.names("."), set(["ballast-0"]));

    system.import("vm", &[&image]);
    drop(ballast);
    let ballast = system.fill_but(20 * MIB);
    let problem = system.refused(&["vm", "encrypt", "vm"], Code::StorageFull);
    assert!(problem.why.contains("free"), "{problem:?}");
    assert_eq!(system.files("vm"), set(["disk-0.raw", "vm.toml"]));
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == content);
    // No key was made for it.
    assert!(system.access().all().is_empty());

    drop(ballast);
    system.done(&["vm", "encrypt", "vm"]);
    let kek = system.access().kek(&system.key_id("vm"));
    assert!(decipher(&system.file("vm", "disk-0.luks"), &kek, content.len()) == content);
}

/// The first disk takes a while; meanwhile somebody fills the datastore, and the second has no room any more.
#[test]
fn a_datastore_that_fills_up_meanwhile() {
    let system = with_datastore(512 * MIB);
    let (large, small) = (system.path("large"), system.path("small"));
    fs::write(&large, noise(3, 1 << 20).repeat(160)).unwrap();
    let content = disk(&small, SIZE);
    system.import("vm", &[&large, &small]);
    // Just enough for both disks and their headers, so that it is soon filled.
    let _other = system.fill_but((160 + 16 + 8 + 16 + 4) * MIB);
    let plain = set(["disk-0.raw", "disk-1.raw", "vm.toml"]);

    let encrypting = system.ask_meanwhile(&["vm", "encrypt", "vm"]);
    let part = system.file("vm", "disk-0.luks.part");
    // Its room is set aside by now.
    eventually("the first disk is being encrypted", || {
        fs::metadata(&part).is_ok_and(|part| part.len() > 160 * MIB).then_some(())
    });
    let ballast = system.fill_but(MIB);
    let output = encrypting.wait_with_output().unwrap();
    let problem = problem_of(&output.status, &output.stderr);
    assert_eq!(problem.code, Code::StorageFull, "{problem:?}");
    assert_eq!(system.files("vm"), plain);
    assert!(fs::read(system.file("vm", "disk-1.raw")).unwrap() == content);
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == fs::read(&large).unwrap());
    system.events_of(EventKind::TaskFailed);
    system.events_of(EventKind::KeyUnneeded);

    drop(ballast);
    system.done(&["vm", "encrypt", "vm"]);
    assert_eq!(system.files("vm"), set(["disk-0.luks", "disk-1.luks", "vm.toml"]));
    let kek = system.access().kek(&system.key_id("vm"));
    assert!(decipher(&system.file("vm", "disk-1.luks"), &kek, content.len()) == content);
}

/// The agent is killed in the middle, and when it is back there is no room to go on.
#[test]
fn a_datastore_that_fills_up_while_the_agent_is_away() {
    let system = with_datastore(64 * MIB);
    let image = system.path("image");
    let content = disk(&image, SIZE);
    system.import("vm", &[&image]);
    system.stop("host-1");
    let mut agent = system.own("host-1", &[("WARD_CRASH_AT", "crypt.target-created")]);
    let encrypting = system.ask_meanwhile(&["vm", "encrypt", "vm"]);
    agent.is_killed();
    let ballast = system.fill_but(MIB);
    system.restart("host-1");
    let output = encrypting.wait_with_output().unwrap();
    let problem = problem_of(&output.status, &output.stderr);
    assert_eq!(problem.code, Code::StorageFull, "{problem:?}");
    assert_eq!(system.files("vm"), set(["disk-0.raw", "vm.toml"]), "a task that failed has left something");
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == content);
    drop(ballast);
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "stop", "vm", "--force"]);
    system.done(&["vm", "encrypt", "vm"]);
    assert_eq!(system.files("vm"), set(["disk-0.luks", "vm.toml"]));
}

/// A program that has an image open.
struct NetworkBlockDevice(Child);

impl NetworkBlockDevice {
    fn of(image: &Path, format: &str) -> Self {
        let socket = image.with_extension("sock");
        let mut command = Command::new("qemu-nbd");
        command.args(["--persistent", "--format", format, "--socket", text(&socket)]).arg(image);
        let this = Self(command.spawn().unwrap());
        eventually("qemu-nbd has the image", || socket.exists().then_some(()));
        this
    }
}

impl Drop for NetworkBlockDevice {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn images_that_can_not_be_taken() {
    let system = System::start(1);
    let (raw, image) = (system.path("image.raw"), system.path("image.qcow2"));
    let content = disk(&raw, SIZE);
    let import = |code| {
        system.refused(&["vm", "import", "vm", "--disk", text(&image)], code);
        assert!(system.names(".").is_empty(), "{:?}", system.names("."));
        assert!(system.get::<Vec<serde_json::Value>>(&["vm", "ls"]).is_empty());
    };
    import(Code::ImageMissing);
    qcow2(&raw, &image);
    let length = fs::metadata(&image).unwrap().len();
    let whole = fs::read(&image).unwrap();
    OpenOptions::new().write(true).open(&image).unwrap().set_len(length - 256 * 1024).unwrap();
    import(Code::ImageTruncated);
    fs::write(&image, &whole).unwrap();
    let program = NetworkBlockDevice::of(&image, "qcow2");
    import(Code::ImageLocked);
    drop(program);
    system.import("vm", &[&image]);
    assert!(contents(&system.file("vm", "disk-0.qcow2"), "qcow2") == content);
    assert!(fs::read(&image).unwrap() == whole, "the original is as it was");

    // The same for the disk of a VM that is there, when it is to be encrypted.
    let disk = system.file("vm", "disk-0.qcow2");
    let program = NetworkBlockDevice::of(&disk, "qcow2");
    system.refused(&["vm", "encrypt", "vm"], Code::ImageLocked);
    drop(program);
    fs::remove_file(disk.with_extension("sock")).unwrap();
    let file = OpenOptions::new().write(true).open(&disk).unwrap();
    file.set_len(length - 256 * 1024).unwrap();
    system.refused(&["vm", "encrypt", "vm"], Code::ImageTruncated);
    let elsewhere = system.path("elsewhere");
    fs::rename(&disk, &elsewhere).unwrap();
    system.refused(&["vm", "encrypt", "vm"], Code::ImageMissing);
    assert!(system.access().all().is_empty(), "no key was made for what could not be done");
    fs::copy(&image, &disk).unwrap();
    assert_eq!(system.files("vm"), set(["disk-0.qcow2", "vm.toml"]));
    system.done(&["vm", "encrypt", "vm"]);
    assert_eq!(system.files("vm"), set(["disk-0.luks", "vm.toml"]));
}

#[test]
fn a_header_that_is_damaged() {
    let system = System::start(1);
    let image = system.path("image");
    let content = disk(&image, SIZE);
    system.import("vm", &[&image]);
    system.done(&["vm", "encrypt", "vm"]);
    let luks = system.file("vm", "disk-0.luks");
    let mut header = vec![0; 16 << 20];
    let file = OpenOptions::new().read(true).write(true).open(&luks).unwrap();
    file.read_exact_at(&mut header, 0).unwrap();
    let second = header[4096..].windows(6).position(|window| window == b"SKUL\xba\xbe").unwrap() + 4096;
    let damage = |at: usize| file.write_all_at(&[0xff; 512], u64::try_from(at + 4096).unwrap()).unwrap();

    damage(0);
    damage(second);
    for verb in ["start", "decrypt"] {
        let problem = system.refused(&["vm", verb, "vm"], Code::HeaderDamaged);
        assert!(problem.why.contains("disk-0.luks"), "{problem:?}");
    }
    assert_eq!(system.files("vm"), set(["disk-0.luks", "vm.toml"]));

    file.write_all_at(&header, 0).unwrap();
    damage(0);
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "stop", "vm", "--force"]);
    assert_eq!(system.events_of(EventKind::DiskHeaderRepaired).len(), 1);
    let mut repaired = vec![0; second + 4096 + 512];
    file.read_exact_at(&mut repaired, 0).unwrap();
    assert!(repaired[4096..4608] == header[4096..4608], "the first copy is as it was");

    damage(second);
    system.done(&["vm", "decrypt", "vm"]);
    let events = system.events_of(EventKind::DiskHeaderRepaired);
    assert!(events.len() == 2 && events[1].message.contains("disk-0.luks"), "{events:?}");
    assert_eq!(system.files("vm"), set(["disk-0.raw", "vm.toml"]));
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == content);
}
