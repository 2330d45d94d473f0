//! Random requests, one after the other, on a whole system: what the controller accepts, the host does to its end; what can't be
//! done is refused before anything has begun. After each, every disk of every VM opens by its key and holds what it should.

use std::collections::BTreeMap;
use std::fs;

use ward_controller::api::types::VmView;
use ward_types::{Code, DiskCrypto, DiskId, EventKind, HomeCrypto, KeyLocator, Power};

use crate::support::{MIB, System, cryptsetup_opens, decipher, disk, noise, problem_of, text};

/// How many requests. Another seed than the fixed one can be given in the environment.
const REQUESTS: usize = 90;
const SEED: &str = "WARD_TEST_SEED";
const SIZE: u64 = MIB;
/// How many VMs there are at most.
const VMS: usize = 3;

/// Random choices, the same for each seed.
struct Choices(std::vec::IntoIter<u8>);

impl Choices {
    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[usize::from(self.0.next().unwrap()) % all.len()]
    }
}

/// The next request. VMs are `v0`, `v1`, ...; `next` is the name of one that is not there yet.
fn request(choose: &mut Choices, vms: &[String], next: &str, image: &str) -> Vec<String> {
    let names: Vec<&str> = vms.iter().map(String::as_str).collect();
    let vm = choose.of(&names);
    let part = choose.of(&["", "--home", "--disk 0", "--disk 1", "--home --disk 0"]);
    let policies = ["No_Encryption_Policy", "VM_Encryption_Policy"];
    let policy = choose.of(&policies);
    let number = choose.of(&["0", "1", "2"]);
    let words = match choose.of(&[
        "encrypt", "encrypt", "decrypt", "decrypt", "recrypt", "deep", "policy", "policy", "clone", "clone", "rm",
        "add", "attach", "detach", "again", "remove", "start", "start", "stop", "stop", "template", "off", "register",
    ]) {
        "encrypt" => format!("vm encrypt {vm} {part}"),
        "decrypt" => format!("vm decrypt {vm} {part}"),
        "recrypt" => format!("vm recrypt {vm} {part}"),
        "deep" => format!("vm recrypt {vm} --deep {part}"),
        "policy" => {
            let what = choose.of(&["--home", "--all-disks"]);
            let other = choose.of(&policies);
            match choose.of(&["one", "both"]) {
                "one" => format!("vm set-policy {vm} {what} {policy}"),
                _ => format!("vm set-policy {vm} --home {policy} --all-disks {other}"),
            }
        }
        "clone" => {
            format!("vm clone {vm} {next} {}", choose.of(&["", "--new-kek", "--new-keys", "--encrypt", "--decrypt"]))
        }
        "rm" => format!("vm rm {vm} --yes"),
        "add" => format!("vm disk add {vm} --size 1M {}", choose.of(&["", "--encrypt"])),
        "attach" => format!("vm disk attach {vm} --file {image} --policy {policy}"),
        "detach" => format!("vm disk detach {vm} {number}"),
        "again" => format!("vm disk attach {vm} {number}"),
        "remove" => format!("vm disk rm {vm} {number} --yes"),
        "start" => format!("vm start {vm}"),
        "stop" => format!("vm stop {vm} --force"),
        "template" => format!("vm template {vm}"),
        "off" => format!("vm template {vm} --off"),
        _ => format!("vm unregister {vm}"),
    };
    words.split_whitespace().map(|word| word.replace('_', " ")).collect()
}

/// Which disks of a VM hold the image; what is on the others, nobody has written.
type Disks = BTreeMap<DiskId, bool>;

impl System {
    /// Takes note of disks that came and went.
    fn note(&self, vm: &str, disks: &mut Disks, of_image: bool) {
        let config = self.vm(vm).config.unwrap();
        let now: Disks = config.disks.iter().map(|disk| (disk.id, *disks.get(&disk.id).unwrap_or(&of_image))).collect();
        *disks = now;
    }

    /// The rules hold, and every disk that holds the image does so.
    fn is_sound(&self, vm: &VmView, disks: &Disks, content: &[u8], after: &str) {
        let config = vm.config.as_ref().unwrap();
        let is_home_encrypted = matches!(config.home, HomeCrypto::Encrypted { .. });
        assert_eq!(vm.encrypted, is_home_encrypted, "{after}: {vm:?}");
        for disk in &config.disks {
            let file = self.file(vm.name.as_str(), disk.file.as_str());
            let holds = match &disk.crypto {
                DiskCrypto::Plain => fs::read(&file).unwrap(),
                DiskCrypto::Encrypted { key } => {
                    assert!(is_home_encrypted, "{after}: an encrypted disk of a plain VM: {vm:?}");
                    let KeyLocator::Standard { key_id } = &key.key else { panic!("{key}") };
                    let kek = self.access().kek(key_id.as_str());
                    assert!(cryptsetup_opens(&file, &kek), "{after}: {}", file.display());
                    decipher(&file, &kek, content.len())
                }
            };
            assert!(!disks[&disk.id] || holds == content, "{after}: {} holds something else", file.display());
        }
    }
}

#[test]
fn whatever_is_asked_is_done_or_refused_before_it_begins() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    let system = System::start(1);
    let image = system.path("image");
    let content = disk(&image, SIZE);
    let mut vms = BTreeMap::new();
    for vm in ["v0", "v1"] {
        system.import(vm, &[&image, &image]);
        let mut disks = Disks::new();
        system.note(vm, &mut disks, true);
        vms.insert(vm.to_owned(), disks);
    }
    let mut made = vms.len();
    let mut choose = Choices(noise(seed, REQUESTS * 16).into_iter());
    let (mut done, mut refused) = (BTreeMap::<String, u32>::new(), BTreeMap::<String, u32>::new());
    for n in 0..REQUESTS {
        let next = format!("v{made}");
        let words = request(&mut choose, &vms.keys().cloned().collect::<Vec<_>>(), &next, text(&image));
        if (words[1] == "clone" && vms.len() == VMS) || (["rm", "unregister"].contains(&&*words[1]) && vms.len() == 1) {
            continue;
        }
        let asked = words.join(" ");
        let after = format!("seed {seed}, request {n}, `{asked}`");
        let output = system.ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let kind =
            words[1..].iter().take(if words[1] == "disk" { 2 } else { 1 }).cloned().collect::<Vec<_>>().join(" ");
        let counted = if output.status.success() { &mut done } else { &mut refused };
        *counted.entry(kind).or_default() += 1;
        if output.status.success() {
            match words[1].as_str() {
                "clone" => {
                    made += 1;
                    let disks = vms[&words[2]].clone();
                    vms.insert(next, disks);
                }
                "rm" => drop(vms.remove(&words[2])),
                "disk" => system.note(&words[3], vms.get_mut(&words[3]).unwrap(), words[2] == "attach"),
                // It comes back as it was.
                "unregister" => drop(system.get::<VmView>(&["vm", "register", "default", &words[2]])),
                _ => {}
            }
        } else {
            let problem = problem_of(&output.status, &output.stderr);
            assert!(!matches!(problem.code, Code::Internal | Code::Cancelled), "{after}: {problem:?}");
        }
        let there: Vec<VmView> = system.get(&["vm", "ls"]);
        assert_eq!(there.len(), vms.len(), "{after}");
        for vm in &there {
            assert!(vm.task.is_none() && vm.locked.is_none(), "{after}: {vm:?}");
            // What a guest has open is its own.
            if vm.power == Power::Off {
                let name = vm.name.as_str();
                system.is_sound(&system.vm(name), &vms[name], &content, &after);
            }
        }
        let failed: Vec<_> = system.events().into_iter().filter(|event| event.kind == EventKind::TaskFailed).collect();
        assert!(failed.is_empty(), "{after}: refused after it had begun: {failed:#?}");
    }
    assert!(done.len() >= 12 && refused.values().sum::<u32>() >= 15, "done: {done:?}; refused: {refused:?}");
    // Nothing lies about.
    assert_eq!(system.names("."), vms.into_keys().collect());
}
