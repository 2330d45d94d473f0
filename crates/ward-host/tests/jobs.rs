//! Jobs on real files, through the agent's calls, with qemu-img and cryptsetup to say what came out.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use common::*;
use ward_disk::lock::{self, Access};
use ward_rpc::api::host::{
    CancelJob, DiskSource, DropKeys, ForgetJob, JobOutcome, JobSpec, Notice, ReadHome, Status, WatchJob,
};
use ward_types::{Code, DiskCrypto, HomeCrypto, PlainFormat, TaskId};

/// A host with one VM `vm` of a raw and a qcow2 disk, and the content of both.
async fn host_with_vm(keys: &[u8]) -> (Host, Vec<u8>) {
    let mut host = Host::start().await;
    let (raw, qcow2) = (host.path("image"), host.path("image.qcow2"));
    let model = raw_image(&raw, 3 * MIB + 512);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]);
    host.create("vm", vec![copy(&raw), copy(&qcow2)]).await;
    host.push(keys).await;
    (host, model)
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_is_plain_luks2_and_comes_back_the_same() {
    let (mut host, model) = host_with_vm(&[1]).await;
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"]);
    let store = host.store();
    let file = |name: &str| store.join("vm").join(name);

    let (config, notices) = host.done("vm", encrypt(1, &[0, 1])).await;
    let config = config.unwrap();
    assert_eq!(notices, []);
    assert_eq!(host.files("vm"), ["disk-0.luks", "disk-1.luks", "vm.toml"]);
    assert!(matches!(&config.home, HomeCrypto::Encrypted { key: found, .. } if *found == key(1)));
    assert!(config.disks.iter().all(|disk| disk.crypto == DiskCrypto::Encrypted { key: key(1) }));
    let home = host.home("vm");
    assert_eq!(host.call(ReadHome { home: home.clone() }).await.unwrap(), config);
    for name in host.files("vm") {
        assert_eq!(fs::metadata(file(&name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        let bytes = fs::read(file(&name)).unwrap();
        assert!(!bytes.windows(64).any(|window| window == &model[1000..1064]), "{name} holds plain text");
    }

    // Stock cryptsetup opens it with the KEK, and reads the token.
    let keyfile = host.path("kek");
    fs::write(&keyfile, kek(1).expose()).unwrap();
    for disk in ["disk-0.luks", "disk-1.luks"] {
        let path = file(disk);
        let open = ["open", "--test-passphrase", "--type", "luks2", "--key-file", text(&keyfile), text(&path)];
        run("cryptsetup", &open);
        let dump = run("cryptsetup", &["luksDump", text(&path)]);
        let dump = String::from_utf8(dump.stdout).unwrap();
        for part in ["Version:       \t2", "cipher: aes-xts-plain64", "sector: 4096 [bytes]", "pbkdf2", "ward"] {
            assert!(dump.contains(part), "{part} is not in {dump}");
        }
        let token = run("cryptsetup", &["token", "export", "--token-id", "0", text(&path)]);
        let token = String::from_utf8(token.stdout).unwrap();
        assert!(token.contains(r#""key_id":"1""#) && token.contains(&config.id.to_string()), "{token}");
    }

    let (config, _) = host.done("vm", decrypt(&[0, 1])).await;
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"]);
    assert!(!config.unwrap().is_encrypted());
    assert!(contents(&file("disk-0.raw"), "raw") == model);
    assert!(contents(&file("disk-1.qcow2"), "qcow2") == model);
    run("qemu-img", &["check", "-q", text(&file("disk-1.qcow2"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_encrypted_one_after_the_other_under_several_keys() {
    let (mut host, model) = host_with_vm(&[1, 2]).await;
    host.done("vm", encrypt(1, &[])).await;
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"]);
    let (config, _) = host.done("vm", plan(Some(2), false, &[1])).await;
    assert_eq!(config.unwrap().keys(), [&key(1), &key(2)]);
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.luks", "vm.toml"]);
    assert_eq!(host.refused("vm", plan(None, true, &[])).await.code, Code::Composition);
    host.done("vm", plan(None, false, &[1])).await;
    host.done("vm", plan(None, true, &[])).await;
    assert!(contents(&host.store().join("vm/disk-1.qcow2"), "qcow2") == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_touch_nothing() {
    let (mut host, _) = host_with_vm(&[1]).await;
    let before = host.files("vm");
    let problem = host.refused("vm", encrypt(2, &[0])).await;
    assert_eq!(problem.code, Code::KeyNotOnHost);
    assert!(problem.why.contains("kms/2") && problem.what.contains("`vm`"), "{problem:?}");
    assert_eq!(host.refused("none", encrypt(1, &[0])).await.code, Code::NotFound);
    assert_eq!(host.refused("vm", encrypt(1, &[7])).await.code, Code::NotFound);
    assert_eq!(host.refused("vm", plan(Some(1), false, &[0])).await.code, Code::Composition);

    // Somebody else's program has a disk open.
    let disk = host.store().join("vm/disk-0.raw");
    let held = OpenOptions::new().read(true).write(true).open(&disk).unwrap();
    lock::lock(&held, &disk, Access::Exclusive).unwrap();
    let problem = host.refused("vm", encrypt(1, &[1])).await;
    assert_eq!(problem.code, Code::ImageLocked);
    assert!(problem.why.contains("disk-0.raw"), "{problem:?}");
    drop(held);

    // A truncated image, and one that is none.
    let qcow2 = host.store().join("vm/disk-1.qcow2");
    let whole = fs::read(&qcow2).unwrap();
    fs::write(&qcow2, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(host.refused("vm", encrypt(1, &[0, 1])).await.code, Code::ImageTruncated);
    fs::write(&qcow2, [0; 4096]).unwrap();
    assert_eq!(host.refused("vm", encrypt(1, &[0, 1])).await.code, Code::ImageInvalid);
    fs::remove_file(&qcow2).unwrap();
    assert_eq!(host.refused("vm", encrypt(1, &[0])).await.code, Code::ImageMissing);
    std::os::unix::fs::symlink("/etc/passwd", &qcow2).unwrap();
    let problem = host.refused("vm", encrypt(1, &[0])).await;
    assert_eq!(problem.code, Code::HomeInvalid);
    assert!(problem.why.contains("symbolic link"), "{problem:?}");
    assert_eq!(host.files("vm"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_description_or_token_is_noticed() {
    let (mut host, _) = host_with_vm(&[1]).await;
    host.done("vm", encrypt(1, &[0])).await;
    let description = host.store().join("vm/vm.toml");
    let good = fs::read_to_string(&description).unwrap();
    let without_code: String =
        good.lines().filter(|line| !line.starts_with("# ward-mac")).collect::<Vec<_>>().join("\n");
    for bad in [good.replace("cpus = 1", "cpus = 2"), without_code] {
        assert_ne!(bad, good);
        fs::write(&description, bad).unwrap();
        assert_eq!(host.refused("vm", plan(None, false, &[0])).await.code, Code::HomeTampered);
        assert_eq!(host.call(ReadHome { home: host.home("vm") }).await.unwrap_err().code, Code::HomeTampered);
    }
    fs::write(&description, good.replace("version = 1", "version = 9")).unwrap();
    assert_eq!(host.refused("vm", plan(None, false, &[0])).await.code, Code::HomeInvalid);
    fs::write(&description, &good).unwrap();

    // Without the key nobody can say, and whoever rebuilds an index must be able to read which key it is.
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    fs::write(&description, good.replace("cpus = 1", "cpus = 2")).unwrap();
    assert_eq!(host.call(ReadHome { home: host.home("vm") }).await.unwrap().cpus, 2);
    fs::write(&description, &good).unwrap();
    host.push(&[1]).await;

    let disk = host.store().join("vm/disk-0.luks");
    let token = host.path("token.json");
    let original = run("cryptsetup", &["token", "export", "--token-id", "0", text(&disk)]).stdout;
    let original = String::from_utf8(original).unwrap();
    for changed in
        [original.replace(r#""key_id":"1""#, r#""key_id":"9""#), original.replace(r#""disk":0"#, r#""disk":1"#)]
    {
        assert_ne!(changed, original);
        fs::write(&token, changed).unwrap();
        let import =
            ["token", "import", "--token-id", "0", "--token-replace", "--json-file", text(&token), text(&disk)];
        run("cryptsetup", &import);
        assert_eq!(host.refused("vm", plan(None, false, &[0])).await.code, Code::HomeTampered);
    }
    run("cryptsetup", &["token", "remove", "--token-id", "0", text(&disk)]);
    assert_eq!(host.refused("vm", plan(None, false, &[0])).await.code, Code::HomeTampered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_is_repaired_and_two_are_refused() {
    let (mut host, model) = host_with_vm(&[1]).await;
    host.done("vm", encrypt(1, &[0])).await;
    let disk = host.store().join("vm/disk-0.luks");
    let good = fs::read(&disk).unwrap();
    write_at(&disk, 4096, &[0xff; 512]);
    write_at(&disk, 0x10000 + 4096, &[0xff; 512]);
    let problem = host.refused("vm", plan(None, false, &[0])).await;
    assert_eq!(problem.code, Code::HeaderDamaged);
    fs::write(&disk, &good).unwrap();

    write_at(&disk, 4096, &[0xff; 512]);
    let (_, notices) = host.done("vm", plan(None, false, &[0])).await;
    assert!(matches!(&notices[..], [Notice::HeaderRepaired { file, .. }] if *file == disk), "{notices:?}");
    assert!(contents(&host.store().join("vm/disk-0.raw"), "raw") == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_under_the_same_name_is_wrong() {
    let (mut host, _) = host_with_vm(&[1]).await;
    host.done("vm", encrypt(1, &[0])).await;
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    let wrong = ward_rpc::KeyPush { keys: vec![(key(1), kek(9))] };
    assert_eq!(host.client.push_keys(&wrong).await.unwrap().added, 1);
    let problem = host.refused("vm", plan(None, false, &[0])).await;
    assert_eq!(problem.code, Code::KeyWrong);
    assert!(problem.why.contains("kms/1"), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_at_once_and_a_cancelled_one() {
    let mut host = Host::start().await;
    let image = host.path("big");
    fs::File::create(&image).unwrap().set_len(400 * MIB).unwrap();
    host.create("vm", vec![copy(&image)]).await;
    let before = fs::read_to_string(host.store().join("vm/vm.toml")).unwrap();
    host.push(&[1]).await;
    let job = TaskId::new();
    let status = host.begin(job, "vm", encrypt(1, &[0])).await.unwrap();
    assert!(status.outcome.is_none());
    // The same job again is told how it stands; another one is refused.
    host.begin(job, "vm", encrypt(1, &[0])).await.unwrap();
    let problem = host.begin(TaskId::new(), "vm", encrypt(1, &[0])).await.unwrap_err();
    assert_eq!(problem.code, Code::Busy);
    assert!(problem.why.contains(&job.to_string()), "{problem:?}");
    assert_eq!(host.call(ForgetJob { job }).await.unwrap_err().code, Code::Busy);
    let problem = host.begin(TaskId::new(), "vm", JobSpec::Remove).await.unwrap_err();
    assert_eq!(problem.code, Code::Busy);

    host.call(CancelJob { job }).await.unwrap();
    let outcome = host.try_job(job, host.home("vm"), encrypt(1, &[0])).await.unwrap().unwrap();
    assert!(matches!(&outcome, JobOutcome::Failed { problem } if problem.code == Code::Cancelled), "{outcome:?}");
    assert_eq!(host.files("vm"), ["disk-0.raw", "vm.toml"]);
    assert_eq!(fs::read_to_string(host.store().join("vm/vm.toml")).unwrap(), before);
    assert_eq!(host.call(Status::default()).await.unwrap().jobs.len(), 2);
    host.call(ForgetJob { job }).await.unwrap();
    assert_eq!(host.call(WatchJob { job, seen: 0, wait_ms: 0 }).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_leaves_its_job_to_the_next() {
    let mut host = Host::start().await;
    let image = host.path("big");
    let model = raw_image(&image, 300 * MIB);
    host.create("vm", vec![copy(&image)]).await;
    host.push(&[1]).await;
    let job = TaskId::new();
    host.begin(job, "vm", encrypt(1, &[0])).await.unwrap();
    host.terminate();
    assert!(host.files("vm").contains(&"job.json".to_owned()), "{:?}", host.files("vm"));
    host.start_agent(&[]).await;
    // Without its key it is refused, and stays.
    let problem = host.begin(job, "vm", encrypt(1, &[0])).await.unwrap_err();
    assert_eq!(problem.code, Code::KeyNotOnHost);
    assert!(host.files("vm").contains(&"job.json".to_owned()));
    host.push(&[1]).await;
    let outcome = host.try_job(job, host.home("vm"), encrypt(1, &[0])).await.unwrap().unwrap();
    assert!(matches!(outcome, JobOutcome::Done { .. }), "{outcome:?}");
    host.done("vm", decrypt(&[0])).await;
    assert!(contents(&host.store().join("vm/disk-0.raw"), "raw") == model);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_datastore_is_seen_before() {
    let (mut host, model) = host_with_vm(&[1]).await;
    let store = host.store();
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            run("umount", &["-l", text(self.0)]);
        }
    }
    let moved = host.path("moved");
    fs::rename(store.join("vm"), &moved).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=20M", "tmpfs", text(&store)]);
    let _mounted = Mounted(&store);
    run("cp", &["-a", "--sparse=always", text(&moved), text(&store.join("vm"))]);
    let problem = host.refused("vm", encrypt(1, &[0, 1])).await;
    assert_eq!(problem.code, Code::StorageFull);
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "vm.toml"]);
    assert!(contents(&store.join("vm/disk-0.raw"), "raw") == model);
    // What is created must fit too.
    let image = host.path("noise");
    fs::write(&image, noise(1, usize::try_from(30 * MIB).unwrap())).unwrap();
    assert_eq!(host.refused("other", create("other", vec![copy(&image)])).await.code, Code::StorageFull);
    assert_eq!(host.homes(), 1, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_are_made_from_nothing_and_from_images() {
    let mut host = Host::start().await;
    let (raw, qcow2) = (host.path("image"), host.path("image.qcow2"));
    let model = raw_image(&raw, 5 * MIB);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&qcow2)]);
    let blank = |format| DiskSource::Blank { size: 8 * MIB, format };
    let disks = vec![copy(&raw), copy(&qcow2), blank(PlainFormat::Raw), blank(PlainFormat::Qcow2)];
    let spec = create("vm", disks);
    let job = TaskId::new();
    let (config, _) = match host.try_job(job, host.home("vm"), spec.clone()).await.unwrap().unwrap() {
        JobOutcome::Done { config, notices } => (*config.unwrap(), notices),
        other => panic!("{other:?}"),
    };
    let formats: Vec<_> = config.disks.iter().map(|disk| (disk.plain_format, disk.size)).collect();
    assert_eq!(formats[1], (PlainFormat::Qcow2, 5 * MIB));
    assert_eq!(formats[3], (PlainFormat::Qcow2, 8 * MIB));
    assert_eq!(host.files("vm"), ["disk-0.raw", "disk-1.qcow2", "disk-2.raw", "disk-3.qcow2", "vm.toml"]);
    let file = |name: &str| host.store().join("vm").join(name);
    assert!(contents(&file("disk-0.raw"), "raw") == model);
    assert!(contents(&file("disk-1.qcow2"), "qcow2") == model);
    assert!(contents(&file("disk-3.qcow2"), "qcow2").iter().all(|byte| *byte == 0));
    run("qemu-img", &["check", "-q", text(&file("disk-3.qcow2"))]);
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(file("disk-0.raw")).unwrap().blocks() * 512 < MIB, "the copy has no holes");
    assert!(fs::read(&raw).unwrap() == model, "the image stays as it was");

    // The same again by an agent that has forgotten is done; another VM of that name is not.
    host.kill();
    host.start_agent(&[]).await;
    let again = host.try_job(job, host.home("vm"), spec).await.unwrap().unwrap();
    assert!(matches!(again, JobOutcome::Done { config: Some(again), .. } if *again == config));
    assert_eq!(host.refused("vm", create("vm", vec![])).await.code, Code::Exists);

    host.done("vm", JobSpec::Remove).await;
    assert_eq!(host.homes(), 0);
    host.done("vm", JobSpec::Remove).await;
    // Not just any directory.
    fs::create_dir(host.store().join("photos")).unwrap();
    fs::write(host.store().join("photos/1.jpg"), b"x").unwrap();
    assert_eq!(host.refused("photos", JobSpec::Remove).await.code, Code::HomeInvalid);
    assert!(host.store().join("photos/1.jpg").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn unsuitable_images_are_refused_by_name() {
    let mut host = Host::start().await;
    let raw = host.path("image");
    raw_image(&raw, 2 * MIB);
    let image = |name: &str, args: &[&str]| {
        let path = host.path(name);
        run("qemu-img", &[&["create", "-q"], args, &[text(&path), "2M"]].concat());
        path
    };
    let base = image("base.qcow2", &["-f", "qcow2"]);
    let overlay = image("overlay.qcow2", &["-f", "qcow2", "-F", "qcow2", "-b", text(&base)]);
    let vmdk = image("image.vmdk", &["-f", "vmdk"]);
    let snapshot = image("snapshot.qcow2", &["-f", "qcow2"]);
    run("qemu-img", &["snapshot", "-c", "one", text(&snapshot)]);
    let luks = host.path("luks");
    fs::File::create(&luks).unwrap().set_len(20 * MIB).unwrap();
    fs::write(host.path("k"), [1; 32]).unwrap();
    let format = ["luksFormat", "-q", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file"];
    run("cryptsetup", &[&format[..], &[text(&host.path("k")), text(&luks)]].concat());
    let odd = host.path("odd");
    fs::write(&odd, [1; 1000]).unwrap();
    let cases = [
        (host.path("nothing"), Code::ImageMissing, "No such file"),
        (overlay, Code::ImageInvalid, "backing file"),
        (vmdk, Code::ImageInvalid, "VMDK"),
        (snapshot, Code::ImageInvalid, "snapshots"),
        (luks, Code::ImageInvalid, "encrypted"),
        (odd, Code::ImageTruncated, "512-byte sectors"),
    ];
    for (path, code, why) in cases {
        let problem = host.refused("vm", create("vm", vec![copy(&path)])).await;
        assert_eq!(problem.code, code, "{problem:?}");
        assert!(problem.why.contains(why), "{problem:?}");
    }
    let held = OpenOptions::new().read(true).write(true).open(&raw).unwrap();
    lock::lock(&held, &raw, Access::Exclusive).unwrap();
    assert_eq!(host.refused("vm", create("vm", vec![copy(&raw)])).await.code, Code::ImageLocked);
    assert_eq!(host.homes(), 0);
}
