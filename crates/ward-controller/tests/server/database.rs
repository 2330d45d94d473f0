//! A VM's whole life, on each kind of database.

use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use ward_controller::api::types::VmView;
use ward_controller::{Config, Error, Server};
use ward_types::{EventKind, Power};

use crate::postgres;
use crate::support::{KeyServer, Ward};

#[tokio::test(flavor = "multi_thread")]
async fn a_life_on_sqlite() {
    life(Ward::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_on_postgresql() {
    let url = postgres::database().await;
    let ward = Ward::start_on(Some(url.clone())).await;
    assert!(!ward.state("controller.db").exists());
    // Another state directory has not the root key of this database.
    let directory = tempfile::TempDir::new().unwrap();
    let mut config = Config::new(directory.path().to_owned());
    config.database = Some(url);
    let error = Server::start(config, CancellationToken::new()).await.err().unwrap();
    assert!(matches!(error, Error::RootKeyMissing { .. }), "{error}");
    life(ward).await;
}

async fn life(ward: Ward) {
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    ward.vm("web").await;
    let post = Method::POST;
    ward.api.done(post.clone(), "/vms/web/start", Some(json!({}))).await;
    ward.api.done(post.clone(), "/vms/web/stop", Some(json!({ "wait_s": 1 }))).await;
    ward.api.done(post.clone(), "/vms/web/encrypt", Some(json!({}))).await;

    let ward = ward.stop().await.start().await.unwrap();
    ward.api.done(post.clone(), "/vms/web/start", Some(json!({ "host": "h" }))).await;
    let vm: VmView = ward.api.get("/vms/web").await.unwrap();
    assert_eq!((vm.power, vm.encrypted, vm.keys.len()), (Power::On, true, 1));
    assert_eq!(vm.home.to_str(), Some("/srv/d/web"));
    ward.api.done(post.clone(), "/vms/web/stop", Some(json!({ "force": true }))).await;
    ward.api.done(post, "/vms/web/decrypt", Some(json!({}))).await;
    ward.api.done(Method::DELETE, "/vms/web", None).await;
    assert_eq!(ward.storage.homes(), 0);
    host.until("nothing is left", |inside| inside.vm_keys().is_empty() && inside.jobs.is_empty()).await;
    assert!(ward.api.get::<Vec<Value>>("/vms").await.unwrap().is_empty());
    for kind in [
        EventKind::VmCreated,
        EventKind::VmEncrypted,
        EventKind::VmDecrypted,
        EventKind::VmRemoved,
        EventKind::KeyCreated,
        EventKind::KeyUnneeded,
    ] {
        assert_eq!(ward.api.told_of_vms(kind).await.len(), 1, "{kind}");
    }
    assert!(ward.api.told(EventKind::TaskFailed).await.is_empty());
}
