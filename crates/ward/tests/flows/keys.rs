//! What can be wrong with a key, a key server, or a host that should get a key.

use std::fs;
use std::path::Path;

use ward_controller::api::types::{HostState, HostView};
use ward_types::{Code, EventKind};

use crate::support::{Access, MIB, Pki, System, at_both_servers, decipher, disk, eventually, run, set, text};

const SIZE: u64 = 4 * MIB;

impl System {
    /// Makes a small plain VM `vm`: what is on its disk.
    fn with_vm(&self) -> Vec<u8> {
        let image = self.path("image");
        let content = disk(&image, SIZE);
        self.import("vm", &[&image]);
        content
    }

    /// The VM is plain, whole, and nothing lies beside it.
    fn is_plain(&self, content: &[u8]) {
        assert_eq!(self.files("vm"), set(["disk-0.raw", "vm.toml"]));
        assert!(fs::read(self.file("vm", "disk-0.raw")).unwrap() == content);
        let vm = self.vm("vm");
        assert!(!vm.encrypted && vm.task.is_none(), "{vm:?}");
    }

    fn is_encrypted(&self, content: &[u8]) {
        assert_eq!(self.files("vm"), set(["disk-0.luks", "vm.toml"]));
        let kek = self.access().kek(&self.key_id("vm"));
        assert!(decipher(&self.file("vm", "disk-0.luks"), &kek, content.len()) == content);
    }

    fn is_encrypted_still(&self) {
        assert_eq!(self.files("vm"), set(["disk-0.luks", "vm.toml"]));
        assert!(self.vm("vm").encrypted);
    }

    /// Stopped and started, a process has lost what it had in memory only.
    fn renew(&self, process: &str) {
        self.stop(process);
        self.restart(process);
    }
}

at_both_servers! {
    a_key_server_that_is_down(1)
    a_provider_whose_files_are_wrong(1)
    a_key_that_is_not_at_the_server(1)
}

fn a_key_server_that_is_down(system: System) {
    let content = system.with_vm();
    system.stop("keyserver");
    let problem = system.refused(&["vm", "encrypt", "vm"], Code::KeyServerUnreachable);
    assert!(problem.why.contains("kms"), "{problem:?}");
    system.is_plain(&content);
    system.events_of(EventKind::KeyServerUnreachable);
    system.events_of(EventKind::TaskFailed);
    system.restart("keyserver");
    system.done(&["vm", "encrypt", "vm"]);
    system.is_encrypted(&content);
    // The first attempt has left no key behind.
    assert_eq!(system.access().all(), [system.key_id("vm")]);

    // A host that has lost its keys can't do without the server; one that has them can.
    system.stop("keyserver");
    system.renew("host-1");
    system.refused(&["vm", "start", "vm"], Code::KeyServerUnreachable);
    system.refused(&["vm", "decrypt", "vm"], Code::KeyServerUnreachable);
    system.is_encrypted_still();
    system.events_of(EventKind::VmLocked);
    system.restart("keyserver");
    system.done(&["vm", "decrypt", "vm"]);
    system.is_plain(&content);
}

#[test]
fn a_key_server_that_is_not_to_be_trusted() {
    let system = System::start(1);
    let content = system.with_vm();
    let state = system.key_server();
    let good = system.path("good");
    fs::create_dir(&good).unwrap();
    let copy = |from: &Path, to: &Path| {
        for name in ["server.pem", "server.key"] {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    copy(&state, &good);
    let own = Pki::of(&state);
    for (said, pki, ends) in [("expired", &own, 2021), ("authority", &Pki::new(), 2049)] {
        pki.issue_server(&state, "server", ends);
        system.renew("keyserver");
        let problem = system.refused(&["vm", "encrypt", "vm"], Code::KeyServerTrust);
        assert!(problem.why.contains(said), "{said}: {problem:?}");
        system.is_plain(&content);
        let event = system.events_of(EventKind::KeyServerTrust).pop().unwrap();
        assert!(event.message.contains(&problem.why), "{event:?}");
    }
    copy(&good, &state);
    system.renew("keyserver");
    system.done(&["vm", "encrypt", "vm"]);
    system.is_encrypted(&content);
}

fn a_provider_whose_files_are_wrong(system: System) {
    let Access { address, ca, cert, key } = system.access();
    let state = system.key_server();
    let (own, other) = (Pki::of(&state), Pki::new());
    let (wrong_ca, none) = (system.path("wrong-ca.pem"), system.path("none.pem"));
    fs::write(&wrong_ca, &other.ca).unwrap();
    own.issue_client(system.state().parent().unwrap(), "expired", 2021);
    other.issue_client(system.state().parent().unwrap(), "stranger", 2049);
    let add = |server: &str, ca, cert, key, code| {
        let arguments = ["provider", "add", "standard", "other", "--server", server];
        let files = ["--ca", text(ca), "--cert", text(cert), "--key", text(key)];
        system.refused(&[&arguments[..], &files].concat(), code);
        let providers: Vec<serde_json::Value> = system.get(&["provider", "ls"]);
        assert_eq!(providers.len(), 1, "{providers:?}");
    };
    let files = |name: &str| (system.path(&format!("{name}.pem")), system.path(&format!("{name}.key")));
    add(&address, &wrong_ca, &cert, &key, Code::KeyServerTrust);
    let (pem, private) = files("expired");
    add(&address, &ca, &pem, &private, Code::KeyServerTrust);
    add(&address, &ca, &cert, &private, Code::RequestInvalid);
    let (pem, private) = files("stranger");
    add(&address, &ca, &pem, &private, Code::KeyServerTrust);
    add(&address, &ca, &none, &key, Code::RequestInvalid);
    add(&address, &cert, &cert, &key, Code::KeyServerTrust);
    add("127.0.0.1:9", &ca, &cert, &key, Code::KeyServerUnreachable);
    let arguments = ["provider", "add", "standard", "other", "--server", &address];
    let files = ["--ca", text(&ca), "--cert", text(&cert), "--key", text(&key)];
    let _: serde_json::Value = system.get(&[&arguments[..], &files].concat());
}

fn a_key_that_is_not_at_the_server(system: System) {
    let content = system.with_vm();
    let problem = system.refused(&["vm", "encrypt", "vm", "--key-id", "no-such-key"], Code::KeyMissing);
    assert!(problem.why.contains("no-such-key") || problem.remedy.contains("no-such-key"), "{problem:?}");
    system.is_plain(&content);
    let event = system.events_of(EventKind::KeyMissingAtServer).pop().unwrap();
    assert!(event.subject.key.unwrap().to_string().contains("no-such-key"));

    let access = system.access();
    let id = access.make();
    system.done(&["vm", "encrypt", "vm", "--key-id", &id]);
    system.is_encrypted(&content);

    // A backup of the key server is the only thing that helps once the key is destroyed.
    let (state, backup) = (system.key_server(), system.path("backup"));
    let copy = |from: &Path, to: &Path| run("cp", &["-a", "--", text(&from.join(".")), text(to)]);
    system.stop("keyserver");
    fs::create_dir(&backup).unwrap();
    copy(&state, &backup);
    system.restart("keyserver");
    access.destroy(&id);
    system.renew("host-1");
    for verb in ["start", "decrypt"] {
        let problem = system.refused(&["vm", verb, "vm"], system.destroyed());
        assert!(problem.why.contains(&id), "{problem:?}");
    }
    system.is_encrypted_still();
    system.events_of(match system.destroyed() {
        Code::KeyMissing => EventKind::KeyMissingAtServer,
        _ => EventKind::KeyNotUsable,
    });
    system.events_of(EventKind::VmLocked);
    // Under a destroyed key nothing is encrypted either.
    let image = system.path("image");
    system.import("other", &[&image]);
    system.refused(&["vm", "encrypt", "other", "--key-id", &id], system.destroyed());
    assert_eq!(system.files("other"), set(["disk-0.raw", "vm.toml"]));

    system.stop("keyserver");
    for entry in fs::read_dir(&state).unwrap().flatten() {
        run("rm", &["-r", "--", text(&entry.path())]);
    }
    copy(&backup, &state);
    system.restart("keyserver");
    system.done(&["vm", "decrypt", "vm"]);
    system.is_plain(&content);
}

#[test]
fn a_host_that_is_down_during_the_push() {
    let system = System::start(3);
    let content = system.with_vm();
    for host in ["host-1", "host-2", "host-3"] {
        let _: HostView = system.get(&["host", "encryption", "enable", host]);
    }
    let absent = system.host("host-2");
    system.stop("host-2");
    system.done(&["vm", "encrypt", "vm"]);
    system.is_encrypted(&content);
    let keys = system.vm("vm").keys;
    let event = system.events_of(EventKind::KeyHostUnreachable).pop().unwrap();
    assert_eq!((event.subject.host, event.subject.key.as_ref()), (Some(absent.id), keys.first()));
    assert!(event.message.contains("host-2"), "{event:?}");
    for host in ["host-1", "host-3"] {
        system.has_keys(host, &keys);
    }
    system.restart("host-2");
    system.has_keys("host-2", &keys);
    // And makes use of it, alone.
    for host in ["host-1", "host-3"] {
        system.stop(host);
        eventually(&format!("{host} is missed"), || (system.host(host).state == HostState::Disconnected).then_some(()));
    }
    system.done(&["vm", "decrypt", "vm"]);
    system.is_plain(&content);
}
