//! The processes of VMs apart: from the host, from each other's VMs, and keys from where they are not needed. As root: it is
//! about what root's agent gives up for them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use common::*;
use ward_rpc::api::host::{CloneVm, CreateVm, JobSpec, StartVm, Status, StopVm, VmPart, VmPower};
use ward_secret::WrappedKey;
use ward_types::{Code, HomeCrypto, Power, TaskId, VmConfig, VmId};

/// One whose bytes are in no memory by chance.
const KEY: u8 = 0xb7;

fn is_root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("not root: nothing is tested");
    }
    root
}

/// What the kernel says of a process.
struct Seen {
    path: PathBuf,
    status: BTreeMap<String, String>,
}

impl Seen {
    fn new(path: PathBuf) -> Self {
        let status = fs::read_to_string(path.join("status")).unwrap();
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        Self { status: lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(), path }
    }

    fn is(&self, name: &str) -> &str {
        &self.status[name]
    }

    fn first(&self, name: &str) -> &str {
        self.is(name).split_whitespace().next().unwrap()
    }

    fn pid(&self) -> &str {
        self.path.file_name().unwrap().to_str().unwrap()
    }

    /// The hard limit of cores.
    fn most_of_cores(&self) -> String {
        let limits = fs::read_to_string(self.path.join("limits")).unwrap();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        limit.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn mounts(&self) -> PathBuf {
        fs::read_link(self.path.join("ns/mnt")).unwrap()
    }

    fn network(&self) -> PathBuf {
        fs::read_link(self.path.join("ns/net")).unwrap()
    }

    /// Its interfaces.
    fn interfaces(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path.join("net/dev")).unwrap();
        text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
    }
}

/// The processes of one VM: QEMU, the disk process, swtpm, as far as there are any.
fn processes_of(host: &Host, vm: VmId) -> BTreeMap<String, Seen> {
    let dir = host.state().join("run").join(vm.to_string());
    let all = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let here = all.filter(|path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&dir)));
    here.map(Seen::new).map(|seen| (seen.is("Name").to_owned(), seen)).collect()
}

/// An encrypted VM with a disk, UEFI variables and a vTPM, that runs its firmware.
async fn running(host: &mut Host, name: &str) -> VmConfig {
    host.push(&[KEY]).await;
    let image = host.path("image");
    raw_image(&image, 4 * MIB);
    let JobSpec::CreateEncrypted { vm, home, .. } = create_uefi(name, Some(KEY)) else { unreachable!() };
    let vm = CreateVm { disks: vec![copy(&image)], ..vm };
    let spec = JobSpec::CreateEncrypted { vm, home, disks: vec![Some(key(KEY))] };
    let config = host.done(name, spec).await.0.unwrap();
    host.call(StartVm { vm: config.id, home: host.home(name), expected: None }).await.unwrap();
    config
}

/// Runs a program as somebody.
fn as_user(user: &str, group: &str, program: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", group, "--clear-groups"]).args(program);
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_vm_is_a_user_of_its_own_without_network_and_privileges() {
    if !is_root() {
        return;
    }
    let mut host = Host::start().await;
    let (one, two) = (running(&mut host, "one").await, running(&mut host, "two").await);
    let (first, second) = (processes_of(&host, one.id), processes_of(&host, two.id));
    assert_eq!(first.len(), 3, "{:?}", first.keys());
    assert_eq!(second.len(), 3);
    let user = |of: &BTreeMap<String, Seen>| of.values().next().unwrap().first("Uid").to_owned();
    assert_ne!(user(&first), user(&second));
    let own = Seen::new("/proc/self".into());
    let lacks = host.call(Status::default()).await.unwrap().isolation.lacks;
    let locks = !lacks.iter().any(|lack| lack.contains("lock all"));
    for (vm, processes) in [(&one, &first), (&two, &second)] {
        for (name, process) in processes {
            // Real, effective, saved and of files.
            assert_eq!(
                process.is("Uid").split_whitespace().collect::<Vec<_>>(),
                [user(processes).as_str(); 4],
                "{name}"
            );
            assert_ne!(process.first("Uid"), own.first("Uid"), "{name}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(process.is(set), "0000000000000000", "{name}");
            }
            assert_eq!((process.is("NoNewPrivs"), process.is("Seccomp")), ("1", "2"), "{name}");
            let (groups, kvm) = (process.is("Groups"), fs::metadata("/dev/kvm").map_or(0, |kvm| kvm.gid()));
            assert!(
                groups.is_empty() || name.starts_with("qemu") && groups == kvm.to_string() && kvm != 0,
                "{name}: {groups}"
            );
            // Of QEMU the kernel writes no core itself; of the others it makes none.
            let cores = if name.starts_with("qemu") || own.most_of_cores() == "0" { "0" } else { "1" };
            assert_eq!(process.most_of_cores(), cores, "{name}");
            if name == "test_ward" && locks {
                assert_ne!(process.is("VmLck"), "0 kB", "expanded keys may be swapped");
            }
            assert_ne!(process.mounts(), own.mounts(), "{name}");
            assert_ne!(process.network(), own.network(), "{name}");
            assert_eq!(process.interfaces(), ["lo"], "{name}");
            for table in ["tcp", "tcp6", "udp", "udp6", "raw", "packet"] {
                let sockets = fs::read_to_string(process.path.join("net").join(table)).unwrap_or_default();
                assert!(sockets.lines().count() <= 1, "{name} has sockets: {sockets}");
            }
        }
        // Of what is its user's there is the state of its vTPM, and that only while it runs.
        let home = host.store().join(vm.name.as_str());
        for entry in fs::read_dir(&home).unwrap().flatten() {
            let owner = entry.metadata().unwrap().uid().to_string();
            assert_eq!(owner == user(processes), entry.file_name() == "tpm", "{:?}", entry.file_name());
        }
    }
    // One VM's user gets at nothing of the other VM, nor at its own images.
    for (path, there) in [
        (host.store().join("two/vm.toml"), "-r"),
        (host.store().join("one/vm.toml"), "-r"),
        (host.store().join("one/disk-0.luks"), "-r"),
        (host.store().join("two/tpm/tpm2-00.permall"), "-r"),
        (host.state().join(format!("run/{}/vm/qmp.sock", two.id)), "-w"),
        (host.state().join(format!("run/{}/run.json", one.id)), "-w"),
    ] {
        run("test", &[there, text(&path)]);
        // Even where the directories above let everybody through.
        for directory in path.ancestors().skip(1).take_while(|directory| directory.starts_with(host.dir.path())) {
            if !directory.ends_with("vm") && !directory.ends_with("tpm") {
                fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
            }
        }
        let tried = as_user(&user(&first), &user(&first), &["test", there, text(&path)]);
        assert!(!tried.status.success(), "{}", path.display());
    }
    // QEMU, taken over, could not look into the processes with the keys, though they are of the same user.
    let group = first["qemu-system-x86"].first("Gid").to_owned();
    for keeper in first.values().filter(|process| !process.is("Name").starts_with("qemu")) {
        assert_ne!(keeper.first("Gid"), group);
        let environment = format!("/proc/{}/environ", keeper.pid());
        assert!(!as_user(&user(&first), &group, &["cat", &environment]).status.success(), "{}", keeper.is("Name"));
    }
    let swtpm = format!("/proc/{}/environ", first["swtpm"].pid());
    assert!(as_user(&user(&first), &user(&first), &["cat", &swtpm]).status.success(), "else that shows nothing");

    // A later agent finds them, and the user is free when the VM has ended.
    host.kill();
    host.start_agent(&[]).await;
    assert_eq!(host.call(VmPower { vm: one.id }).await.unwrap(), Power::On);
    host.push(&[KEY]).await;
    let third = running(&mut host, "three").await;
    let taken = user(&processes_of(&host, third.id));
    assert!(taken != user(&first) && taken != user(&second), "given twice");
    for vm in [one.id, two.id, third.id] {
        host.call(StopVm { vm, force: true, wait_ms: 0 }).await.unwrap();
    }
    for name in ["one", "two", "three"] {
        for (path, _) in all_files(&host.store().join(name)) {
            assert_eq!(fs::metadata(&path).unwrap().uid().to_string(), own.first("Uid"), "{}", path.display());
        }
    }
}

fn all_files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        found.push((entry.path(), metadata.len()));
        if metadata.is_dir() {
            found.extend(all_files(&entry.path()));
        }
    }
    found
}

/// Landlock alone: what is opened belongs to the same user and is for all to read.
#[test]
fn a_confined_program_opens_only_what_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let [own, other] = ["own", "other"].map(|name| dir.path().join(name));
    for path in [&own, &other] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("file"), "content").unwrap();
    }
    let programs = ["/usr", "/bin", "/lib", "/lib64"];
    let files = |write: &[&Path]| {
        serde_json::json!({
            "programs": programs, "read": ["/etc/ld.so.cache", own], "devices": ["/dev/null"], "sockets": [], "write": write,
        })
    };
    let confined = |orders: &serde_json::Value, program: &[&str]| {
        Command::new(exe()).arg("confine").arg(orders.to_string()).args(program).output().unwrap()
    };
    let [mine, others] = [own.join("file"), other.join("file")];
    let orders = serde_json::json!({ "files": files(&[]) });
    let probe = confined(&orders, &[]);
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr);
        assert!(why.contains("Landlock"), "{why}");
        eprintln!("this kernel has no Landlock: {why}");
        return;
    }
    let read = confined(&orders, &["cat", text(&mine)]);
    assert_eq!(read.stdout, b"content", "{}", String::from_utf8_lossy(&read.stderr));
    let refused = |orders: &serde_json::Value, program: &[&str]| {
        let output = confined(orders, program);
        assert!(!output.status.success(), "{program:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&orders, &["cat", text(&others)]).contains("denied"));
    refused(&orders, &["cat", "/etc/passwd"]);
    refused(&orders, &["tee", text(&mine)]);
    refused(&orders, &["tee", text(&own.join("new"))]);
    // Not by a way round either: a link, a name in another directory, what the test itself has open.
    std::os::unix::fs::symlink(&others, own.join("link")).unwrap();
    refused(&orders, &["cat", text(&own.join("link"))]);
    refused(&orders, &["ln", text(&others), text(&own.join("hard"))]);
    refused(&orders, &["cat", &format!("/proc/{}/environ", std::process::id())]);
    let version: u32 = String::from_utf8(probe.stdout).unwrap().trim().parse().unwrap();
    if version >= 6 {
        refused(&orders, &["kill", "-0", &std::process::id().to_string()]);
    }
    let orders = serde_json::json!({ "files": files(&[&own]) });
    let written = confined(&orders, &["tee", text(&own.join("new"))]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    refused(&orders, &["mkfifo", text(&own.join("pipe"))]);
    refused(&orders, &["tee", text(&other.join("new"))]);
    // A program that is not there, and orders that nobody knows.
    assert!(refused(&orders, &["/nowhere"]).contains("cannot run /nowhere"));
    refused(&serde_json::json!({ "own_moon": true }), &["true"]);
}

#[test]
fn a_process_in_its_own_network_reaches_nobody() {
    if !is_root() {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
    let connects = |orders: &str| {
        let mut command = Command::new(exe());
        command.args(["confine", orders, "bash", "-c", &format!(": < {address}")]);
        command.output().unwrap().status.success()
    };
    assert!(connects("{}"));
    assert!(!connects(r#"{"own_network":true}"#));
}

/// Runs a program confined.
fn confined(orders: &str, program: &[&str]) -> Output {
    Command::new(exe()).args(["confine", orders]).args(program).output().unwrap()
}

#[test]
fn a_confined_program_makes_no_call_that_it_does_not_need() {
    let unix = "import socket; socket.socketpair()";
    for (program, fails) in [
        (["python3", "-c", unix], false),
        (["python3", "-c", "import socket; socket.socket(socket.AF_INET)"], true),
        (["python3", "-c", "import socket; socket.socket(socket.AF_VSOCK)"], true),
        (["unshare", "--user", "true"], true),
    ] {
        if !confined("{}", &program).status.success() {
            assert!(fails, "{program:?}");
            eprintln!("this machine does not let anybody: {program:?}");
            continue;
        }
        for calls in ["few", "few-and-rings"] {
            let output = confined(&format!(r#"{{"calls":"{calls}"}}"#), &program);
            assert_eq!(output.status.success(), !fails, "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn what_is_hidden_is_hidden_from_that_program_only() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    fs::write(dir.path().join("file"), "content").unwrap();
    let orders = r#"{"hide":["/tmp"]}"#;
    let run = |program: &[&str]| {
        let mut command = Command::new(exe());
        command.current_dir(dir.path()).args(["confine", orders]).args(program).output().unwrap()
    };
    assert_eq!(run(&["ls", "-A", "/tmp"]).stdout, b"");
    assert!(!run(&["touch", "/tmp/new"]).status.success());
    assert_eq!(run(&["cat", "file"]).stdout, b"content", "where it is, it stays");
    assert!(dir.path().join("file").exists(), "here nothing is hidden");
}

#[test]
fn one_that_stays_the_agents_user_keeps_what_opens_files() {
    if !is_root() {
        return;
    }
    let status = confined(r#"{"few_privileges":true}"#, &["cat", "/proc/self/status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    for set in ["CapPrm", "CapEff"] {
        // CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert!(status.contains(&format!("{set}:\t0000000000000006")), "{status}");
    }
    assert!(!confined(r#"{"few_privileges":true}"#, &["chown", "1", text(&exe())]).status.success());
}

/// What converts disks of that host, while it does.
fn converter(host: &Host) -> Option<Seen> {
    let mut all = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let found = all.find(|path| {
        let is_one = fs::read(path.join("cmdline")).is_ok_and(|line| line.ends_with(b"test_ward\0disk\0"));
        let mut open = fs::read_dir(path.join("fd")).into_iter().flatten().flatten();
        is_one && open.any(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(host.store())))
    });
    found.map(Seen::new)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_converts_a_disk_has_no_network_and_few_privileges() {
    if !is_root() {
        return;
    }
    let mut host = Host::start().await;
    host.push(&[KEY]).await;
    let image = host.path("image");
    raw_image(&image, 256 * MIB);
    host.create("vm", vec![copy(&image)]).await;
    host.begin(TaskId::new(), "vm", encrypt(KEY, &[0])).await.unwrap();
    let mut seen = None;
    eventually("the conversion", || {
        seen = converter(&host);
        seen.is_some()
    });
    let (seen, own) = (seen.unwrap(), Seen::new("/proc/self".into()));
    assert_eq!((seen.is("NoNewPrivs"), seen.is("Seccomp"), seen.is("CapEff")), ("1", "2", "0000000000000006"));
    assert_ne!(seen.network(), own.network());
}

/// The kernel's setting for all of this machine, as it was before.
struct CorePattern(String);

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

impl Drop for CorePattern {
    fn drop(&mut self) {
        fs::write(CORE_PATTERN, &self.0).unwrap();
    }
}

#[test]
fn a_core_goes_to_who_takes_dumps_and_into_no_file() {
    if !is_root() {
        return;
    }
    let before = CorePattern(fs::read_to_string(CORE_PATTERN).unwrap());
    if let Err(error) = fs::write(CORE_PATTERN, &before.0) {
        eprintln!("cores are not this machine's own: {error}");
        std::mem::forget(before);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let crash = |orders: &str| {
        for entry in fs::read_dir(dir.path()).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
        let mut command = Command::new("prlimit");
        command.args(["--core=unlimited", text(&exe()), "confine", orders, "sh", "-c", "kill -SEGV $$"]);
        let output = command.current_dir(dir.path()).output().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(11), "{output:?}");
        let sizes = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.metadata().unwrap().len());
        sizes.sum::<u64>() > 0
    };
    let (as_before, handed, none) = ("{}", r#"{"cores":"handed"}"#, r#"{"cores":"none"}"#);
    fs::write(CORE_PATTERN, dir.path().join("core").to_str().unwrap()).unwrap();
    assert_eq!([as_before, handed, none].map(crash), [true, false, false], "into a file");
    fs::write(CORE_PATTERN, format!("|/usr/bin/tee {}", dir.path().join("taken").display())).unwrap();
    assert_eq!([as_before, handed, none].map(crash), [true, true, false], "to a program");
}

/// A swtpm that tells who it is, into its state, before it becomes one.
fn talkative_swtpm(host: &Host) -> String {
    let bin = host.path("bin");
    fs::create_dir(&bin).unwrap();
    let real = String::from_utf8(Command::new("which").arg("swtpm").output().unwrap().stdout).unwrap();
    let script = format!(
        "#!/bin/sh\necho $(id -u) $(cat /etc/passwd 2>/dev/null | wc -c) >>/proc/self/fd/10/said\nexec {} \"$@\"\n",
        real.trim()
    );
    fs::write(bin.join("swtpm"), script).unwrap();
    fs::set_permissions(bin.join("swtpm"), fs::Permissions::from_mode(0o755)).unwrap();
    for directory in bin.ancestors().take_while(|path| path.starts_with(host.dir.path())) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

/// Whoever took a swtpm over chose its state, which the next one reads.
#[tokio::test(flavor = "multi_thread")]
async fn no_swtpm_runs_as_the_agents_user() {
    if !is_root() {
        return;
    }
    let mut host = Host::enrolled().await;
    let path = talkative_swtpm(&host);
    host.start_agent(&[("PATH", &path)]).await;
    let config = running(&mut host, "one").await;
    host.call(StopVm { vm: config.id, force: true, wait_ms: 0 }).await.unwrap();
    let clone = CloneVm {
        from: host.home("one"),
        id: VmId::new(),
        name: "two".parse().unwrap(),
        plan: Default::default(),
        replace_tpm: false,
    };
    host.done("two", JobSpec::Clone(clone)).await;
    let landlock = host.call(Status::default()).await.unwrap().isolation.landlock.is_some();
    // Made; tried before the start, and running; tried before it was copied, and copied: out of the one, into the other.
    for (name, times) in [("one", 5), ("two", 1)] {
        let state = host.store().join(name).join("tpm");
        let said = fs::read_to_string(state.join("said")).unwrap();
        assert_eq!(said.lines().count(), times, "{name}: {said}");
        for line in said.lines() {
            let (user, could_read) = line.split_once(' ').unwrap();
            assert!(user.parse::<u32>().unwrap() >= 1_900_000_000, "{name}: {said}");
            assert_eq!(could_read == "0", landlock, "{name}: {said}");
        }
        let owners = all_files(&state).into_iter().map(|(path, _)| path).chain([state.clone()]);
        assert!(owners.into_iter().all(|path| fs::metadata(path).unwrap().uid() == 0), "{name}");
    }
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_start_gave_away_is_taken_back() {
    if !is_root() {
        return;
    }
    let mut host = Host::start().await;
    let config = running(&mut host, "one").await;
    host.call(StopVm { vm: config.id, force: true, wait_ms: 0 }).await.unwrap();
    let state = host.store().join("one/tpm");
    for point in ["run.tpm-given", "run.noted#2"] {
        host.kill();
        host.start_agent(&[("WARD_CRASH_AT", point)]).await;
        host.push(&[KEY]).await;
        let start = |host: &Host| StartVm { vm: config.id, home: host.home("one"), expected: None };
        assert!(host.client.call(start(&host)).await.is_err(), "{point}");
        eventually("the agent's end", || host.was_killed());
        assert_ne!(owner(&state), 0, "{point}: else that shows nothing");
        host.start_agent(&[]).await;
        for path in all_files(&state).into_iter().map(|(path, _)| path).chain([state.clone()]) {
            assert_eq!(owner(&path), 0, "{point}: {}", path.display());
        }
        assert!(processes_of(&host, config.id).is_empty(), "{point}");
        host.push(&[KEY]).await;
        host.call(start(&host)).await.unwrap();
        host.call(StopVm { vm: config.id, force: true, wait_ms: 0 }).await.unwrap();
    }
}

/// An agent that was away tidies up after a VM that has moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_returning_agent_leaves_the_state_of_a_vm_that_runs_elsewhere() {
    if !is_root() {
        return;
    }
    let (mut first, second) = (Host::start().await, Host::start().await);
    let config = running(&mut first, "one").await;
    let (home, state) = (first.home("one"), first.store().join("one/tpm"));
    first.kill();
    for process in processes_of(&first, config.id).values() {
        run("kill", &["-KILL", process.pid()]);
    }
    eventually("its processes end", || processes_of(&first, config.id).is_empty());
    second.push(&[KEY]).await;
    // The kernel closes their files when it has taken them off all lists.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match second.call(StartVm { vm: config.id, home: home.clone(), expected: None }).await {
            Ok(_) => break,
            Err(problem) => assert!(problem.code == Code::VmRunning && Instant::now() < deadline, "{problem:?}"),
        }
    }
    let user = owner(&state);
    assert_ne!(user, 0);
    first.start_agent(&[]).await;
    let run_dir = first.state().join("run");
    eventually("the first has tidied up", || fs::read_dir(&run_dir).unwrap().count() == 0);
    for (path, _) in all_files(&state) {
        assert_eq!(owner(&path), user, "{}", path.display());
    }
    assert_eq!(owner(&state), user);
    second.call(StopVm { vm: config.id, force: true, wait_ms: 0 }).await.unwrap();
    assert_eq!(owner(&state), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_is_told_once_and_the_next_agent_tells_the_same() {
    let mut host = Host::start().await;
    let config = running(&mut host, "one").await;
    let broken = async |host: &Host| host.call(Status::default()).await.unwrap().broken;
    assert_eq!(broken(&host).await, []);
    run("kill", &["-KILL", processes_of(&host, config.id)["swtpm"].pid()]);
    let tells = async |host: &Host, part| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let told = broken(host).await;
            if told.iter().any(|broken| broken.part == part) {
                return told;
            }
            assert!(Instant::now() < deadline, "{part:?} is not told: {told:?}: {}", host.log());
        }
    };
    let told = tells(&host, VmPart::Tpm).await;
    assert_eq!((told.len(), told[0].vm, told[0].part), (1, config.id, VmPart::Tpm));
    for _ in 0..2 {
        host.kill();
        host.start_agent(&[]).await;
        assert_eq!(broken(&host).await, told, "the same death");
    }
    // Without its disks a guest does not go on, though nobody was there when they went.
    host.kill();
    run("kill", &["-KILL", processes_of(&host, config.id)["test_ward"].pid()]);
    host.start_agent(&[]).await;
    // Nobody may have waited for it yet, so that it is noticed a moment later.
    tells(&host, VmPart::Disk).await;
    while host.call(VmPower { vm: config.id }).await.unwrap() == Power::On {
        tokio::task::yield_now().await;
    }
    assert!(processes_of(&host, config.id).is_empty());
}

/// All that a process has in memory, and that root can read.
fn memory(process: &Seen) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(process.path.join("maps")).unwrap();
    let memory = fs::File::open(process.path.join("mem")).unwrap();
    let mut regions = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
        if !access.starts_with('r') || line.ends_with("[vvar]") || line.contains("vvar") || line.contains("vsyscall") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut region = vec![0; usize::try_from(to - from).unwrap()];
        let mut have = 0;
        // What lies beyond the end of a file can't be read.
        while let Ok(more @ 1..) = memory.read_at(&mut region[have..], from + have as u64) {
            have += more;
        }
        region.truncate(have);
        regions.push(region);
    }
    regions
}

/// Which of those bytes are there.
fn found(regions: &[Vec<u8>], wanted: &AhoCorasick) -> BTreeSet<usize> {
    regions.iter().flat_map(|region| wanted.find_iter(region)).map(|found| found.pattern().as_usize()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_in_qemus_memory_nor_in_a_core_of_any_process() {
    if !is_root() {
        return;
    }
    let mut host = Host::start().await;
    let config = running(&mut host, "one").await;
    let home = host.store().join("one");
    let HomeCrypto::Encrypted { wrapped_key, .. } = &config.home else { unreachable!() };
    let decode = |text: &str| WrappedKey::from_bytes(base64::engine::general_purpose::STANDARD.decode(text).unwrap());
    let dek = luks_contents(&home.join("disk-0.luks"), KEY, 512).0;
    let nvram = luks_contents(&home.join("nvram.luks"), KEY, 512).0;
    let tpm = kek(KEY).unwrap_tpm_key(&decode(&config.tpm.as_ref().unwrap().wrapped_key.0)).unwrap();
    let home_key = kek(KEY).unwrap_home_key(&decode(&wrapped_key.0)).unwrap();
    // A DEK is two AES keys, and an expanded one begins with its key.
    let keys: Vec<(&str, Vec<u8>)> = vec![
        ("KEK", kek(KEY).expose().to_vec()),
        ("data key", dek[..32].to_vec()),
        ("tweak key", dek[32..].to_vec()),
        ("data key of the variables", nvram[..32].to_vec()),
        ("tweak key of the variables", nvram[32..].to_vec()),
        ("vTPM's key", tpm.expose().to_vec()),
        ("home's key", home_key.expose().to_vec()),
    ];
    let hex = keys.iter().map(|(_, key)| hex::encode(key).into_bytes());
    let wanted = AhoCorasick::new(keys.iter().map(|(_, key)| key.clone()).chain(hex)).unwrap();
    let processes = processes_of(&host, config.id);
    let dir = host.path("cores");
    fs::create_dir(&dir).unwrap();
    for (name, process) in &processes {
        let memory = memory(process);
        assert!(memory.iter().map(Vec::len).sum::<usize>() > 1 << 20, "{name} shows no memory");
        let core = dir.join(name);
        // The name gets the process's number appended. Not all of it can be had of a process that is kept from it.
        let made = Command::new("gcore").args(["-o", text(&core), process.pid()]).output();
        let core = PathBuf::from(format!("{}.{}", core.display(), process.pid()));
        let core = match made {
            Ok(_) if core.exists() => fs::read(&core).unwrap(),
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("gcore, of Debian's package gdb: {error}"),
        };
        let names = |found: BTreeSet<usize>| -> Vec<&str> {
            found.into_iter().map(|at| keys.get(at).map_or("text", |(name, _)| name)).collect()
        };
        assert_eq!(names(found(&[core], &wanted)), [""; 0], "in the core of {name}");
        // That what a process needs is found shows that it would be found elsewhere too.
        let expected = match name.as_str() {
            "swtpm" => vec!["vTPM's key"],
            qemu if qemu.starts_with("qemu") => vec![],
            _ => vec!["data key", "tweak key", "data key of the variables", "tweak key of the variables"],
        };
        assert_eq!(names(found(&memory, &wanted)), expected, "in the memory of {name}");
    }
    // The logs of the VMM hold no more of the guest than of the keys: they are empty.
    for log in ["qemu.log", "disk.log", "tpm.log"] {
        let path = host.state().join("run").join(config.id.to_string()).join(log);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "", "{log}");
    }
    host.call(StopVm { vm: config.id, force: true, wait_ms: 0 }).await.unwrap();
}

/// A description that was right once, put back: only who knows the present one can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_was_put_back_is_noticed() {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    let image = host.path("image");
    raw_image(&image, 4 * MIB);
    host.create("vm", vec![copy(&image)]).await;
    let older = host.done("vm", encrypt(1, &[0])).await.0.unwrap();
    let path = host.store().join("vm/vm.toml");
    let (text, disk) = (fs::read(&path).unwrap(), fs::read(host.store().join("vm/disk-0.luks")).unwrap());
    // It is encrypted anew, and all files of before are put back.
    let now = host.done("vm", deep(2, true, &[0])).await.0.unwrap();
    assert_ne!(older, now);
    let start =
        |expected: &VmConfig| StartVm { vm: now.id, home: host.home("vm"), expected: Some(Box::new(expected.clone())) };
    let present = fs::read(&path).unwrap();
    fs::write(&path, &text).unwrap();
    fs::write(host.store().join("vm").join(older.disks[0].file.as_str()), &disk).unwrap();
    let problem = host.call(start(&now)).await.unwrap_err();
    assert!(problem.code == Code::HomeTampered && problem.remedy.contains("ward vm reload"), "{problem:?}");
    // It is whole in itself, so that without that knowledge it would run.
    host.call(start(&older)).await.unwrap();
    host.call(StopVm { vm: now.id, force: true, wait_ms: 0 }).await.unwrap();
    fs::write(&path, &present).unwrap();
    assert_eq!(host.call(start(&older)).await.unwrap_err().code, Code::HomeTampered);
    host.call(start(&now)).await.unwrap();
    host.call(StopVm { vm: now.id, force: true, wait_ms: 0 }).await.unwrap();
}
