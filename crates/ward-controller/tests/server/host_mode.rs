//! Host encryption mode, with a real key server and hosts that are played.

use http::Method;
use jiff::Timestamp;
use kmip::attribute::{Attribute, AttributeName};
use kmip::names::State;
use serde_json::{Value, json};
use ward_controller::api::types::{HostView, KeyStanding, KeyView, ProviderView, VmView};
use ward_types::{Code, DumpAbout, DumpInfo, DumpSubject, EventKind, HostCrypto, HostMode, KeyLocator, KeyRef};

use crate::support::host::Inside;
use crate::support::{Api, Host, KeyServer, Ward};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_first_operation_of_one_who_may_switches_it_on_for_the_whole_cluster() {
    let (ward, server, mut hosts) = Ward::with_hosts(&["a", "b"]).await;
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
    let (ward, _server, hosts) = Ward::with_hosts(&["a", "b"]).await;
    let may = ["read", "crypto.encrypt", "vm.power"];
    let encrypter = ward.user("encrypter", &may, &["vm/web"]).await;
    let refused = encrypter.post::<Value>("/vms/web/encrypt", json!({})).await.unwrap_err();
    assert_eq!(refused.code(), Code::AuthDenied);
    assert!(refused.0.why.contains("crypto.register-host"), "{:?}", refused.0);
    let refused = encrypter.put::<Value>("/hosts/a/encryption", json!({ "on": true })).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // Who may on one host only has the work done there; the other one stays off, without the key.
    let of_one = ward.user("of-one", &["read", "crypto.encrypt", "crypto.register-host"], &["vm/web", "host/b"]).await;
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
    let (ward, _server, mut hosts) = Ward::with_hosts(&["a", "b"]).await;
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
    assert_eq!(hosts[1].keys().len(), 2);
    // And those that it has go at once, but for its host key: what dumps itself until the restart is encrypted.
    hosts[0].until("its host key alone", |inside| inside.vm_keys().is_empty() && inside.keys.len() == 1).await;

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
    let (ward, _server, mut hosts) = Ward::with_hosts(&["a", "b"]).await;
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

/// The host key among all keys.
async fn listed(ward: &Ward, name: &str) -> Vec<KeyView> {
    let mut keys: Vec<KeyView> = ward.api.get("/keys").await.unwrap();
    keys.retain(|view| view.host_key_of.iter().any(|host| host.as_str() == name));
    keys
}

fn path(key: &KeyRef) -> String {
    format!("/keys/{}%2F{}", key.provider, id(key))
}

fn dump(host: &Host, key: &KeyRef) -> DumpInfo {
    let subject = DumpSubject::Process { pid: 7, command: "qemu".to_owned(), signal: 11 };
    let about = DumpAbout { host: host.id, taken: Timestamp::now(), subject };
    DumpInfo { name: "20261125T040000Z-qemu-7".parse().unwrap(), about, key: key.clone(), size: 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_key_is_a_needed_key_until_it_opens_no_dump() {
    let (ward, server, hosts) = Ward::with_hosts(&["a"]).await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    ward.api.send::<Value>(Method::PUT, "/keys/grace", Some(json!({ "days": 0 }))).await.unwrap();
    let old = host(&ward.api, "a").await.host_key.unwrap();
    // It is listed, with who needs it and who holds it; nothing else is its user.
    hosts[0].until("its host key", |inside| inside.keys.contains_key(&old)).await;
    let [view] = &listed(&ward, "a").await[..] else { panic!("not one host key") };
    assert_eq!((&view.key, view.made, view.standing), (&old, true, KeyStanding::Present));
    assert!(view.vms.is_empty() && view.unneeded_since.is_none());
    let shown: KeyView = ward.api.get(&path(&old)).await.unwrap();
    assert_eq!(shown.host_key_of, view.host_key_of);
    let provider: ProviderView = ward.api.get("/providers/kms").await.unwrap();
    assert_eq!((provider.keys_needed, provider.hosts.len()), (2, 1));
    let refused = ward.api.delete::<()>(&path(&old)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InUse);
    assert!(refused.0.why.contains("host `a`"), "{:?}", refused.0);

    // An older one that opens a dump is needed too: nobody takes it from the host, or destroys it.
    hosts[0].change(|inside| {
        inside.crypto.dumps = vec![dump(&hosts[0], &old)];
        inside.crypto.dump_keys = vec![old.clone()];
    });
    let told = ward.api.event("the dump", |event| event.kind == EventKind::HostDump).await;
    assert_eq!((told.subject.host, told.subject.key.as_ref()), (Some(hosts[0].id), Some(&old)));
    ward.api.post::<Value>("/hosts/a/encryption/rekey", json!({})).await.unwrap();
    let new = host(&ward.api, "a").await.host_key.unwrap();
    assert_ne!(new, old);
    assert_eq!(listed(&ward, "a").await.len(), 2);
    assert_eq!(ward.api.delete::<()>(&path(&old)).await.unwrap_err().code(), Code::InUse);
    let both = |inside: &Inside| inside.keys.contains_key(&old) && inside.keys.contains_key(&new);
    hosts[0].until("both", both).await;
    assert_eq!(ward.api.told(EventKind::HostDump).await.len(), 1, "a dump is told of once");

    // Where none is left it goes, and can be destroyed.
    hosts[0].change(|inside| {
        inside.crypto.dumps.clear();
        inside.crypto.dump_keys.clear();
    });
    hosts[0].until("the old one is taken away", |inside| !inside.keys.contains_key(&old)).await;
    let unneeded = ward.api.told(EventKind::KeyUnneeded).await;
    assert_eq!((unneeded.len(), unneeded[0].subject.key.as_ref()), (1, Some(&old)));
    ward.api.delete::<()>(&path(&old)).await.unwrap();
    assert_eq!(server.client().state(&id(&old)).await.unwrap(), State::DESTROYED);
    assert_eq!(listed(&ward, "a").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_host_key_that_was_killed_goes_on_with_the_key_that_was_made() {
    let (ward, server, hosts) = Ward::with_hosts(&["a"]).await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let old = host(&ward.api, "a").await.host_key.unwrap();
    // Killed between the key server's answer to Create and the moment at which it is written down.
    let stopped = ward.stop().await;
    let attempt = uuid::Uuid::new_v4();
    let made = server.client().create_aes256(&[Attribute::name(&format!("ward-host-{attempt}"))]).await.unwrap().id;
    let state = HostCrypto::Safe { key: old.clone(), rekey: Some(attempt) };
    let state = serde_json::to_string(&state).unwrap();
    stopped.sql(&format!("UPDATE host_crypto SET state = '{state}'")).await;
    let ward = stopped.start().await.unwrap();
    let is_it = |event: &ward_types::Event| {
        event.kind == EventKind::HostModeChanged && event.message.contains(&format!("kms/{made}"))
    };
    ward.api.event("the new host key", is_it).await;
    let new = host(&ward.api, "a").await.host_key.unwrap();
    assert_eq!(id(&new), made);
    hosts[0]
        .until("the new one alone", |inside| {
            inside.keys.contains_key(&new)
                && !inside.keys.contains_key(&old)
                && inside.crypto.host_key.as_ref() == Some(&new)
        })
        .await;
    assert_eq!(server.client().state(&made).await.unwrap(), State::ACTIVE);
    assert_eq!(listed(&ward, "a").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_key_comes_from_the_default_provider_of_its_cluster() {
    let (ward, _server, hosts) = Ward::with_hosts(&["a"]).await;
    let other = KeyServer::start().await;
    ward.provider("other", &other).await;
    ward.api.put::<()>("/clusters/default/provider", json!({ "provider": "other" })).await.unwrap();
    ward.api.put::<HostView>("/hosts/a/encryption", json!({ "on": true })).await.unwrap();
    let key = host(&ward.api, "a").await.host_key.unwrap();
    assert_eq!(key.provider.as_str(), "other");
    // As long as a host needs it, it is not removed; by force it is, and the host gets a key of another.
    let refused = ward.api.delete::<()>("/providers/other").await.unwrap_err();
    assert_eq!(refused.code(), Code::InUse);
    assert!(refused.0.why.contains("host `a`") && refused.0.remedy.contains("rekey"), "{:?}", refused.0);
    ward.api.put::<()>("/clusters/default/provider", json!({ "provider": null })).await.unwrap();
    ward.api.delete::<()>("/providers/other?force=other").await.unwrap();
    hosts[0].until("another host key", |inside| inside.crypto.host_key.as_ref().is_some_and(|now| *now != key)).await;
    assert_eq!(hosts[0].look(|inside| inside.crypto.host_key.clone()).unwrap().provider.as_str(), "kms");
}
