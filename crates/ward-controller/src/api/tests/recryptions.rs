//! The recryption of many VMs: by the clock, for who has no VMs, and its report in pages.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use ward_types::{AuditOutcome, Object, Power, TaskId};

use super::super::types::{RecryptionRequest, RecryptionState, RecryptionVm, RecryptionVmState};
use super::{House, key, name};
use crate::recryption::look;
use crate::store::recryption::{self, RecryptionRow};

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(days * 24)
}

/// How many recryptions were begun, and how many VMs the newest is of.
async fn begun(house: &House, admin: &str) -> (usize, u64) {
    let runs = house.get(admin, "/recryptions").await.ok();
    let runs = runs.as_array().unwrap().clone();
    (runs.len(), runs.first().map_or(0, |run| run["total"].as_u64().unwrap()))
}

#[tokio::test]
async fn keys_are_replaced_on_the_day_on_which_they_are_too_old() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_provider("kms").await;
    house.add_vm("old", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("plain", place, Power::Off, None).await;
    let admin = house.session_of("admin").await;
    let made = Timestamp::now();
    // Nothing is due where no age is set.
    look(&house.controller, made + days(1000)).await.unwrap();
    assert_eq!(begun(&house, &admin).await, (0, 0));
    let mut tx = house.controller.store.write().await.unwrap();
    recryption::set_rotation(&mut tx, &"kms".parse().unwrap(), Some(90)).await.unwrap();
    tx.commit().await.unwrap();
    look(&house.controller, made + days(89)).await.unwrap();
    assert_eq!(begun(&house, &admin).await, (0, 0));
    look(&house.controller, made + days(90) + SignedDuration::from_secs(60)).await.unwrap();
    assert_eq!(begun(&house, &admin).await, (1, 1));
    // Not again while it runs, nor within the hour; whoever set the rule is not asked for, the clock is.
    look(&house.controller, made + days(90) + SignedDuration::from_mins(30)).await.unwrap();
    assert_eq!(begun(&house, &admin).await, (1, 1));
    let audit = house.audit().await;
    let entry = audit.iter().find(|entry| entry.operation == "recryption.begin").unwrap();
    assert_eq!(entry.outcome, AuditOutcome::Granted);
    // Another one, whose day has come, does not wait for it.
    house.add_vm("other", place, Power::Off, Some(&key("2"))).await;
    look(&house.controller, made + days(91)).await.unwrap();
    let (runs, vms) = begun(&house, &admin).await;
    assert!(runs == 2 && vms >= 1, "{runs} {vms}");
}

#[tokio::test]
async fn a_recryption_that_does_not_get_on_keeps_no_other_vm_waiting() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_provider("kms").await;
    let stuck = house.add_vm("stuck", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("old", place, Power::Off, Some(&key("2"))).await;
    let admin = house.session_of("admin").await;
    let mut tx = house.controller.store.write().await.unwrap();
    recryption::set_rotation(&mut tx, &"kms".parse().unwrap(), Some(90)).await.unwrap();
    let row = |user: &str, state| RecryptionRow {
        id: TaskId::new(),
        user: user.parse().unwrap(),
        request: RecryptionRequest { due: true, ..RecryptionRequest::default() },
        state,
        created: Timestamp::now(),
        ended: None,
    };
    let item =
        RecryptionVm { vm: stuck, name: name("stuck"), state: RecryptionVmState::Running, task: None, problem: None };
    // The clock's own, paused by somebody.
    let paused = row("scheduler", RecryptionState::Paused);
    recryption::add(&mut tx, &paused, std::slice::from_ref(&item)).await.unwrap();
    tx.commit().await.unwrap();
    let due = Timestamp::now() + days(91);
    look(&house.controller, due).await.unwrap();
    assert_eq!(begun(&house, &admin).await, (2, 1), "the other one");
    // What somebody else began and paused keeps nothing from being done.
    let mut tx = house.controller.store.write().await.unwrap();
    recryption::set_state(&mut tx, paused.id, RecryptionState::Ended).await.unwrap();
    recryption::add(&mut tx, &row("admin", RecryptionState::Paused), &[item]).await.unwrap();
    tx.commit().await.unwrap();
    look(&house.controller, due + days(1)).await.unwrap();
    let newest = house.get(&admin, "/recryptions").await.ok()[0]["id"].as_str().unwrap().to_owned();
    let report = house.get(&admin, &format!("/recryptions/{newest}/vms")).await.ok();
    assert!(report.as_array().unwrap().iter().any(|item| item["name"] == "stuck"), "{report}");
}

#[tokio::test]
async fn who_has_a_cluster_without_vms_recrypts_nothing_and_who_may_nothing_is_refused() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let (other, ..) = house.add_cluster("other").await;
    house.add_provider("kms").await;
    house.add_vm("web", place, Power::Off, Some(&key("1"))).await;
    house.add_user("local", &[(&Object::Cluster(other), "administrator")]).await;
    house.add_user("reader", &[(&Object::Cluster(other), "read-only")]).await;
    let (local, reader) = (house.session_of("local").await, house.session_of("reader").await);
    let request = json!({ "provider": "kms" });
    let plan = house.post(&local, "/recryptions/plan", request.clone()).await.ok();
    assert_eq!(plan, json!([]));
    let run = house.post(&local, "/recryptions", request.clone()).await.ok();
    assert_eq!((&run["state"], &run["total"]), (&json!("ended"), &json!(0)));
    house.post(&reader, "/recryptions/plan", request.clone()).await.refused(403, "auth.denied");
    house.post(&reader, "/recryptions", request).await.refused(403, "auth.denied");
}

#[tokio::test]
async fn the_report_of_a_recryption_comes_in_pages() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let vm = house.add_vm("web", place, Power::Off, Some(&key("1"))).await;
    let id = house.add_recryption(vm, &"web".parse().unwrap()).await;
    let admin = house.session_of("admin").await;
    let run = house.get(&admin, &format!("/recryptions/{id}")).await.ok();
    assert_eq!((&run["total"], &run["vms"]), (&json!(1), &Value::Null));
    let report = house.get(&admin, &format!("/recryptions/{id}/vms?limit=1")).await;
    assert!(!report.headers.contains_key("link"));
    assert_eq!(report.ok()[0]["name"], "web");
    let rest = house.get(&admin, &format!("/recryptions/{id}/vms?after=web")).await.ok();
    assert_eq!(rest, json!([]));
}

#[tokio::test]
async fn the_plan_of_a_recryption_comes_in_pages() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_provider("kms").await;
    for name in ["b", "a"] {
        house.add_vm(name, place, Power::Off, Some(&key(name))).await;
    }
    let admin = house.session_of("admin").await;
    let request = json!({ "provider": "kms" });
    let first = house.post(&admin, "/recryptions/plan?limit=1", request.clone()).await;
    let next = first.headers["link"].to_str().unwrap().to_owned();
    assert!(next.contains("/recryptions/plan?limit=1&after=a>"), "{next}");
    assert_eq!(first.ok()[0]["name"], "a");
    let last = house.post(&admin, "/recryptions/plan?limit=1&after=a", request).await;
    assert!(!last.headers.contains_key("link"));
    assert_eq!(last.ok()[0]["name"], "b");
}

#[tokio::test]
async fn a_grant_tells_the_task_that_it_is_for() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("web", place, Power::On, None).await;
    let admin = house.session_of("admin").await;
    let task = house.post(&admin, "/vms/web/stop", json!({})).await.ok();
    let audit = house.audit().await;
    let entry = audit.iter().find(|entry| entry.operation == "vm.stop").unwrap();
    assert_eq!(json!(entry.task), task["id"]);
    house.add_user("reader", &[(&Object::Root, "read-only")]).await;
    let reader = house.session_of("reader").await;
    house.post(&reader, "/vms/web/stop", json!({})).await.refused(403, "auth.denied");
    let refused = house.audit().await.into_iter().find(|entry| entry.outcome == AuditOutcome::Refused).unwrap();
    assert_eq!(refused.task, None);
}
