//! What a controller finds when it starts again, and when it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use http::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use ward_controller::api::types::{HostView, ProviderView, TaskView, VmView, WhoAmI};
use ward_controller::{Error, Server};
use ward_types::{EventKind, TaskState};

use crate::support::{Host, KeyServer, Ward};

#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_there_is_there_again() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    ward.vm("web").await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let (token, events) = (ward.api.token.clone(), ward.api.events().await);
    let before: VmView = ward.api.get("/vms/web").await.unwrap();
    let ca = fs::read(ward.state("ca.pem")).unwrap();

    let ward = ward.stop().await.start().await.unwrap();
    assert_eq!(fs::read(ward.state("ca.pem")).unwrap(), ca, "users know it by this");
    ward.api.with_token(&token).get::<WhoAmI>("/session").await.unwrap();
    ward.api.host_event(EventKind::HostConnected, host.id, 2).await;
    let after: VmView = ward.api.get("/vms/web").await.unwrap();
    assert_eq!((after.config, after.keys), (before.config, before.keys));
    assert_eq!(ward.api.get::<Vec<HostView>>("/hosts").await.unwrap().len(), 1);
    let provider: ProviderView = ward.api.get("/providers/kms").await.unwrap();
    assert!(provider.default && provider.status == ward_controller::api::types::Light::Green, "{provider:?}");
    assert_eq!(ward.api.events().await[..events.len()], events);
    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_where_it_was() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    ward.vm("web").await;
    host.change(|inside| inside.hold = true);
    let task: TaskView = ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
    host.until("the job", |inside| !inside.jobs.is_empty()).await;
    ward.api.when(&task.info, |view| view.info.step == "copies").await;

    let ward = ward.stop().await.start().await.unwrap();
    let shown: TaskView = ward.api.get(&format!("/tasks/{}", task.info.id)).await.unwrap();
    assert_eq!(shown.info.state, TaskState::Running);
    host.release();
    assert_eq!(ward.api.ended(&task.info).await.problem, None);
    assert_eq!(ward.api.told(EventKind::TaskResumed).await.len(), 1);
    assert_eq!(ward.api.told_of_vms(EventKind::KeyCreated).await.len(), 1);
    assert_eq!(server.count().await, 1, "no second key was made");
    assert!(ward.api.get::<VmView>("/vms/web").await.unwrap().encrypted);
    // Its end is written down, so the host may forget it.
    host.until("the host forgets", |inside| inside.jobs.is_empty()).await;
}

/// A task that had no host yet must not fail because the controller has not asked its hosts yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_without_a_host_waits_until_the_hosts_were_asked() {
    let ward = Ward::start().await;
    ward.datastore().await;
    let host = ward.host("h").await;
    host.change(|inside| inside.hold = true);
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let task: TaskView = ward.api.post("/vms", json!({ "name": "web", "disks": [disk] })).await.unwrap();
    host.until("the job", |inside| !inside.jobs.is_empty()).await;

    let stopped = ward.stop().await;
    host.change(|inside| {
        inside.jobs.clear();
        inside.hold = false;
    });
    // As if the controller had been killed before it gave the job to a host.
    stopped.sql("UPDATE task SET work = json_set(work, '$.host', NULL), state = 'queued', step = 'queued'").await;
    let ward = stopped.start().await.unwrap();
    assert_eq!(ward.api.ended(&task.info).await.problem, None);
    assert_eq!(ward.storage.homes(), 1);
}

/// Nor must what a user asks for in the first moment be refused for that.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_first_moment_hosts_are_not_taken_for_dead() {
    let ward = Ward::start().await;
    ward.datastore().await;
    let _host: Host = ward.host("h").await;
    let ward = ward.stop().await.start().await.unwrap();
    ward.vm("web").await;
    let ward = ward.stop().await.start().await.unwrap();
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_for_one_controller_and_one_user() {
    let ward = Ward::start().await;
    let second = Server::start(ward.config.clone(), CancellationToken::new()).await;
    let error = second.err().unwrap();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains(ward.config.state_dir.to_str().unwrap()), "{error}");
    ward.api.get::<WhoAmI>("/session").await.unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&ward.config.state_dir), 0o700);
    for secret in ["root.key", "admin-password"] {
        assert_eq!(mode(&ward.state(secret)), 0o600, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_root_key_it_does_not_start_and_makes_none() {
    let stopped = Ward::start().await.stop().await;
    let path = stopped.config.state_dir.join("root.key");
    let key = fs::read(&path).unwrap();

    let put = |key: &[u8]| {
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    fs::remove_file(&path).unwrap();
    let (error, stopped) = stopped.refused().await;
    assert!(matches!(error, Error::RootKeyMissing { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("root.key") && text.contains("restore"), "{text}");
    assert!(!path.exists(), "a new key would hide the loss");

    let mut refused = stopped;
    for wrong in [vec![], vec![7; 31], vec![7; 32], vec![7; 33], [key.clone(), vec![0]].concat()] {
        put(&wrong);
        let (error, stopped) = refused.refused().await;
        assert!(matches!(error, Error::RootKey { .. } | Error::RootKeySource { .. }), "{} bytes: {error}", wrong.len());
        assert!(error.to_string().contains("root.key"), "{error}");
        refused = stopped;
    }
    put(&key);
    refused.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_can_not_use_it_says() {
    let mut stopped = Ward::start().await.stop().await;
    let good = stopped.config.clone();
    stopped.config.listen_api = ([192, 0, 2, 1], 1).into();
    let (error, mut stopped) = stopped.refused().await;
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    stopped.config = good.clone();
    stopped.config.database = Some("postgres://ward@127.0.0.1:1/nothing".into());
    let (error, mut stopped) = stopped.refused().await;
    assert!(matches!(error, Error::Store(_)), "{error}");
    stopped.config = good;
    stopped.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_users_password_comes_from_a_file_where_one_is_named() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut config = ward_controller::Config::new(directory.path().join("state"));
    config.listen_api.set_port(0);
    config.listen_hosts.set_port(0);
    let password = directory.path().join("password");
    config.admin_password_file = Some(password.clone());
    for (text, why) in [(None, "password"), (Some("\n"), "empty")] {
        if let Some(text) = text {
            fs::write(&password, text).unwrap();
        }
        let error = Server::start(config.clone(), CancellationToken::new()).await.err().unwrap();
        assert!(error.to_string().contains(why), "{error}");
    }
    fs::write(&password, "correct horse\r\n").unwrap();
    let shutdown = CancellationToken::new();
    let server = Server::start(config.clone(), shutdown.clone()).await.unwrap();
    let base = format!("https://{}", server.api_address());
    let serving = tokio::spawn(server.serve());
    let ca = fs::read_to_string(config.state_dir.join("ca.pem")).unwrap();
    let api = crate::support::Api::log_in(base, &ca, "admin", "correct horse").await;
    api.get::<WhoAmI>("/session").await.unwrap();
    assert!(!config.state_dir.join("admin-password").exists());
    drop(api);
    shutdown.cancel();
    serving.await.unwrap();
}
