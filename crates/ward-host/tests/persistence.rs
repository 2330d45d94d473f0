//! Keys that outlive a restart, sealed to a TPM (swtpm).
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::swtpm::Swtpm;
use common::*;
use tempfile::TempDir;
use ward_rpc::api::host::{DiskSource, DropKeys, Leave, SetHostKey, SetKeyPersistence, Status, StopVm};
use ward_rpc::{CallError, KeyPush};
use ward_types::{Code, KeyRef, PlainFormat};

/// A TPM in a directory of its own.
fn tpm() -> (TempDir, Swtpm) {
    let dir = TempDir::new().unwrap();
    let swtpm = Swtpm::on(dir.path());
    (dir, swtpm)
}

/// Whether any file of a directory holds these bytes.
fn lies_in(directory: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => lies_in(&entry.path(), bytes),
        kind if kind.is_file() => fs::read(entry.path()).unwrap().windows(bytes.len()).any(|found| found == bytes),
        _ => false,
    })
}

async fn keys(host: &Host) -> Vec<KeyRef> {
    host.call(Status::default()).await.unwrap().keys.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_keys_start_vms_with_nobody_there_and_dropped_ones_are_gone() {
    let (_dir, tpm) = tpm();
    let tcti = tpm.tcti();
    let env = [("WARD_TEST_TPM", tcti.as_str())];
    let mut host = Host::start_with(&env).await;
    let vm = host.create("vm", vec![DiskSource::Blank { size: MIB, format: PlainFormat::Raw }]).await;
    host.push(&[1, 2, 3]).await;
    host.done("vm", encrypt(1, &[0])).await;
    host.call(SetHostKey { key: Some(key(3)) }).await.unwrap();
    // Off, unless somebody switches it on.
    host.kill();
    host.start_agent(&env).await;
    assert_eq!(keys(&host).await, []);
    let started = ward_host::start_home(&host.state(), &host.store().join("vm")).await;
    assert_eq!(started.unwrap_err().code, Code::KeyNotOnHost);

    host.push(&[1, 2, 3]).await;
    assert!(host.call(SetKeyPersistence { on: true }).await.unwrap().persistent);
    host.call(DropKeys { keys: vec![key(2)] }).await.unwrap();
    for id in [1, 2, 3] {
        assert!(!lies_in(&host.state(), kek(id).expose()), "key {id} lies about");
    }
    // Nobody gives it anything: it has what it kept.
    host.kill();
    host.start_agent(&env).await;
    let status = host.call(Status::default()).await.unwrap();
    assert_eq!(
        (status.keys, status.crypto.persistent, status.native.trouble),
        (Some(vec![key(1), key(3)]), true, None)
    );
    assert_eq!(status.crypto.host_key, Some(key(3)));
    ward_host::start_home(&host.state(), &host.store().join("vm")).await.unwrap();
    host.call(StopVm { vm: vm.id, force: true, wait_ms: 0 }).await.unwrap();

    // What comes later is kept too; another TPM opens none of it.
    host.push(&[4]).await;
    host.kill();
    let (_other_dir, other) = self::tpm();
    host.start_agent(&[("WARD_TEST_TPM", other.tcti().as_str())]).await;
    let status = host.call(Status::default()).await.unwrap();
    assert_eq!(status.keys, Some(vec![]));
    assert!(status.native.trouble.is_some_and(|problem| problem.what.contains("unseal")), "it is said");
    host.kill();
    host.start_agent(&env).await;
    assert_eq!(keys(&host).await, [key(1), key(3), key(4)]);

    // Switched off, nothing remains.
    assert!(!host.call(SetKeyPersistence { on: false }).await.unwrap().persistent);
    assert!(!host.state().join("keys.sealed").exists());
    host.kill();
    host.start_agent(&env).await;
    assert_eq!(keys(&host).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_leaves_keeps_nothing_and_takes_nothing() {
    let (_dir, tpm) = tpm();
    let tcti = tpm.tcti();
    let env = [("WARD_TEST_TPM", tcti.as_str())];
    let mut host = Host::start_with(&env).await;
    host.push(&[1, 2]).await;
    host.call(SetHostKey { key: Some(key(2)) }).await.unwrap();
    host.call(SetKeyPersistence { on: true }).await.unwrap();
    assert!(host.state().join("keys.sealed").exists());

    host.call(Leave {}).await.unwrap();
    assert!(!host.state().join("keys.sealed").exists());
    let status = host.call(Status::default()).await.unwrap();
    assert_eq!((status.keys, status.crypto.host_key, status.crypto.persistent), (Some(vec![]), None, false));
    // What was on its way when it left is not taken.
    let pushed = host.client.push_keys(&KeyPush { keys: vec![(key(3), kek(3))] }).await;
    assert!(matches!(&pushed, Err(CallError::Refused(problem)) if problem.code == Code::HostMode), "{pushed:?}");
    host.kill();
    host.start_agent(&env).await;
    assert_eq!(keys(&host).await, []);
}
