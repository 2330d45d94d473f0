//! A clone with the same keys as its VM.

use std::fs;

use ward_controller::api::types::VmView;

use crate::support::{MIB, System};

#[test]
fn a_clone_has_the_same_kek_and_stands_by_itself() {
    let system = System::start(1);
    let backup = system.backed_up("n1");
    let (home, content) = system.encrypted_vm("web-1", "n1");
    system.ward(&["vm", "clone", "web-1", "web-2"]);
    let vm = |name: &str| system.json::<VmView>(&["vm", "show", name]);
    let (first, second) = (vm("web-1"), vm("web-2"));
    assert!(second.encrypted && first.id != second.id);
    // One KEK, by two references, each bound to its VM.
    let [one, other] = [&first, &second].map(|vm| vm.keys.clone());
    assert_eq!((one.len(), other.len()), (1, 1));
    assert_ne!(one, other);
    assert_eq!(other[0].bound_to(), Some(second.id));
    let [(one, plain), (other, copy)] =
        [&home, &second.home].map(|home| system.opened(&backup, &home.join("disk-0.luks")));
    assert_eq!(one, other);
    assert!(plain[..4 * MIB] == content && copy[..4 * MIB] == content);
    // Each goes on without the other.
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "start", "web-2"]);
    for vm in ["web-1", "web-2"] {
        system.ward(&["vm", "stop", vm, "--force"]);
    }
    system.ward(&["vm", "rm", "web-1", "--yes"]);
    system.ward(&["vm", "recrypt", "web-2"]);
    system.ward(&["vm", "decrypt", "web-2"]);
    assert!(fs::read(second.home.join("disk-0.raw")).unwrap() == content);
}
