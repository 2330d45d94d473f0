//! What the controller never sees: its memory, its files and all that it says to a host and hears of it are searched.

use std::sync::atomic::{AtomicBool, Ordering};

use key_search::Keys;
use ward_controller::api::types::{TrustState, VmView};

use crate::authority::{Authority, Machine, import, restart_attested, start_agent, wait_for};
use crate::support::{System, eventually, keys_in};
use crate::tap::Tap;

/// Ends the search, also where the test fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn process(id: &str) -> u32 {
    id.parse().unwrap()
}

#[test]
fn no_key_of_a_trusted_provider_is_in_the_controllers_memory_or_on_its_lines() {
    let machine = Machine::booted();
    let mut authority = Authority::set_up(&machine);
    let mut system = System::start(0);
    let (tap, token) = Tap::on(&system.ward(&["host", "add", "--cluster", "default"]));
    system.enrol_host(&token);
    start_agent(&mut system, 0, &machine, &authority);
    import(&system, &authority);
    authority.admit(&system, "h0");
    wait_for(&system, TrustState::Healthy);
    let controller = process(&system.controller());

    // Keys are made, used, and changed for others.
    system.encrypted_vm("web-1", "vault");
    let first: VmView = system.json(&["vm", "show", "web-1"]);
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    system.ward(&["vm", "recrypt", "web-1"]);
    let second: VmView = system.json(&["vm", "show", "web-1"]);
    assert_ne!(first.keys, second.keys);
    let mut keys = Keys::default();
    keys.add("the first KEK", &authority.kek(&first.keys[0]));
    let kek = authority.kek(&second.keys[0]);
    keys.add("the second KEK", &kek);
    keys.add("the primary key", &authority.primary());
    let finder = keys.finder().unwrap();

    // The search goes on beside all that is done with the key from here on, on a host that has to get it anew.
    let done = AtomicBool::new(false);
    let searches = std::thread::scope(|scope| {
        let searching = scope.spawn(|| {
            let mut searches = 0;
            loop {
                let last = done.load(Ordering::Acquire);
                assert_eq!(finder.in_process(controller).unwrap(), []);
                searches += 1;
                if last {
                    return searches;
                }
            }
        });
        let ending = Ending(&done);
        restart_attested(&mut system, &machine, &authority);
        system.ward(&["vm", "start", "web-1"]);
        let found = finder.in_process(process(&system.agent(0))).unwrap();
        assert!(found.iter().any(|(key, _)| key == "the second KEK (raw)"), "the host has it: {found:?}");
        assert!(found.iter().all(|(key, _)| !key.starts_with("the primary key")), "{found:?}");
        system.ward(&["vm", "stop", "web-1", "--force"]);
        system.ward(&["trust", "remediate", "h0"]);
        drop(ending);
        searching.join().unwrap()
    });
    assert!(searches > 1, "it was searched while the key was used");
    // The primary key has never left the key server either; and who made the KEKs and opened them forgets them in a moment.
    eventually("the key provider service has forgotten all", || {
        finder.in_process(process(&authority.key_provider())).unwrap().is_empty().then_some(())
    });
    for place in [system.controller_state(), system.host_state(0), authority.state(), second.home.clone()] {
        assert_eq!(finder.in_files(&place).unwrap(), []);
    }

    // A native provider's key does go over the line: the tap hears what is said.
    let backup = system.backed_up("n1");
    let kdk = keys_in(&backup, &system.password()).remove(0);
    let mut native = Keys::default();
    native.add("the KDK", &kdk);
    let native = native.finder().unwrap();
    let frames = tap.frames();
    assert!(frames.iter().any(|(_, bytes)| !native.in_bytes(bytes).is_empty()), "the tap hears nothing");
    // So does the wrapped KEK, which is no secret; and nothing of the KEKs, nor a token.
    let wrapped = serde_json::to_string(&second.keys[0]).unwrap();
    let wrapped = wrapped.split("2/vault/").nth(1).unwrap().split('"').next().unwrap().as_bytes();
    let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(frames.iter().any(|(_, bytes)| has(bytes, wrapped)));
    for (call, bytes) in &frames {
        assert_eq!(finder.in_bytes(bytes), Vec::<String>::new(), "{call}");
        // As every JWT begins.
        assert!(!has(bytes, b"eyJ"), "{call}");
    }
    // Nobody but the host has asked for keys, under its own certificate.
    let host = authority.enrolled();
    let given = authority.given(0, true);
    assert!(given.len() >= 3 && given.iter().all(|entry| entry.host == host), "{given:?}");

    // Only where it is fetched is the primary key anywhere else, and there the search finds it.
    authority.fetch_primary_key();
    system.encrypted_vm("web-2", "vault");
    let found = finder.in_process(process(&authority.key_provider())).unwrap();
    assert!(found.iter().any(|(key, _)| key == "the primary key (raw)"), "{found:?}");
    assert_eq!(finder.in_process(controller).unwrap(), []);
}
