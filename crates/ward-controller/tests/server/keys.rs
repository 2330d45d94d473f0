//! Keys as they are listed, looked for, and destroyed.

use http::Method;
use kmip::names::State;
use serde_json::{Value, json};
use ward_controller::api::types::{KeyCheck, KeyStanding, KeyView, OrphanView, VmView};
use ward_types::{Code, DiskId, EventKind, KeyRef, KeyState, Problem, TaskId};

use crate::support::{Host, KeyServer, Ward};

async fn scene() -> (Ward, KeyServer, Host) {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("a").await;
    (ward, server, host)
}

async fn encrypted(ward: &Ward, name: &str) -> KeyRef {
    ward.vm(name).await;
    ward.api.done(Method::POST, &format!("/vms/{name}/encrypt"), Some(json!({}))).await;
    ward.api.get::<VmView>(&format!("/vms/{name}")).await.unwrap().keys.remove(0)
}

fn id(key: &KeyRef) -> &str {
    let ward_types::KeyLocator::Standard { key_id } = &key.key else { panic!("{key} is at no key server") };
    key_id.as_str()
}

fn path(key: &KeyRef) -> String {
    format!("/keys/{}%2F{}", key.provider, id(key))
}

/// The keys, but for host keys.
async fn list(ward: &Ward, query: &str) -> Vec<KeyView> {
    let mut keys: Vec<KeyView> = ward.api.get(&format!("/keys{query}")).await.unwrap();
    keys.retain(|key| key.host_key_of.is_empty());
    keys
}

async fn check(ward: &Ward, fetch: bool) -> KeyCheck {
    ward.api.post("/keys/check", json!({ "fetch": fetch })).await.unwrap()
}

async fn grace(ward: &Ward, days: u32) {
    ward.api.send::<Value>(Method::PUT, "/keys/grace", Some(json!({ "days": days }))).await.unwrap();
}

async fn not_destroyed(ward: &Ward, server: &KeyServer, key: &KeyRef, code: Code, why: &str) -> Problem {
    let refusal = ward.api.delete::<()>(&path(key)).await.unwrap_err();
    assert_eq!(refusal.code(), code, "{:?}", refusal.0);
    assert!(refusal.0.why.contains(why), "{:?}", refusal.0);
    assert_ne!(server.client().state(id(key)).await.unwrap(), State::DESTROYED);
    refusal.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_listed_with_all_who_need_and_hold_it_until_nothing_does_and_it_is_destroyed() {
    let (ward, server, host) = scene().await;
    let key = encrypted(&ward, "web").await;
    ward.vm("db").await;
    let shared = json!({ "key_id": id(&key) });
    ward.api.done(Method::POST, "/vms/db/encrypt", Some(shared)).await;
    let [view] = &list(&ward, "").await[..] else { panic!("not one key") };
    assert_eq!((view.standing, view.state, view.made), (KeyStanding::Present, Some(KeyState::Active), true));
    let users: Vec<_> = view.vms.iter().map(|user| (user.vm.as_str(), user.home, user.disks.clone())).collect();
    assert_eq!(users, [("db", true, vec![DiskId(0)]), ("web", true, vec![DiskId(0)])]);
    assert_eq!(view.hosts.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(view.unneeded_since.is_none() && list(&ward, "?unneeded=true").await.is_empty());
    let shown: KeyView = ward.api.get(&path(&key)).await.unwrap();
    assert_eq!(shown.name, key.to_string());
    not_destroyed(&ward, &server, &key, Code::InUse, "`web`").await;

    // What is encrypted under it stays after its VM has left the inventory.
    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    ward.api.post::<()>("/vms/db/unregister", json!({})).await.unwrap();
    grace(&ward, 0).await;
    not_destroyed(&ward, &server, &key, Code::InUse, "/srv/d/db").await;
    ward.api.post::<VmView>("/datastores/d/register", json!({ "directory": "db" })).await.unwrap();
    assert!(list(&ward, "?unneeded=true").await.is_empty(), "it is needed again");
    ward.api.done(Method::POST, "/vms/db/decrypt", Some(json!({}))).await;

    grace(&ward, 30).await;
    let [view] = &list(&ward, "?unneeded=true").await[..] else { panic!("not one key") };
    let until = view.kept_until.unwrap();
    assert!(view.vms.is_empty() && view.unneeded_since.unwrap() < until);
    let day = until.to_string()[..10].to_owned();
    not_destroyed(&ward, &server, &key, Code::KeyKept, &day).await;
    grace(&ward, 0).await;
    ward.api.delete::<()>(&path(&key)).await.unwrap();
    assert_eq!(server.client().state(id(&key)).await.unwrap(), State::DESTROYED);
    let told = ward.api.told(EventKind::KeyDestroyed).await;
    assert_eq!((told[0].subject.key.as_ref(), told[0].subject.user.as_ref().unwrap().as_str()), (Some(&key), "admin"));
    assert!(list(&ward, "").await.is_empty() && host.keys().is_empty());
    let again = ward.api.delete::<()>(&path(&key)).await.unwrap_err();
    assert_eq!(again.code(), Code::KeyNotOurs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_destroyed_where_nobody_can_know_or_the_server_does_not_answer() {
    let (ward, mut server, mut host) = scene().await;
    let key = encrypted(&ward, "web").await;
    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    grace(&ward, 0).await;
    // Somebody else's.
    let other = server.key().await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({ "key_id": other }))).await;
    let other = ward.api.get::<VmView>("/vms/web").await.unwrap().keys.remove(0);
    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    assert_eq!(list(&ward, "?unneeded=true").await.len(), 2);
    not_destroyed(&ward, &server, &other, Code::KeyNotOurs, "this controller").await;

    host.cut();
    ward.api.host_event(EventKind::HostDisconnected, host.id, 1).await;
    not_destroyed(&ward, &server, &key, Code::HostNone, "VM homes").await;
    host.come_back().await;
    ward.api.host_event(EventKind::HostConnected, host.id, 2).await;
    server.stop().await;
    let refusal = ward.api.delete::<()>(&path(&key)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyServerUnreachable);
    let missed = ward.api.told(EventKind::KeyServerUnreachable).await;
    assert!(missed.iter().any(|event| event.subject.key.as_ref() == Some(&key)), "{missed:?}");
    server.start_again().await;
    ward.api.delete::<()>(&path(&key)).await.unwrap();
    // What destroyed it may not have heard of it: that it is gone is as it should be.
    assert_eq!(server.client().state(id(&key)).await.unwrap(), State::DESTROYED);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_looked_for_and_the_lost_ones_are_named() {
    let (ward, mut server, _host) = scene().await;
    let mut keys = Vec::new();
    for name in ["web", "db", "mail"] {
        keys.push(encrypted(&ward, name).await);
    }
    for fetch in [false, true] {
        let checked = check(&ward, fetch).await;
        assert_eq!(
            (checked.total, checked.checked, checked.faults.len()),
            (4, 4, 0),
            "those of VMs and the host key: {checked:?}"
        );
    }
    // Deactivated, it still opens what it encrypted.
    server.deactivate(id(&keys[0])).await;
    server.deactivate(id(&keys[1])).await;
    server.client().destroy(id(&keys[1])).await.unwrap();
    for (times, fetch) in [(1, false), (2, true)] {
        let checked = check(&ward, fetch).await;
        let [lost] = &checked.faults[..] else { panic!("{checked:?}") };
        assert_eq!((&lost.key, lost.standing), (&keys[1], KeyStanding::Missing));
        assert_eq!(lost.problem.as_ref().unwrap().code, Code::KeyNotUsable);
        assert_eq!(lost.vms[0].vm.as_str(), "db");
        let told = ward.api.told(EventKind::KeyNotUsable).await;
        assert_eq!((told.len(), told[0].subject.key.as_ref()), (times, Some(&keys[1])), "{told:?}");
        assert!(told[0].subject.vm.is_some() && told[0].message.contains("`db`"), "{told:?}");
    }
    // Some at a time, all are looked at.
    let mut after = Value::Null;
    let mut seen = 0;
    for _ in 0..4 {
        let part: KeyCheck = ward.api.post("/keys/check", json!({ "limit": 1, "after": after })).await.unwrap();
        seen += part.checked;
        after = part.next.map_or(Value::Null, Value::from);
    }
    assert_eq!((seen, after), (4, Value::Null));

    server.stop().await;
    let checked = check(&ward, false).await;
    assert!(checked.faults.iter().all(|fault| fault.standing == KeyStanding::Unknown), "{checked:?}");
    assert_eq!(checked.faults.len(), 4);
    assert_eq!(ward.api.told(EventKind::KeyServerUnreachable).await.len(), 1, "said once of all");
    let listed = list(&ward, "").await;
    assert!(listed.iter().all(|key| key.standing == KeyStanding::Unknown && key.problem.is_some()));
    assert!(list(&ward, "?offline=true").await.iter().all(|key| key.problem.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_heard_of_is_found_by_its_name_and_can_be_destroyed() {
    let (ward, server, host) = scene().await;
    ward.vm("web").await;
    let full = Problem::new(Code::StorageFull, "cannot encrypt", "the datastore is full", "make room");
    host.change(|inside| inside.fails_jobs = Some(full));
    ward.api.fails(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    // The task's own key is known. Another of its name is what a lost answer leaves.
    let known = list(&ward, "?unneeded=true").await.remove(0).key;
    let task = ward.api.told(EventKind::TaskFailed).await[0].subject.task.unwrap();
    let lost = server.named_key(&format!("ward-task-{task}-1")).await;
    let stranger = server.named_key(&format!("ward-task-{}", TaskId::new())).await;
    server.named_key("a key of somebody else").await;
    let found: Vec<OrphanView> = ward.api.post("/providers/kms/orphans", json!({})).await.unwrap();
    let mut found: Vec<_> = found.iter().map(|orphan| (id(&orphan.key).to_owned(), orphan.ours)).collect();
    let mut wanted = vec![(lost.clone(), true), (stranger.clone(), false)];
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
    let unneeded = list(&ward, "?unneeded=true").await;
    assert_eq!(unneeded.len(), 2, "{unneeded:?}");
    grace(&ward, 0).await;
    for view in &unneeded {
        ward.api.delete::<()>(&path(&view.key)).await.unwrap();
    }
    assert_eq!(server.client().state(&lost).await.unwrap(), State::DESTROYED);
    assert_eq!(server.client().state(id(&known)).await.unwrap(), State::DESTROYED);
    let stranger = KeyRef::standard("kms".parse().unwrap(), stranger.try_into().unwrap());
    not_destroyed(&ward, &server, &stranger, Code::KeyNotOurs, "this controller").await;
}
