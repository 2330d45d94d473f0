//! Keys that can't be had, and hosts that can't have them: what the user reads, what the log tells, what is left.

use http::Method;
use serde_json::{Value, json};
use ward_controller::api::types::{HostView, VmView};
use ward_types::{Code, EventKind, KeyId, KeyRef, Problem, TaskState};

use crate::support::Ward;

async fn encrypt(ward: &Ward) -> KeyRef {
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    ward.api.get::<VmView>("/vms/web").await.unwrap().keys.remove(0)
}

fn id(key: &KeyRef) -> String {
    let ward_types::KeyLocator::Standard { key_id } = &key.key else { panic!("{key} is at no key server") };
    key_id.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_given_to_every_host_and_taken_when_nothing_needs_it() {
    let (ward, server, hosts) = Ward::with_hosts(&["a", "b"]).await;
    let key = encrypt(&ward).await;
    let bytes = server.client().get_key(&id(&key)).await.unwrap();
    for host in &hosts {
        assert!(host.look(|inside| inside.keys[&key] == bytes.expose()), "another key");
        assert_eq!(host.keys(), std::slice::from_ref(&key));
    }
    let told = ward.api.told(EventKind::KeyPushed).await;
    let told = told.iter().find(|event| event.subject.key.as_ref() == Some(&key)).unwrap();
    assert!(told.message.contains("a, b"), "{}", told.message);
    let created = ward.api.told_of_vms(EventKind::KeyCreated).await;
    assert_eq!(created[0].subject.key.as_ref(), Some(&key));

    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    for host in &hosts {
        host.until("the key is forgotten", |inside| inside.vm_keys().is_empty()).await;
    }
    assert_eq!(ward.api.told(EventKind::KeyUnneeded).await[0].subject.key.as_ref(), Some(&key));
    assert_eq!(server.count().await, 1, "it stays at the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_is_named_and_gets_the_key_when_it_is_back() {
    let (ward, _server, mut hosts) = Ward::with_hosts(&["a", "b", "c"]).await;
    for host in ["a", "b", "c"] {
        ward.api.put::<HostView>(&format!("/hosts/{host}/encryption"), json!({ "on": true })).await.unwrap();
    }
    hosts[1].cut();
    let key = encrypt(&ward).await;
    for up in [&hosts[0], &hosts[2]] {
        assert_eq!(up.keys(), std::slice::from_ref(&key));
    }
    let told = ward.api.told(EventKind::KeyHostUnreachable).await;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].subject.host, told[0].subject.key.as_ref()), (Some(hosts[1].id), Some(&key)));
    assert!(told[0].message.contains("`b`") && told[0].message.contains(&key.to_string()), "{}", told[0].message);
    let pushed = ward.api.told(EventKind::KeyPushed).await;
    let pushed = pushed.iter().find(|event| event.subject.key.as_ref() == Some(&key)).unwrap();
    assert!(pushed.message.contains("a, c"), "{}", pushed.message);

    hosts[1].come_back().await;
    hosts[1].until("its key", |inside| inside.keys.contains_key(&key)).await;
    let given = |event: &ward_types::Event| event.kind == EventKind::KeyPushed && event.message.ends_with("host b");
    ward.api.event("the key is given to b", given).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_keys_is_named_and_the_others_get_them() {
    let (ward, _server, hosts) = Ward::with_hosts(&["a", "b"]).await;
    let unfit = Problem::new(Code::HostUnfit, "cannot hold keys", "memory can't be locked", "raise RLIMIT_MEMLOCK");
    hosts[1].change(|inside| inside.refuses_keys = Some(unfit));
    let key = encrypt(&ward).await;
    assert_eq!((hosts[0].keys(), hosts[1].keys()), (vec![key], vec![]));
    let told = ward.api.told(EventKind::KeyHostUnfit).await;
    assert_eq!(told[0].subject.host, Some(hosts[1].id));
    assert!(told[0].message.contains("`b`") && told[0].message.contains("RLIMIT_MEMLOCK"), "{}", told[0].message);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_only_host_away_nothing_is_begun() {
    let (ward, server, mut hosts) = Ward::with_hosts(&["a"]).await;
    hosts[0].cut();
    ward.api.host_event(EventKind::HostDisconnected, hosts[0].id, 1).await;
    let begun = ward.api.told(EventKind::TaskStarted).await.len();
    let refusal = ward.api.post::<Value>("/vms/web/encrypt", json!({})).await.unwrap_err();
    assert_eq!(refusal.code(), Code::HostUnreachable);
    assert!(refusal.0.why.contains("`a`"), "{:?}", refusal.0);
    assert_eq!(ward.api.told(EventKind::TaskStarted).await.len(), begun);
    assert_eq!(server.count().await, 0);
}

/// A failure for want of a key: code, event with the key, nothing left.
async fn fails_for_want_of(ward: &Ward, key: &str, code: Code, kind: EventKind) {
    let (hosts, known) = (ward.api.get::<Vec<HostView>>("/hosts").await.unwrap(), ward.api.told(kind).await.len());
    let problem = ward.api.fails(Method::POST, "/vms/web/encrypt", Some(json!({ "key_id": key }))).await;
    assert_eq!(problem.code, code, "{problem}");
    assert_eq!(problem.what, "cannot encrypt VM `web`");
    assert!(problem.why.contains(key), "{problem}");
    let told = ward.api.told(kind).await;
    assert_eq!(told.len(), known + 1, "{kind}");
    let subject = &told[known].subject;
    let wanted = KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(key.to_owned()).unwrap());
    assert_eq!((subject.key.as_ref(), subject.provider.is_some()), (Some(&wanted), true));
    assert!(subject.vm.is_some() && subject.task.is_some());
    assert!(hosts.iter().all(|host| host.keys.is_empty()));
    assert!(!ward.api.get::<VmView>("/vms/web").await.unwrap().encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_can_not_be_used_are_told_apart() {
    let (ward, server, hosts) = Ward::with_hosts(&["a"]).await;
    fails_for_want_of(&ward, "no-such-key", Code::KeyMissing, EventKind::KeyMissingAtServer).await;

    let deactivated = server.key().await;
    server.client().activate(&deactivated).await.unwrap();
    server.deactivate(&deactivated).await;
    fails_for_want_of(&ward, &deactivated, Code::KeyNotUsable, EventKind::KeyNotUsable).await;

    let destroyed = server.key().await;
    server.client().destroy(&destroyed).await.unwrap();
    fails_for_want_of(&ward, &destroyed, Code::KeyNotUsable, EventKind::KeyNotUsable).await;

    // One that was never used is made ready for use; keys of others are nobody's business.
    let fresh = server.key().await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({ "key_id": fresh }))).await;
    assert_eq!(server.client().state(&fresh).await.unwrap(), kmip::names::State::ACTIVE);
    assert_eq!(hosts[0].keys().iter().map(id).collect::<Vec<_>>(), [fresh]);
    assert!(ward.api.told_of_vms(EventKind::KeyCreated).await.is_empty());
    assert!(ward.api.told(EventKind::KeyUnneeded).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_named_is_forgotten_by_the_hosts_where_its_task_fails() {
    let (ward, server, hosts) = Ward::with_hosts(&["a"]).await;
    let key = server.key().await;
    let full = Problem::new(Code::StorageFull, "cannot encrypt", "the datastore is full", "make room");
    hosts[0].change(|inside| inside.fails_jobs = Some(full));
    let problem = ward.api.fails(Method::POST, "/vms/web/encrypt", Some(json!({ "key_id": key }))).await;
    assert_eq!(problem.code, Code::StorageFull);
    hosts[0].until("the key is forgotten", |inside| inside.vm_keys().is_empty()).await;
    // But not while another VM needs it.
    hosts[0].change(|inside| inside.fails_jobs = None);
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({ "key_id": key }))).await;
    ward.vm("other").await;
    let full = Problem::new(Code::StorageFull, "cannot encrypt", "the datastore is full", "make room");
    hosts[0].change(|inside| inside.fails_jobs = Some(full));
    ward.api.fails(Method::POST, "/vms/other/encrypt", Some(json!({ "key_id": key }))).await;
    hosts[0].until("the job is forgotten", |inside| inside.jobs.is_empty()).await;
    assert_eq!(hosts[0].keys().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_key_is_gone_is_locked_where_no_host_has_it() {
    let (ward, server, mut hosts) = Ward::with_hosts(&["a"]).await;
    let key = encrypt(&ward).await;
    // A deactivated key still opens what it encrypted.
    server.deactivate(&id(&key)).await;
    hosts[0].cut();
    hosts[0].come_back().await;
    hosts[0].until("its key", |inside| inside.keys.contains_key(&key)).await;

    server.client().destroy(&id(&key)).await.unwrap();
    // While a host has it, no key server is needed.
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;

    hosts[0].cut();
    hosts[0].come_back().await;
    let locked = ward.api.event("the VM is locked", |event| event.kind == EventKind::VmLocked).await;
    assert!(locked.message.contains("`web`"), "{}", locked.message);
    assert_eq!(locked.subject.key.as_ref(), Some(&key));
    let problem = ward.api.post::<Value>("/vms/web/start", json!({})).await.unwrap_err().0;
    assert_eq!(problem.code, Code::KeyNotUsable);
    assert!(problem.why.contains(&key.to_string()) && problem.why.contains("Destroyed"), "{problem}");
    assert_eq!(ward.api.told(EventKind::VmLocked).await.len(), 1, "it is said once");
    // It can leave the inventory, though nothing else can be done with it.
    ward.api.post::<()>("/vms/web/unregister", json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_anew_in_the_middle_gets_its_keys_and_its_job_again() {
    let (ward, server, mut hosts) = Ward::with_hosts(&["a"]).await;
    hosts[0].change(|inside| inside.hold = true);
    let task: ward_controller::api::types::TaskView = ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
    hosts[0].until("the job", |inside| !inside.jobs.is_empty()).await;
    hosts[0].cut();
    hosts[0].come_back().await;
    hosts[0].until("the job again", |inside| !inside.jobs.is_empty()).await;
    hosts[0].release();
    let ended = ward.api.ended(&task.info).await;
    assert_eq!((ended.state, ended.problem), (TaskState::Succeeded, None));
    assert_eq!(server.count().await, 1);
}
