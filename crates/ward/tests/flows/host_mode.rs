//! Host encryption mode: from the first encryption to a dump that only the host opens.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use ward_controller::api::types::{HostView, OrphanView};
use ward_types::{Code, DumpInfo, EventKind, HostMode, KeyLocator};

use crate::support::{System, at_both_servers, eventually, lossy, noise, run, text, ward};

/// What stands in the memory of a process.
const SECRET_TEXT: &str = "a line of somebody's letter, in the memory of a process";

/// The memory of a process that holds the text, as a core file.
fn core(system: &System) -> Vec<u8> {
    let mut process = Command::new("sleep").arg("600").env("LETTER", SECRET_TEXT).spawn().unwrap();
    let out = system.path("core");
    run("gcore", &["-o", text(&out), &process.id().to_string()]);
    let core = fs::read(out.with_extension(process.id().to_string())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(core.windows(SECRET_TEXT.len()).any(|window| window == SECRET_TEXT.as_bytes()));
    core
}

/// Whether any file below a directory holds these bytes.
fn lies_in(directory: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => lies_in(&entry.path(), bytes),
        kind if kind.is_file() => fs::read(entry.path()).unwrap().windows(bytes.len()).any(|found| found == bytes),
        _ => false,
    })
}

impl System {
    /// What the kernel does with the memory of a process that crashed.
    fn dumps(&self, host: &str, core: &Path) -> std::process::Output {
        let mut receive = Command::new(ward());
        receive.args(["host", "dump-receive", "--state", text(&self.state().join(host)), "--output", "json"]);
        receive.args(["--pid", "17", "--signal", "11", "--command", "sleep"]);
        receive.stdin(Stdio::from(File::open(core).unwrap())).output().unwrap()
    }

    fn decrypted(&self, file: &Path, arguments: &[&str]) -> Vec<u8> {
        let out = self.path("decrypted");
        let _ = fs::remove_file(&out);
        let arguments = [&["host", "dump", "decrypt", text(file), "--out", text(&out)], arguments].concat();
        let _: serde_json::Value = self.get(&arguments);
        fs::read(out).unwrap()
    }
}

#[test]
fn a_process_of_a_safe_host_dumps_encrypted() {
    let system = System::start(2);
    fs::write(system.path("disk.raw"), noise(1, 1 << 20)).unwrap();
    system.import("vm", &[&system.path("disk.raw")]);
    let plain = core(&system);
    let file = system.path("core.17");
    fs::write(&file, &plain).unwrap();
    // While a host may have no keys, nothing is kept at all.
    assert_eq!(system.host("host-1").mode, HostMode::Incapable);
    let refused = system.dumps("host-1", &file);
    assert!(!refused.status.success() && lossy(&refused.stderr).contains(Code::HostMode.as_str()), "{refused:?}");

    // The first encryption switches it on, for all hosts of the cluster.
    system.done(&["vm", "encrypt", "vm"]);
    for host in ["host-1", "host-2"] {
        let shown: HostView = system.get(&["host", "encryption", "show", host]);
        assert_eq!((shown.mode, shown.host_key.is_some()), (HostMode::Safe, true), "{host}");
        system.has_keys(host, &system.vm("vm").keys);
    }
    assert_eq!(system.events_of(EventKind::HostModeChanged).len(), 4, "prepared, safe, on two hosts");
    let kept = system.dumps("host-1", &file);
    assert!(kept.status.success(), "{}", lossy(&kept.stderr));
    let kept: DumpInfo = serde_json::from_slice(&kept.stdout).unwrap();
    assert_eq!(Some(&kept.key), system.host("host-1").host_key.as_ref());
    let listed = || -> Vec<DumpInfo> { system.get(&["host", "dump", "ls", "host-1"]) };
    eventually("the dump is listed", || (listed() == [kept.clone()]).then_some(()));
    let told = system.event(EventKind::HostDump);
    assert!(told.message.contains(kept.name.as_str()) && told.message.contains("sleep"), "{told:?}");
    // Of the one that was not kept it was told too.
    let told = system.event(EventKind::HostDumpLost);
    assert!(told.message.contains("sleep") && told.message.contains("no host key"), "{told:?}");

    // It is nowhere in plain, and comes back byte by byte.
    assert!(!lies_in(&system.state(), SECRET_TEXT.as_bytes()));
    let dump = system.state().join(format!("host-1/dumps/{}.dump", kept.name));
    let state = system.state().join("host-1");
    let here = ["--state", text(&state)];
    assert!(system.decrypted(&dump, &here) == plain);
    let other = system.state().join("host-2");
    let out = system.path("nothing");
    let elsewhere = ["host", "dump", "decrypt", text(&dump), "--out", text(&out), "--state", text(&other)];
    system.refused(&elsewhere, Code::KeyNotOnHost);
    assert!(!out.exists());

    // The guest's memory goes the same way.
    system.done(&["vm", "start", "vm", "--host", "host-1"]);
    let guest: DumpInfo = system.get(&["vm", "dump", "vm"]);
    let memory = system.decrypted(&state.join(format!("dumps/{}.dump", guest.name)), &here);
    assert_eq!(memory[..4], *b"\x7fELF");
    let busy = system.refused(&["host", "encryption", "disable", "host-1"], Code::InUse);
    assert!(busy.why.contains("`vm`"), "{busy:?}");
    system.done(&["vm", "stop", "vm", "--force"]);

    // A new host key opens the old dumps; the old one is of no more use.
    let shown: HostView = system.get(&["host", "encryption", "rekey", "host-1"]);
    assert_ne!(shown.host_key, Some(kept.key.clone()));
    eventually("dumps under the new key", || listed().iter().all(|dump| dump.key != kept.key).then_some(()));
    assert!(system.decrypted(&dump, &here) == plain);
    // The host's agent starts anew and gets it again.
    system.stop("host-1");
    system.restart("host-1");
    system.hosts_answer();
    eventually("the host key is back", || {
        let out = system.path("again");
        let again = ["host", "dump", "decrypt", text(&dump), "--out", text(&out), "--state", text(&state)];
        system.ask(&again).status.success().then_some(())
    });

    // For those who are to help: under a password, without a key.
    let (bundle, opened, password) = (system.path("bundle.tar"), system.path("bundle"), system.path("password"));
    fs::write(&password, "correct horse\n").unwrap();
    let make = ["host", "support-bundle", "host-1", "--out", text(&bundle), "--password-file", text(&password)];
    let () = system.get(&make);
    let bytes = fs::read(&bundle).unwrap();
    let kek = system.access().kek(&system.key_id("vm"));
    for secret in [kek.as_slice(), SECRET_TEXT.as_bytes()] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    fs::create_dir(&opened).unwrap();
    run("tar", &["-xf", text(&bundle), "-C", text(&opened)]);
    let in_bundle = opened.join(format!("dumps/{}.dump", kept.name));
    assert!(system.decrypted(&in_bundle, &["--password-file", text(&password)]) == plain);
    system.events_of(EventKind::HostSupportBundle);

    // Switched off, it waits for a restart, and has no key then.
    let shown: HostView = system.get(&["host", "encryption", "disable", "host-2"]);
    assert_eq!(shown.mode, HostMode::PendingIncapable);
    system.stop("host-2");
    system.restart("host-2");
    eventually("the waiting ends", || (system.host("host-2").mode == HostMode::Incapable).then_some(()));
    system.has_keys("host-2", &[]);
    let pattern: String = system.get(&["host", "core-handler", "--state", "/s"]);
    assert!(pattern.starts_with('|') && pattern.contains(" host dump-receive --state /s "), "{pattern}");
}

at_both_servers! {
    a_host_key_of_which_nobody_heard_is_found_and_can_be_destroyed(2)
    the_controller_killed_at_any_step_of_a_change_of_the_host_key(1)
}

/// The controller dies as the key server answers, and the host is gone before it is back: the key is found by its name.
fn a_host_key_of_which_nobody_heard_is_found_and_can_be_destroyed(system: System) {
    let _: serde_json::Value = system.get(&["key", "grace", "0d"]);
    system.stop("controller");
    let mut own = system.own("controller", &[("WARD_CRASH_AT", "host.key-made-unknown")]);
    let mut client = system.ask_meanwhile(&["host", "encryption", "enable", "host-1"]);
    own.is_killed();
    client.wait().unwrap();
    system.stop("host-1");
    let () = system.get(&["up", "start", "controller", "--state", text(&system.state())]);
    // As long as the host may come back, the key is its own.
    let orphans =
        || -> Option<Vec<OrphanView>> { serde_json::from_slice(&system.ask(&["key", "orphans", "kms"]).stdout).ok() };
    assert!(eventually("the controller answers", orphans).is_empty());
    let _: serde_json::Value = system.get(&["host", "rm", "host-1", "--force"]);
    let found = orphans().unwrap();
    let [orphan] = &found[..] else { panic!("{found:?}") };
    assert!(orphan.ours && orphan.host.as_ref().is_some_and(|host| host.as_str() == "host-1"), "{orphan:?}");
    assert_eq!(system.access().host_keys().len(), 1);
    let _: Vec<String> = system.get(&["key", "destroy", &orphan.name]);
    let KeyLocator::Standard { key_id } = &orphan.key.key else { panic!("{orphan:?}") };
    assert!(!system.access().gives(key_id.as_str()));
}

/// The ID of the host key of the only host.
fn host_key(system: &System) -> String {
    let key = system.host("host-1").host_key.unwrap();
    let KeyLocator::Standard { key_id } = key.key else { panic!("{key}") };
    key_id.to_string()
}

fn the_controller_killed_at_any_step_of_a_change_of_the_host_key(system: System) {
    let _: HostView = system.get(&["host", "encryption", "enable", "host-1"]);
    let rekey = ["host", "encryption", "rekey", "host-1"];
    let log = system.path("points");
    system.stop("controller");
    let own = system.own("controller", &[("WARD_CRASH_LOG", text(&log))]);
    let _: HostView = system.get(&rekey);
    drop(own);
    system.restart("controller");
    system.hosts_answer();
    let reached = fs::read_to_string(log).unwrap();
    let points: BTreeSet<_> = reached.lines().filter(|point| point.starts_with("host.")).collect();
    assert_eq!(points.len(), 5, "{points:?}");
    for point in &points {
        eprintln!("controller at {point}");
        let old = host_key(&system);
        system.stop("controller");
        let mut own = system.own("controller", &[("WARD_CRASH_AT", point)]);
        let mut client = system.ask_meanwhile(&rekey);
        own.is_killed();
        client.wait().unwrap();
        system.restart("controller");
        eventually("the change goes on", || (host_key(&system) != old).then_some(()));
    }
    // Each was made once: one for the beginning, one for each change; all but the last were said to be needed no more.
    let at_server: BTreeSet<_> = system.access().host_keys().into_iter().collect();
    assert_eq!(at_server.len(), points.len() + 2, "{at_server:?}");
    let current = host_key(&system);
    let unneeded = || -> BTreeSet<String> {
        let told = system.events().into_iter().filter(|event| event.kind == EventKind::KeyUnneeded);
        told.map(|event| event.subject.key.unwrap().key)
            .map(|key| match key {
                KeyLocator::Standard { key_id } => key_id.to_string(),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    eventually("the others are told of", || {
        let mut all = unneeded();
        assert!(!all.contains(&current), "the host key is needed");
        all.insert(current.clone());
        (all == at_server).then_some(())
    });
}
