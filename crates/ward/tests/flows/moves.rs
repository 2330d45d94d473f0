//! A VM that moves between a key server and a native key provider.

use std::fs;
use std::path::Path;
use std::process::Command;

use ward_controller::api::types::{ProviderView, RecryptionView};
use ward_types::{Code, Power};

use crate::support::{System, boot_disk, cryptsetup_opens, decipher, lossy, text};

const GREETING: &str = "the guest is up";

/// The KEK of a disk of a native provider, by its backup and the document.
fn native_kek(system: &System, backup: &Path, password: &Path, content: &[u8]) -> Vec<u8> {
    let (plain, keys) = (system.path("plain"), system.path("keys"));
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native/open_disk.py");
    let disk = system.file("vm", "disk-0.luks");
    let arguments = [script, text(backup), text(password), text(&disk), text(&plain), text(&keys)];
    let output = Command::new(python).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", lossy(&output.stderr));
    assert!(fs::read(&plain).unwrap()[..content.len()] == *content);
    let keys = fs::read_to_string(&keys).unwrap();
    let kek = keys.lines().next().unwrap();
    (0..kek.len() / 2).map(|at| u8::from_str_radix(&kek[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn a_vm_moves_between_a_key_server_and_a_native_provider_and_back() {
    let system = System::start(1);
    let image = system.path("image");
    let content = boot_disk(&image, GREETING);
    system.import("vm", &[&image]);
    system.done(&["vm", "encrypt", "vm", "--provider", "kms"]);
    let disk = system.file("vm", "disk-0.luks");
    let first = system.access().kek(&system.key_id("vm"));
    assert!(cryptsetup_opens(&disk, &first));

    let _: ProviderView = system.get(&["provider", "add", "native", "n1", "--cluster", "default"]);
    system.refused(&["vm", "recrypt", "vm", "--provider", "n1"], Code::ProviderNotBackedUp);
    let (backup, password) = (system.path("n1.p12"), system.path("password"));
    fs::write(&password, "secret\n").unwrap();
    let export = ["provider", "export", "n1", "--out", text(&backup), "--password-file", text(&password)];
    let _: ProviderView = system.get(&export);

    // To the native one while it runs: the guest does not notice, and the key server is needed no more.
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "recrypt", "vm", "--provider", "n1"]);
    assert_eq!(system.vm("vm").power, Power::On);
    assert!(system.ask(&["vm", "console", "vm", "--until", GREETING]).status.success());
    system.done(&["vm", "stop", "vm", "--force"]);
    let second = native_kek(&system, &backup, &password, &content);
    assert!(cryptsetup_opens(&disk, &second) && !cryptsetup_opens(&disk, &first));
    system.stop("keyserver");
    system.stop("host-1");
    system.restart("host-1");
    system.hosts_answer();
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "stop", "vm", "--force"]);
    system.restart("keyserver");
    let problem = system.refused(&["provider", "rm", "n1"], Code::InUse);
    assert!(problem.remedy.contains("ward recrypt run --provider n1 --to OTHER"), "{problem:?}");

    // And back, as the refusal says.
    let run: RecryptionView = system.get(&["recrypt", "run", "--provider", "n1", "--to", "kms"]);
    assert_eq!((run.total, run.done), (1, 1), "{run:?}");
    let third = system.access().kek(&system.key_id("vm"));
    assert!(cryptsetup_opens(&disk, &third));
    assert!(!cryptsetup_opens(&disk, &second) && !cryptsetup_opens(&disk, &first));
    assert!(decipher(&disk, &third, content.len()) == content);
    let () = system.get(&["provider", "rm", "n1"]);
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "stop", "vm", "--force"]);
}
