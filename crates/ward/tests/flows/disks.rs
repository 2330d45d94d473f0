//! Disks that a VM gets and loses.

use std::fs;

use ward_controller::api::types::{DatastoreView, VmDiskView, VmView};
use ward_types::{Code, EventKind};

use crate::support::{MIB, System, decipher, disk, set, text};

const SIZE: u64 = 4 * MIB;

/// VM `db` is encrypted, VM `web` too, under another key, and VM `open` plain; each has one disk of that content.
fn with_vms() -> (System, Vec<u8>) {
    let system = System::start(1);
    let image = system.path("image");
    let content = disk(&image, SIZE);
    for vm in ["db", "web", "open"] {
        system.import(vm, &[&image]);
    }
    system.done(&["vm", "encrypt", "db"]);
    system.done(&["vm", "encrypt", "web"]);
    (system, content)
}

impl System {
    fn disks(&self, vm: &str) -> Vec<VmDiskView> {
        self.get(&["vm", "disk", "ls", vm])
    }
}

#[test]
fn disks_are_added_attached_detached_and_deleted() {
    let (system, content) = with_vms();
    let image = system.path("image");
    system.done(&["vm", "disk", "add", "web", "--size", "4M", "--encrypt"]);
    system.done(&["vm", "disk", "attach", "web", "--file", text(&image), "--policy", "No Encryption Policy"]);
    assert!(fs::read(system.file("web", "disk-2.raw")).unwrap() == content);
    // An encrypted disk of another VM: under its own key, and of it nothing is plain on the way.
    system.done(&["vm", "disk", "attach", "web", "--vm", "db", "--disk", "0"]);
    let kek = system.access().kek(&system.key_id("db"));
    assert!(decipher(&system.file("web", "disk-3.luks"), &kek, content.len()) == content);
    assert!(decipher(&system.file("db", "disk-0.luks"), &kek, content.len()) == content, "the original stays");
    // No encrypted disk comes to a plain VM, and what can't be done has made no key.
    let keys = system.access().all().len();
    system.refused(&["vm", "disk", "attach", "open", "--vm", "db", "--disk", "0"], Code::Composition);
    system.refused(&["vm", "disk", "add", "open", "--size", "4M", "--encrypt"], Code::Composition);
    system.refused(&["vm", "disk", "rm", "web", "0", "--yes"], Code::Composition);
    system.refused(&["vm", "disk", "attach", "web", "--file", "/dev/null"], Code::DeviceUnsuitable);
    assert_eq!(system.access().all().len(), keys);
    system.done(&["vm", "disk", "attach", "open", "--vm", "db", "--disk", "0", "--decrypt"]);
    assert!(fs::read(system.file("open", "disk-1.raw")).unwrap() == content);

    // What is detached stays, and gets new keys with the VM.
    system.done(&["vm", "disk", "detach", "web", "3"]);
    assert!(!system.disks("web")[3].attached);
    system.done(&["vm", "start", "web"]);
    system.refused(&["vm", "disk", "rm", "web", "1", "--yes"], Code::VmRunning);
    system.done(&["vm", "stop", "web", "--force"]);
    system.done(&["vm", "recrypt", "web"]);
    assert_eq!(system.vm("web").keys.len(), 1, "all is under one key now");
    system.done(&["vm", "disk", "attach", "web", "3"]);
    for disk in ["1", "2", "3"] {
        system.done(&["vm", "disk", "rm", "web", disk, "--yes"]);
    }
    assert_eq!(system.files("web"), set(["disk-0.luks", "vm.toml"]));
    assert!(system.events_of(EventKind::VmDisksChanged).len() >= 9);

    // One of a VM that is in no inventory any more.
    let () = system.get(&["vm", "unregister", "db"]);
    let stray = system.file("db", "disk-0.luks");
    system.done(&["vm", "disk", "attach", "web", "--file", text(&stray), "--new-kek"]);
    let kek = system.access().kek(&system.vm("web").keys[1].to_string()["kms/".len()..]);
    assert!(decipher(&system.file("web", "disk-1.luks"), &kek, content.len()) == content);
}

/// A disk whose key is lost keeps its VM from starting, is named, and can go.
#[test]
fn a_disk_whose_key_is_lost_is_named_and_can_be_removed() {
    let (system, _) = with_vms();
    system.done(&["vm", "disk", "add", "web", "--size", "4M", "--encrypt"]);
    let key = system.vm("web").keys[1].clone();
    let id = key.to_string()["kms/".len()..].to_owned();
    system.access().destroy(&id);
    system.stop("host-1");
    system.restart("host-1");
    let problem = system.refused(&["vm", "start", "web"], Code::KeyNotUsable);
    assert!(problem.why.contains("disk-1") && problem.why.contains(&key.to_string()), "{problem:?}");
    assert!(problem.remedy.contains("ward vm disk rm web 1"), "{problem:?}");
    assert_eq!(system.vm("web").locked, None);
    // Neither is it locked when it comes back to the inventory.
    let () = system.get(&["vm", "unregister", "web"]);
    let datastores: Vec<DatastoreView> = system.get(&["datastore", "ls"]);
    let vm: VmView = system.get(&["vm", "register", datastores[0].name.as_str(), "web"]);
    assert_eq!(vm.locked, None);
    system.done(&["vm", "disk", "rm", "web", "1", "--yes"]);
    system.done(&["vm", "start", "web"]);
    system.done(&["vm", "stop", "web", "--force"]);
}
