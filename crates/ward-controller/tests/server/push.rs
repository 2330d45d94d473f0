//! Keys on their way to many hosts: at once, and nobody waits for who is dead or slow.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use ward_controller::api::types::{HostView, VmView};
use ward_types::{Code, EventKind, HostId, KeyId, KeyRef};

use crate::support::{Host, KeyServer, Ward};

const HOSTS: usize = 64;
/// How long nobody takes who waits for no dead or slow host, however busy the machine is.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn of_64_hosts_5_are_dead_and_5_slow_and_the_others_are_not_delayed() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let mut hosts = Vec::new();
    for n in 0..HOSTS {
        hosts.push(Host::join(&ward.token().await, &format!("h{n:02}"), ward.storage.clone()).await.unwrap());
    }
    for host in &hosts {
        ward.api.host_event(EventKind::HostConnected, host.id, 1).await;
    }
    let names: Vec<_> = (0..HOSTS).map(|n| format!("h{n:02}")).collect();
    let _host_keys = ward.safe(names.iter().map(String::as_str)).await;
    ward.vm("web").await;
    let (dead, slow) = (20..25, 40..45);
    for n in dead.clone() {
        hosts[n].cut();
    }
    for n in slow.clone() {
        hosts[n].change(|inside| inside.slow = true);
    }
    let start = Instant::now();
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    let key = ward.api.get::<VmView>("/vms/web").await.unwrap().keys.remove(0);
    let is_bad = |n: usize| dead.contains(&n) || slow.contains(&n);
    for (n, host) in hosts.iter().enumerate() {
        assert_eq!(host.keys().contains(&key), !is_bad(n), "h{n:02}");
    }
    // And each of the ten is named, with the key, the cause and what to do.
    let named: BTreeSet<HostId> = (0..HOSTS).filter(|n| is_bad(*n)).map(|n| hosts[n].id).collect();
    let seen = RefCell::new(BTreeSet::new());
    ward.api
        .event("the ten hosts", |event| {
            if event.kind == EventKind::KeyHostUnreachable {
                let problem = event.problem.as_ref().unwrap();
                assert_eq!((problem.code, event.subject.key.as_ref()), (Code::HostUnreachable, Some(&key)));
                assert!(!problem.why.is_empty() && !problem.remedy.is_empty() && event.subject.vm.is_some());
                seen.borrow_mut().insert(event.subject.host.unwrap());
            }
            *seen.borrow() == named
        })
        .await;
    // When they answer again they get it.
    for n in slow {
        hosts[n].change(|inside| inside.slow = false);
    }
    for n in dead {
        hosts[n].come_back().await;
        hosts[n].until("the key", |inside| inside.keys.contains_key(&key)).await;
    }
    for host in &hosts[40..45] {
        host.until("the key", |inside| inside.keys.contains_key(&key)).await;
    }
}

async fn with_vm() -> (Ward, KeyServer, Host, KeyRef) {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("a").await;
    ward.vm("web").await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let key = ward.api.get::<VmView>("/vms/web").await.unwrap().keys.remove(0);
    (ward, server, host, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_joins_gets_the_keys_and_one_that_leaves_loses_them() {
    let (ward, _server, a, key) = with_vm().await;
    let mut b = ward.host("b").await;
    b.until("the key", |inside| inside.keys.contains_key(&key)).await;

    ward.api.done(Method::POST, "/vms/web/start", Some(json!({ "host": "a" }))).await;
    let refusal = ward.api.delete::<()>("/hosts/a").await.unwrap_err();
    assert_eq!(refusal.code(), Code::InUse);
    assert!(refusal.0.why.contains("`web`"), "{:?}", refusal.0);
    assert_eq!(a.keys(), std::slice::from_ref(&key));
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;
    ward.api.delete::<()>("/hosts/a").await.unwrap();
    assert_eq!(a.keys(), []);
    let told = ward.api.told(EventKind::KeyDropped).await;
    assert!(told[0].message.contains(&key.to_string()) && told[0].message.contains("`a`"), "{told:?}");
    assert_eq!(ward.api.told(EventKind::HostRemoved).await[0].subject.host, Some(a.id));
    // It is a stranger from now on.
    a.hello().await.unwrap_err();

    b.cut();
    ward.api.host_event(EventKind::HostDisconnected, b.id, 1).await;
    assert_eq!(ward.api.delete::<()>("/hosts/b").await.unwrap_err().code(), Code::HostUnreachable);
    assert_eq!(ward.api.get::<Vec<HostView>>("/hosts").await.unwrap().len(), 1);
    ward.api.delete::<()>("/hosts/b?force=true").await.unwrap();
    assert!(ward.api.get::<Vec<HostView>>("/hosts").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_holds_and_nobody_needs_is_taken_away() {
    let (ward, _server, host, key) = with_vm().await;
    let late = KeyRef::standard("kms".parse().unwrap(), KeyId::try_from("late".to_owned()).unwrap());
    host.change(|inside| drop(inside.keys.insert(late.clone(), vec![0; 32])));
    host.until("it is taken away", |inside| !inside.keys.contains_key(&late)).await;
    assert_eq!(host.keys(), [key]);
    let told = ward.api.event("it is told", |event| event.kind == EventKind::KeyDropped).await;
    assert!(told.message.contains("kms/late"), "{}", told.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_gone_is_told_in_plain_words() {
    let (ward, _server, mut host, _) = with_vm().await;
    host.cut();
    let told = ward.api.host_event(EventKind::HostDisconnected, host.id, 1).await;
    assert_eq!(told.message, format!("host `a` at {} does not answer: connection refused", host.address));
}
