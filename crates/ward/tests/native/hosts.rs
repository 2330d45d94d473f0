//! Hosts that come and go while the key changes.

use ward_controller::api::types::{HostState, HostView, NativeState, RecryptionView};
use ward_types::{Code, EventKind};

use crate::support::{System, eventually, text};

#[test]
fn hosts_that_were_away_get_the_present_state() {
    let mut system = System::start(3);
    system.backed_up("n1");
    let (home, _) = system.encrypted_vm("web-1", "n1");
    assert!(home.join("disk-0.luks").exists());

    // One is away during an update.
    system.kill_agent(1);
    system.host_is(1, HostState::Disconnected);
    system.ward(&["provider", "update-key", "n1"]);
    let native = system.native("n1");
    assert_eq!((native.state, native.versions.len()), (NativeState::NotBackedUp, 2), "an update is to be backed up");
    system.plain_vm("web-2");
    system.refused(Code::ProviderNotBackedUp, &["vm", "encrypt", "web-2", "--provider", "n1"]);
    // What is encrypted already is not touched by that.
    system.ward(&["vm", "start", "web-1", "--host", "h0"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    system.back_up("n1", "n1-2.p12");
    let native = system.native("n1");
    assert_eq!(native.state, NativeState::Warning);
    assert_eq!(native.missing.iter().map(|host| host.host.as_str()).collect::<Vec<_>>(), ["h1"]);
    assert!(system.has_event(EventKind::KeyHostUnreachable));
    system.ward(&["vm", "encrypt", "web-2", "--provider", "n1"]);
    system.start_agent(1, &[]);
    system.host_answers(1);
    // At once: it is given the present state before what needs it. It opens both what is under the old version and what is
    // under the new one.
    for vm in ["web-1", "web-2"] {
        system.ward(&["vm", "start", vm, "--host", "h1"]);
        system.ward(&["vm", "stop", vm, "--force"]);
    }

    // An old version goes once nobody needs it.
    let problem = system.refused(Code::InUse, &["provider", "delete-key", "n1", "1"]);
    assert!(problem.why.contains("1 VM needs it") && problem.why.contains("web-1"), "{problem:?}");
    system.refused(Code::InUse, &["provider", "delete-key", "n1", "2"]);
    system.refused(Code::NotFound, &["provider", "delete-key", "n1", "3"]);
    assert!(problem.remedy.contains("`ward recrypt run --provider n1`"), "{problem:?}");
    system.ward(&["vm", "start", "web-1", "--host", "h1"]);
    let run: RecryptionView = system.json(&["recrypt", "run", "--provider", "n1"]);
    assert_eq!((run.total, run.done, run.failed), (2, 2, 0), "{run:?}");
    let needed: Vec<_> = system.native("n1").versions.iter().map(|version| (version.version, version.vms)).collect();
    assert_eq!(needed, [(1, 0), (2, 2)]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    // Hosts need it too, for their host keys; they are given new ones by themselves.
    let hosts = || ["h0", "h1", "h2"].map(|host| system.json::<HostView>(&["host", "show", host]));
    eventually("host keys under the new version", || {
        let versions = hosts().map(|host| host.host_key.and_then(|key| key.kdk()).map(|kdk| kdk.version));
        (versions == [Some(2); 3]).then_some(())
    });
    system.ward(&["provider", "delete-key", "n1", "1"]);
    system.ward(&["vm", "decrypt", "web-1"]);
    assert_eq!(system.native("n1").versions.len(), 1);
    system.wait_for_state("n1", NativeState::Active);
    for host in hosts() {
        let versions: Vec<_> = host.native_keys.iter().map(|kdk| kdk.version).collect();
        assert_eq!(versions, [2], "{}: deleted everywhere", host.name);
    }

    // One is away while the provider is deleted.
    let problem = system.refused(Code::InUse, &["provider", "rm", "n1"]);
    assert!(problem.why.contains("web-2") && problem.remedy.contains("recrypt"), "{problem:?}");
    system.refused(Code::RequestInvalid, &["provider", "rm", "n1", "--force", "n2"]);
    system.kill_agent(2);
    system.host_is(2, HostState::Disconnected);
    system.ward(&["provider", "rm", "n1", "--force", "n1"]);
    assert!(system.has_event(EventKind::ProviderRemovedInUse));
    let problem = system.refused(Code::ProviderNone, &["vm", "start", "web-2"]);
    assert!(system.has_event(EventKind::KeyNotOnHost));
    assert!(problem.remedy.contains("ward provider import n1"), "{problem:?}");
    // Even past the controller no host has it: neither one that was told, nor one that was away.
    system.start_agent(2, &[]);
    system.host_answers(2);
    let web_2 = system.path("store/web-2");
    for host in 0..3 {
        let state = system.host_state(host);
        system.refused(Code::KeyNotOnHost, &["host", "start", text(&web_2), "--state", text(&state)]);
    }
    // Its backup brings it back, and the VM.
    let password = system.password();
    let backup = system.path("n1-2.p12");
    system.ward(&["provider", "import", "n1", "--in", text(&backup), "--password-file", text(&password)]);
    system.wait_for_state("n1", NativeState::Active);
    system.ward(&["vm", "start", "web-2", "--host", "h2"]);
    eventually("the host says that it runs", || {
        (!system.json::<HostView>(&["host", "show", "h2"]).vms.is_empty()).then_some(())
    });
    system.ward(&["vm", "stop", "web-2", "--force"]);
}

#[test]
fn without_a_tpm_there_is_no_key_that_requires_one() {
    let system = System::start(1);
    system.ward(&["provider", "add", "native", "n1", "--tpm-required"]);
    system.back_up("n1", "n1.p12");
    let native = system.native("n1");
    assert!(native.tpm_required);
    assert_eq!(native.state, NativeState::Active, "all that are to have it have it");
    system.plain_vm("web-1");
    let problem = system.refused(Code::HostUnfit, &["vm", "encrypt", "web-1"]);
    assert!(problem.why.contains("TPM"), "{problem:?}");
    assert!(system.has_event(EventKind::KeyHostUnfit));
}
