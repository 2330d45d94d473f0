//! Disks that a VM gets and loses: real files, looked at with cryptsetup, and killed at every step.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::*;
use ward_rpc::api::host::{
    AddDisk, CheckJob, CloneVm, DiskChange, DiskFrom, DiskInfo, HomeRef, JobOutcome, JobSpec, ReadDisk, ReadHome,
    StartVm, VolumeLabel,
};
use ward_types::{Code, CryptoPlan, DiskId, PlainFormat, StepAction, TaskId, VmConfig, VmId};

const SIZE: u64 = 3 * MIB;

fn add(id: u16, from: DiskFrom, key_id: Option<u8>) -> JobSpec {
    JobSpec::Disks(DiskChange::Add(AddDisk { id: DiskId(id), from, key: key_id.map(key), new_dek: false }))
}

fn blank(size: u64) -> DiskFrom {
    DiskFrom::Blank { size, format: PlainFormat::Raw }
}

fn image(path: &Path) -> DiskFrom {
    DiskFrom::Image { path: path.to_owned(), format: None }
}

fn remove(disk: u16) -> JobSpec {
    JobSpec::Disks(DiskChange::Remove { disk: DiskId(disk) })
}

fn detach(disk: u16) -> JobSpec {
    JobSpec::Disks(DiskChange::Detach { disk: DiskId(disk) })
}

fn attach(disk: u16) -> JobSpec {
    JobSpec::Disks(DiskChange::Attach { disk: DiskId(disk) })
}

/// A host with a VM whose one disk, like its home, is encrypted under key 1; and the content of that disk.
async fn encrypted() -> (Host, VmConfig, Vec<u8>) {
    let mut host = Host::start().await;
    let raw = host.path("image");
    let model = raw_image(&raw, SIZE);
    host.create("vm", vec![copy(&raw)]).await;
    host.push(&[1, 2]).await;
    let config = host.done("vm", encrypt(1, &[0])).await.0.unwrap();
    (host, config, model)
}

/// What an encrypted disk of a VM is for another one.
fn volume(host: &Host, of: &VmConfig, home: &str) -> DiskFrom {
    let disk = &of.disks[0];
    DiskFrom::Volume {
        path: host.store().join(home).join(disk.file.as_str()),
        label: VolumeLabel { key: disk.key().unwrap().clone(), vm: of.id, disk: disk.id },
        known: Some((disk.size, disk.plain_format)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_come_and_go() {
    let (mut host, _, model) = encrypted().await;
    let home = host.store().join("vm");
    // Blank, under a key of its own; and plain beside it, from an image.
    let config = host.done("vm", add(1, blank(SIZE), Some(2))).await.0.unwrap();
    assert_eq!((config.disks[1].key(), config.disks[1].size), (Some(&key(2)), SIZE));
    assert!(cryptsetup_opens(&home.join("disk-1.luks"), 2) && !cryptsetup_opens(&home.join("disk-1.luks"), 1));
    host.done("vm", add(2, image(&host.path("image")), None)).await;
    assert!(contents(&home.join("disk-2.raw"), "raw") == model);
    // An image, encrypted on its way.
    host.done("vm", add(3, image(&host.path("image")), Some(1))).await;
    assert!(luks_contents(&home.join("disk-3.luks"), 1, model.len()).1 == model);
    // One that is detached keeps its file and its key, and can be recrypted like any other.
    let config = host.done("vm", detach(3)).await.0.unwrap();
    assert!(!config.disks[3].attached && config.disks[3].key() == Some(&key(1)));
    host.done("vm", shallow(2, false, &[3])).await;
    assert!(cryptsetup_opens(&home.join("disk-3.luks"), 2) && !cryptsetup_opens(&home.join("disk-3.luks"), 1));
    let config = host.done("vm", attach(3)).await.0.unwrap();
    assert!(config.disks[3].attached);
    for disk in [1, 2, 3] {
        host.done("vm", remove(disk)).await;
    }
    assert_eq!(host.files("vm"), ["disk-0.luks", "vm.toml"]);
    // What holds already is done.
    host.done("vm", remove(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_vm_is_copied_under_its_key_or_another() {
    let (mut host, other, model) = encrypted().await;
    host.create("web", vec![copy(&host.path("image"))]).await;
    host.done("web", encrypt(2, &[])).await;
    let from = volume(&host, &other, "vm");
    let web = host.store().join("web");
    // What the file says of itself is what is known of it.
    let path = host.store().join("vm/disk-0.luks");
    let DiskFrom::Volume { label, .. } = &from else { panic!() };
    assert_eq!(host.call(ReadDisk { path: path.clone() }).await.unwrap(), DiskInfo::Volume(label.clone()));
    assert_eq!(host.call(ReadDisk { path: host.path("image") }).await.unwrap(), DiskInfo::Plain);
    let stray = DiskFrom::Volume { path, label: label.clone(), known: None };
    host.done("web", add(1, stray, Some(1))).await;
    host.done("web", add(2, from.clone(), Some(2))).await;
    let new_dek = AddDisk { id: DiskId(3), from: from.clone(), key: Some(key(2)), new_dek: true };
    host.done("web", JobSpec::Disks(DiskChange::Add(new_dek))).await;
    let config = host.done("web", add(4, from.clone(), None)).await.0.unwrap();
    let dek = |path: &Path, id| luks_contents(path, id, model.len());
    let original = dek(&host.store().join("vm/disk-0.luks"), 1);
    assert!(original.1 == model, "the original is as it was");
    for (disk, id, same) in [(1, 1, true), (2, 2, true), (3, 2, false)] {
        let file = web.join(format!("disk-{disk}.luks"));
        let (key, content) = dek(&file, id);
        assert!(content == model, "{disk}");
        assert_eq!(key == original.0, same, "{disk}");
        assert!(!cryptsetup_opens(&file, 3 - id), "{disk}");
    }
    assert!(contents(&web.join("disk-4.raw"), "raw") == model);
    assert_eq!(config.disks[1].size, SIZE);
    // Its token says whose it is now, so that it starts and is recrypted.
    host.done("web", shallow(1, true, &[2, 3])).await;
    // Another disk in its place is noticed.
    let DiskFrom::Volume { path, label, known } = from else { panic!() };
    let label = VolumeLabel { disk: DiskId(7), ..label };
    let problem = host.refused("web", add(5, DiskFrom::Volume { path, label, known }, Some(1))).await;
    assert_eq!(problem.code, Code::HomeTampered);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_disks_touch_nothing() {
    let (mut host, other, _) = encrypted().await;
    host.create("plain", vec![copy(&host.path("image"))]).await;
    let before = (host.files("plain"), fs::read(host.store().join("plain/vm.toml")).unwrap());
    let encrypted_disk = volume(&host, &other, "vm");
    fs::create_dir(host.path("dir")).unwrap();
    for (spec, code) in [
        (add(1, blank(SIZE), Some(1)), Code::Composition),
        (add(1, encrypted_disk, Some(1)), Code::Composition),
        (add(1, image(&host.path("none")), None), Code::ImageMissing),
        (add(1, image(Path::new("/dev/null")), None), Code::DeviceUnsuitable),
        (add(1, image(&host.path("dir")), None), Code::DeviceUnsuitable),
        (add(1, image(&host.store().join("vm/disk-0.luks")), None), Code::ImageInvalid),
        (add(1, blank(100), None), Code::RequestInvalid),
        (remove(0), Code::Composition),
        (detach(0), Code::Composition),
        (attach(4), Code::NotFound),
    ] {
        let problem = host.refused("plain", spec.clone()).await;
        assert_eq!(problem.code, code, "{spec:?}: {problem}");
    }
    let problem = host.refused("vm", add(1, blank(SIZE), Some(9))).await;
    assert_eq!(problem.code, Code::KeyNotOnHost);
    assert_eq!((host.files("plain"), fs::read(host.store().join("plain/vm.toml")).unwrap()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_disk_key_is_named_and_the_disk_can_go() {
    let (mut host, config, _) = encrypted().await;
    host.done("vm", add(1, blank(SIZE), Some(2))).await;
    host.kill();
    host.start_agent(&[]).await;
    host.push(&[1]).await;
    let start = || StartVm { vm: config.id, home: host.home("vm"), expected: None };
    let problem = host.call(start()).await.unwrap_err();
    assert_eq!(problem.code, Code::KeyNotOnHost);
    assert!(problem.why.contains("disk-1 (disk-1.luks)") && problem.why.contains("kms/2"), "{problem}");
    // Detached, it is in nobody's way; nor once it is removed. Neither takes its key.
    host.done("vm", detach(1)).await;
    let start = StartVm { vm: config.id, home: host.home("vm"), expected: None };
    let started = host.call(start).await.map_err(|problem| problem.code);
    assert!(!matches!(started, Err(Code::KeyNotOnHost)), "{started:?}");
    if started.is_ok() {
        host.call(ward_rpc::api::host::StopVm { vm: config.id, force: true, wait_ms: 0 }).await.unwrap();
    }
    host.done("vm", remove(1)).await;
    assert_eq!(host.files("vm"), ["disk-0.luks", "vm.toml"]);
}

/// A check says what the job would, takes no key that is yet to be made, and leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_refuses_as_the_job_would_and_leaves_nothing() {
    let mut host = Host::start().await;
    let raw = host.path("image");
    raw_image(&raw, SIZE);
    let config = host.create("vm", vec![copy(&raw)]).await;
    let listed = |host: &Host| {
        let mut names: Vec<_> = fs::read_dir(host.store()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        (names, host.files("vm"), fs::read(host.store().join("vm/vm.toml")).unwrap())
    };
    let before = listed(&host);
    let check = async |host: &Host, home: HomeRef, spec| host.call(CheckJob { job: TaskId::new(), home, spec }).await;
    let clone = |from: &str| {
        let plan = match encrypt(9, &[0]) {
            JobSpec::Crypt { plan } => plan,
            _ => CryptoPlan::default(),
        };
        JobSpec::Clone(CloneVm {
            from: host.home(from),
            id: VmId::new(),
            name: "new".parse().unwrap(),
            plan,
            replace_tpm: false,
        })
    };
    let new = |path: &Path| match create("new", vec![copy(path)]) {
        JobSpec::Create(vm) => JobSpec::CreateEncrypted { vm, home: key(9), disks: vec![Some(key(9))] },
        other => other,
    };
    // No key 9 is on the host.
    for (home, spec) in [
        ("vm", encrypt(9, &[0])),
        ("new", clone("vm")),
        ("new", new(&raw)),
        ("vm", add(1, image(&raw), None)),
        ("vm", remove(1)),
    ] {
        check(&host, host.home(home), spec.clone()).await.unwrap_or_else(|problem| panic!("{spec:?}: {problem}"));
    }
    assert_eq!(listed(&host), before);
    let refused = async |host: &Host, code| {
        let disk = host.store().join("vm/disk-0.raw");
        for (home, spec) in [("vm", encrypt(9, &[0])), ("new", clone("vm")), ("new", new(&disk))] {
            let problem = check(host, host.home(home), spec.clone()).await.unwrap_err();
            assert!(problem.code == code, "{spec:?}: {problem}");
        }
    };
    let disk = host.store().join("vm/disk-0.raw");
    let held = fs::File::options().read(true).write(true).open(&disk).unwrap();
    ward_disk::lock::lock(&held, &disk, ward_disk::lock::Access::Exclusive).unwrap();
    refused(&host, Code::ImageLocked).await;
    drop(held);
    fs::File::options().write(true).open(&disk).unwrap().set_len(SIZE - MIB).unwrap();
    let problem = check(&host, host.home("vm"), encrypt(9, &[0])).await.unwrap_err();
    assert_eq!(problem.code, Code::ImageTruncated);
    assert_eq!(listed(&host).0, before.0);
    // Deep: the key that there is must be there, the new one need not.
    fs::File::options().write(true).open(&disk).unwrap().set_len(SIZE).unwrap();
    host.push(&[1]).await;
    host.done("vm", encrypt(1, &[0])).await;
    check(&host, host.home("vm"), deep(9, true, &[0])).await.unwrap();
    assert_eq!(host.done("vm", remove(5)).await.0.unwrap().id, config.id);
}

/// Kills at each step of a change; the same again must be done.
async fn killed_at_each_step(spec: impl Fn(&Host) -> JobSpec, prepare: &[JobSpec], files: &[&str], least: usize) {
    let (mut host, ..) = encrypted().await;
    for spec in prepare {
        host.done("vm", spec.clone()).await;
    }
    host.kill();
    run("cp", &["-a", "--sparse=always", text(&host.store()), text(&host.path("saved"))]);
    let log = host.path("points");
    host.start_agent(&[("WARD_CRASH_LOG", text(&log))]).await;
    host.push(&[1, 2]).await;
    let wanted = spec(&host);
    host.done("vm", wanted.clone()).await;
    host.kill();
    let mut points = BTreeMap::new();
    for name in fs::read_to_string(&log).unwrap().lines().filter(|name| !name.starts_with("convert.")) {
        *points.entry(name.to_owned()).or_insert(0u32) += 1;
    }
    assert!(points.len() >= least, "{points:?}");
    for (point, times) in points {
        for time in 1..=times.min(2) {
            let point = format!("{point}#{time}");
            let _ = fs::remove_dir_all(host.store());
            run("cp", &["-a", "--sparse=always", text(&host.path("saved")), text(&host.store())]);
            host.start_agent(&[("WARD_CRASH_AT", &point)]).await;
            host.push(&[1, 2]).await;
            let (job, home) = (TaskId::new(), host.home("vm"));
            assert!(host.try_job(job, home.clone(), wanted.clone()).await.is_none(), "{point}");
            host.start_agent(&[]).await;
            host.push(&[1, 2]).await;
            match host.try_job(job, home, wanted.clone()).await {
                Some(Ok(JobOutcome::Done { .. })) => {}
                other => panic!("{point}: {other:?}: {}", host.log()),
            }
            assert_eq!(host.files("vm"), files, "{point}");
            for file in files.iter().filter(|file| file.ends_with(".luks")) {
                let path = host.store().join("vm").join(file);
                let opened = [1, 2].map(|id| cryptsetup_opens(&path, id));
                assert!(opened == [*file != "disk-1.luks", *file == "disk-1.luks"], "{point}: {file}: {opened:?}");
            }
            host.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_a_disk_survives_a_kill_at_any_step() {
    let image = |host: &Host| add(1, image(&host.path("image")), Some(2));
    killed_at_each_step(image, &[], &["disk-0.luks", "disk-1.luks", "vm.toml"], 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_disk_survives_a_kill_at_any_step() {
    let prepare = add(1, blank(SIZE), Some(2));
    killed_at_each_step(|_| remove(1), &[prepare], &["disk-0.luks", "vm.toml"], 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detaching_a_disk_survives_a_kill_at_any_step() {
    let prepare = add(1, blank(SIZE), Some(2));
    killed_at_each_step(|_| detach(1), &[prepare], &["disk-0.luks", "disk-1.luks", "vm.toml"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_a_disk_again_survives_a_kill_at_any_step() {
    let prepare = [add(1, blank(SIZE), Some(2)), detach(1)];
    killed_at_each_step(|_| attach(1), &prepare, &["disk-0.luks", "disk-1.luks", "vm.toml"], 2).await;
}

/// Random changes, one after the other: whatever is accepted is done whole, each disk opens by exactly the key that it should,
/// and whatever is refused has touched nothing.
#[tokio::test(flavor = "multi_thread")]
async fn after_any_changes_of_disks_each_opens_by_exactly_its_key() {
    let (mut host, _, _) = encrypted().await;
    let home = host.store().join("vm");
    // Each disk's key, and whether it is attached.
    let mut now = BTreeMap::from([(0, (Some(1), true))]);
    let mut next = 1;
    let (mut accepted, mut refused) = (0, 0);
    for (n, random) in noise(11, 60 * 2).chunks(2).enumerate() {
        let (disk, id) = (u16::from(random[1]) % next, 1 + random[1] % 2);
        let mut then = now.clone();
        let spec = match random[0] % 7 {
            0 | 1 => {
                let id = (random[1] % 3 != 0).then_some(id);
                then.insert(next, (id, true));
                add(next, if random[0] % 2 == 0 { blank(MIB) } else { image(&host.path("image")) }, id)
            }
            2 => {
                then.remove(&disk);
                remove(disk)
            }
            3 => {
                then.entry(disk).and_modify(|(_, attached)| *attached = false);
                detach(disk)
            }
            4 => {
                then.entry(disk).and_modify(|(_, attached)| *attached = true);
                attach(disk)
            }
            5 => {
                then.entry(disk).and_modify(|(key, _)| *key = Some(id));
                shallow(id, false, &[disk])
            }
            _ => {
                then.entry(disk).and_modify(|(key, _)| *key = None);
                steps(StepAction::Decrypt, false, &[disk])
            }
        };
        let asked = format!("request {n}: {spec:?} of {now:?}");
        match host.job("vm", spec).await {
            Ok(JobOutcome::Done { .. }) => {
                accepted += 1;
                next += u16::from(then.contains_key(&next));
                now = then;
            }
            Ok(JobOutcome::Failed { problem }) => panic!("{asked}: refused after it began: {problem}"),
            Err(_) => refused += 1,
        }
        let config = host.call(ReadHome { home: host.home("vm") }).await.unwrap();
        let found = config.disks.iter().map(|disk| (disk.id.0, (disk.key().cloned(), disk.attached)));
        assert!(
            found.eq(now.iter().map(|(disk, (id, attached))| (*disk, (id.map(key), *attached)))),
            "{asked}: {config:?}"
        );
        assert_eq!(host.files("vm").len(), now.len() + 1, "{asked}: {:?}", host.files("vm"));
        for disk in &config.disks {
            if let Some(id) = now[&disk.id.0].0 {
                let opening: Vec<_> =
                    [1, 2].into_iter().filter(|id| cryptsetup_opens(&home.join(disk.file.as_str()), *id)).collect();
                assert_eq!(opening, [id], "{asked}: {}", disk.id);
            }
        }
    }
    assert!(accepted > 15 && refused > 5, "{accepted} accepted, {refused} refused");
}
