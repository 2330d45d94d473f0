//! The main job: an existing VM is encrypted under a key from a key server, run, moved to another host, decrypted.
//!
//! The guest is the one of `scripts/guest`: a Linux that says the checksum of its files and writes to its disk.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use key_search::Keys;
use ward_types::EventKind;

use crate::support::{System, contents, eventually, lossy, run, set, text};

/// What stands in a file of the guest.
const PLAIN_TEXT: &[u8] = b"line 17 stands on the guest's disk in plain text";

pub(crate) struct Guest(PathBuf);

impl Guest {
    pub(crate) fn get() -> Self {
        let directory = std::env::var_os("WARD_TEST_GUEST")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest"), PathBuf::from);
        let guest = Self(directory.canonicalize().unwrap_or(directory));
        for file in ["vmlinuz", "initrd.cpio", "disk.raw", "disk.qcow2"] {
            assert!(guest.file(file).exists(), "{} is missing: run scripts/guest", guest.file(file).display());
        }
        guest
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn import(&self, system: &System, vm: &str, format: &str, more: &[&str]) {
        let (disk, kernel) = (self.file(&format!("disk.{format}")), self.file("vmlinuz"));
        let initrd = self.file("initrd.cpio");
        let append = "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable no_timer_check audit=0";
        let files = ["--disk", text(&disk), "--kernel", text(&kernel), "--initrd", text(&initrd), "--append", append];
        system.done(&[&["vm", "import", vm, "--memory", "256"], &files[..], more].concat());
    }

    /// The disk after so many boots: the original, and what scripts/guest-init says that it writes.
    fn after(&self, boots: usize) -> Vec<u8> {
        const MIB: usize = 1 << 20;
        let mut disk = fs::read(self.file("disk.raw")).unwrap();
        let mut fill = |at: usize, line: String| {
            let written = &mut disk[at * MIB..(at + 1) * MIB];
            written.iter_mut().zip(line.bytes().cycle()).for_each(|(byte, new)| *byte = new);
        };
        fill(48, format!("{boots}\n"));
        (1..=boots).for_each(|boot| fill(48 + boot, format!("boot {boot} wrote this\n")));
        disk
    }
}

impl System {
    /// Starts a guest, lets it do its work, and stops it; gives the checksum of its files.
    fn boot(&self, vm: &str, host: &str) -> String {
        let text = self.guest_boots(vm, host);
        let (_, rest) = text.split_once("ward-guest: files ").unwrap_or_else(|| panic!("{text}"));
        self.done(&["vm", "stop", vm]);
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Starts a guest and lets it do its work; gives all that it says.
    pub(crate) fn guest_boots(&self, vm: &str, host: &str) -> String {
        self.done(&["vm", "start", vm, "--host", host]);
        let console = self.ask(&["vm", "console", vm, "--until", "ward-guest: ready"]);
        assert!(console.status.success(), "{}{}", lossy(&console.stdout), lossy(&console.stderr));
        lossy(&console.stdout)
    }

    /// How often the embedded key server was asked for a key. The controller looks now and then whether it is well, and what
    /// it says of the keys that are needed.
    fn requests(&self) -> i64 {
        let state = self.state().join("keyserver");
        let counts: serde_json::Value = self.get(&["keyserver", "audit", "--counts", "--state", text(&state)]);
        let counts = counts.as_array().unwrap().iter().filter(|count| count["operation"] == "Get");
        counts.map(|count| count["count"].as_i64().unwrap()).sum()
    }
}

/// What cryptsetup says of a disk, which it opens with the KEK.
fn cryptsetup_opens(disk: &Path, kek: &[u8]) {
    let dump = lossy(&run("cryptsetup", &["luksDump", text(disk)]).stdout);
    for expected in ["Version:       \t2", "aes-xts-plain64", "sector: 4096 [bytes]", "0: ward", "pbkdf2"] {
        assert!(dump.contains(expected), "{expected:?} is not in {dump}");
    }
    let mut open = Command::new("/usr/sbin/cryptsetup");
    open.args(["open", "--test-passphrase", "--key-file", "-", text(disk)]);
    for (key, opens) in [(kek.to_vec(), true), (vec![7; 32], false)] {
        let mut child = open.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&key).unwrap();
        assert_eq!(child.wait().unwrap().success(), opens);
    }
}

/// Boots of a guest on the way: plain, encrypted, on the second host.
struct Way<'a> {
    format: &'a str,
    boot_plain: bool,
    boot_first: bool,
}

fn encrypted_moved_decrypted(system: &System, way: &Way<'_>, without_key_server: impl FnOnce(&dyn Fn())) {
    let (guest, access) = (Guest::get(), system.access());
    let (vm, disk) = ("web", format!("disk-0.{}", way.format));
    let mut sums = Vec::new();
    guest.import(system, vm, way.format, &[]);
    assert_eq!(system.files(vm), set([&disk, "initrd", "kernel", "vm.toml"]));
    if way.boot_plain {
        sums.push(system.boot(vm, "host-1"));
    }

    system.done(&["vm", "encrypt", vm]);
    assert_eq!(system.files(vm), set(["disk-0.luks", "initrd", "kernel", "vm.toml"]), "the plain original is gone");
    let luks = system.file(vm, "disk-0.luks");
    let raw = fs::read(&luks).unwrap();
    assert!(guest.after(0).windows(PLAIN_TEXT.len()).any(|window| window == PLAIN_TEXT));
    assert!(!raw.windows(PLAIN_TEXT.len()).any(|window| window == PLAIN_TEXT));
    let key_id = system.key_id(vm);
    // The controller has the key for one push, hosts as long as they need it.
    let mut keys = Keys::default();
    keys.add("the KEK", &access.kek(&key_id));
    let finder = keys.finder().unwrap();
    let found = |process: &str| finder.in_process(system.pid(process).parse().unwrap()).unwrap();
    eventually("the controller has forgotten the key", || found("controller").is_empty().then_some(()));
    assert!(!found("host-1").is_empty() && !found("host-2").is_empty(), "the search finds nothing");
    cryptsetup_opens(&luks, &access.kek(&key_id));
    for host in ["host-1", "host-2"] {
        system.has_keys(host, &system.vm(vm).keys);
    }
    if way.boot_first {
        sums.push(system.boot(vm, "host-1"));
    }

    without_key_server(&|| {
        system.stop("host-1");
        let sum = system.boot(vm, "host-2");
        sums.iter().for_each(|before| assert_eq!(*before, sum));
    });
    system.restart("host-1");
    let report = system.no_key_lies_about(&access, &key_id, &luks);
    assert!(report.files > 20 && report.bytes > 64 << 20, "{report:?}");

    system.done(&["vm", "decrypt", vm]);
    assert_eq!(system.files(vm), set([&disk, "initrd", "kernel", "vm.toml"]));
    let boots = 1 + usize::from(way.boot_plain) + usize::from(way.boot_first);
    assert!(
        contents(&system.file(vm, &disk), way.format) == guest.after(boots),
        "not the original plus what was written"
    );
    assert!(!system.vm(vm).encrypted);
    for kind in [
        EventKind::VmImported,
        EventKind::KeyCreated,
        EventKind::KeyPushed,
        EventKind::VmEncrypted,
        EventKind::VmStarted,
        EventKind::VmStopped,
        EventKind::VmDecrypted,
        EventKind::KeyUnneeded,
    ] {
        system.events_of(kind);
    }
    assert_eq!(access.all(), [key_id], "the key stays at its server, and there is one");
}

#[test]
fn on_wards_key_server_with_a_raw_image() {
    let system = System::start(2);
    let way = Way { format: "raw", boot_plain: true, boot_first: true };
    encrypted_moved_decrypted(&system, &way, |move_it| {
        let before = system.requests();
        assert!(before > 0);
        move_it();
        assert_eq!(system.requests(), before, "the key server was asked");
    });
}

/// The key server is away while the VM moves to another host.
fn without_the_key_server(system: &System, move_it: &dyn Fn()) {
    system.stop("keyserver");
    move_it();
    system.restart("keyserver");
}

#[test]
fn on_wards_key_server_with_a_qcow2_image() {
    let system = System::start(2);
    let way = Way { format: "qcow2", boot_plain: true, boot_first: false };
    encrypted_moved_decrypted(&system, &way, |move_it| without_the_key_server(&system, move_it));
}

#[test]
fn on_pykmips_key_server() {
    let system = System::with_pykmip(2);
    let way = Way { format: "qcow2", boot_plain: false, boot_first: true };
    encrypted_moved_decrypted(&system, &way, |move_it| without_the_key_server(&system, move_it));
    // It takes no attributes of others; that is said, and the key is good all the same.
    system.events_of(EventKind::KeyAttributesRefused);
}
