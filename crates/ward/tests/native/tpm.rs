//! A host that seals its keys to its TPM: it needs nobody to start VMs after a restart.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use ward_controller::api::types::{HostView, NativeState};
use ward_types::{Code, Event, EventKind};

use crate::support::{System, eventually, found_below, keys_in, text};

/// A swtpm in a directory of its own.
pub(crate) struct Tpm {
    _dir: TempDir,
    process: Child,
    pub(crate) tcti: String,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tpm {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The tools take the control channel to be at the port above.
        let port = (0..50)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
            .find(|port| TcpListener::bind(("127.0.0.1", port + 1)).is_ok())
            .unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
            .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
            .args(["--tpmstate", &format!("dir={}", text(dir.path()))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("swtpm", || TcpStream::connect(("127.0.0.1", port + 1)).ok());
        Self { _dir: dir, process, tcti: format!("swtpm:host=127.0.0.1,port={port}") }
    }

    /// What the machine measures when it boots something else.
    pub(crate) fn extend(&self, pcr: u8) {
        let digest = "5a".repeat(32);
        let done = Command::new("tpm2_pcrextend")
            .arg(format!("{pcr}:sha256={digest}"))
            .env("TPM2TOOLS_TCTI", &self.tcti)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn a_host_with_a_tpm_needs_nobody_after_a_restart() {
    let tpm = Tpm::start();
    let with_tpm = ["--tpm", &tpm.tcti, "--tpm-pcrs", "7,11"];
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
    tpm.extend(7);
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
