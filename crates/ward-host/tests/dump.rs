//! Dumps of a host: encrypted from their first byte, opened by its key only.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use common::*;
use ward_host::{OpenWith, open_dump, receive_dump};
use ward_rpc::api::host::{
    DiskSource, DropKeys, DumpVm, SUPPORT_BUNDLE_PATH, SetHostKey, SetKeyPersistence, StartVm, Status, StopVm,
    SupportBundle,
};
use ward_types::{Code, DumpSubject, PlainFormat};

/// What stands in the memory of a process that dumps.
const SECRET_TEXT: &[u8] = b"a line of somebody's letter, in the memory of a process";

fn memory() -> Vec<u8> {
    let mut memory = noise(7, 300_000);
    memory[150_000..150_000 + SECRET_TEXT.len()].copy_from_slice(SECRET_TEXT);
    memory
}

fn process() -> DumpSubject {
    DumpSubject::Process { pid: 17, command: "qemu-system x".to_owned(), signal: 11 }
}

/// Whether a text lies in any file below a directory.
fn lies_in(directory: &std::path::Path, text: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| {
        let kind = entry.file_type().unwrap();
        let here = || fs::read(entry.path()).unwrap().windows(text.len()).any(|window| window == text);
        if kind.is_dir() { lies_in(&entry.path(), text) } else { kind.is_file() && here() }
    })
}

impl Host {
    fn dump_file(&self, name: &str) -> PathBuf {
        self.state().join(format!("dumps/{name}.dump"))
    }

    async fn opened(&self, file: &std::path::Path) -> Result<Vec<u8>, ward_types::Problem> {
        let mut plain = Vec::new();
        open_dump(file, OpenWith::Agent(&self.state()), &mut plain).await.map(|_| plain)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_never_plain_and_opens_by_its_host_key() {
    let mut host = Host::start().await;
    // Without a host key nothing is kept.
    let refused = receive_dump(&host.state(), process(), Cursor::new(memory())).await.unwrap_err();
    assert_eq!(refused.code, Code::HostMode);
    assert_eq!(host.call(SetHostKey { key: Some(key(1)) }).await.unwrap_err().code, Code::KeyNotOnHost);
    host.push(&[1, 2]).await;
    host.call(SetHostKey { key: Some(key(1)) }).await.unwrap();
    let kept = receive_dump(&host.state(), process(), Cursor::new(memory())).await.unwrap();
    assert_eq!((kept.about.subject.clone(), kept.about.host, &kept.key), (process(), host.id, &key(1)));
    let status = host.call(Status::default()).await.unwrap();
    assert_eq!((&status.crypto.host_key, &status.crypto.dumps[..]), (&Some(key(1)), &[kept.clone()][..]));
    assert!(!lies_in(host.dir.path(), SECRET_TEXT));
    let file = host.dump_file(kept.name.as_str());
    assert!(host.opened(&file).await.unwrap() == memory());

    // Another host key: the dump goes under it, and the old key is of no more use.
    host.call(SetHostKey { key: Some(key(2)) }).await.unwrap();
    host.until("the dump is under the new key", |status| status.crypto.dump_keys == [key(2)]).await;
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    assert!(host.opened(&file).await.unwrap() == memory());

    // A new agent knows the key's name, not the key.
    host.kill();
    fs::write(host.state().join("dumps/20260101T000000Z-x-1.part"), "left").unwrap();
    host.start_agent(&[]).await;
    assert!(!host.state().join("dumps/20260101T000000Z-x-1.part").exists());
    assert_eq!(host.opened(&file).await.unwrap_err().code, Code::KeyNotOnHost);
    let refused = receive_dump(&host.state(), process(), Cursor::new(memory())).await.unwrap_err();
    assert_eq!(refused.code, Code::KeyNotOnHost);
    assert_eq!(host.call(Status::default()).await.unwrap().crypto.dumps.len(), 1);
    assert!(!lies_in(host.dir.path(), SECRET_TEXT));
    host.push(&[2]).await;
    assert!(host.opened(&file).await.unwrap() == memory());
    let mut altered = fs::read(&file).unwrap();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&file, altered).unwrap();
    assert_eq!(host.opened(&file).await.unwrap_err().code, Code::DumpInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guests_memory_goes_the_same_way() {
    let mut host = Host::start().await;
    let vm = host.create("vm", vec![DiskSource::Blank { size: MIB, format: PlainFormat::Raw }]).await;
    assert_eq!(host.call(DumpVm { vm: vm.id }).await.unwrap_err().code, Code::HostMode);
    host.push(&[1]).await;
    host.call(SetHostKey { key: Some(key(1)) }).await.unwrap();
    assert_eq!(host.call(DumpVm { vm: vm.id }).await.unwrap_err().code, Code::VmNotRunning);
    host.call(StartVm { vm: vm.id, home: host.home("vm"), expected: None }).await.unwrap();
    let kept = host.call(DumpVm { vm: vm.id }).await.unwrap();
    // 64 MiB of guest, as an ELF core file.
    assert!(kept.size > 64 * MIB, "{kept:?}");
    let file = host.dump_file(kept.name.as_str());
    assert_ne!(fs::read(&file).unwrap()[..4], *b"\x7fELF");
    let plain = host.opened(&file).await.unwrap();
    assert_eq!(plain[..4], *b"\x7fELF");
    // What the firmware says in its memory is in no file.
    assert!(plain.windows(7).any(|window| window == b"SeaBIOS"));
    assert!(!lies_in(&host.state(), b"SeaBIOS"));
    assert!(!host.state().join(format!("run/{}/guest.dump", vm.id)).exists());
    host.call(StopVm { vm: vm.id, force: true, wait_ms: 0 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_has_dumps_under_its_password_and_no_key() {
    let host = Host::start().await;
    host.push(&[1]).await;
    host.call(SetHostKey { key: Some(key(1)) }).await.unwrap();
    let kept = receive_dump(&host.state(), process(), Cursor::new(memory())).await.unwrap();
    let call = SupportBundle { password: Some("correct horse".to_owned()), dumps: None };
    let bundle = host.client.ask_bytes(SUPPORT_BUNDLE_PATH, None, &call).await.unwrap();
    for secret in [SECRET_TEXT, kek(1).expose()] {
        assert!(!bundle.windows(secret.len()).any(|window| window == secret));
    }
    let (tar, out) = (host.path("bundle.tar"), host.path("bundle"));
    fs::write(&tar, &bundle).unwrap();
    fs::create_dir(&out).unwrap();
    run("tar", &["-xf", text(&tar), "-C", text(&out)]);
    let status: serde_json::Value = serde_json::from_slice(&fs::read(out.join("status.json")).unwrap()).unwrap();
    assert_eq!(status["host"], host.id.to_string());
    let log = fs::read_to_string(out.join("logs/agent.log")).unwrap();
    assert!(log.contains("the host agent runs"), "{log}");
    let dump = out.join(format!("dumps/{}.dump", kept.name));
    let open = async |password: &str| {
        let mut plain = Vec::new();
        open_dump(&dump, OpenWith::Password(password), &mut plain).await.map(|_| plain)
    };
    assert_eq!(open("wrong").await.unwrap_err().code, Code::PasswordWrong);
    assert!(open("correct horse").await.unwrap() == memory());
    assert_eq!(host.opened(&dump).await.unwrap_err().code, Code::PasswordWrong);

    // What its reader may not read is not in it.
    let call = SupportBundle { password: Some("correct horse".to_owned()), dumps: Some(Vec::new()) };
    let bundle = host.client.ask_bytes(SUPPORT_BUNDLE_PATH, None, &call).await.unwrap();
    fs::write(&tar, &bundle).unwrap();
    let listed = std::process::Command::new("tar").args(["-tf", text(&tar)]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("status.json") && !listed.contains(kept.name.as_str()), "{listed}");
}

/// Memory that comes in two parts, the second once the other end of `go_on` is gone.
struct InTwoParts {
    first: Cursor<Vec<u8>>,
    go_on: std::sync::mpsc::Receiver<()>,
    second: Cursor<Vec<u8>>,
}

impl std::io::Read for InTwoParts {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.first.read(buffer)? {
            0 => {
                self.go_on.recv().unwrap_err();
                self.second.read(buffer)
            }
            read => Ok(read),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_dump_that_is_being_written_is_in_use() {
    let host = Host::start().await;
    host.push(&[1, 2]).await;
    host.call(SetHostKey { key: Some(key(1)) }).await.unwrap();
    let (go, go_on) = std::sync::mpsc::channel::<()>();
    let mut first = memory();
    let second = first.split_off(200_000);
    let input = InTwoParts { first: Cursor::new(first), go_on, second: Cursor::new(second) };
    let state = host.state();
    let receiving = tokio::spawn(async move { receive_dump(&state, process(), input).await });
    host.until("the dump begins", |status| status.crypto.dump_keys == [key(1)]).await;
    // Another host key meanwhile: it does not change what is under way.
    host.call(SetHostKey { key: Some(key(2)) }).await.unwrap();
    let status = host.call(Status::default()).await.unwrap();
    assert_eq!((status.crypto.host_key, status.crypto.dump_keys), (Some(key(2)), vec![key(1)]));
    drop(go);
    let kept = receiving.await.unwrap().unwrap();
    assert_eq!(kept.key, key(1));
    // It follows, and the older key is of no more use.
    host.until("the dump is under the new key", |status| status.crypto.dump_keys == [key(2)]).await;
    host.call(DropKeys { keys: vec![key(1)] }).await.unwrap();
    assert!(host.opened(&host.dump_file(kept.name.as_str())).await.unwrap() == memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_could_not_be_kept_is_told_of() {
    let mut host = Host::start().await;
    let refused = receive_dump(&host.state(), process(), Cursor::new(memory())).await.unwrap_err();
    assert_eq!(refused.code, Code::HostMode);
    let status = host.call(Status::default()).await.unwrap();
    let [lost] = &status.crypto.lost[..] else { panic!("{:?}", status.crypto) };
    assert_eq!((&lost.subject, &lost.why), (&process(), &refused.why));
    assert!(status.crypto.dumps.is_empty() && !lies_in(host.dir.path(), SECRET_TEXT));
    // With nobody there to tell, it is told of later.
    host.kill();
    let other = DumpSubject::Process { pid: 18, command: "qemu-system".to_owned(), signal: 6 };
    let refused = receive_dump(&host.state(), other.clone(), Cursor::new(memory())).await.unwrap_err();
    assert_eq!(refused.code, Code::HostUnreachable);
    host.start_agent(&[]).await;
    let lost = host.call(Status::default()).await.unwrap().crypto.lost;
    assert_eq!(lost.iter().map(|lost| &lost.subject).collect::<Vec<_>>(), [&process(), &other]);
    assert!(!lies_in(host.dir.path(), SECRET_TEXT));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tpm_no_key_outlives_a_restart() {
    let host = Host::start().await;
    let refused = host.call(SetKeyPersistence { on: true }).await.unwrap_err();
    assert_eq!(refused.code, Code::HostUnfit);
    assert!(refused.why.contains("TPM"), "{refused:?}");
    assert!(!host.call(SetKeyPersistence { on: false }).await.unwrap().persistent);
}
