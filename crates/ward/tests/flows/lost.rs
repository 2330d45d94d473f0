//! What is left when a controller or a key is gone: keys listed, looked for and destroyed by the command line, a controller
//! that is lost with its disk.

use std::fs;
use std::io::{BufRead as _, BufReader};

use key_search::Keys;
use serde_json::Value;
use ward_controller::api::types::{KeyStanding, KeyView, OrphanView, VmView};
use ward_types::{Code, Event, EventKind};

use crate::support::{MIB, System, at_both_servers, boot_disk, decipher, disk, eventually, set, text};

const GREETING: &str = "the guest is up";

impl System {
    fn encrypted(&self, vm: &str) -> String {
        let image = self.path(vm);
        disk(&image, 4 * MIB);
        self.import(vm, &[&image]);
        self.done(&["vm", "encrypt", vm]);
        self.key_id(vm)
    }

    /// The keys, but for host keys.
    fn keys(&self, arguments: &[&str]) -> Vec<KeyView> {
        let mut keys: Vec<KeyView> = self.get(&[&["key", "ls"], arguments].concat());
        keys.retain(|key| key.host_key_of.is_empty());
        keys
    }
}

at_both_servers! {
    a_controller_lost_with_its_disk_and_all_vms_run_again(1)
    keys_are_listed_looked_for_and_destroyed(1)
}

/// What it had in memory goes too, with the process.
#[test]
fn a_host_that_is_removed_has_no_key_any_more() {
    let system = System::start(2);
    let key = system.encrypted("vm");
    system.has_keys("host-2", &system.vm("vm").keys);
    let mut keys = Keys::default();
    keys.add("the KEK", &system.access().kek(&key));
    let finder = keys.finder().unwrap();
    let held = |host: &str| !finder.in_process(system.pid(host).parse().unwrap()).unwrap().is_empty();
    assert!(held("host-1") && held("host-2"), "the search finds nothing");
    let () = system.get(&["host", "rm", "host-2"]);
    eventually("the key is gone", || (!held("host-2")).then_some(()));
    let (home, state) = (system.datastore().join("vm"), system.state().join("host-2"));
    system.refused(&["host", "start", text(&home), "--state", text(&state)], Code::KeyNotOnHost);
    assert!(held("host-1"));
    system.done(&["vm", "start", "vm"]);
    system.done(&["vm", "stop", "vm", "--force"]);
}

fn a_controller_lost_with_its_disk_and_all_vms_run_again(system: System) {
    let image = system.path("image");
    let content = boot_disk(&image, GREETING);
    system.import("vm", &[&image]);
    system.done(&["vm", "encrypt", "vm"]);
    let key = system.key_id("vm");
    let other = system.encrypted("other");

    // All is gone but the key server and the datastore.
    let () = system.get(&["up", "stop", "--state", text(&system.state())]);
    for lost in ["controller", "host-1"] {
        fs::remove_dir_all(system.state().join(lost)).unwrap();
    }
    let (state, server) = (system.state(), system.with_key_server());
    let mut up = vec!["up", "--detach", "--state", text(&state)];
    up.extend(server.iter().map(String::as_str));
    let _: Value = system.get(&up);
    assert!(system.get::<Vec<VmView>>(&["vm", "ls"]).is_empty());
    for vm in ["vm", "other"] {
        let vm: VmView = system.get(&["vm", "register", "default", vm]);
        assert!(vm.locked.is_none() && vm.encrypted, "{vm:?}");
    }
    assert_eq!((system.key_id("vm"), system.key_id("other")), (key.clone(), other));
    system.done(&["vm", "start", "vm"]);
    assert!(system.ask(&["vm", "console", "vm", "--until", GREETING]).status.success());
    system.done(&["vm", "stop", "vm", "--force"]);
    let kek = system.access().kek(&key);
    assert!(decipher(&system.file("vm", "disk-0.luks"), &kek, content.len()) == content);
    // What it did not have made it does not destroy.
    system.done(&["vm", "decrypt", "other"]);
    let unneeded = system.keys(&["--unneeded"]);
    let [left] = &unneeded[..] else { panic!("{unneeded:?}") };
    system.refused(&["key", "destroy", &left.name], Code::KeyNotOurs);
}

/// The keys of a whole life. PyKMIP's server takes no custom attributes, and forgets what is destroyed.
fn keys_are_listed_looked_for_and_destroyed(system: System) {
    let access = system.access();
    let (first, second) = (system.encrypted("one"), system.encrypted("two"));
    // What the server does not take is told of once, not with each of the three keys.
    let refused = system.events().iter().filter(|event| event.kind == EventKind::KeyAttributesRefused).count();
    assert_eq!(refused, usize::from(system.destroyed() == Code::KeyMissing));
    let is_whole = |key: &KeyView| key.standing == KeyStanding::Present && key.made && key.hosts.len() == 1;
    eventually("the keys are where they ought to be", || {
        let keys = system.keys(&[]);
        (keys.len() == 2 && keys.iter().all(is_whole)).then_some(())
    });
    let name = |id: &str| format!("kms/{id}");
    let shown: KeyView = system.get(&["key", "show", &name(&first)]);
    assert_eq!(shown.vms[0].vm.as_str(), "one");
    let checked: Value = system.get(&["key", "check"]);
    assert_eq!(
        (&checked["checked"], checked["faults"].as_array().unwrap().len()),
        (&Value::from(3), 0),
        "those of VMs, and the host key"
    );
    let _: Value = system.get(&["key", "check", "--fetch"]);

    // What nothing needs is destroyed when its time is over, and not before.
    system.refused(&["key", "destroy", &name(&first)], Code::InUse);
    let copy = system.path("copy");
    fs::copy(system.file("one", "disk-0.luks"), &copy).unwrap();
    system.done(&["vm", "decrypt", "one"]);
    let unneeded = system.keys(&["--unneeded"]);
    assert_eq!(unneeded.iter().map(|key| key.name.clone()).collect::<Vec<_>>(), [name(&first)]);
    let refused = system.refused(&["key", "destroy", &name(&first)], Code::KeyKept);
    assert!(refused.why.contains("30 days"), "{refused:?}");
    let _: Value = system.get(&["key", "grace", "0d"]);
    // Somebody keeps a copy of its disk; and where no datastore is mounted, nobody knows.
    let (datastore, elsewhere) = (system.datastore(), system.state().join("elsewhere"));
    let stray = datastore.join("stray.luks");
    fs::copy(&copy, &stray).unwrap();
    let refused = system.refused(&["key", "destroy", &name(&first)], Code::InUse);
    assert!(refused.why.contains("stray.luks"), "{refused:?}");
    fs::remove_file(stray).unwrap();
    fs::rename(&datastore, &elsewhere).unwrap();
    fs::create_dir(&datastore).unwrap();
    let refused = system.refused(&["key", "destroy", &name(&first)], Code::HostNone);
    assert!(refused.why.contains(text(&datastore)), "{refused:?}");
    fs::remove_dir(&datastore).unwrap();
    fs::rename(&elsewhere, &datastore).unwrap();
    assert!(access.gives(&first));
    let destroyed: Vec<String> = system.get(&["key", "destroy", &name(&first)]);
    assert_eq!(destroyed, [name(&first)]);
    assert!(!access.gives(&first) && access.gives(&second));
    assert!(system.keys(&["--unneeded"]).is_empty());
    let event = system.events_of(EventKind::KeyDestroyed).pop().unwrap();
    assert_eq!(event.subject.key.unwrap().to_string(), name(&first));

    // What a task left of which no answer came is found by the task's name.
    let task = event_of_task(&system);
    let orphan = access.make_named(&format!("ward-task-{task}-7"));
    let found: Vec<OrphanView> = system.get(&["key", "orphans", "kms"]);
    assert_eq!(found.iter().map(|it| (it.name.clone(), it.ours)).collect::<Vec<_>>(), [(name(&orphan), true)]);
    let _: Vec<String> = system.get(&["key", "destroy", &name(&orphan)]);
    assert!(!access.gives(&orphan));

    // Somebody destroys a key at the server that is in use: a check tells before a reboot does.
    access.destroy(&second);
    let output = system.ask(&["key", "check"]);
    assert_eq!(output.status.code(), Some(6));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checked["faults"][0]["name"], name(&second));
    assert_eq!(checked["faults"][0]["vms"][0]["vm"], "two");
    // Its host has it: the VM goes on, and can be given another key.
    system.done(&["vm", "recrypt", "two"]);
    let _: Value = system.get(&["key", "check"]);
    assert_eq!(system.files("two"), set(["disk-0.luks", "vm.toml"]));
}

/// A task that has ended.
fn event_of_task(system: &System) -> String {
    system.events_of(EventKind::VmDecrypted)[0].subject.task.unwrap().to_string()
}

#[test]
fn events_come_as_lines_of_json_while_they_happen() {
    let system = System::start(1);
    let key = system.encrypted("vm");
    let mut following = system.ask_meanwhile(&["event", "ls", "--follow"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = |kind: EventKind| {
        eventually(kind.as_str(), || {
            let event: Event = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            (event.kind == kind).then_some(event)
        })
    };
    next(EventKind::VmEncrypted);
    system.stop("keyserver");
    system.stop("host-1");
    system.restart("host-1");
    let event = next(EventKind::KeyServerUnreachable);
    let problem = event.problem.unwrap();
    assert_eq!(problem.code, Code::KeyServerUnreachable);
    assert!(!problem.why.is_empty() && !problem.remedy.is_empty());
    let subject = event.subject;
    assert!(subject.host.is_some() && subject.vm.is_some() && subject.provider.is_some(), "{subject:?}");
    assert_eq!(subject.key.unwrap().to_string(), format!("kms/{key}"));
    let locked = next(EventKind::VmLocked);
    assert!(locked.message.contains(&key), "{}", locked.message);
    system.restart("keyserver");
    next(EventKind::VmUnlocked);
    following.kill().unwrap();
    following.wait().unwrap();
    // The controller's own log has them too.
    let log = fs::read_to_string(system.state().join("logs/controller.log")).unwrap();
    assert!(log.contains("key.error.server-unreachable") && log.contains(&key), "{log}");
}
