//! A provider serves the clusters that it was made for.

use std::fs;

use ward_controller::api::types::{HostView, NativeState, VmView};
use ward_types::{Code, EventKind};

use crate::support::{System, text};

#[test]
fn a_vm_is_refused_where_its_provider_does_not_serve() {
    let mut system = System::start(1);
    system.ward(&["cluster", "add", "lab"]);
    system.add_host("lab");
    system.ward(&["provider", "add", "native", "n1", "--cluster", "default"]);
    system.back_up("n1", "n1.p12");
    system.wait_for_state("n1", NativeState::Active);
    assert_eq!(system.native("n1").clusters, ["default".parse().unwrap()]);
    assert_eq!(system.json::<HostView>(&["host", "show", "h0"]).native_keys.len(), 1);
    assert_eq!(system.json::<HostView>(&["host", "show", "h1"]).native_keys, []);
    let (home, _) = system.encrypted_vm("web-1", "n1");

    let lab = system.path("lab");
    fs::create_dir(&lab).unwrap();
    system.ward(&["datastore", "add", "lab", text(&lab), "--cluster", "lab"]);
    // Nothing is copied to where it would not open.
    system.refused(Code::RequestInvalid, &["vm", "clone", "web-1", "web-2", "--datastore", "lab"]);
    assert_eq!(fs::read_dir(&lab).unwrap().count(), 0);
    // Nor is it taken in there once somebody has moved it.
    system.ward(&["vm", "unregister", "web-1"]);
    let moved = lab.join("web-1");
    fs::rename(&home, &moved).unwrap();
    let before = fs::read(moved.join("vm.toml")).unwrap();
    let problem = system.refused(Code::ProviderNone, &["vm", "register", "lab", "web-1"]);
    assert!(problem.why.contains("does not serve"), "{problem:?}");
    assert!(system.has_event(EventKind::KeyNotOnHost));
    system.refused(Code::NotFound, &["vm", "show", "web-1"]);
    assert_eq!(fs::read(moved.join("vm.toml")).unwrap(), before);
    // Nor is anything encrypted there under it.
    system.ward(&["vm", "create", "lab-1", "--size", "1M", "--memory", "64", "--datastore", "lab"]);
    system.refused(Code::ProviderNone, &["vm", "encrypt", "lab-1", "--provider", "n1"]);

    fs::rename(&moved, &home).unwrap();
    let vm: VmView = system.json(&["vm", "register", "default", "web-1"]);
    assert!(vm.locked.is_none(), "{vm:?}");
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    // A datastore goes when no VM is on it.
    let problem = system.refused(Code::InUse, &["datastore", "rm", "lab"]);
    assert!(problem.why.contains("`lab-1`"), "{problem:?}");
    system.ward(&["vm", "rm", "lab-1", "--yes"]);
    system.ward(&["datastore", "rm", "lab"]);
    assert!(lab.exists() && !system.ward(&["datastore", "ls"]).contains(text(&lab)));
}
