//! Several hosts, each with a TPM of its own, or none: a VM is placed where its host is attested.

use std::fs;

use ward_controller::api::types::{TrustState, TrustedHostView, VmView};
use ward_types::{Code, Power};

use crate::authority::{Authority, Machine, all_hosts, import_for, join, remediate};
use crate::support::{MIB, System, eventually, noise, text};

/// How long a token is good for here, in seconds; a host gets another one when a third of that is left, and looks every two
/// seconds.
const TOKEN_SECONDS: i64 = 30;

fn is(system: &System, host: &str, state: TrustState) -> TrustedHostView {
    eventually(&format!("{host} is {state}"), || {
        all_hosts(system).into_iter().find(|view| view.host.as_str() == host && view.state == state)
    })
}

fn starts(system: &System) -> String {
    system.ward(&["vm", "start", "web-1"]);
    let vm: VmView = system.json(&["vm", "show", "web-1"]);
    assert_eq!(vm.power, Power::On);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    vm.host.unwrap().to_string()
}

#[test]
fn a_vm_is_placed_on_a_host_that_is_attested() {
    let first = Machine::booted();
    let second = first.like_it();
    second.tamper();
    let mut authority = Authority::set_up(&first);
    authority.trust(&["settings", "--admit-by-hand", "no", "--token-seconds", &TOKEN_SECONDS.to_string()]);
    let mut system = System::start(1);
    system.ward(&["cluster", "add", "trusted"]);
    let store = system.path("trusted");
    fs::create_dir(&store).unwrap();
    system.ward(&["datastore", "add", "trusted", text(&store), "--cluster", "trusted"]);
    join(&mut system, "trusted", &first, &authority);
    import_for(&system, &authority, &["--cluster", "trusted"]);
    authority.admit(&system, "h1");
    is(&system, "h1", TrustState::Healthy);
    let held_since = authority.given(0, false).len();
    join(&mut system, "trusted", &second, &authority);
    let view = is(&system, "h2", TrustState::NotAttested);
    let trouble = eventually("it is asked", || {
        is(&system, "h2", TrustState::NotAttested).trouble.filter(|it| it.why.contains("PCR 4"))
    });
    assert_eq!(trouble.code, Code::AttestationFailed, "{view:?}");
    // The hosts of other clusters are not told of it.
    let told: Vec<_> = all_hosts(&system).iter().map(|view| view.host.to_string()).collect();
    assert_eq!(told, ["h1", "h2"]);

    let image = system.path("image.raw");
    fs::write(&image, noise(4 * MIB)).unwrap();
    for (name, datastore) in [("web-1", "trusted"), ("plain-1", "trusted"), ("elsewhere", "default")] {
        system.ward(&["vm", "import", name, "--disk", text(&image), "--memory", "64", "--datastore", datastore]);
    }
    system.refused(Code::ProviderNone, &["vm", "encrypt", "elsewhere"]);
    system.ward(&["vm", "encrypt", "web-1"]);
    assert_eq!(starts(&system), "h1");
    let problem = system.refused(Code::AttestationFailed, &["vm", "start", "web-1", "--host", "h2"]);
    assert!(problem.why.contains("PCR 4"), "{problem:?}");

    // A token that is good for a third of its time is used on; then there is another one.
    let attested = eventually("it is attested anew by itself", || {
        let given = authority.given(0, false).split_off(held_since - 1);
        let attested: Vec<_> =
            given.iter().filter(|entry| entry.operation == "attest").map(|entry| entry.at_ms).collect();
        (attested.len() > 1).then_some(attested)
    });
    let after = attested.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect::<Vec<_>>();
    let due = TOKEN_SECONDS * 2 / 3;
    assert!(after.iter().all(|after| (due - 1..TOKEN_SECONDS).contains(after)), "{after:?}");

    // The other way round. Plain VMs are free to start anywhere.
    first.tamper();
    second.tpm.reboot(&second.log);
    assert_eq!(remediate(&system, "h1").state, TrustState::NotAttested);
    assert_eq!(remediate(&system, "h2").state, TrustState::Healthy);
    assert_eq!(starts(&system), "h2");
    system.ward(&["vm", "recrypt", "web-1"]);
    assert_eq!(starts(&system), "h2");
    system.ward(&["vm", "start", "plain-1", "--host", "h1"]);
    second.tamper();
    assert_eq!(remediate(&system, "h2").state, TrustState::NotAttested);
    let problem = system.refused(Code::HostNone, &["vm", "start", "web-1"]);
    assert!(["h1", "h2", "PCR 4"].iter().all(|said| problem.why.contains(said)), "{problem:?}");
}
