//! What was altered is detected and named.

use std::fs;
use std::process::Command;

use ward_types::{Code, EventKind};

use crate::support::{System, text};

#[test]
fn what_was_altered_is_named() {
    let system = System::start(1);
    system.backed_up("n1");
    let (home, _) = system.encrypted_vm("web-1", "n1");
    let toml = home.join("vm.toml");
    let good = fs::read_to_string(&toml).unwrap();
    let wrapped = good.lines().find_map(|line| line.strip_prefix("wrapped = \"")).unwrap();
    let wrapped = wrapped.trim_end_matches('"');

    // The wrapped key in the home.
    let swapped = if wrapped.starts_with('A') { 'B' } else { 'A' };
    let altered = format!("{swapped}{}", &wrapped[1..]);
    fs::write(&toml, good.replace(wrapped, &altered)).unwrap();
    let problem = system.refused(Code::KeyTampered, &["vm", "start", "web-1"]);
    assert!(problem.why.contains("altered"), "{problem:?}");
    assert!(system.has_event(EventKind::KeyTampered));

    // A key of another VM.
    let (other, _) = system.encrypted_vm("web-2", "n1");
    let theirs = fs::read_to_string(other.join("vm.toml")).unwrap();
    let id = |text: &str| text.lines().find_map(|line| line.strip_prefix("id = ")).unwrap().to_owned();
    fs::write(&toml, good.replacen(&format!("vm = {}", id(&good)), &format!("vm = {}", id(&theirs)), 1)).unwrap();
    let problem = system.refused(Code::KeyTampered, &["vm", "start", "web-1"]);
    assert!(problem.why.contains("another VM"), "{problem:?}");
    fs::write(&toml, &good).unwrap();

    // The token of a disk.
    let disk = home.join("disk-0.luks");
    let token = system.path("token.json");
    cryptsetup(&["token", "export", "--token-id", "0", text(&disk), "--json-file", text(&token)]);
    let json = fs::read_to_string(&token).unwrap();
    assert!(json.contains(wrapped), "{json}");
    fs::write(&token, json.replace(wrapped, &altered)).unwrap();
    let import = ["token", "import", "--token-id", "0", "--token-replace", text(&disk), "--json-file", text(&token)];
    cryptsetup(&import);
    let problem = system.refused(Code::HomeTampered, &["vm", "start", "web-1"]);
    assert!(problem.why.contains("disk-0.luks") && problem.why.contains("token"), "{problem:?}");
    fs::write(&token, json).unwrap();
    cryptsetup(&import);

    // With everything as it was, it starts.
    system.ward(&["vm", "start", "web-1"]);
    system.ward(&["vm", "stop", "web-1", "--force"]);
    // A key has no ID that could be named.
    system.plain_vm("web-3");
    system.refused(Code::RequestInvalid, &["vm", "encrypt", "web-3", "--provider", "n1", "--key-id", "1"]);
}

fn cryptsetup(args: &[&str]) {
    let output = Command::new("cryptsetup").args(args).output().unwrap();
    assert!(output.status.success(), "cryptsetup {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_controller_killed_at_any_step_of_encrypting_under_a_native_provider() {
    let mut system = System::start(1);
    let backup = system.backed_up("n1");
    system.killed_while_encrypting("n1", |system, vm, content| {
        let (_, plain) = system.opened(&backup, &vm.home.join("disk-0.luks"));
        assert!(plain[..content.len()] == *content);
    });
}
