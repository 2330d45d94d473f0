//! A clone with the same keys as its VM.

use std::fs;
use std::process::Command;

use ward_controller::api::types::VmView;

use crate::support::{MIB, System, text};

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
    let opened = |disk: &std::path::Path| {
        let (plain, keys) = (system.path("plain"), system.path("keys"));
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native/open_disk.py");
        let output = Command::new(python)
            .args([script, text(&backup), text(&system.password()), text(disk), text(&plain), text(&keys)])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(&plain).unwrap()[..4 * MIB] == content);
        fs::read_to_string(&keys).unwrap()
    };
    assert_eq!(opened(&home.join("disk-0.luks")), opened(&second.home.join("disk-0.luks")));
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
