//! The controller is lost; its backup is not.

use std::fs;

use ward_controller::api::types::{NativeState, Restored};
use ward_types::{Code, EventKind};

use crate::support::{System, keys_in, text};

#[test]
fn a_fresh_controller_brings_the_vms_back() {
    let old = System::start(1);
    let backup = old.backed_up("n1");
    let (home, _) = old.encrypted_vm("web-1", "n1");
    let key_id = old.native("n1").key_id;
    // An earlier backup, of another state.
    old.ward(&["provider", "update-key", "n1"]);
    let later = old.back_up("n1", "later.p12");
    old.wait_for_state("n1", NativeState::Active);
    old.encrypted_vm("web-2", "n1");
    let password = old.password();
    let import = |file, name| vec!["provider", "import", name, "--in", file, "--password-file", text(&password)];
    let problem = old.refused(Code::BackupOther, &import(text(&backup), "n1"));
    assert!(problem.why.contains("older"), "{problem:?}");
    old.refused(Code::Exists, &import(text(&later), "n1"));

    let new = System::start(1);
    // Nothing but the right file, its name and its password will do.
    new.refused(Code::BackupOther, &import(text(&later), "n2"));
    let damaged = new.path("damaged.p12");
    let mut bytes = fs::read(&later).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    new.refused(Code::BackupInvalid, &import(text(&damaged), "n1"));
    new.refused(Code::BackupInvalid, &import(text(&password), "n1"));
    let wrong = new.path("wrong");
    fs::write(&wrong, "secreT\n").unwrap();
    let with_wrong = ["provider", "import", "n1", "--in", text(&later), "--password-file", text(&wrong)];
    new.refused(Code::BackupPassword, &with_wrong);

    let mut dry = import(text(&later), "n1");
    dry.push("--dry-run");
    let looked: Restored = new.json(&dry);
    assert_eq!((looked.key_id, looked.added, looked.dry_run), (key_id, vec![1, 2], true));
    new.refused(Code::NotFound, &["provider", "show", "n1"]);

    // Without the provider no VM comes in; with an older version of its key some do.
    let (store, state) = (old.path("store"), new.host_state(0));
    new.ward(&["datastore", "add", "old", text(&store)]);
    let problem = new.refused(Code::ProviderNone, &["vm", "register", "old", "web-1"]);
    assert!(problem.remedy.contains("ward provider import n1"), "{problem:?}");
    new.ward(&import(text(&backup), "n1"));
    new.wait_for_state("n1", NativeState::Active);
    new.refused(Code::KeyWrongVersion, &["vm", "register", "old", "web-2"]);
    assert!(new.has_event(EventKind::KeyWrongVersion));
    let web_2 = store.join("web-2");
    let problem = new.refused(Code::KeyWrongVersion, &["host", "start", text(&web_2), "--state", text(&state)]);
    assert!(problem.remedy.contains("restore a backup"), "{problem:?}");
    let restored: Restored = new.json(&import(text(&later), "n1"));
    assert_eq!(restored.added, [2]);
    let native = new.native("n1");
    assert_eq!((native.key_id, native.versions.len()), (key_id, 2));
    new.wait_for_state("n1", NativeState::Active);
    // All VMs run, on the new controller's host.
    for vm in ["web-1", "web-2"] {
        new.ward(&["vm", "register", "old", vm]);
        new.ward(&["vm", "start", vm]);
    }
    for vm in ["web-1", "web-2"] {
        new.ward(&["vm", "stop", vm, "--force"]);
    }
    new.ward(&["host", "start", text(&home), "--state", text(&state)]);
}

#[test]
fn a_backup_without_a_password_is_asked_for_by_name() {
    let system = System::start(0);
    system.ward(&["provider", "add", "native", "n1"]);
    let (empty, out) = (system.path("empty"), system.path("n1.p12"));
    fs::write(&empty, "\n").unwrap();
    let with_file = ["provider", "export", "n1", "--out", text(&out), "--password-file", text(&empty)];
    let problem = system.refused(Code::RequestInvalid, &with_file);
    assert!(problem.remedy.contains("--empty-password"), "{problem:?}");
    system.ward(&["provider", "export", "n1", "--out", text(&out), "--empty-password"]);
    assert!(system.has_event(EventKind::ProviderExported));
    assert_eq!(keys_in(&out, &empty).len(), 1);
    let fresh = System::start(0);
    fresh.ward(&["provider", "import", "n1", "--in", text(&out), "--empty-password"]);
    assert_eq!(fresh.native("n1").key_id, system.native("n1").key_id);
}

#[test]
fn a_provider_of_that_name_with_another_key_is_told_apart() {
    let old = System::start(1);
    let backup = old.backed_up("n1");
    let (home, _) = old.encrypted_vm("web-1", "n1");
    let password = old.password();
    let new = System::start(1);
    new.backed_up("n1");
    let import = ["provider", "import", "n1", "--in", text(&backup), "--password-file", text(&password)];
    let problem = new.refused(Code::BackupOther, &import);
    assert!(problem.why.contains(&new.native("n1").key_id.to_string()), "{problem:?}");
    let state = new.host_state(0);
    new.refused(Code::KeyWrong, &["host", "start", text(&home), "--state", text(&state)]);
    new.ward(&["datastore", "add", "old", text(&old.path("store"))]);
    new.refused(Code::KeyWrong, &["vm", "register", "old", "web-1"]);
    assert!(new.has_event(EventKind::KeyWrong));
}
