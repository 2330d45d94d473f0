//! VMs that are encrypted from their beginning, and VMs made from others.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::*;
use ward_rpc::api::host::{CloneVm, DiskSource, DropKeys, JobSpec, ReadHome};
use ward_types::{
    Code, Component, CryptoPlan, CryptoStep, DiskCrypto, DiskId, HomeCrypto, PlainFormat, StepAction, VmConfig, VmId,
};

fn encrypted(name: &str, disks: Vec<DiskSource>, keys: Vec<Option<u8>>) -> JobSpec {
    let JobSpec::Create(vm) = create(name, disks) else { unreachable!() };
    JobSpec::CreateEncrypted { vm, home: key(1), disks: keys.into_iter().map(|id| id.map(key)).collect() }
}

fn clone(host: &Host, name: &str, steps: Vec<(Component, StepAction)>) -> JobSpec {
    let steps = steps.into_iter().map(|(component, action)| CryptoStep { component, action }).collect();
    let (id, name) = (VmId::new(), name.parse().unwrap());
    JobSpec::Clone(CloneVm { from: host.home("vm"), id, name, plan: CryptoPlan::new(steps), replace_tpm: false })
}

fn all(action: &StepAction) -> Vec<(Component, StepAction)> {
    [Component::Home, Component::Disk(DiskId(0)), Component::Disk(DiskId(1))].map(|part| (part, action.clone())).into()
}

/// A host with a VM `vm` of two disks that hold the same, under key 1 or plain.
async fn host(is_encrypted: bool) -> (Host, Vec<u8>) {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    let (raw, qcow2) = (host.path("image"), host.path("image.qcow2"));
    let model = raw_image(&raw, 3 * MIB);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]);
    let disks = vec![copy(&raw), copy(&qcow2)];
    if is_encrypted {
        let spec = encrypted("vm", disks, vec![Some(1), Some(1)]);
        host.done("vm", spec).await;
    } else {
        host.create("vm", disks).await;
    }
    (host, model)
}

fn dek(host: &Host, vm: &str, disk: &str, id: u8, model: &[u8]) -> Vec<u8> {
    let (dek, content) = luks_contents(&host.store().join(vm).join(disk), id, model.len());
    assert!(content == model, "{vm}/{disk}");
    dek
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_vm_is_never_plain_on_the_storage() {
    let mut host = Host::start().await;
    host.push(&[1, 2]).await;
    let (image, kernel) = (host.path("image"), host.path("kernel"));
    let model = raw_image(&image, 3 * MIB);
    fs::write(&kernel, b"a kernel").unwrap();
    let blank = |format| DiskSource::Blank { size: 2 * MIB, format };
    let disks = vec![copy(&image), blank(PlainFormat::Qcow2), blank(PlainFormat::Raw)];
    let spec = encrypted("vm", disks, vec![Some(1), Some(2), None]);
    let (config, _) = host.done("vm", spec).await;
    let config = config.unwrap();
    assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "disk-2.raw", "vm.toml"]);
    assert_eq!(config.keys(), [&key(1), &key(2)]);
    assert_eq!(host.call(ReadHome { home: host.home("vm") }).await.unwrap(), config);
    dek(&host, "vm", "disk-0.luks", 1, &model);
    assert!(cryptsetup_opens(&host.store().join("vm/disk-1.luks"), 2));
    // What is made decrypts to what it came from, in the format in which that was.
    host.done("vm", decrypt(&[0, 1])).await;
    assert!(contents(&host.store().join("vm/disk-0.raw"), "raw") == model);
    assert_eq!(contents(&host.store().join("vm/disk-1.qcow2"), "qcow2").len(), 2 << 20);
    // Without a key nothing is begun.
    let spec = |keys| encrypted("other", vec![copy(&image)], keys);
    let (no_key, too_few) = (spec(vec![Some(9)]), spec(vec![]));
    assert_eq!(host.refused("other", no_key).await.code, Code::KeyNotOnHost);
    assert_eq!(host.refused("other", too_few).await.code, Code::RequestInvalid);
    assert_eq!(host.homes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_has_the_same_keys_or_a_new_kek_or_all_new() {
    let (mut host, model) = host(true).await;
    let original = dek(&host, "vm", "disk-0.luks", 1, &model);
    let before = fs::read(host.store().join("vm/vm.toml")).unwrap();
    let new = |deep| {
        let key = key(2);
        if deep { StepAction::DeepRecrypt { key } } else { StepAction::ShallowRecrypt { key } }
    };
    for (name, steps, id, same_dek) in
        [("same", vec![], 1, true), ("kek", all(&new(false)), 2, true), ("new", all(&new(true)), 2, false)]
    {
        let spec = clone(&host, name, steps);
        let (config, _) = host.done(name, spec).await;
        let config = config.unwrap();
        assert_eq!(config.keys(), [&key(id)], "{name}");
        assert_eq!(host.call(ReadHome { home: host.home(name) }).await.unwrap(), config);
        for disk in ["disk-0.luks", "disk-1.luks"] {
            let path = host.store().join(name).join(disk);
            assert!(cryptsetup_opens(&path, id) && !cryptsetup_opens(&path, 3 - id), "{name}/{disk}");
            let device = luks2::Device::open(fs::File::open(&path).unwrap()).unwrap();
            assert_eq!((device.keyslots().len(), device.tokens().count()), (1, 1), "{name}/{disk}");
        }
        assert_eq!(dek(&host, name, "disk-0.luks", id, &model) == original, same_dek, "{name}");
        // It is a VM of its own: whose its disks are, their tokens say.
        host.done(name, decrypt(&[0, 1])).await;
        assert!(contents(&host.store().join(name).join("disk-1.qcow2"), "qcow2") == model, "{name}");
    }
    assert!(fs::read(host.store().join("vm/vm.toml")).unwrap() == before, "the original stays as it was");
    host.done("vm", decrypt(&[0, 1])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_encrypted_or_decrypted_on_the_way() {
    let (mut host, model) = host(true).await;
    let spec = clone(&host, "plain", all(&StepAction::Decrypt));
    let (config, _) = host.done("plain", spec).await;
    assert!(!config.unwrap().is_encrypted());
    assert_eq!(host.files("plain"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"]);
    assert!(contents(&host.store().join("plain/disk-0.raw"), "raw") == model);
    assert!(contents(&host.store().join("plain/disk-1.qcow2"), "qcow2") == model);

    host.done("vm", JobSpec::Remove).await;
    fs::rename(host.store().join("plain"), host.store().join("vm")).unwrap();
    let spec = clone(&host, "shut", all(&StepAction::Encrypt { key: key(2) }));
    let (config, _) = host.done("shut", spec).await;
    let VmConfig { home, disks, .. } = config.unwrap();
    assert!(matches!(home, HomeCrypto::Encrypted { .. }));
    assert!(disks.iter().all(|disk| disk.crypto == DiskCrypto::Encrypted { key: key(2) }));
    dek(&host, "shut", "disk-1.luks", 2, &model);
    // A plain one of a plain one.
    let spec = clone(&host, "copy", vec![]);
    host.done("copy", spec).await;
    assert!(contents(&host.store().join("copy/disk-1.qcow2"), "qcow2") == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_shared_devices_are_refused() {
    let mut host = Host::start().await;
    host.push(&[1]).await;
    let pipe = host.path("pipe");
    run("mkfifo", &[text(&pipe)]);
    let directory = host.dir.path().to_owned();
    for device in [std::path::Path::new("/dev/zero"), &pipe, &directory] {
        let plain = create("vm", vec![copy(device)]);
        let shut = encrypted("vm", vec![copy(device)], vec![Some(1)]);
        for spec in [plain, shut] {
            let problem = host.refused("vm", spec).await;
            assert_eq!(problem.code, Code::DeviceUnsuitable, "{problem:?}");
            assert!(problem.remedy.contains("qemu-img convert"), "{problem:?}");
        }
    }
    assert_eq!(host.homes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_cloning_leave_nothing() {
    let (mut host, _) = host(true).await;
    let disk = Component::Disk(DiskId(0));
    for (steps, code) in [
        (vec![(Component::Home, StepAction::Decrypt)], Code::Composition),
        (vec![(Component::Disk(DiskId(7)), StepAction::Decrypt)], Code::NotFound),
        (vec![(disk, StepAction::ShallowRecrypt { key: key(9) })], Code::KeyNotOnHost),
        (vec![(disk, StepAction::ShallowRecrypt { key: key(1) })], Code::KeyUnchanged),
    ] {
        let spec = clone(&host, "clone", steps);
        assert_eq!(host.refused("clone", spec).await.code, code);
    }
    let spec = clone(&host, "vm", vec![]);
    assert_eq!(host.refused("vm", spec).await.code, Code::Exists);
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    let spec = clone(&host, "clone", vec![]);
    assert_eq!(host.refused("clone", spec).await.code, Code::KeyNotOnHost);
    assert_eq!(host.homes(), 1);
}
