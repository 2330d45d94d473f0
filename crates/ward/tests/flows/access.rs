//! Users, roles and the audit log, as an administrator meets them on the command line.

use std::fs::File;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{eventually, lossy, text, ward};

/// A controller without hosts.
struct Controller {
    place: TempDir,
    process: Child,
    url: String,
}

impl Controller {
    fn start() -> Self {
        let place = tempfile::tempdir().unwrap();
        let log = File::create(place.path().join("log")).unwrap();
        let process = Command::new(ward())
            .args(["controller", "--listen-api", "127.0.0.1:0", "--listen-hosts", "127.0.0.1:0", "--state"])
            .arg(place.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = eventually("the controller answers", || {
            let log = std::fs::read_to_string(place.path().join("log")).unwrap();
            let address = log.split_once("api_address=")?.1.split_once(' ')?.0;
            Some(format!("https://{address}"))
        });
        Self { place, process, url }
    }

    fn file(&self, name: &str) -> String {
        text(&self.place.path().join(name)).to_owned()
    }

    /// What a user's command comes to.
    fn ask(&self, user: &str, arguments: &[&str]) -> Output {
        let config = self.file(&format!("{user}.json"));
        Command::new(ward()).args(arguments).env("WARD_CONFIG", config).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, user: &str, arguments: &[&str]) -> String {
        let output = self.ask(user, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", lossy(&output.stderr));
        lossy(&output.stdout)
    }

    #[track_caller]
    fn exits(&self, user: &str, arguments: &[&str], code: i32) -> String {
        let output = self.ask(user, arguments);
        let told = lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        told
    }

    fn log_in(&self, user: &str, password_file: &str) {
        let ca = self.file("state/ca.pem");
        self.ok(user, &["login", &self.url, "--ca", &ca, "--user", user, "--password-file", password_file]);
    }

    fn write(&self, name: &str, content: &str) -> String {
        std::fs::write(self.place.path().join(name), content).unwrap();
        self.file(name)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_user_does_what_its_role_allows_and_the_audit_log_has_it() {
    let controller = Controller::start();
    controller.log_in("admin", &controller.file("state/admin-password"));
    let password = controller.write("password", "a good passphrase\n");
    controller.ok("admin", &["user", "add", "alice", "--password-file", &password]);
    controller.log_in("alice", &password);
    assert!(controller.ok("alice", &["cluster", "ls"]).contains("(none)"));
    controller.ok("admin", &["group", "add", "readers"]);
    controller.ok("admin", &["group", "join", "readers", "alice"]);
    controller.ok("admin", &["permission", "add", "group/readers", "read-only", "--on", "cluster/default"]);
    assert!(controller.ok("alice", &["cluster", "ls"]).contains("default"));
    assert!(controller.ok("alice", &["permission", "check", "cluster/default"]).contains("read"));
    let told = controller.exits("alice", &["cluster", "add", "lab"], 3);
    assert!(told.contains("user `alice` lacks the privilege cluster.add"), "{told}");
    controller.exits("alice", &["user", "ls"], 3);
    controller.exits("alice", &["audit", "ls"], 3);
    controller.ok("admin", &["role", "add", "builder", "read", "cluster.add"]);
    controller.ok("admin", &["permission", "add", "user/alice", "builder", "--on", "root"]);
    controller.ok("alice", &["cluster", "add", "lab"]);

    let new = controller.write("new", "an even better one\n");
    controller.ok("alice", &["password", "--current-file", &password, "--password-file", &new]);
    controller.log_in("alice", &new);
    controller.ok("admin", &["user", "disable", "alice"]);
    controller.exits("alice", &["cluster", "ls"], 3);

    let refused = controller.ok("admin", &["audit", "ls", "--refused", "--output", "json"]);
    let refused: Vec<Value> = serde_json::from_str(&refused).unwrap();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((&refused[0]["user"], &refused[0]["operation"]), (&"alice".into(), &"cluster.add".into()));
}

#[test]
fn an_audit_log_that_was_meddled_with_is_found_out() {
    let controller = Controller::start();
    controller.log_in("admin", &controller.file("state/admin-password"));
    for cluster in ["a", "b", "c"] {
        controller.ok("admin", &["cluster", "add", cluster]);
    }
    let export = controller.file("audit.jsonl");
    controller.ok("admin", &["audit", "export", &export]);
    controller.ok("admin", &["cluster", "add", "d"]);
    controller.ok("admin", &["audit", "verify"]);
    controller.ok("admin", &["audit", "verify", "--since", &export]);
    controller.ok("admin", &["audit", "verify", "--file", &export]);

    let whole = std::fs::read_to_string(&export).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    assert_eq!(lines.len(), 5, "a login, three clusters, the head: {whole}");
    let meddled = [
        ("changed", whole.replace("cluster `b`", "cluster `x`"), "entry 3 was changed"),
        ("removed", [lines[0], lines[1], lines[3], lines[4]].join("\n"), "entry 3 is missing"),
        ("moved", [lines[0], lines[2], lines[1], lines[3], lines[4]].join("\n"), "entry 2 is missing"),
        ("cut", [lines[0], lines[1], lines[2], lines[4]].join("\n"), "cut off"),
    ];
    for (name, log, why) in meddled {
        let file = controller.write(name, &log);
        let told = controller.exits("admin", &["audit", "verify", "--file", &file], 8);
        assert!(told.contains(why), "{name}: {told}");
    }
    // A head from a log that was longer, or another one.
    let head = |number: u64| format!("{number}:{}", "0".repeat(64));
    controller.exits("admin", &["audit", "verify", "--head", &head(99)], 8);
    controller.exits("admin", &["audit", "verify", "--head", &head(2)], 8);
    controller.exits("admin", &["audit", "verify", "--head", "nonsense"], 2);
}
