//! The way of a VM under a trusted provider: attest, encrypt, start, tamper, refuse, remediate; to another provider and back.

use std::fs;
use std::path::PathBuf;

use jiff::{Timestamp, ToSpan as _};
use ward_controller::api::types::{TrustState, VmView};
use ward_types::{Code, EventKind, Power};

use crate::authority::{Authority, Machine, import, restart_agent, stands, wait_for};
use crate::support::{System, eventually, text};

/// Where the data of an encrypted disk begins.
const DATA: usize = 16 << 20;

fn encrypted_disk(vm: &VmView) -> PathBuf {
    let files = fs::read_dir(&vm.home).unwrap().flatten().map(|file| file.path());
    let luks = |path: &PathBuf| path.extension().is_some_and(|it| it == "luks") && !path.ends_with("nvram.luks");
    files.into_iter().find(luks).unwrap()
}

fn power(system: &System, vm: &str) -> Power {
    system.json::<VmView>(&["vm", "show", vm]).power
}

#[test]
fn a_host_that_booted_what_it_should_gets_keys_and_a_tampered_one_does_not() {
    let machine = Machine::booted();
    let mut authority = Authority::set_up(&machine);
    let mut system = System::start(1);
    restart_agent(&mut system, &machine, &authority);
    import(&system, &authority);

    // Nobody has let the host in: it gets no key, and it is said why before anything begins.
    eventually("the host has tried", || {
        let trouble = wait_for(&system, TrustState::NotAttested).trouble.unwrap();
        (trouble.code == Code::HostNotAdmitted).then_some(())
    });
    let content = system.plain_vm("web-1");
    system.refused(Code::HostNotAdmitted, &["vm", "encrypt", "web-1"]);
    authority.admit(&system, "h0");
    let view = wait_for(&system, TrustState::Healthy);
    assert!(view.applied == view.desired && view.expires > view.attested, "{view:?}");

    // The same commands as with any provider.
    system.ward(&["vm", "encrypt", "web-1"]);
    let vm: VmView = system.json(&["vm", "show", "web-1"]);
    system.ward(&["vm", "start", "web-1"]);
    assert_eq!(power(&system, "web-1"), Power::On);

    // Somebody changes what the machine boots. What runs runs on; nothing that needs a key starts.
    system.plain_vm("plain-1");
    system.encrypted_vm("web-2", "vault");
    machine.tamper();
    system.ward(&["trust", "remediate", "h0"]);
    let view = wait_for(&system, TrustState::NotAttested);
    // The age and the end of this verdict, not of the one before.
    let (now, expires) = (Timestamp::now(), view.expires.unwrap());
    assert!(expires < now + 20.seconds() && view.age_seconds.unwrap() < 20, "{view:?}");
    assert!(view.attested.unwrap() < expires - 15.seconds(), "{view:?}");
    let trouble = view.trouble.unwrap();
    assert_eq!(trouble.code, Code::AttestationFailed);
    assert!(trouble.why.contains("PCR 4"), "{trouble:?}");
    let problem = system.refused(Code::AttestationFailed, &["vm", "start", "web-2"]);
    assert!(problem.why.contains("PCR 4"), "{problem:?}");
    assert_eq!(power(&system, "web-1"), Power::On);
    system.ward(&["vm", "start", "plain-1"]);
    eventually("the event", || system.has_event(EventKind::HostNotAttested).then_some(()));
    let home = system.json::<VmView>(&["vm", "show", "web-2"]).home;
    let state = system.host_state(0);
    system.refused(Code::AttestationFailed, &["host", "start", text(&home), "--state", text(&state)]);

    // It boots again what it should.
    machine.tpm.reboot(&machine.log);
    system.ward(&["trust", "remediate", "h0"]);
    wait_for(&system, TrustState::Healthy);
    system.ward(&["vm", "start", "web-2"]);
    assert!(system.has_event(EventKind::HostAttested));

    // All tokens are denied that there are. The host hears of it when it shows its own: it gives up what it got for that, is
    // attested anew by itself, and asks for the key again.
    for vm in ["web-1", "web-2", "plain-1"] {
        system.ward(&["vm", "stop", vm, "--force"]);
    }
    let start_and_stop = || {
        system.ward(&["vm", "start", "web-1"]);
        system.ward(&["vm", "stop", "web-1", "--force"]);
    };
    let unwrapped = || authority.given(0, true).iter().filter(|entry| entry.operation == "unwrap-kek").count();
    start_and_stop();
    let (before, attested) = (unwrapped(), stands(&system).unwrap().attested);
    start_and_stop();
    assert_eq!(unwrapped(), before, "it is held");
    authority.trust(&["deny-before", "now"]);
    eventually("the token is denied", || {
        let asked = authority.asked(0, true);
        asked.iter().any(|entry| entry.result.contains("[token-before-cut-off]")).then_some(())
    });
    eventually("it is attested anew", || (stands(&system)?.attested > attested).then_some(()));
    start_and_stop();
    assert_eq!(unwrapped(), before + 1, "it is not held any more");

    // To the other kinds of providers, back, and out.
    system.backed_up("n1");
    authority.add_standard(&system, "kms");
    let disk = encrypted_disk(&vm);
    let data = fs::read(&disk).unwrap().split_off(DATA);
    let recrypted = |provider| -> VmView {
        system.ward(&["vm", "recrypt", "web-1", "--provider", provider]);
        let vm: VmView = system.json(&["vm", "show", "web-1"]);
        assert!(vm.keys.iter().all(|key| key.provider.as_str() == provider), "{:?}", vm.keys);
        let same = fs::read(encrypted_disk(&vm)).unwrap().split_off(DATA) == data;
        assert!(same, "a shallow recrypt leaves the data, and what it is encrypted with");
        vm
    };
    for other in ["kms", "n1"] {
        recrypted("vault");
        recrypted(other);
    }
    let again = recrypted("vault");
    assert_ne!(again.keys[0], vm.keys[0]);
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    system.ward(&["vm", "decrypt", "web-1"]);
    let home = system.json::<VmView>(&["vm", "show", "web-1"]).home;
    let plain =
        fs::read_dir(home).unwrap().flatten().find(|file| file.path().extension().is_some_and(|it| it == "raw"));
    assert!(fs::read(plain.unwrap().path()).unwrap() == content);

    // A service that is gone is told of.
    authority.kill_attestation(0);
    eventually("the event", || system.has_event(EventKind::TrustServiceDown).then_some(()));
}
