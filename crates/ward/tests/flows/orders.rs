//! The controller killed at each step of all that a user can ask for one VM: after the restart the task goes on to its end, with
//! one key at most, which alone opens what it should.

use std::collections::BTreeSet;
use std::fs;

use ward_controller::api::types::TaskView;
use ward_types::{Code, Power, TaskKind};

use crate::kills::Bench;
use crate::support::{System, cryptsetup_opens, decipher, text};

/// What a user asks for, and what becomes of it.
struct Order {
    kind: TaskKind,
    /// What went before, of the encrypted VM `OLD`, or to make `NEW`.
    before: &'static str,
    /// What is asked: of `OLD`, for a VM `NEW` that is not there yet, of the file `IMAGE`.
    command: &'static str,
    /// Of which VM the result is.
    of: Of,
    left: Left,
    /// Whether it takes a new key.
    makes_key: bool,
}

enum Of {
    Old,
    New,
}

enum Left {
    /// These files, of which those of LUKS open by exactly one key of the VM.
    Files(&'static [&'static str]),
    /// The VM in this state.
    Power(Power),
    Nothing,
}

use Left::{Files, Nothing};
use Of::{New, Old};

const ENCRYPTED: Left = Files(&["disk-0.luks", "vm.toml"]);
const WITH_TPM: Left = Files(&["disk-0.luks", "nvram.luks", "tpm", "vm.toml"]);

const MAKING: [Order; 4] = [
    Order {
        kind: TaskKind::VmCreate,
        before: "",
        command: "vm create NEW --size 2M --memory 64 --firmware uefi --tpm --policy VM_Encryption_Policy",
        of: New,
        left: WITH_TPM,
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmImport,
        before: "",
        command: "vm import NEW --disk IMAGE --memory 64",
        of: New,
        left: Files(&["disk-0.raw", "vm.toml"]),
        makes_key: false,
    },
    Order {
        kind: TaskKind::VmClone,
        before: "",
        command: "vm clone OLD NEW --new-keys",
        of: New,
        left: ENCRYPTED,
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmRemove,
        before: "",
        command: "vm rm OLD --yes",
        of: Old,
        left: Nothing,
        makes_key: false,
    },
];

const DISKS: [Order; 4] = [
    Order {
        kind: TaskKind::VmDisks,
        before: "",
        command: "vm disk add OLD --size 2M --encrypt",
        of: Old,
        left: Files(&["disk-0.luks", "disk-1.luks", "vm.toml"]),
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmDisks,
        before: "vm disk add OLD --size 2M --encrypt",
        command: "vm disk detach OLD 1",
        of: Old,
        left: Files(&["disk-0.luks", "disk-1.luks", "vm.toml"]),
        makes_key: false,
    },
    Order {
        kind: TaskKind::VmDisks,
        before: "",
        command: "vm disk attach OLD --file IMAGE --encrypt",
        of: Old,
        left: Files(&["disk-0.luks", "disk-1.luks", "vm.toml"]),
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmDisks,
        before: "vm disk add OLD --size 2M --encrypt",
        command: "vm disk rm OLD 1 --yes",
        of: Old,
        left: ENCRYPTED,
        makes_key: false,
    },
];

const KEYS_AND_POWER: [Order; 5] = [
    Order {
        kind: TaskKind::VmRecrypt,
        before: "",
        command: "vm recrypt OLD",
        of: Old,
        left: ENCRYPTED,
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmRecrypt,
        before: "",
        command: "vm recrypt OLD --deep",
        of: Old,
        left: Files(&["disk-0-2.luks", "vm.toml"]),
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmDecrypt,
        before: "",
        command: "vm set-policy OLD --all-disks No_Encryption_Policy",
        of: Old,
        left: Files(&["disk-0.raw", "vm.toml"]),
        makes_key: false,
    },
    Order {
        kind: TaskKind::VmStart,
        before: "",
        command: "vm start OLD",
        of: Old,
        left: Left::Power(Power::On),
        makes_key: false,
    },
    Order {
        kind: TaskKind::VmStop,
        before: "vm start OLD",
        command: "vm stop OLD --force",
        of: Old,
        left: Left::Power(Power::Off),
        makes_key: false,
    },
];

const TPMS: [Order; 2] = [
    Order {
        kind: TaskKind::VmReconfigure,
        before: "vm create NEW --size 2M --memory 64 --firmware uefi",
        command: "vm tpm add NEW",
        of: New,
        left: Files(&["disk-0.raw", "nvram.luks", "tpm", "vm.toml"]),
        makes_key: true,
    },
    Order {
        kind: TaskKind::VmReconfigure,
        before: "vm create NEW --size 2M --memory 64 --firmware uefi --tpm",
        command: "vm tpm rm NEW --yes",
        of: New,
        left: Files(&["disk-0.raw", "nvram.luks", "vm.toml"]),
        makes_key: false,
    },
];

/// A scene for one order.
struct Scene {
    old: String,
    new: String,
    image: String,
}

impl Scene {
    /// The words of a command. Those of a name stand together by `_`.
    fn words(&self, command: &str) -> Vec<String> {
        let word = |word: &str| match word {
            "OLD" => self.old.clone(),
            "NEW" => self.new.clone(),
            "IMAGE" => self.image.clone(),
            word => word.replace('_', " "),
        };
        command.split(' ').map(word).collect()
    }
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

impl System {
    /// Whether exactly one key of the VM opens a disk of it.
    fn opens_by_one_key(&self, vm: &str, file: &str) -> bool {
        let disk = self.file(vm, file);
        let keys = self.vm(vm).keys;
        let ids = keys.iter().map(|key| key.to_string()["kms/".len()..].to_owned());
        ids.into_iter().filter(|id| cryptsetup_opens(&disk, &self.access().kek(id))).count() == 1
    }
}

impl Bench {
    fn scene(&mut self, order: &Order) -> Scene {
        let old = self.vm("decrypt");
        let image = text(&self.system.path("image")).to_owned();
        let scene = Scene { old, new: format!("new-{}", self.vms), image };
        if !order.before.is_empty() {
            self.system.done(&strs(&scene.words(order.before)));
        }
        scene
    }

    fn points_of(&mut self, order: &Order) -> Vec<String> {
        let scene = self.scene(order);
        let log = self.system.path("points");
        let _ = fs::remove_file(&log);
        self.system.stop("controller");
        let own = self.system.own("controller", &[("WARD_CRASH_LOG", text(&log))]);
        self.system.done(&strs(&scene.words(order.command)));
        drop(own);
        self.system.restart("controller");
        self.is_off(order, &scene);
        let mut seen = BTreeSet::new();
        let reached = fs::read_to_string(log).unwrap();
        let ours = reached.lines().filter(|point| point.starts_with("task.") && seen.insert((*point).to_owned()));
        ours.map(str::to_owned).collect()
    }

    /// One VM at a time: the machine's memory is for others too.
    fn is_off(&self, order: &Order, scene: &Scene) {
        if matches!(order.left, Left::Power(Power::On)) {
            self.system.done(&["vm", "stop", &scene.old, "--force"]);
        }
    }

    fn kill_order(&mut self, order: &Order, point: &str) {
        eprintln!("{} at {point}", order.command);
        let scene = self.scene(order);
        let system = &self.system;
        let keys = system.access().all().len();
        system.stop("controller");
        let mut own = system.own("controller", &[("WARD_CRASH_AT", point)]);
        let mut command = scene.words(order.command);
        command.push("--no-wait".to_owned());
        let mut client = system.ask_meanwhile(&strs(&command));
        own.is_killed();
        client.wait().unwrap();
        system.restart("controller");
        let tasks: Vec<TaskView> = system.get(&["task", "ls", "--limit", "1000"]);
        let names = [scene.old.as_str(), scene.new.as_str()];
        let of_vm = |task: &&TaskView| task.info.kind == order.kind && names.contains(&task.info.vm_name.as_str());
        // The newest: what went before made the VM ready for it.
        let task = tasks.iter().filter(of_vm).max_by_key(|task| task.info.created);
        let task = task.unwrap_or_else(|| panic!("{point}: {tasks:?}"));
        system.done(&["task", "watch", &task.info.id.to_string()]);
        let made = system.access().all().len() - keys;
        assert_eq!(made, usize::from(order.makes_key), "{point}: one key, and no more");
        let vm = match order.of {
            Old => &scene.old,
            New => &scene.new,
        };
        match order.left {
            Left::Power(power) => assert_eq!(system.vm(vm).power, power, "{point}"),
            Nothing => {
                system.refused(&["vm", "show", vm], Code::NotFound);
                assert!(!system.names(".").contains(vm), "{point}");
            }
            Files(files) => {
                assert_eq!(system.files(vm), files.iter().map(|file| (*file).to_owned()).collect(), "{point}");
                let mut disks = files.iter().filter(|file| file.starts_with("disk") && file.ends_with(".luks"));
                assert!(disks.all(|disk| system.opens_by_one_key(vm, disk)), "{point}: a disk does not open");
            }
        }
        if matches!(order.kind, TaskKind::VmClone | TaskKind::VmRecrypt) {
            let disk = match order.left {
                Files(files) => system.file(vm, files[0]),
                _ => unreachable!("it has disks"),
            };
            let kek = system.access().kek(&system.key_id(vm));
            assert!(decipher(&disk, &kek, self.content.len()) == self.content, "{point}");
        }
        self.is_off(order, &scene);
    }

    fn kill_all(&mut self, orders: &[Order]) {
        for order in orders {
            let points = self.points_of(order);
            assert!(points.len() >= if order.makes_key { 11 } else { 4 }, "{}: {points:?}", order.command);
            points.iter().for_each(|point| self.kill_order(order, point));
        }
    }
}

#[test]
fn the_controller_killed_at_any_step_of_making_and_removing() {
    Bench::new().kill_all(&MAKING);
}

#[test]
fn the_controller_killed_at_any_step_of_changing_disks() {
    Bench::new().kill_all(&DISKS);
}

#[test]
fn the_controller_killed_at_any_step_of_new_keys_policies_start_and_stop() {
    Bench::new().kill_all(&KEYS_AND_POWER);
}

#[test]
fn the_controller_killed_at_any_step_of_giving_and_taking_a_vtpm() {
    Bench::new().kill_all(&TPMS);
}
