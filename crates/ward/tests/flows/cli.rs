//! What the command line promises to people and scripts: exit codes, JSON, help, completion.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;
use ward_types::Code;

use crate::support::{MIB, System, disk, lossy, problem_of, text, ward};

fn plainly(arguments: &[&str]) -> Output {
    Command::new(ward()).args(arguments).env("WARD_CONFIG", "/nonexistent/client.json").output().unwrap()
}

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| !line.is_empty());
    // Further lines of a description stand further in.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_subcommand_has_help() {
    let mut waiting = vec![Vec::new()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let output = plainly(&arguments);
        let help = lossy(&output.stdout);
        assert!(output.status.success() && help.contains("Usage: ward"), "{arguments:?}: {help}");
        for name in subcommands(&help) {
            let mut deeper = path.clone();
            deeper.push(name);
            waiting.push(deeper);
        }
        seen.insert(path.join(" "));
    }
    for expected in [
        "vm import",
        "vm encrypt",
        "vm decrypt",
        "vm console",
        "host enrol",
        "provider add standard",
        "task watch",
        "event ls",
        "up stop",
        "keyserver issue-client",
        "controller",
        "login",
        "completion",
    ] {
        assert!(seen.contains(expected), "{expected} is not among {seen:?}");
    }
    assert!(!seen.contains("disk"), "the disk process is not for people");
}

#[test]
fn completion_scripts_are_made() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = plainly(&["completion", shell]);
        let script = lossy(&output.stdout);
        assert!(output.status.success() && script.contains("encrypt"), "{shell}: {script}");
    }
    let script = plainly(&["completion", "bash"]).stdout;
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), script).unwrap();
    let checked = Command::new("bash").arg("-n").arg(path.path()).output().unwrap();
    assert!(checked.status.success(), "{}", lossy(&checked.stderr));
}

#[test]
fn who_asks_wrongly_is_told() {
    for arguments in [
        &["no-such-noun"][..],
        &["vm"],
        &["vm", "encrypt"],
        &["vm", "create", "x", "--size", "1X"],
        &["completion", "x"],
    ] {
        let output = plainly(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", lossy(&output.stderr));
        assert!(lossy(&output.stderr).contains("--help") || lossy(&output.stderr).contains("Usage"), "{arguments:?}");
    }
    let output = plainly(&["--output", "json", "vm", "ls"]);
    let problem = problem_of(&output.status, &output.stderr);
    assert_eq!((problem.code, output.status.code()), (Code::AuthRequired, Some(3)));
}

#[test]
fn everything_speaks_json_and_ends_with_the_right_code() {
    let system = System::start(1);
    let state = system.state();
    let image = system.path("image");
    disk(&image, MIB);
    system.import("vm", &[&image]);
    system.done(&["vm", "create", "blank", "--size", "1M", "--size", "2M", "--format", "qcow2"]);
    system.done(&["vm", "encrypt", "vm"]);
    let task = system.get::<Value>(&["task", "ls"])[0]["id"].as_str().unwrap().to_owned();
    let keyserver = state.join("keyserver");
    for arguments in [
        &["vm", "ls"][..],
        &["vm", "show", "vm"],
        &["host", "ls"],
        &["host", "show", "host-1"],
        &["host", "add"],
        &["cluster", "ls"],
        &["datastore", "ls"],
        &["datastore", "add", "more", text(&system.path("more"))],
        &["provider", "ls"],
        &["provider", "show", "kms"],
        &["provider", "default", "kms"],
        &["task", "ls", "--open"],
        &["task", "show", &task],
        &["task", "watch", &task],
        &["event", "ls"],
        &["vm", "start", "blank"],
        &["up", "stop", "host-1", "--state", text(&state)],
        &["up", "start", "host-1", "--state", text(&state)],
        &["up", "status", "--state", text(&state)],
        &["keyserver", "audit", "--state", text(&keyserver)],
        &["keyserver", "audit", "--counts", "--state", text(&keyserver)],
        &["keyserver", "issue-client", "somebody", "--state", text(&keyserver)],
    ] {
        // `get` parses what was printed.
        let _: Value = system.get(arguments);
    }
    // People get a table, and the same exit code.
    let mut people = Command::new(ward());
    people.args(["vm", "ls"]).env("WARD_CONFIG", system.path("client.json"));
    let people = people.output().unwrap();
    assert!(people.status.success() && lossy(&people.stdout).contains("ENCRYPTED"), "{}", lossy(&people.stdout));

    for (arguments, code, exit) in [
        (&["vm", "show", "nobody"][..], Code::NotFound, 4),
        (&["task", "show", "00000000-0000-0000-0000-000000000000"], Code::NotFound, 4),
        (&["vm", "import", "vm", "--disk", text(&image), "--datastore", "default"], Code::Exists, 5),
        (&["vm", "import", "new", "--disk", text(&image)], Code::RequestInvalid, 2),
        (&["provider", "rm", "kms"], Code::InUse, 5),
        (&["vm", "encrypt", "vm"], Code::AlreadyEncrypted, 5),
        (&["vm", "encrypt", "vm", "--provider", "other"], Code::AlreadyEncrypted, 5),
        (&["vm", "start", "vm", "--host", "host-9"], Code::NotFound, 4),
        (&["vm", "import", "new", "--disk", "/nonexistent", "--datastore", "default"], Code::ImageMissing, 8),
    ] {
        let problem = system.refused(arguments, code);
        assert_eq!(problem.code.exit_code(), exit);
    }
    system.done(&["vm", "stop", "blank", "--force"]);
    let () = system.get(&["logout"]);
    system.refused(&["vm", "ls"], Code::AuthRequired);
    // What `ward up` itself has to do does not hang on the user's login.
    let stopped = system.ask(&["up", "stop", "--state", text(&state)]);
    assert_eq!((lossy(&stopped.stdout).trim(), lossy(&stopped.stderr).as_str()), ("null", ""));
    assert_eq!(system.processes(), 0);
    system.refused(&["vm", "ls"], Code::ControllerUnreachable);
}
