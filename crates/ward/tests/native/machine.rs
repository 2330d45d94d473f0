//! A host that seals its keys to its TPM: it needs nobody to start VMs after a restart.

use std::fs;

use ward_controller::api::types::{HostView, NativeState};
use ward_types::{Code, Event, EventKind};

use crate::support::{System, eventually, found_below, keys_in, text};
use crate::tpm::Tpm;

impl Tpm {
    /// What the machine measures when it boots something else.
    pub(crate) fn boots_something_else(&self) {
        self.run("tpm2_pcrextend", &[&format!("7:sha256={}", "5a".repeat(32))]);
    }
}

#[test]
fn a_host_with_a_tpm_needs_nobody_after_a_restart() {
    let tpm = Tpm::new();
    let tcti = tpm.tcti();
    let with_tpm = ["--tpm", &tcti, "--tpm-pcrs", "7,11"];
    let mut system = System::start(2);
    system.kill_agent(0);
    system.start_agent(0, &with_tpm);
    eventually("the host's TPM is known", || system.json::<HostView>(&["host", "show", "h0"]).tpm.then_some(()));
    system.ward(&["provider", "add", "native", "n1", "--tpm-required"]);
    let backup = system.back_up("n1", "n1.p12");
    system.wait_for_state("n1", NativeState::Active);
    let (home, _) = system.encrypted_vm("web-1", "n1");
    // The host without a TPM has nothing of it, and is not asked to.
    let without: HostView = system.json(&["host", "show", "h1"]);
    assert_eq!(without.native_keys, []);
    let problem = system.refused(Code::HostUnfit, &["vm", "start", "web-1", "--host", "h1"]);
    assert!(problem.why.contains("TPM"), "{problem:?}");
    assert!(system.has_event(EventKind::KeyHostUnfit));
    let with: HostView = system.json(&["host", "show", "h0"]);
    assert_eq!(with.native_keys.len(), 1);
    // What it keeps is sealed.
    let state = system.host_state(0);
    assert!(state.join("native.sealed").exists());
    let keys = keys_in(&backup, &system.password());
    assert_eq!(found_below(&state, &keys[0]), None);

    // The machine starts anew, and everybody else is gone.
    system.kill_controller();
    system.kill_agent(0);
    system.start_agent(0, &with_tpm);
    let start = ["host", "start", text(&home), "--state", text(&state)];
    eventually("the agent answers", || state.join("agent.sock").exists().then_some(()));
    eventually("the agent answers", || system.succeeds(&start).then_some(()));
    assert!(fs::read_dir(state.join("run")).unwrap().next().is_some(), "the VM runs");

    // Somebody has changed the machine.
    system.kill_agent(0);
    system.end_guests(0);
    tpm.boots_something_else();
    fs::remove_file(state.join("agent.sock")).unwrap();
    system.start_agent(0, &with_tpm);
    eventually("the agent answers", || state.join("agent.sock").exists().then_some(()));
    let problem = eventually("the agent answers", || {
        Some(system.refused_any(&start)).filter(|problem| problem.code != Code::HostUnreachable)
    });
    assert_eq!(problem.code, Code::KeyNotOnHost, "{problem:?}");
    let log = fs::read_to_string(system.path("h0.log")).unwrap();
    assert!(log.contains("PCR 7, 11 has changed") && log.contains("waits for the controller"), "{log}");

    // The controller hands the key over again, and it is sealed for the machine as it is now.
    system.start_controller(&[]);
    system.host_answers(0);
    system.wait_for_state("n1", NativeState::Active);
    // The controller tells why the host waited.
    let events: Vec<Event> = system.json(&["event", "ls"]);
    let told = |event: &Event| event.kind == EventKind::KeyNotOnHost && event.message.contains("PCR 7, 11 has changed");
    assert!(events.iter().any(told), "{events:#?}");
    system.kill_controller();
    system.kill_agent(0);
    fs::remove_file(state.join("agent.sock")).unwrap();
    system.start_agent(0, &with_tpm);
    eventually("the agent answers", || state.join("agent.sock").exists().then_some(()));
    eventually("the agent answers", || system.succeeds(&start).then_some(()));
}
