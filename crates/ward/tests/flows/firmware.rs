//! A guest that keeps something in its UEFI variables and in its vTPM, which are encrypted without its disk being so.
//!
//! The guest is the one of `scripts/guest`, under real OVMF and swtpm.

use std::fs;
use std::path::Path;

use ward_types::{Code, EventKind, HomeCrypto};

use crate::story::Guest;
use crate::support::{System, set};

/// What the guest found or made: in its UEFI variables, in its TPM, and PCR 0.
struct Kept {
    variable: String,
    nv: String,
    pcr0: String,
}

impl System {
    fn keeps(&self, vm: &str) -> Kept {
        let said = self.guest_boots(vm, "host-1");
        let after = |start: &str| {
            let (_, rest) = said.split_once(start).unwrap_or_else(|| panic!("{start} is not in {said}"));
            rest.lines().next().unwrap().trim().to_owned()
        };
        Kept {
            variable: after("ward-guest: uefi variable "),
            nv: after("ward-guest: tpm nv "),
            pcr0: after("ward-guest: tpm pcr0 "),
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Whether the variable's name, or what the TPM keeps, is in any file below a directory.
fn is_plain_somewhere(directory: &Path, name: &[u8], nv: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| {
        let (kind, path) = (entry.file_type().unwrap(), entry.path());
        if kind.is_dir() {
            return is_plain_somewhere(&path, name, nv);
        }
        let bytes = if kind.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        contains(&bytes, name) || contains(&bytes, nv)
    })
}

#[test]
fn a_guest_keeps_its_variables_and_its_tpm_and_neither_is_plain_anywhere() {
    let system = System::start(1);
    Guest::get().import(&system, "vm", "raw", &["--firmware", "uefi", "--tpm"]);
    let view = system.vm("vm");
    assert!(view.encrypted && !view.keys.is_empty(), "a vTPM encrypts the home");
    assert_eq!(system.files("vm"), set(["disk-0.raw", "initrd", "kernel", "nvram.luks", "tpm", "vm.toml"]));

    let made = system.keeps("vm");
    assert_eq!(made.variable, "made boot 1");
    let nv = made.nv.strip_prefix("made ").unwrap_or_else(|| panic!("{}", made.nv)).to_owned();
    assert!(made.pcr0.len() == 64 && made.pcr0.bytes().any(|digit| digit != b'0'), "{}", made.pcr0);
    // A new KEK while it runs.
    let before = system.key_id("vm");
    system.done(&["vm", "recrypt", "vm"]);
    assert_ne!(system.key_id("vm"), before);
    system.refused(&["vm", "tpm", "rm", "vm", "--yes"], Code::VmRunning);
    system.done(&["vm", "stop", "vm"]);
    let name: Vec<_> = "WardGuest".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bytes: Vec<_> = (0..16).step_by(2).map(|at| u8::from_str_radix(&nv[at..at + 2], 16).unwrap()).collect();
    assert!(!is_plain_somewhere(&system.state(), &name, &bytes));

    // It leaves the inventory, comes back, and finds what it kept.
    let datastores: Vec<ward_controller::api::types::DatastoreView> = system.get(&["datastore", "ls"]);
    let () = system.get(&["vm", "unregister", "vm"]);
    let _: ward_controller::api::types::VmView = system.get(&["vm", "register", datastores[0].name.as_str(), "vm"]);
    let found = system.keeps("vm");
    assert_eq!((found.variable.as_str(), found.nv), ("found boot 1", format!("found {nv}")));
    assert_eq!(found.pcr0, made.pcr0);
    system.done(&["vm", "stop", "vm"]);

    // A clone has the variables, and another TPM where that is asked for.
    system.done(&["vm", "clone", "vm", "other", "--tpm", "replace", "--new-kek"]);
    let other = system.keeps("other");
    assert_eq!(other.variable, "found boot 1");
    assert!(other.nv.starts_with("made ") && !other.nv.contains(&nv), "{}", other.nv);
    system.done(&["vm", "stop", "other", "--force"]);

    // It keeps the home encrypted until it goes, which somebody must want.
    let problem = system.refused(&["vm", "decrypt", "vm"], Code::Composition);
    assert!(problem.remedy.contains("ward vm tpm rm vm"), "{problem:?}");
    let unconfirmed = system.ask(&["vm", "tpm", "rm", "vm"]).status;
    assert_eq!(unconfirmed.code(), Some(Code::Cancelled.exit_code().into()), "nobody typed its name");
    system.done(&["vm", "tpm", "rm", "vm", "--yes"]);
    system.refused(&["vm", "tpm", "rm", "vm", "--yes"], Code::TpmNone);
    assert_eq!(system.files("vm"), set(["disk-0.raw", "initrd", "kernel", "nvram.luks", "vm.toml"]));
    system.done(&["vm", "decrypt", "vm"]);
    assert_eq!(system.files("vm"), set(["disk-0.raw", "initrd", "kernel", "nvram.raw", "vm.toml"]));
    assert!(contains(&fs::read(system.file("vm", "nvram.raw")).unwrap(), &name));
    // And again, which encrypts the home alone.
    system.done(&["vm", "tpm", "add", "vm"]);
    let config = system.vm("vm").config.unwrap();
    assert!(matches!(config.home, HomeCrypto::Encrypted { .. }) && config.disks[0].key().is_none(), "{config:?}");
    assert!(config.tpm.is_some());
    assert_eq!(system.events_of(EventKind::VmTpmChanged).len(), 2);
}
