//! Repeated requests, pages, and errors as documents.

use http::Method;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use ward_types::{Code, Object, Power};

use super::{House, key, name};

const KEY: &str = "idempotency-key";

#[tokio::test]
async fn a_request_with_a_key_begins_its_task_once() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("web-1", place, Power::On, None).await;
    house.add_vm("web-2", place, Power::On, None).await;
    house.add_user("second", &[(&Object::Root, "administrator")]).await;
    let (admin, second) = (house.session_of("admin").await, house.session_of("second").await);
    let stop = async |token: &str, vm: &str, key: &str, body: Value| {
        house.ask(Method::POST, &format!("/api/v1/vms/{vm}/stop"), Some(token), &[(KEY, key)], Some(body)).await
    };
    let id = |task: Value| task["id"].as_str().unwrap().to_owned();

    let first = id(stop(&admin, "web-1", "k1", json!({})).await.ok());
    assert_eq!(id(stop(&admin, "web-1", "k1", json!({})).await.ok()), first);
    stop(&admin, "web-1", "k1", json!({ "force": true })).await.refused(422, "request.key-reused");
    stop(&admin, "web-2", "k1", json!({})).await.refused(422, "request.key-reused");
    // Keys are each user's own.
    assert_ne!(id(stop(&second, "web-2", "k1", json!({})).await.ok()), first);
    // A refusal is no task: the same key may be tried again.
    stop(&admin, "web-9", "k2", json!({})).await.refused(404, "object.not-found");
    house.add_vm("web-9", place, Power::On, None).await;
    stop(&admin, "web-9", "k2", json!({})).await.ok();
    stop(&admin, "web-9", &"k".repeat(256), json!({})).await.refused(400, "request.invalid");
    let tasks = house.get(&admin, "/tasks").await.ok();
    assert_eq!(tasks.as_array().unwrap().len(), 3);
    house.controller.background.close();
    house.controller.background.wait().await;
}

/// Whatever it changes, and not only what begins a task.
#[tokio::test]
async fn any_request_with_a_key_is_done_once() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_provider("kms").await;
    let vm = house.add_vm("web-1", place, Power::Off, Some(&key("1"))).await;
    house.add_task((vm, &name("web-1"))).await;
    let admin = house.session_of("admin").await;
    let ask = async |method: Method, token: &str, path: &str, key: &str, body: Option<Value>| {
        house.ask(method, &format!("/api/v1{path}"), Some(token), &[(KEY, key)], body).await
    };
    let post = async |path: &str, key: &str, body: Value| ask(Method::POST, &admin, path, key, Some(body)).await;

    let request = json!({ "provider": "kms" });
    let run = post("/recryptions", "r", request.clone()).await.ok();
    assert_eq!(post("/recryptions", "r", request.clone()).await.ok()["id"], run["id"]);
    assert_eq!(house.get(&admin, "/recryptions").await.ok().as_array().unwrap().len(), 1);
    post("/recryptions", "r", json!({})).await.refused(422, "request.key-reused");

    // An answer with a secret is told again, and lies sealed.
    let joining = json!({ "cluster": "default" });
    let token = post("/hosts", "h", joining.clone()).await.ok();
    assert_eq!(post("/hosts", "h", joining).await.ok(), token);
    let kept = std::fs::read(house.dir.path().join("controller.db")).unwrap();
    let log = std::fs::read(house.dir.path().join("controller.db-wal")).unwrap_or_default();
    let secret = token["token"].as_str().unwrap();
    assert!(![kept, log].iter().any(|bytes| bytes.windows(secret.len()).any(|part| part == secret.as_bytes())));

    let group = json!({ "name": "g" });
    post("/groups", "g", group.clone()).await.ok();
    post("/groups", "g", group.clone()).await.ok();
    post("/groups", "other", group).await.refused(409, "object.exists");
    let remove = async |key: &str| ask(Method::DELETE, &admin, "/groups/g", key, None).await;
    remove("d").await.ok();
    remove("d").await.ok();
    remove("e").await.refused(404, "object.not-found");
    // What is asked is part of it.
    ask(Method::DELETE, &admin, "/groups/g?force=true", "d", None).await.refused(422, "request.key-reused");

    // Whoever may not any more is not told again; nor is a new user of an old name.
    house.add_user("ops", &[(&Object::Root, "administrator")]).await;
    let ops = house.session_of("ops").await;
    let add = async |token: &str| ask(Method::POST, token, "/groups", "o", Some(json!({ "name": "of-ops" }))).await;
    add(&ops).await.ok();
    let nothing = json!({ "subject": "user/ops", "object": "root", "role": "read-only" });
    house.post(&admin, "/permissions", nothing).await.ok();
    add(&ops).await.refused(403, "auth.denied");
    house.delete(&admin, "/users/ops").await.ok();
    house.add_user("ops", &[(&Object::Root, "administrator")]).await;
    add(&house.session_of("ops").await).await.refused(409, "object.exists");
    house.controller.background.close();
    house.controller.background.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_at_once_are_one() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("web-1", place, Power::On, None).await;
    let admin = house.session_of("admin").await;
    let stop = || house.ask(Method::POST, "/api/v1/vms/web-1/stop", Some(&admin), &[(KEY, "k")], Some(json!({})));
    let answers = tokio::join!(stop(), stop(), stop());
    let id = |answer: super::Answer| answer.ok()["id"].as_str().unwrap().to_owned();
    let ids = [id(answers.0), id(answers.1), id(answers.2)];
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    house.controller.background.close();
    house.controller.background.wait().await;
}

#[tokio::test]
async fn lists_come_in_pages() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let mut names = Vec::new();
    for number in 0..7 {
        let vm = format!("web-{number}");
        let id = house.add_vm(&vm, place, Power::Off, None).await;
        house.add_task((id, &name(&vm))).await;
        names.push(vm);
    }
    let admin = house.session_of("admin").await;
    let all = async |path: &str| {
        let mut items = Vec::new();
        let mut next = Some(format!("/api/v1{path}"));
        while let Some(uri) = next {
            let answer = house.ask(Method::GET, &uri, Some(&admin), &[], None).await;
            let link = answer.headers.get("link").map(|link| link.to_str().unwrap().to_owned());
            next = link.map(|link| link.trim_start_matches('<').split_once('>').unwrap().0.to_owned());
            let page = answer.ok().as_array().unwrap().clone();
            assert!(!page.is_empty() && page.len() <= 3, "{path}");
            items.extend(page);
        }
        items
    };
    let field = |items: Vec<Value>, field: &str| -> Vec<String> {
        items.iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(field(all("/vms?limit=3").await, "name"), names);
    let newest_first: Vec<_> = names.iter().rev().cloned().collect();
    assert_eq!(field(all("/tasks?limit=2").await, "vm_name"), newest_first);
    for bad in ["/vms?limit=0", "/tasks?limit=x", "/tasks?after=x", "/events?after=x", "/audit?after=-1"] {
        house.get(&admin, bad).await.refused(400, "request.invalid");
    }
}

#[tokio::test]
async fn events_are_those_of_objects_that_may_be_read() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let (other, ..) = house.add_cluster("other").await;
    let vm = house.add_vm("web-1", place, Power::Off, None).await;
    house.add_user("local", &[(&Object::Cluster(other), "administrator")]).await;
    for _ in 0..3 {
        let subject = ward_types::EventSubject { vm: Some(vm), ..Default::default() };
        house.controller.record(ward_types::EventKind::VmStarted, &subject, "VM `web-1` started").await;
    }
    let (admin, local) = (house.session_of("admin").await, house.session_of("local").await);
    let numbers = async |token: &str, path: &str| -> Vec<i64> {
        let events = house.get(token, path).await.ok();
        events.as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(numbers(&admin, "/events?limit=2").await, [2, 3]);
    assert_eq!(numbers(&admin, "/events?after=0&limit=2").await, [1, 2]);
    assert_eq!(numbers(&admin, "/events?after=2").await, [3]);
    assert!(numbers(&local, "/events").await.is_empty());
    assert!(numbers(&local, "/events?after=0").await.is_empty());
}

#[tokio::test]
async fn errors_are_problem_documents_whatever_is_wrong() {
    let house = House::new().await;
    let admin = house.session_of("admin").await;
    house.get(&admin, "/nowhere").await.refused(404, "object.not-found");
    house.get(&admin, "/vms/%00").await.refused(404, "object.not-found");
    house.get(&admin, "/vms/%FF").await.refused(400, "request.invalid");
    house.ask(Method::PATCH, "/api/v1/vms", Some(&admin), &[], None).await.refused(405, "request.method");
    house.post(&admin, "/groups", json!({ "name": "a b" })).await.refused(400, "request.invalid");
    house.post(&admin, "/groups", json!({ "name": "a\0" })).await.refused(400, "request.invalid");
    for list in [json!([]), json!(["a"])] {
        house.post(&admin, "/groups", list).await.refused(400, "request.invalid");
    }
    let large = json!({ "name": "a".repeat(3 << 20) });
    house.post(&admin, "/groups", large.clone()).await.refused(413, "request.too-large");
    house
        .ask(Method::POST, "/api/v1/vms", Some(&admin), &[(KEY, "k")], Some(large))
        .await
        .refused(413, "request.too-large");
    let untyped = [(CONTENT_TYPE.as_str(), "text/plain")];
    house.ask(Method::POST, "/api/v1/groups", Some(&admin), &untyped, None).await.refused(415, "request.media-type");
    let problem = house.get("wrong", "/vms").await.refused(401, "auth.required");
    assert_eq!(problem["type"], "/api/v1/problems#auth.required");
    assert!(problem["detail"].as_str().unwrap().starts_with(problem["what"].as_str().unwrap()));

    let codes = house.ask(Method::GET, "/api/v1/problems", None, &[], None).await.ok();
    assert_eq!(codes.as_array().unwrap().len(), Code::ALL.len());
}
