//! Replacing keys on real disks, with cryptsetup to say what opens them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::*;
use ward_rpc::api::host::{DropKeys, JobOutcome, Notice, ReadHome};
use ward_types::{Code, TaskId};

const DISKS: [&str; 2] = ["disk-0.luks", "disk-1.luks"];

/// A host with an encrypted VM under key 1, and what its two disks hold.
async fn host() -> (Host, Vec<u8>) {
    let mut host = Host::start().await;
    let (raw, qcow2) = (host.path("image"), host.path("image.qcow2"));
    let model = raw_image(&raw, 3 * MIB + 512);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]);
    host.create("vm", vec![copy(&raw), copy(&qcow2)]).await;
    host.push(&[1, 2, 3]).await;
    host.done("vm", encrypt(1, &[0, 1])).await;
    (host, model)
}

/// The bytes that the keyslot area of a disk holds.
fn keyslots(disk: &Path) -> Vec<u8> {
    fs::read(disk).unwrap()[0x2_0000..0x100_0000].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_recrypt_replaces_the_kek_and_nothing_else() {
    let (mut host, model) = host().await;
    let store = host.store();
    let file = |name: &str| store.join("vm").join(name);
    let before: Vec<_> = DISKS.iter().map(|disk| luks_contents(&file(disk), 1, model.len()).0).collect();
    let headers: Vec<_> = DISKS.iter().map(|disk| (file(disk), keyslots(&file(disk)))).collect();
    let backup = host.path("header");
    run("cryptsetup", &["luksHeaderBackup", text(&file(DISKS[0])), "--header-backup-file", text(&backup)]);

    let (config, notices) = host.done("vm", shallow(2, true, &[0, 1])).await;
    let config = config.unwrap();
    assert_eq!((config.keys(), notices), (vec![&key(2)], vec![]));
    assert_eq!(host.files("vm"), [DISKS[0], DISKS[1], "vm.toml"]);
    // The old key is needed for nothing any more.
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    assert_eq!(host.call(ReadHome { home: host.home("vm") }).await.unwrap(), config);
    for (disk, dek) in DISKS.iter().zip(before) {
        assert!(cryptsetup_opens(&file(disk), 2) && !cryptsetup_opens(&file(disk), 1), "{disk}");
        let (dek_now, content) = luks_contents(&file(disk), 2, model.len());
        assert!(dek_now == dek && content == model, "{disk}");
        let dump = String::from_utf8(run("cryptsetup", &["luksDump", text(&file(disk))]).stdout).unwrap();
        assert_eq!(dump.matches(": luks2\n").count(), 1, "{dump}");
        let token =
            String::from_utf8(run("cryptsetup", &["token", "export", "--token-id", "1", text(&file(disk))]).stdout);
        assert!(token.unwrap().contains(r#""key_id":"2""#));
    }
    // Of the old keyslot, the first of its area, no sector remains.
    for (disk, old) in headers {
        let now = keyslots(&disk);
        assert!(old[..512].iter().any(|byte| *byte != 0), "the old keyslot is not where it was thought to be");
        for (n, sector) in old[..252 * 1024].chunks(512).enumerate() {
            assert!(!now.chunks(512).any(|now| now == sector), "{}: sector {n}", disk.display());
        }
    }
    // What it cannot do: whoever has an old copy of the header and the old KEK still has the DEK.
    assert!(cryptsetup_opens(&backup, 1));

    let (config, _) = host.done("vm", shallow(2, true, &[0, 1])).await;
    assert_eq!(config.unwrap().keys(), [&key(2)], "it is done already");
    host.done("vm", decrypt(&[0, 1])).await;
    assert!(contents(&file("disk-0.raw"), "raw") == model);
    assert!(contents(&file("disk-1.qcow2"), "qcow2") == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_recrypt_makes_new_deks() {
    let (mut host, model) = host().await;
    let store = host.store();
    let file = |name: &str| store.join("vm").join(name);
    let old = luks_contents(&file(DISKS[0]), 1, model.len()).0;
    let (config, _) = host.done("vm", deep(2, true, &[0, 1])).await;
    assert_eq!(config.unwrap().keys(), [&key(2)]);
    let new = ["disk-0-2.luks", "disk-1-2.luks"];
    assert_eq!(host.files("vm"), [new[0], new[1], "vm.toml"]);
    for disk in new {
        assert!(cryptsetup_opens(&file(disk), 2) && !cryptsetup_opens(&file(disk), 1), "{disk}");
        let (dek, content) = luks_contents(&file(disk), 2, model.len());
        assert!(dek != old && content == model, "{disk}");
    }
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    // Disk by disk, and the home without them.
    host.done("vm", deep(3, false, &[1])).await;
    host.done("vm", deep(3, true, &[])).await;
    let config = host.call(ReadHome { home: host.home("vm") }).await.unwrap();
    assert_eq!(config.keys(), [&key(3), &key(2)]);
    assert!(cryptsetup_opens(&file("disk-1.luks"), 3) && !file("disk-1-2.luks").exists());
    assert!(luks_contents(&file("disk-1.luks"), 3, model.len()).1 == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_does_several_things_at_once() {
    let (mut host, model) = host().await;
    let store = host.store();
    host.done("vm", plan(None, false, &[1])).await;
    use ward_rpc::api::host::JobSpec;
    use ward_types::{Component, CryptoPlan, CryptoStep, DiskId, StepAction};
    let step = |component, action| CryptoStep { component, action };
    let all = CryptoPlan::new(vec![
        step(Component::Home, StepAction::ShallowRecrypt { key: key(2) }),
        step(Component::Disk(DiskId(0)), StepAction::DeepRecrypt { key: key(2) }),
        step(Component::Disk(DiskId(1)), StepAction::Encrypt { key: key(3) }),
    ]);
    let (config, _) = host.done("vm", JobSpec::Crypt { plan: all }).await;
    assert_eq!(config.unwrap().keys(), [&key(2), &key(3)]);
    assert_eq!(host.files("vm"), ["disk-0-2.luks", "disk-1.luks", "vm.toml"]);
    assert!(luks_contents(&store.join("vm/disk-0-2.luks"), 2, model.len()).1 == model);
    assert!(luks_contents(&store.join("vm/disk-1.luks"), 3, model.len()).1 == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_recrypting_touch_nothing() {
    let (mut host, _) = host().await;
    let header = keyslots(&host.store().join("vm").join(DISKS[0]));
    assert_eq!(host.refused("vm", shallow(9, true, &[0])).await.code, Code::KeyNotOnHost);
    assert_eq!(host.refused("vm", shallow(2, true, &[7])).await.code, Code::NotFound);
    host.done("vm", plan(None, false, &[1])).await;
    assert_eq!(host.refused("vm", shallow(2, false, &[1])).await.code, Code::NotEncrypted);
    host.done("vm", plan(Some(1), false, &[1])).await;
    assert!(keyslots(&host.store().join("vm").join(DISKS[0])) == header);

    // A header without room for another keyslot is seen before any other is touched.
    let disk = host.store().join("vm").join(host.files("vm").into_iter().find(|name| name.contains("disk-1")).unwrap());
    let keyfile = host.path("kek");
    fs::write(&keyfile, kek(1).expose()).unwrap();
    let mut added = 0;
    loop {
        let add = ["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file"];
        let args = [&add[..], &[text(&keyfile), text(&disk), text(&keyfile)]].concat();
        if !Command::new("cryptsetup").args(args).output().unwrap().status.success() {
            break;
        }
        added += 1;
    }
    assert!(added > 1);
    let problem = host.refused("vm", shallow(2, true, &[0, 1])).await;
    assert_eq!(problem.code, Code::ImageInvalid, "{problem:?}");
    assert!(problem.remedy.contains("luksKillSlot"), "{problem:?}");
    assert!(keyslots(&host.store().join("vm").join(DISKS[0])) == header);
    assert!(!host.files("vm").contains(&"job.json".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_recrypt_repairs_a_damaged_header_and_says_so() {
    use std::os::unix::fs::FileExt;
    let (mut host, model) = host().await;
    let disk = host.store().join("vm").join(DISKS[0]);
    fs::OpenOptions::new().write(true).open(&disk).unwrap().write_all_at(&[0xff; 512], 4096).unwrap();
    let (_, notices) = host.done("vm", shallow(2, true, &[0, 1])).await;
    assert!(matches!(&notices[..], [Notice::HeaderRepaired { file, .. }] if *file == disk), "{notices:?}");
    assert!(luks_contents(&disk, 2, model.len()).1 == model);
}

/// A keyslot that an administrator added for himself stays; one of Ward's whose token was cut off is found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn keyslots_of_others_stay() {
    let (mut host, _) = host().await;
    let disk = host.store().join("vm").join(DISKS[0]);
    let (one, nine) = (host.path("one"), host.path("nine"));
    fs::write(&one, kek(1).expose()).unwrap();
    fs::write(&nine, kek(9).expose()).unwrap();
    let add = ["luksAddKey", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file"];
    run("cryptsetup", &[&add[..], &[text(&one), text(&disk), text(&nine)]].concat());
    run("cryptsetup", &["token", "unassign", "--token-id", "0", "--key-slot", "0", text(&disk)]);
    host.done("vm", shallow(2, true, &[0, 1])).await;
    assert!(cryptsetup_opens(&disk, 2) && cryptsetup_opens(&disk, 9) && !cryptsetup_opens(&disk, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_deep_recrypt_leaves_the_old_disks() {
    use ward_rpc::api::host::CancelJob;
    let mut host = Host::start().await;
    let image = host.path("big");
    fs::File::create(&image).unwrap().set_len(300 * MIB).unwrap();
    host.create("vm", vec![copy(&image)]).await;
    host.push(&[1, 2]).await;
    host.done("vm", encrypt(1, &[0])).await;
    let before = fs::read_to_string(host.store().join("vm/vm.toml")).unwrap();
    let job = TaskId::new();
    host.begin(job, "vm", deep(2, true, &[0])).await.unwrap();
    host.call(CancelJob { job }).await.unwrap();
    let outcome = host.try_job(job, host.home("vm"), deep(2, true, &[0])).await.unwrap().unwrap();
    assert!(matches!(&outcome, JobOutcome::Failed { problem } if problem.code == Code::Cancelled), "{outcome:?}");
    assert_eq!(host.files("vm"), [DISKS[0], "vm.toml"]);
    assert_eq!(fs::read_to_string(host.store().join("vm/vm.toml")).unwrap(), before);
}

/// Random requests, one after the other, on real disks: whatever is accepted is done whole, and afterwards each disk opens
/// by exactly the key that it should; whatever is refused has touched nothing.
#[tokio::test(flavor = "multi_thread")]
async fn after_any_sequence_each_disk_opens_by_exactly_its_key() {
    use ward_rpc::api::host::JobSpec;
    use ward_types::{Component, CryptoPlan, CryptoStep, DiskId, StepAction};
    let (mut host, model) = host().await;
    // The home's key, and each disk's.
    let mut now = [Some(1), Some(1), Some(1)];
    let (mut accepted, mut refused) = (0, 0);
    for (n, random) in noise(7, 40 * 4).chunks(4).enumerate() {
        let mut steps = Vec::new();
        let mut then = now;
        for (component, byte) in random[..3].iter().enumerate() {
            let id = 1 + (random[3].wrapping_add(*byte) % 3);
            let action = match byte % 5 {
                0 => StepAction::Encrypt { key: key(id) },
                1 => StepAction::Decrypt,
                2 => StepAction::ShallowRecrypt { key: key(id) },
                3 => StepAction::DeepRecrypt { key: key(id) },
                _ => continue,
            };
            then[component] = action.key().map(|_| id);
            let component = match component {
                0 => Component::Home,
                disk => Component::Disk(DiskId(u16::try_from(disk - 1).unwrap())),
            };
            steps.push(CryptoStep { component, action });
        }
        let asked = format!("request {n}: {steps:?} of {now:?}");
        match host.job("vm", JobSpec::Crypt { plan: CryptoPlan::new(steps) }).await {
            Ok(JobOutcome::Done { .. }) => {
                accepted += 1;
                now = then;
            }
            Ok(JobOutcome::Failed { problem }) => panic!("{asked}: refused after it began: {problem}"),
            Err(_) => refused += 1,
        }
        let config = host.call(ReadHome { home: host.home("vm") }).await.unwrap();
        let keys = config.disks.iter().map(|disk| disk.key().cloned());
        assert!(keys.eq(now[1..].iter().map(|id| id.map(key))), "{asked}: {config:?}");
        assert!(now[0].is_some() || now[1..].iter().all(Option::is_none), "{asked}");
        assert_eq!(host.files("vm").len(), 3, "{asked}: {:?}", host.files("vm"));
        for (disk, id) in config.disks.iter().zip(&now[1..]) {
            let path = host.store().join("vm").join(disk.file.as_str());
            match id {
                None => assert!(contents(&path, &disk.plain_format.to_string())[..model.len()] == model, "{asked}"),
                Some(id) => {
                    let opening: Vec<_> = (1..=3).filter(|id| cryptsetup_opens(&path, *id)).collect();
                    assert_eq!(opening, [*id], "{asked}: {}", disk.id);
                    assert!(luks_contents(&path, *id, model.len()).1 == model, "{asked}: {}", disk.id);
                }
            }
        }
    }
    assert!(accepted > 5 && refused > 5, "{accepted} accepted, {refused} refused");
}
