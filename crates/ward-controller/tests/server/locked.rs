//! VMs whose key is neither on a host nor to be had, until it is.

use http::Method;
use serde_json::{Value, json};
use ward_controller::api::types::VmView;
use ward_types::{Code, EventKind, KeyRef};

use crate::support::{Host, KeyServer, Ward, in_time};

struct Scene {
    ward: Ward,
    server: KeyServer,
    hosts: Vec<Host>,
    key: KeyRef,
    _host_keys: KeyServer,
}

async fn with_hosts(names: &[&str]) -> Scene {
    let (ward, server, hosts) = Ward::with_hosts(names).await;
    let host_keys = ward.safe(names.iter().copied()).await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let key = web(&ward).await.keys.remove(0);
    Scene { ward, server, hosts, key, _host_keys: host_keys }
}

async fn web(ward: &Ward) -> VmView {
    ward.api.get("/vms/web").await.unwrap()
}

async fn until_locked(ward: &Ward, locked: bool) -> VmView {
    in_time("the VM's lock", async {
        loop {
            let vm = web(ward).await;
            if vm.locked.is_some() == locked {
                return vm;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_locked_when_its_host_has_lost_the_key_and_unlocked_when_the_key_is_back() {
    let Scene { ward, mut server, mut hosts, key, _host_keys } = with_hosts(&["a"]).await;
    server.stop().await;
    // As long as the host has it, nobody misses the key server.
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;
    assert_eq!(web(&ward).await.locked, None);

    hosts[0].cut();
    hosts[0].come_back().await;
    let why = until_locked(&ward, true).await.locked.unwrap();
    assert_eq!(why.code, Code::KeyServerUnreachable);
    assert!(why.why.contains(&key.to_string()), "it names the key: {why}");
    let told = ward.api.told(EventKind::VmLocked).await;
    assert_eq!((told.len(), told[0].problem.as_ref()), (1, Some(&why)));
    assert_eq!((told[0].subject.key.as_ref(), told[0].subject.host), (Some(&key), Some(hosts[0].id)));
    let missed = ward.api.told(EventKind::KeyServerUnreachable).await;
    assert_eq!((missed[0].subject.host, missed[0].subject.key.as_ref()), (Some(hosts[0].id), Some(&key)));
    assert!(missed[0].subject.vm.is_some() && missed[0].subject.provider.is_some(), "{missed:?}");

    // It can be unregistered, reloaded and unlocked, nothing else.
    for verb in ["start", "stop", "encrypt", "decrypt", "recrypt", "unlock"] {
        let refusal = ward.api.post::<Value>(&format!("/vms/web/{verb}"), json!({})).await.unwrap_err();
        assert_eq!(refusal.code(), Code::KeyServerUnreachable, "{verb}");
        assert!(refusal.0.why.contains(&key.to_string()), "{:?}", refusal.0);
    }
    let refused = ward.api.delete::<Value>("/vms/web").await.unwrap_err();
    assert_eq!(refused.code(), Code::KeyServerUnreachable);
    let clone = ward.api.post::<Value>("/vms/web/clone", json!({ "name": "other" })).await.unwrap_err();
    assert_eq!(clone.code(), Code::KeyServerUnreachable);
    let reloaded: VmView = ward.api.post("/vms/web/reload", json!({})).await.unwrap();
    assert!(reloaded.locked.is_some());

    // Nobody asks for it.
    server.start_again().await;
    until_locked(&ward, false).await;
    let told = ward.api.told(EventKind::VmUnlocked).await;
    assert_eq!((told.len(), told[0].subject.user.as_ref()), (1, None), "{told:?}");
    assert_eq!(hosts[0].keys(), [key]);
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_server_that_is_down_locks_nothing_whose_key_is_on_a_host() {
    let Scene { ward, mut server, mut hosts, key, _host_keys } = with_hosts(&["a", "b"]).await;
    server.stop().await;
    hosts[0].cut();
    hosts[0].come_back().await;
    let missed = |event: &ward_types::Event| event.kind == EventKind::KeyServerUnreachable;
    ward.api.event("the host lacks its key", missed).await;
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({ "host": "b" }))).await;
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;
    assert_eq!(web(&ward).await.locked, None);
    assert!(ward.api.told(EventKind::VmLocked).await.is_empty());

    // Without that one it is; and as soon as a host is back that has the key, it is not, key server or no.
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({ "host": "b" }))).await;
    let refused = ward.api.post::<Value>("/vms/web/reload", json!({})).await.unwrap_err();
    assert_eq!(refused.code(), Code::VmRunning);
    assert_eq!(web(&ward).await.locked, None, "one that runs goes on");
    assert_eq!(hosts[1].keys(), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_brings_the_key_back_need_not_wait_and_a_locked_vm_can_leave() {
    let Scene { ward, mut server, mut hosts, key: _, _host_keys } = with_hosts(&["a"]).await;
    server.stop().await;
    hosts[0].cut();
    hosts[0].come_back().await;
    until_locked(&ward, true).await;
    server.start_again().await;
    // The request itself has it looked for.
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;

    server.stop().await;
    hosts[0].cut();
    hosts[0].come_back().await;
    until_locked(&ward, true).await;
    ward.api.post::<()>("/vms/web/unregister", json!({})).await.unwrap();
    let again: VmView = ward.api.post("/datastores/d/register", json!({ "directory": "web" })).await.unwrap();
    assert_eq!(again.locked.unwrap().code, Code::KeyServerUnreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_keys_only_the_lost_one_locks_its_vm() {
    let Scene { ward, server, mut hosts, key: _, _host_keys } = with_hosts(&["a"]).await;
    for name in ["db", "mail"] {
        ward.vm(name).await;
        ward.api.done(Method::POST, &format!("/vms/{name}/encrypt"), Some(json!({}))).await;
    }
    let lost = ward.api.get::<VmView>("/vms/db").await.unwrap().keys.remove(0);
    let ward_types::KeyLocator::Standard { key_id } = &lost.key else { panic!("{lost}") };
    server.deactivate(key_id.as_str()).await;
    server.client().destroy(key_id.as_str()).await.unwrap();
    hosts[0].cut();
    hosts[0].come_back().await;
    hosts[0].until("the other keys", |inside| inside.vm_keys().len() == 2).await;
    let told = ward.api.event("the VM is locked", |event| event.kind == EventKind::VmLocked).await;
    assert!(told.message.contains("`db`") && told.message.contains("Destroyed"), "{}", told.message);
    let unusable = ward.api.told(EventKind::KeyNotUsable).await;
    assert_eq!((unusable.len(), unusable[0].subject.key.as_ref()), (1, Some(&lost)));
    assert!(unusable[0].message.contains("`db`"), "{unusable:?}");
    for name in ["web", "mail"] {
        assert_eq!(ward.api.get::<VmView>(&format!("/vms/{name}")).await.unwrap().locked, None);
        ward.api.done(Method::POST, &format!("/vms/{name}/start"), Some(json!({}))).await;
    }
}
