//! Host encryption mode, with a real key server and hosts that are played.

use http::Method;
use kmip::attribute::AttributeName;
use serde_json::{Value, json};
use ward_controller::api::types::{HostView, Session, VmView};
use ward_types::{Code, EventKind, HostMode, KeyLocator, KeyRef};

use crate::support::{Api, Host, KeyServer, Ward};

async fn with_hosts(names: &[&str]) -> (Ward, KeyServer, Vec<Host>) {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let mut hosts = Vec::new();
    for name in names {
        hosts.push(ward.host(name).await);
    }
    ward.vm("web").await;
    (ward, server, hosts)
}

async fn host(api: &Api, name: &str) -> HostView {
    api.get(&format!("/hosts/{name}")).await.unwrap()
}

async fn mode(ward: &Ward, name: &str) -> HostMode {
    host(&ward.api, name).await.mode
}

async fn changed(ward: &Ward, host: &Host, to: &str) {
    let is_it = |event: &ward_types::Event| {
        event.kind == EventKind::HostModeChanged
            && event.subject.host == Some(host.id)
            && event.message.contains(&format!("-> {to}"))
    };
    ward.api.event(to, is_it).await;
}

fn id(key: &KeyRef) -> String {
    let KeyLocator::Standard { key_id } = &key.key else { panic!("{key}") };
    key_id.to_string()
}

/// A user with a role of these privileges on some objects.
async fn user(ward: &Ward, name: &str, privileges: &[&str], on: &[&str]) -> Api {
    let password = "a long enough passphrase";
    ward.api.post::<Value>("/users", json!({ "name": name, "password": password })).await.unwrap();
    let role = json!({ "name": name, "privileges": privileges });
    ward.api.post::<Value>("/roles", role).await.unwrap();
    for object in on {
        let permission = json!({ "subject": format!("user/{name}"), "object": object, "role": name });
        ward.api.post::<Value>("/permissions", permission).await.unwrap();
    }
    let session: Session = ward.api.post("/session", json!({ "user": name, "password": password })).await.unwrap();
    ward.api.with_token(&session.token)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_operation_of_one_who_may_switches_it_on_for_the_whole_cluster() {
    let (ward, server, mut hosts) = with_hosts(&["a", "b"]).await;
    for (host, name) in hosts.iter().zip(["a", "b"]) {
        assert_eq!(mode(&ward, name).await, HostMode::Incapable);
        host.look(|inside| assert!(inside.keys.is_empty()));
    }
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let key = ward.api.get::<VmView>("/vms/web").await.unwrap().keys;
    for (at, name) in hosts.iter().zip(["a", "b"]) {
        let view = host(&ward.api, name).await;
        let own = view.host_key.unwrap();
        assert_eq!((view.mode, at.keys()), (HostMode::Safe, key.clone()));
        assert_eq!(at.look(|inside| inside.crypto.host_key.clone()), Some(own.clone()));
        assert!(at.look(|inside| inside.keys.contains_key(&own)));
        // The key server knows whose it is.
        let (client, own) = (server.client(), id(&own));
        let names = ["x-Component", "x-Name", "x-Identifier"].map(AttributeName::from);
        let told = format!("{:?}", client.get_attributes(&own, &names).await.unwrap());
        let identifier = at.id.to_string();
        assert!(["\"Host\"", &format!("{name:?}"), &identifier].iter().all(|text| told.contains(text)), "{told}");
        changed(&ward, at, "prepared").await;
        changed(&ward, at, "safe").await;
    }
    assert_ne!(host(&ward.api, "a").await.host_key, host(&ward.api, "b").await.host_key);
    // It comes back without anything, and gets all again.
    hosts[0].cut();
    hosts[0].change(|inside| inside.crypto.host_key = None);
    hosts[0].come_back().await;
    hosts[0].until("its keys", |inside| inside.keys.len() == 2 && inside.crypto.host_key.is_some()).await;
    // One that joins gets what the cluster has.
    let third = ward.host("c").await;
    third.until("its keys", |inside| inside.keys.len() == 2 && inside.crypto.host_key.is_some()).await;
    changed(&ward, &third, "safe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_switches_nothing_on() {
    let (ward, _server, hosts) = with_hosts(&["a", "b"]).await;
    let may = ["read", "crypto.encrypt", "vm.power"];
    let encrypter = user(&ward, "encrypter", &may, &["vm/web"]).await;
    let refused = encrypter.post::<Value>("/vms/web/encrypt", json!({})).await.unwrap_err();
    assert_eq!(refused.code(), Code::AuthDenied);
    assert!(refused.0.why.contains("crypto.register-host"), "{:?}", refused.0);
    let refused = encrypter.put::<Value>("/hosts/a/encryption", json!({ "on": true })).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // Who may on one host only has the work done there; the other one stays off, without the key.
    let of_one =
        user(&ward, "of-one", &["read", "crypto.encrypt", "crypto.register-host"], &["vm/web", "host/b"]).await;
    of_one.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    assert_eq!((mode(&ward, "a").await, mode(&ward, "b").await), (HostMode::Incapable, HostMode::Safe));
    hosts[0].look(|inside| assert!(inside.keys.is_empty()));
    assert_eq!(hosts[1].keys().len(), 1);
    // It is on: nobody needs the privilege any more, and nothing is switched on by the way.
    ward.vm("other").await;
    ward.api
        .post::<Value>(
            "/permissions",
            json!({ "subject": "user/encrypter", "object": "vm/other", "role": "encrypter" }),
        )
        .await
        .unwrap();
    encrypter.done(Method::POST, "/vms/other/encrypt", Some(json!({}))).await;
    hosts[0].look(|inside| assert!(inside.keys.is_empty()));
    // No encrypted VM starts where it is off.
    let refused = ward.api.post::<Value>("/vms/other/start", json!({ "host": "a" })).await.unwrap_err();
    assert_eq!(refused.code(), Code::HostMode);
    // Who may on all brings the others in.
    ward.vm("third").await;
    ward.api.done(Method::POST, "/vms/third/encrypt", Some(json!({}))).await;
    assert_eq!(mode(&ward, "a").await, HostMode::Safe);
    hosts[0].until("all keys", |inside| inside.vm_keys().len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_waits_for_a_restart_and_has_no_key_then() {
    let (ward, _server, mut hosts) = with_hosts(&["a", "b"]).await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({ "host": "a" }))).await;
    let off = || ward.api.put::<HostView>("/hosts/a/encryption", json!({ "on": false }));
    let refused = off().await.unwrap_err();
    assert_eq!(refused.code(), Code::InUse);
    assert!(refused.0.why.contains("`web`"), "{:?}", refused.0);
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;
    assert_eq!(off().await.unwrap().mode, HostMode::PendingIncapable);
    assert_eq!(off().await.unwrap_err().code(), Code::HostMode);
    let on = ward.api.put::<HostView>("/hosts/a/encryption", json!({ "on": true })).await.unwrap_err();
    assert_eq!(on.code(), Code::HostMode);
    let refused = ward.api.post::<Value>("/vms/web/start", json!({ "host": "a" })).await.unwrap_err();
    assert_eq!(refused.code(), Code::HostMode);
    // No new key goes there.
    ward.vm("other").await;
    ward.api.done(Method::POST, "/vms/other/encrypt", Some(json!({}))).await;
    assert_eq!((hosts[0].keys().len(), hosts[1].keys().len()), (1, 2));

    hosts[0].cut();
    hosts[0].come_back().await;
    changed(&ward, &hosts[0], "incapable").await;
    hosts[0].look(|inside| assert!(inside.keys.is_empty() && inside.crypto.host_key.is_none()));
    // A key that is found there all the same goes.
    let stray = ward.api.get::<VmView>("/vms/web").await.unwrap().keys.remove(0);
    hosts[0].change(|inside| drop(inside.keys.insert(stray, vec![1; 32])));
    hosts[0].until("the key is taken away", |inside| inside.keys.is_empty()).await;
    assert_eq!(mode(&ward, "a").await, HostMode::Incapable);
    // And it can be switched on again.
    let again: HostView = ward.api.put("/hosts/a/encryption", json!({ "on": true })).await.unwrap();
    assert_eq!(again.mode, HostMode::Safe);
    hosts[0].until("all keys", |inside| inside.vm_keys().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_leaves_loses_its_keys() {
    let (ward, _server, mut hosts) = with_hosts(&["a", "b"]).await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({ "host": "a" }))).await;
    assert_eq!(ward.api.delete::<()>("/hosts/a").await.unwrap_err().code(), Code::InUse);
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;
    ward.api.delete::<()>("/hosts/a").await.unwrap();
    hosts[0].look(|inside| assert!(inside.keys.is_empty() && inside.crypto.host_key.is_none()));
    assert_eq!(ward.api.get::<HostView>("/hosts/a").await.unwrap_err().code(), Code::NotFound);
    assert!(hosts[0].hello().await.is_err(), "it is nobody's host");
    assert_eq!(ward.api.told(EventKind::HostRemoved).await.len(), 1);
    // One that does not answer must be forced.
    hosts[1].cut();
    assert_eq!(ward.api.delete::<()>("/hosts/b").await.unwrap_err().code(), Code::HostUnreachable);
    assert_eq!(mode(&ward, "b").await, HostMode::Safe);
    ward.api.event("it is seen to be away", |event| event.kind == EventKind::HostDisconnected).await;
    ward.api.delete::<()>("/hosts/b?force=true").await.unwrap();
    assert!(ward.api.get::<Vec<HostView>>("/hosts").await.unwrap().is_empty());
}
