//! A guest that keeps something in its UEFI variables and in its vTPM, which are encrypted without its disk being so.
//!
//! The guest is the one of `scripts/guest`, under real OVMF and swtpm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ward_controller::api::types::{EkKind, TpmView};
use ward_types::{Code, EventKind, HomeCrypto};

use crate::story::Guest;
use crate::support::{System, run, set, text};

/// What the guest found or made: in its UEFI variables, in its TPM, sealed by its TPM to PCRs 0 and 7; PCR 0, and the
/// certificates of its endorsement keys.
struct Kept {
    variable: String,
    nv: String,
    sealed: String,
    pcr0: String,
    ek: [Vec<u8>; 2],
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
            sealed: after("ward-guest: tpm sealed "),
            pcr0: after("ward-guest: tpm pcr0 "),
            ek: ["rsa", "ecc"].map(|key| unhex(&after(&format!("ward-guest: tpm ek {key} ")))),
        }
    }

    /// The certificates of a VM's vTPM as the controller has them, DER.
    fn certificates(&self, vm: &str) -> [Vec<u8>; 2] {
        let view: TpmView = self.get(&["vm", "tpm", "show", vm]);
        assert_eq!(view.keys.iter().map(|key| key.key).collect::<Vec<_>>(), [EkKind::Rsa, EkKind::Ecc]);
        [0, 1].map(|key| self.der(&view.keys[key].pem))
    }

    fn der(&self, pem: &str) -> Vec<u8> {
        let (text_file, der) = (self.path("certificate.pem"), self.path("certificate.der"));
        fs::write(&text_file, pem).unwrap();
        run("openssl", &["x509", "-in", text(&text_file), "-outform", "DER", "-out", text(&der)]);
        fs::read(der).unwrap()
    }

    /// Whether that CA made the certificate.
    fn is_by(&self, ca: &Path, der: &[u8]) -> bool {
        let file = self.path("shown.der");
        fs::write(&file, der).unwrap();
        let pem = self.path("shown.pem");
        run("openssl", &["x509", "-inform", "DER", "-in", text(&file), "-out", text(&pem)]);
        let verified =
            Command::new("openssl").args(["verify", "-purpose", "any", "-CAfile", text(ca), text(&pem)]).output();
        verified.unwrap().status.success()
    }

    /// Has another CA make certificates of the requests for a vTPM's keys, which have no signature: their public keys.
    fn certified_elsewhere(&self, vm: &str, ca: &Path) -> [PathBuf; 2] {
        let (key, names) = (self.path("other.key"), ["rsa", "ecc"]);
        let [rsa, ecc] = names.map(|name| self.path(&format!("{name}.csr")));
        assert!(self.ask(&["vm", "tpm", "csr", vm, "--rsa", text(&rsa), "--ecc", text(&ecc)]).status.success());
        let new =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Other"];
        run("openssl", &[&new[..], &["-keyout", text(&key), "-out", text(ca)]].concat());
        [(rsa, "keyEncipherment"), (ecc, "keyAgreement")].map(|(request, usage)| {
            let said = run("openssl", &["req", "-in", text(&request), "-noout", "-subject", "-text"]);
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(said.contains("2.23.133.8.1") && said.contains(&format!("CN = {vm}")), "{said}");
            let [public, extensions, certificate] = ["pub", "ext", "pem"].map(|name| request.with_extension(name));
            run("openssl", &["req", "-in", text(&request), "-noout", "-pubkey", "-out", text(&public)]);
            fs::write(&extensions, format!("extendedKeyUsage=2.23.133.8.1\nkeyUsage=critical,{usage}\n")).unwrap();
            let new = ["x509", "-new", "-force_pubkey", text(&public), "-subj", "/CN=by the other", "-days", "10"];
            let by = ["-CA", text(ca), "-CAkey", text(&key), "-extfile", text(&extensions), "-out", text(&certificate)];
            run("openssl", &[&new[..], &by].concat());
            certificate
        })
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
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
    assert!(!is_plain_somewhere(&system.state(), &name, &unhex(&nv)));
    let sealed = made.sealed.strip_prefix("made ").unwrap_or_else(|| panic!("{}", made.sealed)).to_owned();
    assert_eq!(sealed.len(), 16, "{sealed}");

    // Its certificates are by the controller's CA, and others take their place: of its own keys only.
    let (own, other) = (system.path("vtpm-ca.pem"), system.path("other-ca.pem"));
    let () = system.get(&["vm", "tpm", "ca", "show", "--out", text(&own)]);
    assert!(made.ek.iter().all(|der| system.is_by(&own, der)));
    assert_eq!(made.ek, system.certificates("vm"));
    let [rsa, ecc] = system.certified_elsewhere("vm", &other).map(|path| text(&path).to_owned());
    let problem = system.refused(&["vm", "tpm", "cert", "vm", "--rsa", &ecc], Code::RequestInvalid);
    assert!(problem.why.contains("RSA"), "{problem:?}");
    system.done(&["vm", "tpm", "cert", "vm", "--rsa", &rsa, "--ecc", &ecc]);
    let replaced = system.certificates("vm");
    assert!(replaced.iter().all(|der| system.is_by(&other, der) && !system.is_by(&own, der)));

    // It leaves the inventory, comes back, and finds what it kept.
    let datastores: Vec<ward_controller::api::types::DatastoreView> = system.get(&["datastore", "ls"]);
    let () = system.get(&["vm", "unregister", "vm"]);
    let _: ward_controller::api::types::VmView = system.get(&["vm", "register", datastores[0].name.as_str(), "vm"]);
    let found = system.keeps("vm");
    assert_eq!((found.variable.as_str(), found.nv), ("found boot 1", format!("found {nv}")));
    assert_eq!(found.pcr0, made.pcr0);
    assert_eq!((found.sealed, found.ek), (format!("found {sealed}"), replaced));
    system.refused(&["vm", "tpm", "cert", "vm", "--own"], Code::VmRunning);
    system.done(&["vm", "stop", "vm"]);
    system.done(&["vm", "tpm", "cert", "vm", "--own"]);
    assert!(system.certificates("vm").iter().all(|der| system.is_by(&own, der) && !made.ek.contains(der)));

    // A clone has the variables, and another TPM where that is asked for.
    system.done(&["vm", "clone", "vm", "other", "--tpm", "replace", "--new-kek"]);
    let other = system.keeps("other");
    assert_eq!(other.variable, "found boot 1");
    assert!(other.nv.starts_with("made ") && !other.nv.contains(&nv), "{}", other.nv);
    assert_eq!(other.sealed.trim(), "found", "another TPM does not open what this one sealed");
    assert!(other.ek.iter().all(|der| system.is_by(&own, der) && !made.ek.contains(der)));
    assert_eq!(other.ek, system.certificates("other"));
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
    assert_eq!(system.events_of(EventKind::VmTpmChanged).len(), 4);
}

/// A disk with a file system for EFI, whose default program is the guest's kernel: as it is, or signed with the key that
/// OVMF's package has for tests.
fn efi_disk(system: &System, signed: bool) -> PathBuf {
    let (kernel, disk) = (Guest::get().file("vmlinuz"), system.path("esp"));
    let program = if signed {
        let (key, program) = (system.path("snakeoil.key"), system.path("signed.efi"));
        let store = "/usr/share/ovmf/PkKek-1-snakeoil";
        run("openssl", &["rsa", "-in", &format!("{store}.key"), "-passin", "pass:snakeoil", "-out", text(&key)]);
        let cert = format!("{store}.pem");
        run("sbsign", &["--key", text(&key), "--cert", &cert, "--output", text(&program), text(&kernel)]);
        program
    } else {
        kernel
    };
    let file = fs::File::create(&disk).unwrap();
    file.set_len(48 << 20).unwrap();
    run("mkfs.vfat", &["-F", "32", text(&disk)]);
    run("mmd", &["-i", text(&disk), "::EFI", "::EFI/BOOT"]);
    run("mcopy", &["-i", text(&disk), text(&program), "::EFI/BOOT/BOOTX64.EFI"]);
    disk
}

#[test]
fn secure_boot_starts_what_is_signed_and_nothing_else() {
    let system = System::start(1);
    let vars = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd";
    for (vm, signed, says) in [("no", false, "Access Denied"), ("yes", true, "UEFI Secure Boot is enabled")] {
        let disk = efi_disk(&system, signed);
        let firmware = ["--firmware", "uefi", "--secure-boot", "--uefi-vars", vars, "--memory", "256"];
        system.done(&[&["vm", "import", vm, "--disk", text(&disk)], &firmware[..]].concat());
        system.done(&["vm", "start", vm]);
        assert!(system.ask(&["vm", "console", vm, "--until", says]).status.success(), "{vm}");
        system.done(&["vm", "stop", vm, "--force"]);
    }
    // It says nothing of a kernel that the firmware is given by itself.
    let kernel = Guest::get().file("vmlinuz");
    let firmware = ["--firmware", "uefi", "--secure-boot", "--kernel", text(&kernel)];
    let problem = system.refused(&[&["vm", "create", "kernel"], &firmware[..]].concat(), Code::RequestInvalid);
    assert!(problem.why.contains("signed or not"), "{problem:?}");
    system.refused(&["vm", "create", "bios", "--size", "1M", "--tpm"], Code::Composition);
}
