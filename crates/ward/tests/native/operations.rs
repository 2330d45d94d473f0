//! What is done with VMs under the keys of a key server is done under a native provider's too.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use ward_controller::api::types::VmView;
use ward_types::{Code, DiskId, HomeCrypto};

use crate::support::{MIB, System, noise, text};

impl System {
    fn vm(&self, name: &str) -> VmView {
        self.json(&["vm", "show", name])
    }

    fn disk(&self, vm: &str, number: u16) -> PathBuf {
        let vm = self.vm(vm);
        let config = vm.config.unwrap();
        let disk = config.disks.iter().find(|disk| disk.id == DiskId(number)).unwrap();
        vm.home.join(disk.file.as_str())
    }

    fn runs(&self, vm: &str) {
        self.ward(&["vm", "start", vm]);
        self.ward(&["vm", "stop", vm, "--force"]);
    }
}

#[test]
fn every_operation_is_as_under_the_keys_of_a_key_server() {
    let system = System::start(1);
    let backup = system.backed_up("n1");
    let (image, content) = (system.path("image"), noise(4 * MIB));
    fs::write(&image, &content).unwrap();
    let holds = |number| {
        let (keys, plain) = system.opened(&backup, &system.disk("web-1", number));
        (keys, plain[..content.len()] == content)
    };

    // Made under a policy, with a vTPM; a blank disk more, and one with something on it.
    let encrypts = "VM Encryption Policy";
    let firmware = ["--firmware", "uefi", "--tpm", "--policy", encrypts];
    system.ward(&[&["vm", "create", "web-1", "--size", "4M", "--memory", "64"], &firmware[..]].concat());
    system.ward(&["vm", "disk", "add", "web-1", "--size", "4M", "--encrypt"]);
    system.ward(&["vm", "disk", "attach", "web-1", "--file", text(&image), "--encrypt"]);
    let made = system.vm("web-1");
    assert!(made.encrypted && made.keys.iter().all(|key| key.bound_to() == Some(made.id)), "{made:?}");
    system.runs("web-1");
    assert!(!holds(1).1);
    let (first, is_it) = holds(2);
    assert!(is_it);
    system.ward(&["vm", "disk", "detach", "web-1", "1"]);
    system.ward(&["vm", "disk", "attach", "web-1", "1"]);
    system.ward(&["vm", "disk", "rm", "web-1", "1", "--yes"]);

    // A new KEK for all of it, while it runs; then all of it anew.
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "recrypt", "web-1"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    let (second, is_it) = holds(2);
    assert!(is_it && second.kek != first.kek && second.dek == first.dek, "{first:?} {second:?}");
    assert_eq!(system.vm("web-1").keys.len(), 1);
    system.ward(&["vm", "start", "web-1"]);
    system.refused(Code::VmRunning, &["vm", "recrypt", "web-1", "--deep"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    system.ward(&["vm", "recrypt", "web-1", "--deep"]);
    let (third, is_it) = holds(2);
    assert!(is_it && third.kek != second.kek && third.dek != second.dek, "{second:?} {third:?}");
    assert_eq!(holds(0).0.kek, third.kek, "one KEK for all that is encrypted together");
    let deks: BTreeSet<_> = [0, 2].map(|number| holds(number).0.dek).into();
    assert_eq!(deks.len(), 2, "one DEK for each disk");

    // A template is not started; its clones are, under keys of their own, and with a vTPM of their own.
    system.ward(&["vm", "template", "web-1"]);
    system.refused(Code::VmTemplate, &["vm", "start", "web-1"]);
    system.ward(&["vm", "clone", "web-1", "web-2", "--new-keys", "--tpm", "replace"]);
    let (cloned, plain) = system.opened(&backup, &system.disk("web-2", 2));
    assert!(plain[..content.len()] == content && cloned.kek != third.kek && cloned.dek != third.dek);
    system.runs("web-2");
    system.ward(&["vm", "template", "web-1", "--off"]);

    // Policies decrypt: disks first, then the home, which a vTPM keeps encrypted.
    let none = "No Encryption Policy";
    system.ward(&["vm", "set-policy", "web-1", "--all-disks", none]);
    assert!(fs::read(system.disk("web-1", 2)).unwrap() == content);
    assert!(matches!(system.vm("web-1").config.unwrap().home, HomeCrypto::Encrypted { .. }));
    system.ward(&["vm", "tpm", "rm", "web-1", "--yes"]);
    system.ward(&["vm", "set-policy", "web-1", "--home", none]);
    assert!(!system.vm("web-1").encrypted);
    system.runs("web-1");
    // What else there is is decrypted on its way into another VM; and nobody needs the provider then but the host.
    system.ward(&["vm", "disk", "attach", "web-1", "--vm", "web-2", "--disk", "2", "--decrypt"]);
    system.ward(&["vm", "rm", "web-2", "--yes"]);
    let needs: usize = system.native("n1").versions.iter().map(|version| version.vms).sum();
    assert_eq!(needs, 0);
}
