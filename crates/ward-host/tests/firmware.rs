//! UEFI variables and vTPMs, with real OVMF and swtpm.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use common::*;
use ward_rpc::EkAuthority;
use ward_rpc::api::host::{
    CancelJob, CloneVm, ConsoleText, CreateVm, GiveCertificates, HostStatus, JobOutcome, JobSpec, NewFirmware,
    ReadConsole, ReadHome, StartVm, Status, StopVm, TpmChange, VmPart, VmPower, WatchJob,
};
use ward_secret::WrappedKey;
use ward_types::{
    Code, Component, CryptoPlan, CryptoStep, EkCertificate, Power, Problem, StepAction, TaskId, VmConfig, VmId,
};

/// What the firmware says when it looks for something to boot.
const FIRMWARE_IS_UP: &str = "BdsDxe: ";

fn tpm(change: TpmChange, home: Option<StepAction>) -> JobSpec {
    let steps = home.map(|action| CryptoStep { component: Component::Home, action });
    JobSpec::Tpm { plan: CryptoPlan::new(steps.into_iter().collect()), change }
}

fn clone(host: &Host, name: &str, home: Option<StepAction>, replace_tpm: bool) -> JobSpec {
    let steps = home.map(|action| CryptoStep { component: Component::Home, action });
    let plan = CryptoPlan::new(steps.into_iter().collect());
    JobSpec::Clone(CloneVm { from: host.home("vm"), id: VmId::new(), name: name.parse().unwrap(), plan, replace_tpm })
}

impl Host {
    async fn start_vm(&self, id: VmId) -> Result<(), Problem> {
        self.call(StartVm { vm: id, home: self.home("vm"), expected: None }).await.map(drop)
    }

    async fn says(&self, vm: VmId, wanted: &str) {
        let (mut offset, mut all) = (0, String::new());
        while !all.contains(wanted) {
            let read = ReadConsole { vm, offset, wait_ms: 30_000 };
            let ConsoleText { end, text, power } = self.call(read).await.unwrap();
            all.push_str(&text);
            offset = end;
            assert!(power == Power::On && !text.is_empty(), "{wanted} is not in {all:?}: {}", self.log());
        }
    }

    async fn stop_vm(&self, vm: VmId) {
        self.call(StopVm { vm, force: true, wait_ms: 0 }).await.unwrap();
        assert_eq!(processes_in(&self.state()), Vec::<PathBuf>::new());
    }

    async fn config(&self) -> VmConfig {
        self.call(ReadHome { home: self.home("vm") }).await.unwrap()
    }
}

/// What of the processes that run below a directory is in `/proc`.
fn processes_in(dir: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    processes.filter(|path| fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))).collect()
}

fn decoded(text: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// All bytes of all files below a directory.
fn all_files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(all_files(&entry.path()));
        } else if kind.is_file() {
            found.push((entry.path(), fs::read(entry.path()).unwrap()));
        }
    }
    found
}

/// A name of a variable, as the store has it.
fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_and_a_vtpm_are_kept_and_are_plain_nowhere() {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    let config = host.done("vm", create_uefi("vm", Some(1))).await.0.unwrap();
    let vm = config.id;
    host.start_vm(vm).await.unwrap();
    host.says(vm, FIRMWARE_IS_UP).await;

    let tpm_key = {
        let wrapped = &config.tpm.as_ref().unwrap().wrapped_key.0;
        let wrapped = base64::engine::general_purpose::STANDARD.decode(wrapped).unwrap();
        kek(1).unwrap_tpm_key(&WrappedKey::from_bytes(wrapped)).unwrap()
    };
    let name = utf16("BootOrder");
    for (path, bytes) in all_files(host.dir.path()) {
        assert!(!contains(&bytes, &name), "{} has a variable's name", path.display());
        assert!(!contains(&bytes, tpm_key.expose()), "{} has the vTPM's key", path.display());
    }
    let processes = processes_in(&host.state());
    assert_eq!(processes.len(), 3, "{processes:?}");
    for process in &processes {
        for name in ["cmdline", "environ"] {
            let bytes = fs::read(process.join(name)).unwrap();
            let hex = hex::encode(tpm_key.expose());
            assert!(!contains(&bytes, tpm_key.expose()) && !contains(&bytes, hex.as_bytes()), "{name}");
        }
        let limits = fs::read_to_string(process.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let line = fs::read_to_string(process.join("cmdline")).unwrap();
        if line.split('\0').next().unwrap().ends_with("swtpm") {
            // One byte means none at all.
            assert!(core.split_whitespace().skip(4).take(2).all(|limit| ["0", "1"].contains(&limit)), "{core}");
        }
    }
    let size = usize::try_from(config.firmware.nvram().unwrap().size).unwrap();
    let home = host.store().join("vm");
    let written = luks_contents(&home.join("nvram.luks"), 1, size).1;
    assert!(contains(&written, &name), "the firmware kept nothing");

    // A new KEK while it runs, and another agent that finds all of it again.
    host.done("vm", shallow(2, true, &[])).await;
    assert!(cryptsetup_opens(&home.join("nvram.luks"), 2) && !cryptsetup_opens(&home.join("nvram.luks"), 1));
    host.kill();
    host.start_agent(&[]).await;
    host.push(&[1, 2]).await;
    assert_eq!(host.call(VmPower { vm }).await.unwrap(), Power::On);
    // Without its vTPM the guest goes on, and whoever looks at it is told.
    let swtpm = processes.iter().find(|process| fs::read_to_string(process.join("comm")).unwrap().trim() == "swtpm");
    run("kill", &["-KILL", swtpm.unwrap().file_name().unwrap().to_str().unwrap()]);
    host.says(vm, "[ward: the vTPM is gone").await;
    let broken = |status: HostStatus| status.broken.iter().map(|it| (it.vm, it.part)).collect::<Vec<_>>();
    let deadline = Instant::now() + Duration::from_secs(60);
    while broken(host.call(Status::default()).await.unwrap()) != [(vm, VmPart::Tpm)] {
        assert!(Instant::now() < deadline, "the host does not tell");
    }
    assert_eq!(host.call(VmPower { vm }).await.unwrap(), Power::On);
    host.stop_vm(vm).await;

    let config = host.config().await;
    let state = tpm_state(&home, &config, 2).unwrap();
    assert!(tpm_state(&home, &config, 1).is_none());
    let files = all_files(&home);
    // Of the pieces of the state those that look like nothing in particular: keys and seeds are among them.
    let secret = |piece: &&[u8]| piece.iter().collect::<BTreeSet<_>>().len() > 24;
    let pieces: Vec<_> = state.chunks_exact(32).filter(secret).collect();
    assert!(!pieces.is_empty());
    assert!(!pieces.iter().any(|piece| files.iter().any(|(_, bytes)| contains(bytes, piece))));

    // What was altered is named, and so is what is gone.
    let file = home.join("tpm/tpm2-00.permall");
    let good = fs::read(&file).unwrap();
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    fs::write(&file, &altered).unwrap();
    let problem = host.start_vm(vm).await.unwrap_err();
    assert!(problem.code == Code::HomeTampered && problem.why.contains("vTPM"), "{problem:?}");
    fs::remove_file(&file).unwrap();
    assert_eq!(host.start_vm(vm).await.unwrap_err().code, Code::ImageMissing);
    fs::write(&file, &good).unwrap();

    // It keeps the home encrypted as long as it is there.
    assert_eq!(host.refused("vm", decrypt(&[])).await.code, Code::Composition);
    host.done("vm", tpm(TpmChange::Remove, None)).await;
    assert_eq!(host.files("vm"), ["nvram.luks", "vm.toml"]);
    host.done("vm", decrypt(&[])).await;
    assert_eq!(host.files("vm"), ["nvram.raw", "vm.toml"]);
    assert!(contains(&fs::read(home.join("nvram.raw")).unwrap(), &name));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_has_a_copy_of_the_vtpm_or_a_new_one() {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    host.done("vm", create_uefi("vm", Some(1))).await;
    let state = |host: &Host, name: &str, config: &VmConfig, id| tpm_state(&host.store().join(name), config, id);
    let config = host.config().await;
    let original = state(&host, "vm", &config, 1).unwrap();
    let shallow = || Some(StepAction::ShallowRecrypt { key: key(2) });
    let deep = || Some(StepAction::DeepRecrypt { key: key(2) });
    for (name, home, id, replace) in [
        ("copy", None, 1, false),
        ("kek", shallow(), 2, false),
        ("new", deep(), 2, false),
        ("other", shallow(), 2, true),
    ] {
        let spec = clone(&host, name, home, replace);
        let config = host.done(name, spec).await.0.unwrap();
        assert_eq!(host.files(name), ["nvram.luks", "tpm", "vm.toml"]);
        assert!(cryptsetup_opens(&host.store().join(name).join("nvram.luks"), id), "{name}");
        assert_eq!(state(&host, name, &config, id).unwrap() == original, !replace, "{name}");
        assert!(state(&host, name, &config, 3 - id).is_none(), "{name}");
        // Each has a key of its own: the one's state is of no use to the other.
        let file = |name: &str| host.store().join(name).join("tpm/tpm2-00.permall");
        let own = fs::read(file(name)).unwrap();
        fs::copy(file("vm"), file(name)).unwrap();
        assert!(state(&host, name, &config, id).is_none(), "{name}");
        fs::write(file(name), own).unwrap();
    }
    let spec = clone(&host, "plain", Some(StepAction::Decrypt), true);
    assert_eq!(host.refused("plain", spec).await.code, Code::Composition);
    host.done("vm", tpm(TpmChange::Remove, None)).await;
    let spec = clone(&host, "none", None, true);
    assert_eq!(host.refused("none", spec).await.code, Code::TpmNone);
}

/// A job waits for the vTPM's certificates as long as it must, and can be stopped meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_its_certificates_and_leaves_nothing_where_none_come() {
    let mut host = Host::start().await;
    host.push(&[1]).await;
    let job = TaskId::new();
    let mut status = host.begin(job, "vm", create_uefi("vm", Some(1))).await.unwrap();
    while status.asks.is_none() {
        assert_eq!(status.outcome, None);
        status = host.call(WatchJob { job, seen: status.revision, wait_ms: 20_000 }).await.unwrap();
    }
    // What is none of its keys' is refused, and all is undone.
    let asks = status.asks.clone().unwrap();
    let (rsa, _) = ek_ca().certify(&asks, VmId::new(), &"vm".parse().unwrap()).unwrap();
    host.call(GiveCertificates { job, ecc: rsa.clone(), rsa }).await.unwrap();
    while status.outcome.is_none() {
        status = host.call(WatchJob { job, seen: status.revision, wait_ms: 20_000 }).await.unwrap();
    }
    let Some(JobOutcome::Failed { problem }) = status.outcome else { panic!("{status:?}") };
    assert!(problem.code == Code::RequestInvalid && problem.why.contains("ECC"), "{problem:?}");
    assert_eq!((status.asks, host.homes()), (None, 0));

    let job = TaskId::new();
    let mut status = host.begin(job, "vm", create_uefi("vm", Some(1))).await.unwrap();
    while status.asks.is_none() {
        status = host.call(WatchJob { job, seen: status.revision, wait_ms: 20_000 }).await.unwrap();
    }
    host.call(CancelJob { job }).await.unwrap();
    while status.outcome.is_none() {
        status = host.call(WatchJob { job, seen: status.revision, wait_ms: 20_000 }).await.unwrap();
    }
    assert_eq!(host.homes(), 0);
    assert_eq!(processes_in(&host.store()), Vec::<PathBuf>::new());
    host.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vtpm_has_certificates_of_its_own_and_takes_others() {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    let config = host.done("vm", create_uefi("vm", Some(1))).await.0.unwrap();
    let made = config.tpm.as_ref().unwrap().endorsement.clone().unwrap();
    let certified = nv_certificates(&host.store().join("vm"), &config, 1);
    assert_eq!(certified, [&made.rsa, &made.ecc].map(|key| decoded(&key.certificate.0)));
    // Another key for the state; the certificates stay.
    let config = host.done("vm", deep(2, true, &[])).await.0.unwrap();
    assert_eq!(config.tpm.as_ref().unwrap().endorsement.as_ref(), Some(&made));
    assert_eq!(nv_certificates(&host.store().join("vm"), &config, 2), certified);

    // A copy has the same, a new one has others, of other keys.
    for (name, replace) in [("copy", false), ("new", true)] {
        let spec = clone(&host, name, None, replace);
        let config = host.done(name, spec).await.0.unwrap();
        let endorsement = config.tpm.as_ref().unwrap().endorsement.clone().unwrap();
        assert_eq!(endorsement == made, !replace);
        assert_eq!(endorsement.rsa.public == made.rsa.public, !replace);
        assert_eq!(nv_certificates(&host.store().join(name), &config, 2) == certified, !replace);
    }

    // Another CA's for one of them.
    let other = EkAuthority::generate().unwrap();
    let vm = (config.id, &config.name);
    let rsa = other.certify_one(&made.rsa.public, &made.make, vm.0, vm.1).unwrap();
    let certify = |rsa: &EkCertificate| tpm(TpmChange::Certify { rsa: Some(rsa.clone()), ecc: None }, None);
    let config = host.done("vm", certify(&rsa)).await.0.unwrap();
    assert_eq!(nv_certificates(&host.store().join("vm"), &config, 2), [decoded(&rsa.0), certified[1].clone()]);
    assert_eq!(config.tpm.as_ref().unwrap().endorsement.as_ref().unwrap().rsa.certificate, rsa);
    assert_eq!(host.files("vm"), ["nvram-2.luks", config.tpm.as_ref().unwrap().state.as_str(), "vm.toml"]);
    let problem = host.refused("vm", certify(&made.ecc.certificate)).await;
    assert!(problem.code == Code::RequestInvalid && problem.why.contains("RSA"), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_leave_nothing() {
    let mut host = Host::start().await;
    host.push(&[1]).await;
    let JobSpec::Create(bios) = create("vm", vec![]) else { unreachable!() };
    let uefi = |vars| NewFirmware::Uefi { secure_boot: true, vars };
    let spec = |vm: CreateVm| JobSpec::CreateEncrypted { vm, home: key(1), disks: vec![] };
    let odd = host.path("odd");
    fs::write(&odd, [0; 1000]).unwrap();
    for (spec, code) in [
        (spec(CreateVm { tpm: true, ..bios.clone() }), Code::RequestInvalid),
        (JobSpec::Create(CreateVm { tpm: true, firmware: uefi(None), ..bios.clone() }), Code::Composition),
        (spec(CreateVm { firmware: uefi(Some(odd)), ..bios.clone() }), Code::ImageInvalid),
        (spec(CreateVm { firmware: uefi(Some(host.path("none"))), ..bios.clone() }), Code::ImageMissing),
    ] {
        assert_eq!(host.refused("vm", spec).await.code, code);
    }
    assert_eq!(host.homes(), 0);

    // A VM without UEFI gets no vTPM, and one without a vTPM loses none.
    host.create("vm", vec![]).await;
    let encrypt = || Some(StepAction::Encrypt { key: key(1) });
    assert_eq!(host.refused("vm", tpm(TpmChange::Add, encrypt())).await.code, Code::Composition);
    assert_eq!(host.refused("vm", tpm(TpmChange::Remove, encrypt())).await.code, Code::TpmNone);
    assert_eq!(host.files("vm"), ["vm.toml"]);

    // A host without swtpm says so before it begins.
    host.done("vm", JobSpec::Remove).await;
    host.done("vm", create_uefi("vm", None)).await;
    host.kill();
    host.start_agent(&[("PATH", "/nowhere")]).await;
    host.push(&[1]).await;
    let problem = host.refused("vm", tpm(TpmChange::Add, encrypt())).await;
    assert!(problem.code == Code::HostUnfit && problem.remedy.contains("`swtpm`"), "{problem:?}");
    assert_eq!(host.files("vm"), ["nvram.raw", "vm.toml"]);
    host.kill();
    host.start_agent(&[]).await;

    // Secure Boot, from the variables that the operator names.
    host.done("vm", JobSpec::Remove).await;
    let vars = PathBuf::from("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd");
    let vm = CreateVm { memory_mib: 128, firmware: uefi(Some(vars.clone())), ..bios };
    let config = host.done("vm", JobSpec::Create(vm)).await.0.unwrap();
    assert!(fs::read(host.store().join("vm/nvram.raw")).unwrap() == fs::read(vars).unwrap());
    host.start_vm(config.id).await.unwrap();
    host.says(config.id, FIRMWARE_IS_UP).await;
    host.stop_vm(config.id).await;
}
