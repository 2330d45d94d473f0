//! How the controller's root key is kept: as the operator chose, who may choose otherwise later.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ward_controller::api::types::NativeState;

use crate::support::{System, text};
use crate::tpm::Tpm;

impl System {
    /// The controller has its secrets, so that what it gives to hosts opens a VM; and shows how its root key is kept.
    fn goes_on(&self, kept: &str) {
        self.host_answers(0);
        self.wait_for_state("n1", NativeState::Active);
        let native = self.native("n1");
        assert!(native.sealed_under.contains(kept), "{}", native.sealed_under);
        let log = fs::read_to_string(self.path("controller.log")).unwrap();
        let started = log.lines().rfind(|line| line.contains("the controller answers")).unwrap();
        assert!(started.contains(kept), "{started}");
        self.ward(&["vm", "start", "web-1"]);
        self.ward(&["vm", "stop", "web-1", "--force"]);
    }

    fn root_key(&self, arguments: &[&str]) -> String {
        let state = self.controller_state();
        self.ward(&[&["controller", "root-key", "--state", text(&state)], arguments].concat())
    }
}

#[test]
fn the_root_key_is_kept_as_the_operator_chooses() {
    let tpm = Tpm::new();
    let tcti = tpm.tcti();
    let mut system = System::start(1);
    system.backed_up("n1");
    system.encrypted_vm("web-1", "n1");
    let root_key = system.controller_state().join("root.key");
    let plain = fs::read(&root_key).unwrap();
    assert_eq!((plain.len(), fs::metadata(&root_key).unwrap().permissions().mode() & 0o777), (32, 0o600));
    system.goes_on("in a file");
    let state = system.controller_state();
    let to_file = ["controller", "root-key", "--state", text(&state), "--to", "file"];
    let problem = system.refused_any(&to_file);
    assert!(problem.why.contains("another controller runs"), "{problem:?}");

    // A file becomes a TPM; before that, a copy for the day on which the TPM does not open it.
    system.kill_controller();
    let (passphrase, copy) = (system.path("passphrase"), system.path("copy"));
    fs::write(&passphrase, "open sesame\n").unwrap();
    let copying = ["--to", "passphrase", "--new-passphrase-file", text(&passphrase), "--copy", text(&copy)];
    system.root_key(&copying);
    for crash in ["root-key.begun", "root-key.changed"] {
        system.environment.push(("WARD_CRASH_AT", crash.to_owned()));
        let args = ["controller", "root-key", "--state", text(&state), "--to", "tpm", "--new-tpm", &tcti];
        assert!(!system.succeeds(&[&args[..], &["--root-tpm", &tcti]].concat()), "it was not killed at {crash}");
        system.environment.clear();
        let kept = system.root_key(&[]);
        assert_eq!(kept.contains("TPM"), crash == "root-key.changed", "{kept}");
    }
    assert!(!fs::read(&root_key).unwrap().windows(32).any(|window| window == plain));
    let with_tpm = ["--root-key", "tpm", "--root-tpm", &tcti];
    system.start_controller(&with_tpm);
    system.goes_on("TPM");

    // The machine was changed: the controller does not start, and says why and what to do.
    system.kill_controller();
    tpm.boots_something_else();
    system.start_controller(&with_tpm);
    let said = system.controller_ends();
    assert!(said.contains("PCR 7 has changed") && said.contains("put a copy of the root key"), "{said}");
    fs::copy(&copy, &root_key).unwrap();
    let with_passphrase = ["--root-passphrase-file", text(&passphrase)];
    system.start_controller(&with_passphrase);
    system.goes_on("passphrase");

    // Under a credential of the service manager.
    system.kill_controller();
    let credentials = system.path("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("ward-root-key"), [7; 32]).unwrap();
    system.environment.push(("CREDENTIALS_DIRECTORY", text(&credentials).to_owned()));
    system.root_key(&["--to", "credential", "--root-passphrase-file", text(&passphrase)]);
    system.start_controller(&["--root-key", "credential"]);
    system.goes_on("credential");
    system.kill_controller();
    system.environment.clear();
    system.start_controller(&[]);
    let said = system.controller_ends();
    assert!(said.contains("LoadCredentialEncrypted"), "{said}");
}
