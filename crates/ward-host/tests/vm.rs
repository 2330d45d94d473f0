//! VMs that really run, under QEMU and the disk process, from plain and encrypted disks.
//!
//! The guest is a boot sector of a few instructions: it prints the text that it reads from the disk's second sector, and
//! then either ends the machine or waits for its end.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::*;
use ward_rpc::api::host::{
    ConsoleText, CreateVm, DropKeys, JobSpec, KernelSource, Notice, ReadConsole, StartVm, Status, StopVm, VmPower,
};
use ward_types::{Code, Power, Problem, VmConfig, VmId};

/// What the guest does when it has printed its text.
#[derive(Clone, Copy)]
enum Then {
    PowersOff = b'P' as isize,
    Waits = b'W' as isize,
}

/// A disk that boots.
fn boot_disk(path: &Path, text: &str, then: Then) {
    #[rustfmt::skip]
    let code: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // ds, es, ss = 0
        0xbc, 0x00, 0x7c,                               // sp = 0x7c00
        0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, 0xb6, 0x00, // read one sector, cylinder 0, sector 2, head 0
        0xbb, 0x00, 0x7e, 0xcd, 0x13,                   // to 0x7e00, by the BIOS
        0xbe, 0x01, 0x7e,                               // si = 0x7e01
        0xac, 0x84, 0xc0, 0x74, 0x06,                   // next character; ends with zero
        0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5,             // to the serial port, and again
        0x80, 0x3e, 0x00, 0x7e, b'P', 0x75, 0x07,       // what then?
        0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef,       // ACPI power-off
        0xf4, 0xeb, 0xfd,                               // wait
    ];
    let mut disk = vec![0; usize::try_from(2 * MIB).unwrap()];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512] = u8::try_from(then as isize).unwrap();
    disk[513..513 + text.len()].copy_from_slice(text.as_bytes());
    fs::write(path, disk).unwrap();
}

impl Vm<'_> {
    async fn start(&self) -> Result<Vec<Notice>, Problem> {
        self.host
            .call(StartVm { vm: self.id, home: self.host.home("vm"), expected: None })
            .await
            .map(|started| started.notices)
    }

    /// Reads the console until it holds that text.
    async fn says(&self, wanted: &str) -> String {
        let (mut offset, mut all) = (0, String::new());
        loop {
            let read = ReadConsole { vm: self.id, offset, wait_ms: 20_000 };
            let ConsoleText { end, text, power } = self.host.call(read).await.unwrap();
            all.push_str(&text);
            offset = end;
            if all.contains(wanted) {
                return all;
            }
            assert!(power == Power::On && !text.is_empty(), "{wanted} is not in {all:?}: {}", self.host.log());
        }
    }

    async fn power(&self) -> Power {
        self.host.call(VmPower { vm: self.id }).await.unwrap()
    }

    async fn is_off(&self) {
        let read = |offset| ReadConsole { vm: self.id, offset, wait_ms: 20_000 };
        let mut offset = 0;
        loop {
            let text = self.host.call(read(offset)).await.unwrap();
            if text.power == Power::Off {
                break;
            }
            offset = text.end;
        }
        while self.power().await == Power::On {
            tokio::task::yield_now().await;
        }
        assert_eq!(fs::read_dir(self.host.state().join("run")).unwrap().count(), 0, "{}", self.host.log());
    }

    async fn stop(&self, force: bool, wait_ms: u32) -> Result<(), Problem> {
        self.host.call(StopVm { vm: self.id, force, wait_ms }).await
    }
}

struct Vm<'a> {
    host: &'a Host,
    id: VmId,
}

impl Host {
    fn vm(&self, config: &VmConfig) -> Vm<'_> {
        Vm { host: self, id: config.id }
    }
}

async fn host_with(then: Then, text_on_disk: &str) -> (Host, VmConfig) {
    let mut host = Host::start().await;
    let image = host.path("boot");
    boot_disk(&image, text_on_disk, then);
    let qcow2 = host.path("data.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&qcow2), "4M"]);
    let config = host.create("vm", vec![copy(&image), copy(&qcow2)]).await;
    host.push(&[1]).await;
    (host, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_vm_runs_and_ends_by_itself() {
    let (host, config) = host_with(Then::PowersOff, "hello from a plain disk\n").await;
    let vm = host.vm(&config);
    assert_eq!(vm.power().await, Power::Off);
    vm.start().await.unwrap();
    vm.says("hello from a plain disk\n").await;
    vm.is_off().await;
    assert_eq!(host.call(Status::default()).await.unwrap().vms, []);
    // And again; the console is that of this run.
    vm.start().await.unwrap();
    assert_eq!(vm.says("hello").await.matches("hello").count(), 1);
    vm.is_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_vm_runs_and_nobody_disturbs_it() {
    let (mut host, config) = host_with(Then::Waits, "hello from a ciphered disk\n").await;
    host.done("vm", encrypt(1, &[0, 1])).await;
    // Not without the key, which is named.
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    let problem = host.vm(&config).start().await.unwrap_err();
    assert_eq!(problem.code, Code::KeyNotOnHost);
    assert!(problem.why.contains("kms/1"), "{problem:?}");
    host.push(&[1]).await;

    let vm = host.vm(&config);
    vm.start().await.unwrap();
    vm.says("hello from a ciphered disk\n").await;
    assert_eq!(host.call(Status::default()).await.unwrap().vms, [config.id]);
    // QEMU knows no key, and not even the disk's file.
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let path = process.path();
        if fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(host.state())) {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains(".luks") && !line.contains("secret"), "{line}");
        }
    }
    // A second start is none, and the running VM is safe from jobs.
    vm.start().await.unwrap();
    for spec in [decrypt(&[0, 1]), JobSpec::Remove] {
        let problem = host.begin(ward_types::TaskId::new(), "vm", spec).await.unwrap_err();
        assert_eq!(problem.code, Code::VmRunning, "{problem:?}");
        assert!(problem.why.contains(&host.id.to_string()), "{problem:?}");
    }
    // Its key may go now: the disk process has what it needs.
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    assert_eq!(vm.power().await, Power::On);
    // The guest doesn't heed its power button.
    vm.stop(false, 300).await.unwrap();
    assert_eq!(vm.power().await, Power::Off);
    vm.stop(true, 0).await.unwrap();
    vm.is_off().await;
    host.push(&[1]).await;
    host.done("vm", decrypt(&[0, 1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_gets_a_new_key_and_does_not_notice() {
    let (mut host, config) = host_with(Then::Waits, "hello from a ciphered disk\n").await;
    host.push(&[1, 2]).await;
    host.done("vm", encrypt(1, &[0, 1])).await;
    host.vm(&config).start().await.unwrap();
    host.vm(&config).says("hello from a ciphered disk\n").await;
    let disks = ["disk-0.luks", "disk-1.luks"].map(|disk| host.store().join("vm").join(disk));

    // Killed at any step, the VM goes on, and so does the job.
    let log = host.path("points");
    host.kill();
    host.start_agent(&[("WARD_CRASH_LOG", text(&log))]).await;
    host.push(&[1, 2]).await;
    host.done("vm", shallow(2, true, &[0, 1])).await;
    let (mut now, mut next) = (2, 1);
    let mut seen = BTreeMap::<String, u32>::new();
    let log = fs::read_to_string(&log).unwrap();
    let points = log.lines().filter(|point| point.starts_with("crypt.")).map(|point| {
        let count = seen.entry(point.to_owned()).or_default();
        *count += 1;
        format!("{point}#{count}")
    });
    let points: Vec<_> = points.collect();
    assert!(points.len() >= 8, "{points:?}");
    for point in points {
        host.kill();
        host.start_agent(&[("WARD_CRASH_AT", &point)]).await;
        host.push(&[1, 2]).await;
        let job = ward_types::TaskId::new();
        let spec = || shallow(next, true, &[0, 1]);
        assert!(host.try_job(job, host.home("vm"), spec()).await.is_none(), "{point}");
        host.start_agent(&[]).await;
        host.push(&[1, 2]).await;
        assert_eq!(host.vm(&config).power().await, Power::On, "{point}");
        let outcome = host.try_job(job, host.home("vm"), spec()).await.unwrap().unwrap();
        assert!(matches!(outcome, ward_rpc::api::host::JobOutcome::Done { .. }), "{point}: {outcome:?}");
        let opens = |disk: &PathBuf| cryptsetup_opens(disk, next) && !cryptsetup_opens(disk, now);
        assert!(disks.iter().all(opens), "{point}");
        assert_eq!(host.vm(&config).power().await, Power::On, "{point}");
        (now, next) = (next, now);
    }
    // What writes a disk anew is refused as ever.
    let problem = host.refused("vm", deep(1, true, &[0, 1])).await;
    assert_eq!(problem.code, Code::VmRunning, "{problem:?}");

    host.vm(&config).stop(true, 0).await.unwrap();
    host.call(DropKeys { keys: vec![key(next)] }).await.unwrap();
    host.vm(&config).start().await.unwrap();
    host.vm(&config).says("hello from a ciphered disk\n").await;
    host.vm(&config).stop(true, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_outlives_its_agent() {
    let (mut host, config) = host_with(Then::Waits, "still here\n").await;
    host.done("vm", encrypt(1, &[0, 1])).await;
    let vm = host.vm(&config);
    vm.start().await.unwrap();
    vm.says("still here\n").await;
    for kill in [true, false] {
        if kill {
            host.kill();
        } else {
            host.terminate();
        }
        host.start_agent(&[]).await;
        assert_eq!(host.call(Status::default()).await.unwrap().vms, [config.id], "{}", host.log());
        host.push(&[1]).await;
        let problem = host.begin(ward_types::TaskId::new(), "vm", decrypt(&[0, 1])).await.unwrap_err();
        assert_eq!(problem.code, Code::VmRunning);
    }
    let vm = host.vm(&config);
    let console = host.call(ReadConsole { vm: config.id, offset: 0, wait_ms: 0 }).await.unwrap();
    assert_eq!((console.text.as_str(), console.power), ("", Power::On), "what was printed before is nowhere");
    vm.stop(true, 0).await.unwrap();
    assert_eq!(vm.power().await, Power::Off);
    assert_eq!(fs::read_dir(host.state().join("run")).unwrap().count(), 0);

    // A VM that ends while no agent is there.
    vm.start().await.unwrap();
    vm.says("still here\n").await;
    host.kill();
    let pids = processes_below(&host.state());
    assert_eq!(pids.len(), 2, "QEMU and the disk process");
    for pid in &pids {
        if fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("qemu") {
            run("kill", &["-KILL", pid]);
        }
    }
    host.start_agent(&[]).await;
    eventually("the disk process ends", || processes_below(&host.state()).is_empty());
    let run_dir = host.state().join("run");
    eventually("the run directory goes", || fs::read_dir(&run_dir).unwrap().count() == 0);
    while host.vm(&config).power().await == Power::On {
        tokio::task::yield_now().await;
    }
    host.push(&[1]).await;
    host.vm(&config).start().await.unwrap();
    host.vm(&config).stop(true, 0).await.unwrap();
}

fn processes_below(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// Killed while it starts a VM, the agent leaves nothing that the next one does not put right.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_while_starting_leaves_a_vm_or_none() {
    for (point, expected) in [("run.noted#1", Power::Off), ("run.noted#2", Power::Off), ("run.noted#3", Power::On)] {
        let (mut host, config) = host_with(Then::Waits, "began\n").await;
        host.done("vm", encrypt(1, &[0, 1])).await;
        host.kill();
        host.start_agent(&[("WARD_CRASH_AT", point)]).await;
        host.push(&[1]).await;
        let start = StartVm { vm: config.id, home: host.home("vm"), expected: None };
        assert!(host.client.call(start).await.is_err(), "{point}");
        eventually("the agent's end", || host.was_killed());
        host.start_agent(&[]).await;
        host.push(&[1]).await;
        let vm = host.vm(&config);
        assert_eq!(vm.power().await, expected, "{point}: {}", host.log());
        vm.start().await.unwrap();
        vm.says("began\n").await;
        vm.stop(true, 0).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_process_stops_the_vm() {
    let (mut host, config) = host_with(Then::Waits, "began\n").await;
    host.done("vm", encrypt(1, &[0, 1])).await;
    let vm = host.vm(&config);
    vm.start().await.unwrap();
    vm.says("began\n").await;
    for pid in processes_below(&host.state()) {
        if !fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("qemu") {
            run("kill", &["-KILL", &pid]);
        }
    }
    vm.is_off().await;
    vm.start().await.unwrap();
    vm.stop(true, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_vm_from_starting_is_said() {
    let (mut host, config) = host_with(Then::Waits, "began\n").await;
    host.done("vm", encrypt(1, &[0, 1])).await;
    let disk = host.store().join("vm/disk-0.luks");
    let description = host.store().join("vm/vm.toml");
    let vm = host.vm(&config);
    let other = host.call(StartVm { vm: VmId::new(), home: host.home("vm"), expected: None }).await.unwrap_err();
    assert_eq!(other.code, Code::HomeInvalid);
    let none = host.call(StartVm { vm: config.id, home: host.home("none"), expected: None }).await.unwrap_err();
    assert_eq!(none.code, Code::NotFound);

    let good = fs::read_to_string(&description).unwrap();
    fs::write(&description, good.replace("memory_mib = 64", "memory_mib = 65")).unwrap();
    assert_eq!(vm.start().await.unwrap_err().code, Code::HomeTampered);
    fs::write(&description, &good).unwrap();

    let header = fs::read(&disk).unwrap();
    let damage = |offsets: &[usize]| {
        let mut damaged = header.clone();
        offsets.iter().for_each(|at| damaged[*at..*at + 512].fill(0xff));
        fs::write(&disk, damaged).unwrap();
    };
    damage(&[4096, 0x10000 + 4096]);
    assert_eq!(vm.start().await.unwrap_err().code, Code::HeaderDamaged);
    damage(&[4096]);
    let notices = vm.start().await.unwrap();
    assert!(matches!(&notices[..], [Notice::HeaderRepaired { file, .. }] if *file == disk), "{notices:?}");
    vm.says("began\n").await;
    vm.stop(true, 0).await.unwrap();
    assert_eq!(vm.start().await.unwrap(), []);
    vm.stop(true, 0).await.unwrap();

    // The record of a job that makes no sense: nobody knows what it was at.
    fs::write(host.store().join("vm/job.json"), "{}").unwrap();
    assert_eq!(vm.start().await.unwrap_err().code, Code::HomeInvalid);
    fs::remove_file(host.store().join("vm/job.json")).unwrap();

    // QEMU itself: it can't have that much memory.
    host.done("vm", decrypt(&[0, 1])).await;
    let plain = fs::read_to_string(&description).unwrap();
    fs::write(&description, plain.replace("memory_mib = 64", "memory_mib = 16777216")).unwrap();
    let problem = host.vm(&config).start().await.unwrap_err();
    assert_eq!(problem.code, Code::VmmFailed);
    assert!(problem.why.contains("it said: qemu-system"), "{problem:?}");
    assert_eq!(processes_below(&host.state()), Vec::<String>::new());
    assert_eq!(fs::read_dir(host.state().join("run")).unwrap().count(), 0);
}

/// A whole Linux: boots, writes to its encrypted disk, heeds its power button, finds what it wrote.
#[tokio::test(flavor = "multi_thread")]
async fn linux_runs_from_an_encrypted_disk() {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let guest = std::env::var_os("WARD_TEST_GUEST").map_or(made, Into::into).canonicalize().unwrap();
    assert!(guest.join("vmlinuz").exists(), "{} has no guest: run scripts/guest", guest.display());
    for disk in ["disk.raw", "disk.qcow2"] {
        let mut host = Host::start().await;
        let JobSpec::Create(create) = create("vm", vec![copy(&guest.join(disk))]) else { unreachable!() };
        let kernel = KernelSource {
            kernel: guest.join("vmlinuz"),
            initrd: Some(guest.join("initrd.cpio")),
            command_line: "console=ttyS0 quiet mitigations=off".into(),
        };
        let create = CreateVm { memory_mib: 256, kernel: Some(kernel), ..create };
        let config = host.done("vm", JobSpec::Create(create)).await.0.unwrap();
        host.push(&[1]).await;
        let mut files = String::new();
        for (boot, spec) in (1..).zip([None, Some(encrypt(1, &[0])), None, Some(decrypt(&[0]))]) {
            if let Some(spec) = spec {
                host.done("vm", spec).await;
            }
            let vm = host.vm(&config);
            vm.start().await.unwrap();
            let said = vm.says("ward-guest: ready").await;
            assert!(said.contains(&format!("ward-guest: wrote boot {boot} ")), "{said}");
            let line = said.lines().find(|line| line.starts_with("ward-guest: files")).unwrap().to_owned();
            assert!(files.is_empty() || files == line, "{files} became {line}");
            files = line;
            let begun = std::time::Instant::now();
            vm.stop(false, 60_000).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(50), "the guest does not heed its power button");
        }
    }
}
