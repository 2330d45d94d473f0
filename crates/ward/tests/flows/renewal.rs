//! A VM under storage policies whose keys are replaced, one by one and with all others; that leaves the inventory and
//! comes back.

use std::fs;
use std::path::PathBuf;

use ward_controller::api::types::{PolicyView, RecryptionState, RecryptionView, VmView};
use ward_types::{Code, EventKind, Power};

use crate::support::{System, at_both_servers, boot_disk, cryptsetup_opens, decipher, set, text};

const GREETING: &str = "the guest is up";

impl System {
    fn boots(&self) {
        self.done(&["vm", "start", "vm"]);
        assert!(self.ask(&["vm", "console", "vm", "--until", GREETING]).status.success());
    }

    /// The file of its disk, which has another name when it is written anew.
    fn disk(&self) -> PathBuf {
        let config = self.vm("vm").config.unwrap();
        let [disk] = &config.disks[..] else { panic!("{config:?}") };
        self.file("vm", disk.file.as_str())
    }

    fn opens(&self, key_id: &str) -> bool {
        cryptsetup_opens(&self.disk(), &self.access().kek(key_id))
    }

    /// The VM's key, which must be a new one; none of the old ones opens its disk any more.
    fn renewed(&self, old: &mut Vec<String>) -> String {
        let key = self.key_id("vm");
        assert!(!old.contains(&key), "{key} is no new one: {old:?}");
        assert!(self.opens(&key));
        for old in &*old {
            assert!(!self.opens(old), "{old} opens the disk still");
        }
        old.push(key.clone());
        key
    }

    fn holds(&self, key_id: &str, content: &[u8]) {
        let disk = decipher(&self.disk(), &self.access().kek(key_id), content.len());
        assert!(disk == content);
    }
}

fn policy_of(vm: &VmView) -> Vec<&str> {
    vm.policies.iter().map(|it| it.policy.as_str()).collect()
}

at_both_servers! {
    a_vm_gets_new_keys_running_and_stopped_and_the_old_ones_open_nothing(1)
    a_vm_whose_key_is_not_to_be_had_is_locked_until_it_is(1)
}

fn a_vm_gets_new_keys_running_and_stopped_and_the_old_ones_open_nothing(system: System) {
    let image = system.path("image");
    let content = boot_disk(&image, GREETING);
    system.import("vm", &[&image]);
    let mut old = Vec::new();

    // A policy encrypts it.
    let policy: PolicyView = system.get(&["policy", "create", "Finance", "--provider", "kms", "--rotate-after", "90d"]);
    assert!(policy.encrypts && policy.vms.is_empty(), "{policy:?}");
    system.done(&["vm", "set-policy", "vm", "--home", "Finance", "--all-disks", "Finance"]);
    assert_eq!(system.files("vm"), set(["disk-0.luks", "vm.toml"]));
    assert_eq!(policy_of(&system.vm("vm")), ["Finance", "Finance"]);
    system.refused(&["policy", "rm", "Finance"], Code::InUse);
    system.renewed(&mut old);

    // A new KEK while it runs; new DEKs only when it doesn't.
    system.boots();
    system.done(&["vm", "recrypt", "vm"]);
    assert_eq!(system.vm("vm").power, Power::On);
    system.renewed(&mut old);
    let problem = system.refused(&["vm", "recrypt", "vm", "--deep"], Code::VmRunning);
    assert!(problem.why.contains("host-1"), "{problem:?}");
    system.done(&["vm", "stop", "vm", "--force"]);
    let before = fs::read(system.disk()).unwrap();
    system.done(&["vm", "recrypt", "vm", "--deep"]);
    let key = system.renewed(&mut old);
    system.holds(&key, &content);
    let after = fs::read(system.disk()).unwrap();
    let start = before.len() - content.len();
    assert_eq!(before.len(), after.len());
    assert!(before[start..start + 4096] != after[start..start + 4096], "the DEK is the old one");

    // All VMs at once, running again.
    system.boots();
    let run: RecryptionView = system.get(&["recrypt", "run", "--provider", "kms"]);
    assert_eq!((run.state, run.total, run.done, run.failed), (RecryptionState::Ended, 1, 1, 0), "{run:?}");
    let key = system.renewed(&mut old);
    assert_eq!(policy_of(&system.vm("vm")), ["Finance", "Finance"]);
    system.has_keys("host-1", &system.vm("vm").keys);

    // Out of the inventory and in again: nothing of it but its home is needed for that.
    system.refused(&["vm", "unregister", "vm"], Code::VmRunning);
    system.done(&["vm", "stop", "vm", "--force"]);
    let () = system.get(&["vm", "unregister", "vm"]);
    system.refused(&["vm", "show", "vm"], Code::NotFound);
    system.has_keys("host-1", &[]);
    let datastore = datastore(&system);
    let vm: VmView = system.get(&["vm", "register", &datastore, "vm"]);
    assert!(vm.locked.is_none() && vm.encrypted, "{vm:?}");
    assert_eq!(system.key_id("vm"), key);
    system.boots();
    system.done(&["vm", "stop", "vm", "--force"]);
    system.holds(&key, &content);

    // Another policy decrypts it.
    let plain = "No Encryption Policy";
    system.done(&["vm", "set-policy", "vm", "--home", plain, "--all-disks", plain]);
    assert!(fs::read(system.disk()).unwrap() == content);
    assert_eq!(system.access().all().len(), old.len(), "each key stays at its key server");
    for (kind, times) in [
        (EventKind::VmEncrypted, 1),
        (EventKind::VmRecrypted, 3),
        (EventKind::RecryptionEnded, 1),
        (EventKind::VmUnregistered, 1),
        (EventKind::VmRegistered, 1),
        (EventKind::VmDecrypted, 1),
    ] {
        assert_eq!(system.events_of(kind).len(), times, "{kind}");
    }
}

fn a_vm_whose_key_is_not_to_be_had_is_locked_until_it_is(system: System) {
    let image = system.path("image");
    let content = boot_disk(&image, GREETING);
    system.import("vm", &[&image]);
    system.done(&["vm", "encrypt", "vm"]);
    let key = system.key_id("vm");
    let () = system.get(&["vm", "unregister", "vm"]);
    system.has_keys("host-1", &[]);
    system.stop("keyserver");
    let vm: VmView = system.get(&["vm", "register", &datastore(&system), "vm"]);
    assert_eq!(vm.locked.map(|problem| problem.code), Some(Code::KeyServerUnreachable));
    // It can be unregistered, reloaded and unlocked, and nothing else.
    let home = || system.files("vm").iter().map(|file| fs::read(system.file("vm", file)).unwrap()).collect::<Vec<_>>();
    let before = home();
    for refused in [
        &["vm", "start", "vm"][..],
        &["vm", "decrypt", "vm"],
        &["vm", "recrypt", "vm"],
        &["vm", "recrypt", "vm", "--deep"],
        &["vm", "set-policy", "vm", "--home", "No Encryption Policy", "--all-disks", "No Encryption Policy"],
        &["vm", "clone", "vm", "other"],
        &["vm", "template", "vm"],
        &["vm", "disk", "add", "vm", "--size", "1M"],
        &["vm", "disk", "attach", "vm", "--file", text(&image)],
        &["vm", "disk", "detach", "vm", "0"],
        &["vm", "tpm", "add", "vm"],
        &["vm", "rm", "vm", "--yes"],
        &["vm", "unlock", "vm"],
    ] {
        system.refused(refused, Code::KeyServerUnreachable);
    }
    assert!(home() == before, "a locked VM was changed");
    let vm: VmView = system.get(&["vm", "reload", "vm"]);
    assert!(vm.locked.is_some());
    let () = system.get(&["vm", "unregister", "vm"]);
    let vm: VmView = system.get(&["vm", "register", &datastore(&system), "vm"]);
    assert!(vm.locked.is_some());
    system.restart("keyserver");
    let vm: VmView = system.get(&["vm", "unlock", "vm"]);
    assert!(vm.locked.is_none(), "{vm:?}");
    system.holds(&key, &content);
    system.boots();
    system.events_of(EventKind::VmUnlocked);
}

fn datastore(system: &System) -> String {
    let datastores: Vec<ward_controller::api::types::DatastoreView> = system.get(&["datastore", "ls"]);
    let [datastore] = &datastores[..] else { panic!("{datastores:?}") };
    assert_eq!(datastore.directory, system.state().join("datastore"));
    datastore.name.to_string()
}
