//! The controller or an agent killed at any step of encrypting and decrypting: after the restart the task goes on, or
//! fails and leaves nothing.

use std::collections::BTreeSet;
use std::fs;

use ward_controller::api::types::TaskView;
use ward_types::{Code, EventKind, TaskKind};

use crate::support::{MIB, System, cryptsetup_opens, decipher, disk, eventually, problem_of, set, text};

const SIZE: u64 = 2 * MIB;

/// A system with one host that the test runs itself, as it does the controller.
pub(crate) struct Bench {
    pub(crate) system: System,
    pub(crate) content: Vec<u8>,
    /// VMs made so far.
    pub(crate) vms: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::on(System::start(1))
    }

    fn on(system: System) -> Self {
        let content = disk(&system.path("image"), SIZE);
        Self { system, content, vms: 0 }
    }

    /// A new VM, encrypted where it is to be decrypted.
    pub(crate) fn vm(&mut self, verb: &str) -> String {
        self.vms += 1;
        let vm = format!("vm-{}", self.vms);
        self.system.import(&vm, &[&self.system.path("image")]);
        if verb == "decrypt" {
            self.system.done(&["vm", "encrypt", &vm]);
        }
        vm
    }

    /// All points that a process reaches when a VM is encrypted or decrypted, in their order.
    fn points(&mut self, process: &str, verb: &str, prefixes: &[&str]) -> Vec<String> {
        let vm = self.vm(verb);
        let log = self.system.path("points");
        self.system.stop(process);
        let own = self.system.own(process, &[("WARD_CRASH_LOG", text(&log))]);
        self.system.done(&["vm", verb, &vm]);
        drop(own);
        self.system.restart(process);
        let mut seen = BTreeSet::new();
        let reached = fs::read_to_string(log).unwrap();
        let ours = reached.lines().filter(|point| prefixes.iter().any(|prefix| point.starts_with(prefix)));
        ours.filter(|point| seen.insert((*point).to_owned())).map(str::to_owned).collect()
    }

    /// Kills a process at a point of the work on a new VM; after the restart all must be as if nothing had happened.
    fn kill(&mut self, process: &str, verb: &str, point: &str) {
        eprintln!("{process} at {point}");
        let vm = self.vm(verb);
        let system = &self.system;
        system.stop(process);
        let mut own = system.own(process, &[("WARD_CRASH_AT", point)]);
        let mut client = system.ask_meanwhile(&["vm", verb, &vm, "--no-wait"]);
        own.is_killed();
        // Whatever it was answered, if anything.
        client.wait().unwrap();
        system.restart(process);
        let kind = if verb == "encrypt" { TaskKind::VmEncrypt } else { TaskKind::VmDecrypt };
        let tasks: Vec<TaskView> = system.get(&["task", "ls", "--limit", "1000"]);
        let of_vm = |task: &&TaskView| task.info.kind == kind && task.info.vm_name.as_str() == vm;
        let [task] = &tasks.iter().filter(of_vm).collect::<Vec<_>>()[..] else { panic!("{point}: {tasks:?}") };
        system.done(&["task", "watch", &task.info.id.to_string()]);
        self.check(&vm, verb, point);
    }

    fn check(&self, vm: &str, verb: &str, point: &str) {
        let system = &self.system;
        if verb == "encrypt" {
            assert_eq!(system.files(vm), set(["disk-0.luks", "vm.toml"]), "{point}");
            let kek = system.access().kek(&system.key_id(vm));
            assert!(decipher(&system.file(vm, "disk-0.luks"), &kek, self.content.len()) == self.content, "{point}");
        } else {
            assert_eq!(system.files(vm), set(["disk-0.raw", "vm.toml"]), "{point}");
            assert!(fs::read(system.file(vm, "disk-0.raw")).unwrap() == self.content, "{point}");
        }
    }

    /// Every key at the server is of a VM, or was said to be needed no more; each was told of once.
    fn no_orphans(&self) {
        let of = |kind| -> Vec<String> {
            let events = self.system.events();
            let keys = events.iter().filter(|event| event.kind == kind).map(|event| event.subject.key.clone().unwrap());
            keys.map(|key| key.to_string()).collect()
        };
        let (created, unneeded) = (of(EventKind::KeyCreated), of(EventKind::KeyUnneeded));
        let names: Vec<String> = (1..=self.vms).map(|number| format!("vm-{number}")).collect();
        let needed: BTreeSet<_> =
            names.iter().flat_map(|vm| self.system.vm(vm).keys).map(|key| key.to_string()).collect();
        let at_server = self.system.access().all();
        for key in at_server.iter().map(|id| format!("kms/{id}")) {
            assert!(needed.contains(&key) != unneeded.contains(&key), "{key} is an orphan, or needed and not");
            assert_eq!(created.iter().filter(|created| **created == key).count(), 1, "{key}");
        }
        assert_eq!(at_server.len(), self.vms, "one key for each VM");
        if let Some(vm) = names.iter().find(|vm| self.system.vm(vm).encrypted) {
            let (key, disk) = (self.system.key_id(vm), self.system.file(vm, "disk-0.luks"));
            self.system.no_key_lies_about(&self.system.access(), &key, &disk);
        }
        let homes = names.iter().cloned().collect();
        assert_eq!(self.system.names("."), homes, "something is left on the datastore");
    }
}

#[test]
fn the_controller_killed_at_any_step_of_encrypting() {
    let mut bench = Bench::new();
    let points = bench.points("controller", "encrypt", &["task."]);
    assert!(points.len() >= 11, "{points:?}");
    points.iter().for_each(|point| bench.kill("controller", "encrypt", point));
    bench.no_orphans();
}

#[test]
fn the_controller_killed_while_pykmips_server_makes_a_key() {
    let mut bench = Bench::on(System::with_pykmip(1));
    let points = bench.points("controller", "encrypt", &["task.key"]);
    assert!(points.len() >= 5, "{points:?}");
    points.iter().for_each(|point| bench.kill("controller", "encrypt", point));
    bench.no_orphans();
}

#[test]
fn the_controller_killed_at_any_step_of_decrypting() {
    let mut bench = Bench::new();
    let points = bench.points("controller", "decrypt", &["task."]);
    assert!(points.len() >= 6, "{points:?}");
    points.iter().for_each(|point| bench.kill("controller", "decrypt", point));
    bench.no_orphans();
}

#[test]
fn an_agent_killed_while_encrypting() {
    let mut bench = Bench::new();
    for point in [
        "crypt.recorded",
        "crypt.target-created",
        "crypt.converted",
        "crypt.renamed",
        "crypt.description-written",
        "crypt.committed",
        "crypt.old-removed",
        "crypt.record-removed",
    ] {
        bench.kill("host-1", "encrypt", point);
    }
    bench.no_orphans();
}

#[test]
fn an_agent_killed_while_decrypting() {
    let mut bench = Bench::new();
    for point in ["crypt.recorded", "crypt.converted", "crypt.renamed", "crypt.committed", "crypt.tidied"] {
        bench.kill("host-1", "decrypt", point);
    }
    bench.no_orphans();
}

/// The agent is killed in the middle, and when it is back its key is not to be had: the task fails and leaves nothing.
#[test]
fn an_agent_killed_while_the_key_server_goes() {
    let mut bench = Bench::new();
    for (verb, left) in [("encrypt", "disk-0.raw"), ("decrypt", "disk-0.luks")] {
        let vm = bench.vm(verb);
        let system = &bench.system;
        system.stop("host-1");
        let mut agent = system.own("host-1", &[("WARD_CRASH_AT", "crypt.converted")]);
        let client = system.ask_meanwhile(&["vm", verb, &vm]);
        agent.is_killed();
        assert!(system.files(&vm).len() > 2, "{:?}", system.files(&vm));
        system.stop("keyserver");
        system.restart("host-1");
        let output = client.wait_with_output().unwrap();
        assert_eq!(problem_of(&output.status, &output.stderr).code, Code::KeyServerUnreachable);
        assert_eq!(system.files(&vm), set([left, "vm.toml"]));
        system.restart("keyserver");
        system.done(&["vm", "start", &vm]);
        system.done(&["vm", "stop", &vm, "--force"]);
        system.done(&["vm", verb, &vm]);
        bench.check(&vm, verb, "at last");
    }
}

/// The controller killed at each step of the recryption of a fleet: it goes on, and each VM gets one new key, which alone
/// opens its disk.
#[test]
fn the_controller_killed_at_any_step_of_a_fleets_recryption() {
    const POINTS: [&str; 18] = [
        "recryption.accepted",
        "recryption.begun",
        "recryption.noted#1",
        "recryption.noted#2",
        "recryption.ended",
        "task.accepted",
        "task.placed",
        "task.checked",
        "task.key-wanted",
        "task.key-made-unknown",
        "task.key-made",
        "task.key-active",
        "task.key-ready",
        "task.keys-given",
        "task.job-begun",
        "task.job-done",
        "task.before-end",
        "task.ended",
    ];
    let mut bench = Bench::new();
    let vms = [bench.vm("decrypt"), bench.vm("decrypt")];
    let mut keys = vms.len();
    for point in POINTS {
        let system = &bench.system;
        let old = vms.each_ref().map(|vm| system.key_id(vm));
        let ended = system.events().iter().filter(|event| event.kind == EventKind::RecryptionEnded).count();
        system.stop("controller");
        let mut own = system.own("controller", &[("WARD_CRASH_AT", point)]);
        let run = ["recrypt", "run", "--provider", "kms", "--concurrency", "1", "--no-wait"];
        let mut client = system.ask_meanwhile(&run);
        own.is_killed();
        client.wait().unwrap();
        system.restart("controller");
        eventually("the recryption's end", || {
            let events = system.events();
            let ends: Vec<_> = events.iter().filter(|event| event.kind == EventKind::RecryptionEnded).collect();
            let newest = ends.iter().max_by_key(|event| event.id).filter(|_| ends.len() == ended + 1)?;
            assert!(newest.message.contains(" 0 failed") && newest.message.contains(" 0 not begun"), "{newest:?}");
            Some(())
        });
        keys += vms.len();
        assert_eq!(system.access().all().len(), keys, "{point}: one new key for each VM, and no more");
        for (vm, old) in vms.iter().zip(old) {
            let (new, disk) = (system.key_id(vm), system.file(vm, "disk-0.luks"));
            assert!(new != old, "{point}: {vm} was left out");
            assert!(decipher(&disk, &system.access().kek(&new), bench.content.len()) == bench.content, "{point}");
            assert!(!cryptsetup_opens(&disk, &system.access().kek(&old)), "{point}: {vm}");
        }
    }
}

/// A key that nothing needs, and the controller killed at each step of its destruction: the repeat ends it, and it is told
/// of once.
#[test]
fn the_controller_killed_at_any_step_of_destroying_a_key() {
    let mut bench = Bench::new();
    let _: serde_json::Value = bench.system.get(&["key", "grace", "0d"]);
    for point in ["key.revoked", "key.destroyed-unknown"] {
        let vm = bench.vm("decrypt");
        let system = &bench.system;
        let (access, key) = (system.access(), system.key_id(&vm));
        let name = format!("kms/{key}");
        system.done(&["vm", "decrypt", &vm]);
        system.stop("controller");
        let mut own = system.own("controller", &[("WARD_CRASH_AT", point)]);
        let mut client = system.ask_meanwhile(&["key", "destroy", &name]);
        own.is_killed();
        client.wait().unwrap();
        system.restart("controller");
        // Whatever was done: until it is over, nothing begins to need it.
        let image = system.path("image");
        system.import(&format!("{vm}-late"), &[&image]);
        system.refused(&["vm", "encrypt", &format!("{vm}-late"), "--key-id", &key], Code::KeyNotUsable);
        let destroyed: Vec<String> = system.get(&["key", "destroy", &name]);
        assert_eq!(destroyed, std::slice::from_ref(&name), "{point}");
        assert!(!access.gives(&key), "{point}");
        let of_key = |event: &&ward_types::Event| event.subject.key.as_ref().is_some_and(|key| key.to_string() == name);
        let told = system.events_of(EventKind::KeyDestroyed);
        assert_eq!(told.iter().filter(of_key).count(), 1, "{point}");
    }
}
