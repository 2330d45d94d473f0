//! The recryption of many VMs: by the clock, for who has no VMs, and its report in pages.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use ward_types::{AuditOutcome, Object, Power};

use super::{House, key};
use crate::recryption::look;
use crate::store::recryption;

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
