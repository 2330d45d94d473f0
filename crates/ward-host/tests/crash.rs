//! Kills the agent, or its disk process, at every step of every job, and lets another agent go on.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::*;
use ward_rpc::api::host::{
    AbandonJob, CloneVm, DiskSource, HomeRef, JobOutcome, JobSpec, NewFirmware, ReadHome, StartVm, StopVm, TpmChange,
};
use ward_types::{
    Component, CryptoPlan, CryptoStep, DiskId, Endorsement, PlainFormat, StepAction, TaskId, VmConfig, VmId,
};

const SIZE: u64 = 3 * MIB;

/// A host without an agent, with a VM whose two disks hold the same, plain or encrypted.
async fn host(encrypted: bool) -> (Host, Vec<u8>) {
    let mut host = Host::start().await;
    let (raw, qcow2) = (host.path("image"), host.path("image.qcow2"));
    let model = raw_image(&raw, SIZE);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]);
    host.create("vm", vec![copy(&raw), copy(&qcow2)]).await;
    if encrypted {
        host.push(&[1, 2]).await;
        host.done("vm", encrypt(1, &[0, 1])).await;
    }
    host.kill();
    (host, model)
}

fn restore(host: &Host) {
    let _ = fs::remove_dir_all(host.store());
    run("cp", &["-a", "--sparse=always", text(&host.path("saved")), text(&host.store())]);
}

/// Every point that a job reaches, the first and the second time.
async fn points(host: &mut Host, spec: &JobSpec) -> Vec<String> {
    let log = host.path("points");
    let _ = fs::remove_file(&log);
    host.start_agent(&[("WARD_CRASH_LOG", text(&log))]).await;
    host.push(&[1, 2]).await;
    host.done("vm", spec.clone()).await;
    host.kill();
    let mut seen = BTreeMap::<String, u32>::new();
    let mut points = Vec::new();
    for name in fs::read_to_string(&log).unwrap().lines() {
        let count = seen.entry(name.to_owned()).or_default();
        *count += 1;
        if *count <= 2 {
            points.push(format!("{name}#{count}"));
        }
    }
    points
}

/// Kills at each point; then the same job again must be done, and `check` find everything as it should be.
async fn matrix(mut host: Host, spec: JobSpec, check: impl Fn(&Host, &str)) {
    run("cp", &["-a", "--sparse=always", text(&host.store()), text(&host.path("saved"))]);
    let points = points(&mut host, &spec).await;
    check(&host, "uninterrupted");
    let mut killed = 0;
    for point in &points {
        restore(&host);
        host.start_agent(&[("WARD_CRASH_AT", point)]).await;
        host.push(&[1, 2]).await;
        let job = TaskId::new();
        let home = host.home("vm");
        match host.try_job(job, home.clone(), spec.clone()).await {
            None => killed += 1,
            // The disk process was killed instead: each time that it was started again, or just once.
            Some(Ok(_)) if point.starts_with("convert.") => host.kill(),
            other => panic!("{point}: {other:?}"),
        }
        host.start_agent(&[]).await;
        host.push(&[1, 2]).await;
        match host.try_job(job, home, spec.clone()).await {
            Some(Ok(JobOutcome::Done { .. })) => {}
            other => panic!("{point}: {other:?}: {}", host.log()),
        }
        host.kill();
        check(&host, point);
    }
    let own = points.iter().filter(|point| !point.starts_with("convert.")).count();
    assert_eq!(killed, own, "of {points:?}");
    assert!(own >= 3, "{points:?}");
}

fn check_plain(host: &Host, model: &[u8], point: &str) {
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"], "{point}");
    assert!(contents(&host.store().join("vm/disk-0.raw"), "raw") == model, "{point}");
    assert!(contents(&host.store().join("vm/disk-1.qcow2"), "qcow2") == model, "{point}");
}

/// Opens the disks with nothing of ours: cryptsetup says what the volume key is, QEMU's tool has the cipher... of LUKS2 it
/// knows nothing, so the payload is deciphered by the bare cipher.
fn check_encrypted(host: &Host, model: &[u8], point: &str) {
    assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"], "{point}");
    check_disks(host, &["disk-0.luks", "disk-1.luks"], (1, 2), model, point);
}

/// Each of them opens with the one key and not with the other, and has nothing left over of how it came to that.
fn check_disks(host: &Host, disks: &[&str], (right, wrong): (u8, u8), model: &[u8], point: &str) {
    for disk in disks {
        let path = host.store().join("vm").join(disk);
        assert!(luks_contents(&path, right, model.len()).1 == model, "{point}: {disk}");
        assert!(!cryptsetup_opens(&path, wrong), "{point}: {disk}");
        let device = luks2::Device::open(fs::File::open(&path).unwrap()).unwrap();
        assert!(device.health().is_good(), "{point}: {disk}: {:?}", device.health());
        assert_eq!((device.keyslots().len(), device.tokens().count()), (1, 1), "{point}: {disk}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypting_survives_a_kill_at_any_step() {
    let (host, model) = host(false).await;
    matrix(host, encrypt(1, &[0, 1]), |host, point| check_encrypted(host, &model, point)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decrypting_survives_a_kill_at_any_step() {
    let (host, model) = host(true).await;
    matrix(host, decrypt(&[0, 1]), |host, point| check_plain(host, &model, point)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_recrypt_survives_a_kill_at_any_step() {
    let (host, model) = host(true).await;
    matrix(host, shallow(2, true, &[0, 1]), |host, point| {
        assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"], "{point}");
        check_disks(host, &["disk-0.luks", "disk-1.luks"], (2, 1), &model, point);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_recrypt_survives_a_kill_at_any_step() {
    let (host, model) = host(true).await;
    matrix(host, deep(2, true, &[0, 1]), |host, point| {
        assert_eq!(host.files("vm"), ["disk-0-2.luks", "disk-1-2.luks", "vm.toml"], "{point}");
        check_disks(host, &["disk-0-2.luks", "disk-1-2.luks"], (2, 1), &model, point);
    })
    .await;
}

/// Between two steps the key that the description names opens every disk, so that a VM that runs can be started anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_shallow_recrypt_leaves_every_disk_openable_by_the_described_key() {
    let (mut host, model) = host(true).await;
    run("cp", &["-a", "--sparse=always", text(&host.store()), text(&host.path("saved"))]);
    for (point, described, forward) in [
        ("crypt.recorded", 1, false),
        ("crypt.key-added", 1, false),
        ("crypt.key-added#2", 1, false),
        ("crypt.description-written", 1, false),
        ("crypt.committed", 2, true),
        ("crypt.other-key-removed", 2, true),
        ("crypt.tidied", 2, true),
    ] {
        restore(&host);
        host.start_agent(&[("WARD_CRASH_AT", point)]).await;
        host.push(&[1, 2]).await;
        let home = host.home("vm");
        assert!(host.try_job(TaskId::new(), home, shallow(2, true, &[0, 1])).await.is_none(), "{point}");
        let description = fs::read_to_string(host.store().join("vm/vm.toml")).unwrap();
        assert_eq!(description.matches(&format!("key_id = \"{described}\"")).count(), 3, "{point}: {description}");
        for disk in ["disk-0.luks", "disk-1.luks"] {
            let path = host.store().join("vm").join(disk);
            assert!(luks_contents(&path, described, model.len()).1 == model, "{point}: {disk}");
        }
        // Another job, to which the other key is not known, settles it: back or forward.
        host.start_agent(&[]).await;
        host.push(&[described]).await;
        host.done("vm", encrypt(described, &[0, 1])).await;
        host.kill();
        let keys = if forward { (2, 1) } else { (1, 2) };
        check_disks(&host, &["disk-0.luks", "disk-1.luks"], keys, &model, point);
        assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"], "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_survives_a_kill_at_any_step() {
    let host = Host::enrolled().await;
    let image = host.path("image");
    let model = raw_image(&image, SIZE);
    let blank = DiskSource::Blank { size: MIB, format: PlainFormat::Qcow2 };
    matrix(host, create("vm", vec![copy(&image), blank]), |host, point| {
        assert_eq!(host.homes(), 1, "{point}");
        assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"], "{point}");
        assert!(contents(&host.store().join("vm/disk-0.raw"), "raw") == model, "{point}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_an_encrypted_vm_survives_a_kill_at_any_step() {
    let host = Host::enrolled().await;
    let image = host.path("image");
    let model = raw_image(&image, SIZE);
    let JobSpec::Create(vm) =
        create("vm", vec![copy(&image), DiskSource::Blank { size: MIB, format: PlainFormat::Raw }])
    else {
        panic!("another job")
    };
    let spec = JobSpec::CreateEncrypted { vm, home: key(1), disks: vec![Some(key(1)), Some(key(1))] };
    matrix(host, spec, |host, point| {
        assert_eq!(host.homes(), 1, "{point}");
        assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"], "{point}");
        check_disks(host, &["disk-0.luks"], (1, 2), &model, point);
        assert!(cryptsetup_opens(&host.store().join("vm/disk-1.luks"), 1), "{point}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloning_survives_a_kill_at_any_step() {
    let (host, model) = host(true).await;
    fs::rename(host.store().join("vm"), host.store().join("original")).unwrap();
    let from = HomeRef { directory: "original".parse().unwrap(), ..host.home("vm") };
    let step = |component, action| CryptoStep { component, action };
    // One disk copied under a new KEK, one encrypted anew.
    let plan = CryptoPlan::new(vec![
        step(Component::Home, StepAction::ShallowRecrypt { key: key(2) }),
        step(Component::Disk(DiskId(0)), StepAction::ShallowRecrypt { key: key(2) }),
        step(Component::Disk(DiskId(1)), StepAction::DeepRecrypt { key: key(2) }),
    ]);
    let clone = CloneVm { from, id: VmId::new(), name: "vm".parse().unwrap(), plan, replace_tpm: false };
    matrix(host, JobSpec::Clone(clone), |host, point| {
        assert_eq!(host.homes(), 2, "{point}");
        assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"], "{point}");
        check_disks(host, &["disk-0.luks", "disk-1.luks"], (2, 1), &model, point);
        check_disks(host, &["../original/disk-0.luks"], (1, 2), &model, point);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_is_encrypted_or_decrypted_survives_a_kill_at_any_step() {
    for encrypted in [false, true] {
        let (host, model) = host(encrypted).await;
        fs::rename(host.store().join("vm"), host.store().join("original")).unwrap();
        let from = HomeRef { directory: "original".parse().unwrap(), ..host.home("vm") };
        let plan = match if encrypted { decrypt(&[0, 1]) } else { encrypt(2, &[0, 1]) } {
            JobSpec::Crypt { plan } => plan,
            other => panic!("{other:?}"),
        };
        let clone = CloneVm { from, id: VmId::new(), name: "vm".parse().unwrap(), plan, replace_tpm: false };
        matrix(host, JobSpec::Clone(clone), |host, point| {
            assert_eq!(host.homes(), 2, "{point}");
            if encrypted {
                check_plain(host, &model, point);
            } else {
                assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"], "{point}");
                check_disks(host, &["disk-0.luks", "disk-1.luks"], (2, 1), &model, point);
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_survives_a_kill_at_any_step() {
    for encrypted in [false, true] {
        let (host, _) = host(encrypted).await;
        matrix(host, JobSpec::Remove, |host, point| {
            assert_eq!(host.homes(), 0, "{point}");
        })
        .await;
    }
}

/// Also the way back may be interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_undone_survives_a_kill_at_any_step() {
    let (mut host, model) = host(false).await;
    run("cp", &["-a", "--sparse=always", text(&host.store()), text(&host.path("saved"))]);
    for point in ["crypt.new-removed", "crypt.new-removed#2", "crypt.record-removed"] {
        restore(&host);
        for (killed_at, spec) in [("crypt.renamed#2", encrypt(1, &[0, 1])), (point, decrypt(&[0, 1]))] {
            host.start_agent(&[("WARD_CRASH_AT", killed_at)]).await;
            host.push(&[1]).await;
            let home = host.home("vm");
            assert!(host.try_job(TaskId::new(), home, spec).await.is_none(), "{point}: {}", host.log());
        }
        host.start_agent(&[]).await;
        host.done("vm", decrypt(&[0, 1])).await;
        check_plain(&host, &model, point);
        host.kill();
    }
}

/// A job that was interrupted and is not wanted any more: the next one settles it, back or forward.
#[tokio::test(flavor = "multi_thread")]
async fn another_job_settles_what_was_left() {
    let (mut host, model) = host(false).await;
    run("cp", &["-a", "--sparse=always", text(&host.store()), text(&host.path("saved"))]);
    for (point, forward) in [
        ("crypt.recorded", false),
        ("crypt.target-created", false),
        ("crypt.converted#2", false),
        ("crypt.renamed", false),
        ("crypt.description-written", false),
        ("crypt.committed", true),
        ("crypt.old-removed", true),
        ("crypt.tidied", true),
    ] {
        restore(&host);
        host.start_agent(&[("WARD_CRASH_AT", point)]).await;
        host.push(&[1, 2]).await;
        let home = host.home("vm");
        assert!(host.try_job(TaskId::new(), home, encrypt(1, &[0, 1])).await.is_none(), "{point}");
        host.start_agent(&[]).await;
        // The next job asks for what holds anyway, so all that is done is to settle.
        if forward {
            host.done("vm", encrypt(1, &[0, 1])).await;
            check_encrypted(&host, &model, point);
        } else {
            host.done("vm", decrypt(&[0, 1])).await;
            check_plain(&host, &model, point);
        }
        host.kill();
    }
}

/// A job that was interrupted and is given up: the host settles it, at once or with the next start of the VM.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_up_leaves_nothing() {
    let (mut host, model) = host(false).await;
    run("cp", &["-a", "--sparse=always", text(&host.store()), text(&host.path("saved"))]);
    for (point, forward) in [("crypt.converted", false), ("crypt.committed", true)] {
        for by_start in [false, true] {
            restore(&host);
            host.start_agent(&[("WARD_CRASH_AT", point)]).await;
            host.push(&[1]).await;
            let (job, home) = (TaskId::new(), host.home("vm"));
            assert!(host.try_job(job, home.clone(), encrypt(1, &[0, 1])).await.is_none(), "{point}");
            host.start_agent(&[]).await;
            host.push(&[1]).await;
            let other = AbandonJob { job: TaskId::new(), home: home.clone() };
            assert_eq!(host.call(other).await.unwrap().config, None, "{point}: it is another job's");
            assert!(host.files("vm").contains(&"job.json".to_owned()), "{point}");
            if by_start {
                let vm = host.call(ReadHome { home: home.clone() }).await.unwrap().id;
                host.call(StartVm { vm, home: home.clone(), expected: None }).await.unwrap();
                host.call(StopVm { vm, force: true, wait_ms: 0 }).await.unwrap();
            } else {
                let config = host.call(AbandonJob { job, home: home.clone() }).await.unwrap().config.unwrap();
                assert_eq!(config.is_encrypted(), forward, "{point}");
            }
            if forward {
                check_encrypted(&host, &model, point);
            } else {
                check_plain(&host, &model, point);
            }
            assert_eq!(host.call(AbandonJob { job, home }).await.unwrap().config, None, "{point}: once is enough");
            host.kill();
        }
    }
}

/// A host without an agent, with a VM that has UEFI, and where it is encrypted a vTPM.
async fn uefi_host(key_id: Option<u8>) -> Host {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    host.done("vm", create_uefi("vm", key_id)).await;
    host.kill();
    host
}

/// The description in the home, read with nothing of ours.
fn described(host: &Host) -> VmConfig {
    toml::from_str(&fs::read_to_string(host.store().join("vm/vm.toml")).unwrap()).unwrap()
}

/// The UEFI variables and the vTPM open under the one KEK and not under the other.
fn check_firmware(host: &Host, (right, wrong): (u8, u8), point: &str) -> Vec<u8> {
    let (home, config) = (host.store().join("vm"), described(host));
    let nvram = config.firmware.nvram().unwrap();
    let template = fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    let file = home.join(nvram.file.as_str());
    assert!(luks_contents(&file, right, template.len()).1 == template, "{point}");
    assert!(!cryptsetup_opens(&file, wrong), "{point}");
    assert!(tpm_state(&home, &config, wrong).is_none(), "{point}");
    let Endorsement { rsa, ecc, .. } = config.tpm.clone().unwrap().endorsement.unwrap();
    let told = [rsa, ecc].map(|key| STANDARD.decode(key.certificate.0).unwrap());
    assert_eq!(nv_certificates(&home, &config, right), told, "{point}");
    tpm_state(&home, &config, right).unwrap_or_else(|| panic!("{point}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_vm_with_a_vtpm_survives_a_kill_at_any_step() {
    let host = Host::enrolled().await;
    matrix(host, create_uefi("vm", Some(1)), |host, point| {
        assert_eq!(host.files("vm"), ["nvram.luks", "tpm", "vm.toml"], "{point}");
        check_firmware(host, (1, 2), point);
    })
    .await;
}

/// The same with UEFI variables that somebody brings, and a disk on which there is something.
#[tokio::test(flavor = "multi_thread")]
async fn importing_a_vm_with_variables_survives_a_kill_at_any_step() {
    let host = Host::enrolled().await;
    let image = host.path("image");
    let model = raw_image(&image, SIZE);
    let vars = host.path("vars");
    fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
    let JobSpec::CreateEncrypted { mut vm, home, .. } = create_uefi("vm", Some(1)) else { panic!("another job") };
    vm.firmware = NewFirmware::Uefi { secure_boot: false, vars: Some(vars) };
    vm.disks = vec![copy(&image)];
    matrix(host, JobSpec::CreateEncrypted { vm, home, disks: vec![Some(key(1))] }, |host, point| {
        assert_eq!(host.files("vm"), ["disk-0.luks", "nvram.luks", "tpm", "vm.toml"], "{point}");
        check_disks(host, &["disk-0.luks"], (1, 2), &model, point);
        check_firmware(host, (1, 2), point);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_a_vtpm_survives_a_kill_at_any_step() {
    let host = uefi_host(None).await;
    let step = CryptoStep { component: Component::Home, action: StepAction::Encrypt { key: key(1) } };
    let add = JobSpec::Tpm { plan: CryptoPlan::new(vec![step]), change: TpmChange::Add };
    matrix(host, add, |host, point| {
        assert_eq!(host.files("vm"), ["nvram.luks", "tpm", "vm.toml"], "{point}");
        check_firmware(host, (1, 2), point);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_recrypt_of_a_vtpm_survives_a_kill_at_any_step() {
    let host = uefi_host(Some(1)).await;
    let before = check_firmware(&host, (1, 2), "before");
    matrix(host, deep(2, true, &[]), |host, point| {
        assert_eq!(host.files("vm"), ["nvram-2.luks", "tpm-2", "vm.toml"], "{point}");
        assert!(check_firmware(host, (2, 1), point) == before, "{point}: it is another TPM");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certifying_a_vtpm_survives_a_kill_at_any_step() {
    let host = uefi_host(Some(1)).await;
    let before = described(&host).tpm.unwrap().endorsement.unwrap();
    let rsa = ek_ca().certify_one(&before.rsa.public, &before.make, VmId::new(), &"vm".parse().unwrap()).unwrap();
    let change = TpmChange::Certify { rsa: Some(rsa.clone()), ecc: None };
    matrix(host, JobSpec::Tpm { plan: CryptoPlan::default(), change }, |host, point| {
        assert_eq!(host.files("vm"), ["nvram.luks", "tpm-2", "vm.toml"], "{point}");
        check_firmware(host, (1, 2), point);
        assert_eq!(described(host).tpm.unwrap().endorsement.unwrap().rsa.certificate, rsa, "{point}");
    })
    .await;
}

/// The UEFI variables of a VM without a vTPM, plain or under a key.
fn check_variables(host: &Host, id: Option<u8>, point: &str) {
    let template = fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    let file = if id.is_some() { "nvram.luks" } else { "nvram.raw" };
    assert_eq!(host.files("vm"), [file, "vm.toml"], "{point}");
    let path = host.store().join("vm").join(file);
    let content = match id {
        Some(id) => luks_contents(&path, id, template.len()).1,
        None => fs::read(&path).unwrap(),
    };
    assert!(content == template, "{point}");
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypting_and_decrypting_variables_survives_a_kill_at_any_step() {
    let host = uefi_host(None).await;
    matrix(host, encrypt(1, &[]), |host, point| check_variables(host, Some(1), point)).await;
    let mut host = uefi_host(None).await;
    host.start_agent(&[]).await;
    host.push(&[1]).await;
    host.done("vm", encrypt(1, &[])).await;
    host.kill();
    matrix(host, decrypt(&[]), |host, point| check_variables(host, None, point)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_recrypt_of_a_vtpm_survives_a_kill_at_any_step() {
    let host = uefi_host(Some(1)).await;
    let before = check_firmware(&host, (1, 2), "before");
    matrix(host, shallow(2, true, &[]), |host, point| {
        assert_eq!(host.files("vm"), ["nvram.luks", "tpm", "vm.toml"], "{point}");
        assert!(check_firmware(host, (2, 1), point) == before, "{point}: it is another TPM");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_vtpm_survives_a_kill_at_any_step() {
    let host = uefi_host(Some(1)).await;
    matrix(host, JobSpec::Tpm { plan: CryptoPlan::default(), change: TpmChange::Remove }, |host, point| {
        check_variables(host, Some(1), point);
        assert_eq!(described(host).tpm, None, "{point}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloning_a_vtpm_survives_a_kill_at_any_step() {
    for replace_tpm in [false, true] {
        let host = uefi_host(Some(1)).await;
        let before = check_firmware(&host, (1, 2), "before");
        fs::rename(host.store().join("vm"), host.store().join("original")).unwrap();
        let from = HomeRef { directory: "original".parse().unwrap(), ..host.home("vm") };
        let step = CryptoStep { component: Component::Home, action: StepAction::ShallowRecrypt { key: key(2) } };
        let plan = CryptoPlan::new(vec![step]);
        let clone = CloneVm { from, id: VmId::new(), name: "vm".parse().unwrap(), plan, replace_tpm };
        matrix(host, JobSpec::Clone(clone), |host, point| {
            assert_eq!(host.files("vm"), ["nvram.luks", "tpm", "vm.toml"], "{point}");
            assert_eq!(check_firmware(host, (2, 1), point) == before, !replace_tpm, "{point}");
        })
        .await;
    }
}
