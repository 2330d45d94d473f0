//! What a small site does with it, from the first key to the day on which the controller is gone.

use std::fs;

use ward_controller::api::types::{HostView, NativeState};
use ward_types::{Code, EventKind, HostMode};

use crate::support::{MIB, System, eventually, found_below, in_memory, keys_in, text};

#[test]
fn from_the_first_key_to_the_day_without_a_controller() {
    let mut system = System::start(1);
    system.ward(&["provider", "add", "native", "n1"]);
    assert_eq!(system.native("n1").state, NativeState::NotBackedUp);
    let content = system.plain_vm("web-1");
    // Nothing is encrypted before the first backup.
    let problem = system.refused(Code::ProviderNotBackedUp, &["vm", "encrypt", "web-1"]);
    assert!(problem.remedy.contains("ward provider export n1"), "{problem:?}");
    assert!(system.path("store/web-1/disk-0.raw").exists());
    let out = system.path("n1.p12");
    let no_password = ["provider", "export", "n1", "--out", text(&out)];
    system.refused(Code::RequestInvalid, &no_password);
    assert!(!out.exists(), "a backup that failed leaves nothing");
    let backup = system.back_up("n1", "n1.p12");
    assert!(system.has_event(EventKind::ProviderBackedUp));
    system.wait_for_state("n1", NativeState::Active);

    system.ward(&["vm", "encrypt", "web-1"]);
    let home = system.path("store/web-1");
    let disk = home.join("disk-0.luks");
    assert!(disk.exists() && !home.join("disk-0.raw").exists());
    let needs: usize = system.native("n1").versions.iter().map(|version| version.vms).sum();
    assert_eq!(needs, 1);

    // The key lies nowhere in the open: not in the database, not on the host, not beside the data.
    let keys = keys_in(&backup, &system.password());
    assert_eq!(keys.len(), 1);
    for place in [system.controller_state(), system.host_state(0), system.path("store")] {
        assert_eq!(found_below(&place, &keys[0]), None);
    }

    // A stranger with the backup and the document opens the disk.
    let (opened_with, plain) = system.opened(&backup, &disk);
    assert!(plain[..4 * MIB] == content, "the disk holds something else");

    system.ward(&["vm", "start", "web-1"]);
    // QEMU knows none of the keys. That the search finds what is there shows in the agent, which holds the first one.
    let secrets = [bytes(&opened_with.kek), bytes(&opened_with.dek), keys[0].clone()];
    assert_eq!(secrets.each_ref().map(Vec::len), [32, 64, 32]);
    for secret in &secrets {
        assert!(!in_memory(&system.qemu(0), &secret[..32]));
    }
    assert!(in_memory(&system.agent(0), &keys[0]));
    system.ward(&["vm", "stop", "web-1", "--force"]);
    // With the controller gone, the host goes on as long as its agent lives.
    system.kill_controller();
    let state = system.host_state(0);
    system.ward(&["host", "start", text(&home), "--state", text(&state)]);
    assert!(fs::read_dir(state.join("run")).unwrap().next().is_some(), "the VM runs");
    // The new agent has no key, and nobody to give it one.
    system.kill_agent(0);
    system.end_guests(0);
    fs::remove_file(state.join("agent.sock")).unwrap();
    system.start_agent(0, &[]);
    eventually("the agent's socket", || state.join("agent.sock").exists().then_some(()));
    let start = ["host", "start", text(&home), "--state", text(&state)];
    let problem = eventually("the agent answers", || {
        Some(system.refused_any(&start)).filter(|problem| problem.code != Code::HostUnreachable)
    });
    assert_eq!(problem.code, Code::KeyNotOnHost, "{problem:?}");
    // The controller comes back, and with it the key, before anything needs it.
    system.start_controller(&[]);
    system.host_answers(0);
    system.wait_for_state("n1", NativeState::Active);
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    system.ward(&["vm", "decrypt", "web-1"]);
    assert!(fs::read(home.join("disk-0.raw")).unwrap() == content, "it came back as something else");
    // Nobody needs the provider any more but its host: there is no other provider for its host key.
    let problem = system.refused(Code::InUse, &["provider", "rm", "n1"]);
    assert!(problem.why.contains("`h0`") && problem.remedy.contains("switch"), "{problem:?}");
    system.ward(&["host", "encryption", "disable", "h0"]);
    system.kill_agent(0);
    system.start_agent(0, &[]);
    let mode = || system.json::<HostView>(&["host", "show", "h0"]).mode;
    eventually("the host has no key any more", || (mode() == HostMode::Incapable).then_some(()));
    system.ward(&["provider", "rm", "n1"]);
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}
