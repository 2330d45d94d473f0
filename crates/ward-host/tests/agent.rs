//! Who may talk to an agent, what it says of itself, and how it joins.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::*;
use uuid::Uuid;
use ward_rpc::api::host::{DropKeys, Status, VmPower};
use ward_rpc::{CallError, KeyPush, Role};
use ward_types::{Code, HostId, Power, VmId};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_it_has() {
    let mut host = Host::start().await;
    let status = host.call(Status::default()).await.unwrap();
    assert_eq!((status.host, &status.unfit, status.vms.len()), (host.id, &None, 0));
    assert_eq!(status.keys, Some(vec![]));
    host.push(&[1, 2]).await;
    let again = KeyPush { keys: vec![(key(2), kek(2)), (key(3), kek(3))] };
    assert_eq!(host.client.push_keys(&again).await.unwrap().added, 1);
    host.call(DropKeys { keys: vec![key(1), key(9)] }).await.unwrap();
    assert_eq!(host.call(Status::default()).await.unwrap().keys, Some(vec![key(2), key(3)]));
    // Keys that the asker knows are not told again, until they are others.
    let seen = Some(host.call(Status::default()).await.unwrap().mark);
    assert_eq!(host.call(Status { seen, ..Status::default() }).await.unwrap().keys, None);
    host.call(DropKeys { keys: vec![key(2)] }).await.unwrap();
    assert_eq!(host.call(Status { seen, ..Status::default() }).await.unwrap().keys, Some(vec![key(3)]));
    let status = host.call(Status { without_keys: true, ..Status::default() }).await.unwrap();
    assert_eq!((status.keys, Some(status.mark) != seen), (None, true));
    assert_eq!(host.call(VmPower { vm: VmId::new() }).await.unwrap(), Power::Off);

    // Keys are in memory only.
    let boot = status.boot;
    host.kill();
    host.start_agent(&[]).await;
    let status = host.call(Status::default()).await.unwrap();
    assert_ne!(status.boot, boot);
    assert_eq!(status.keys, Some(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_controller_is_answered() {
    let host = Host::start().await;
    for role in [Role::Host(HostId::new()), Role::Host(host.id)] {
        let client = host.controller.client(host.id, host.address, Some(role));
        let refused = |error| match error {
            CallError::Refused(problem) => problem.code,
            other => panic!("{other}"),
        };
        assert_eq!(refused(client.call(Status::default()).await.unwrap_err()), Code::AuthDenied);
        let push = KeyPush { keys: vec![(key(1), kek(1))] };
        assert_eq!(refused(client.push_keys(&push).await.unwrap_err()), Code::AuthDenied);
    }
    let other = host.controller.client(host.id, host.address, Some(Role::Controller(Uuid::new_v4())));
    assert_eq!(other.call(Status::default()).await.unwrap().keys, Some(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_is_kept_private_and_done_once() {
    let host = Host::enrolled().await;
    let state = host.state();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(state.join("host.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let json = fs::read_to_string(state.join("host.json")).unwrap();
    assert!(json.contains(&host.id.to_string()) && !json.contains("PRIVATE"), "{json}");

    let enrol = |state, secret: &str| {
        let token = host.controller.token(secret);
        async move { ward_host::enrol(state, &token, "h".parse().unwrap(), "127.0.0.1:1".into()).await }
    };
    assert_eq!(enrol(&state, SECRET).await.unwrap_err().code, Code::Exists);
    let other = host.path("other");
    assert_eq!(enrol(&other, "d3Jvbmc=").await.unwrap_err().code, Code::EnrolmentRefused);
    assert!(!other.join("host.json").exists());
    enrol(&other, SECRET).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_begin_says_why() {
    let host = Host::start().await;
    let run = |state: &std::path::Path| {
        let output = std::process::Command::new(exe()).args(["host", text(state), "127.0.0.1:0"]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(&host.path("nowhere"));
    assert!(said.contains("this host is not enrolled"), "{said}");
    let said = run(&host.state());
    assert!(said.contains("another agent runs"), "{said}");
}
