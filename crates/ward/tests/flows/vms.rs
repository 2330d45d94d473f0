//! A VM that is not in the state that was asked for.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use ward_controller::api::types::TaskView;
use ward_types::{Code, Power};

use crate::support::{MIB, System, disk, set};

fn with_vm() -> (System, Vec<u8>) {
    let system = System::start(1);
    let image = system.path("image");
    let content = disk(&image, 4 * MIB);
    system.import("vm", &[&image]);
    (system, content)
}

#[test]
fn a_vm_that_runs() {
    let (system, content) = with_vm();
    system.done(&["vm", "start", "vm"]);
    let problem = system.refused(&["vm", "encrypt", "vm"], Code::VmRunning);
    assert!(problem.why.contains("host-1"), "{problem:?}");
    system.refused(&["vm", "rm", "vm", "--yes"], Code::VmRunning);
    system.refused(&["vm", "start", "vm"], Code::VmRunning);
    assert_eq!(system.vm("vm").power, Power::On);
    assert_eq!(system.files("vm"), set(["disk-0.raw", "vm.toml"]));
    // Nothing was asked of the key server.
    assert!(system.access().all().is_empty());
    system.done(&["vm", "stop", "vm", "--force"]);
    system.refused(&["vm", "stop", "vm"], Code::VmNotRunning);
    system.refused(&["vm", "decrypt", "vm"], Code::NotEncrypted);
    system.done(&["vm", "encrypt", "vm"]);
    system.refused(&["vm", "encrypt", "vm"], Code::AlreadyEncrypted);

    system.done(&["vm", "start", "vm"]);
    system.refused(&["vm", "decrypt", "vm"], Code::VmRunning);
    system.done(&["vm", "stop", "vm", "--force"]);
    system.done(&["vm", "decrypt", "vm"]);
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == content);
}

#[test]
fn two_encrypt_one_vm_at_once() {
    let (system, content) = with_vm();
    // The host is slow: its agent sleeps until both have asked.
    let agent = Pid::from_raw(system.pid("host-1").parse().unwrap()).unwrap();
    kill_process(agent, Signal::STOP).unwrap();
    let first: TaskView = system.get(&["vm", "encrypt", "vm", "--no-wait"]);
    let problem = system.refused(&["vm", "encrypt", "vm"], Code::Busy);
    assert!(problem.why.contains(&first.info.id.to_string()), "{problem:?}");
    system.refused(&["vm", "start", "vm"], Code::Busy);
    system.refused(&["vm", "rm", "vm", "--yes"], Code::Busy);
    kill_process(agent, Signal::CONT).unwrap();
    system.done(&["task", "watch", &first.info.id.to_string()]);
    assert_eq!(system.files("vm"), set(["disk-0.luks", "vm.toml"]));
    assert_eq!(system.access().all(), [system.key_id("vm")], "one key for one VM");
    system.done(&["vm", "decrypt", "vm"]);
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == content);
}

/// The description of before a disk was encrypted anew, whole in itself and under a key that every host has.
#[test]
fn an_older_description_that_was_put_back() {
    let (system, content) = with_vm();
    system.done(&["vm", "encrypt", "vm"]);
    let description = system.file("vm", "vm.toml");
    let older = fs::read(&description).unwrap();
    system.done(&["vm", "recrypt", "vm"]);
    let present = fs::read(&description).unwrap();
    assert_ne!(older, present);
    fs::write(&description, &older).unwrap();
    let problem = system.refused(&["vm", "start", "vm"], Code::HomeTampered);
    assert!(problem.remedy.contains("ward vm reload"), "{problem:?}");
    fs::write(&description, &present).unwrap();
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "stop", "vm", "--force"]);
    system.done(&["vm", "decrypt", "vm"]);
    assert!(fs::read(system.file("vm", "disk-0.raw")).unwrap() == content);
}

#[test]
fn a_host_says_how_it_keeps_vms_apart() {
    let system = System::start(1);
    let host: ward_controller::api::types::HostView = system.get(&["host", "show", "host-1"]);
    let it = host.isolation;
    if rustix::process::geteuid().is_root() {
        assert_eq!(it.users.as_deref(), Some("1900000000-1900065535"), "{it:?}");
    } else {
        assert!(it.users.is_none() && it.lacks.iter().any(|lack| lack.contains("not root")), "{it:?}");
    }
    // What this machine lacks is said, and nothing else.
    for (there, words) in
        [(it.users.is_some(), "the agent's user"), (it.own_network, "network"), (it.landlock.is_some(), "can open")]
    {
        assert_eq!(there, !it.lacks.iter().any(|lack| lack.contains(words)), "{words}: {it:?}");
    }
}
