//! To whom keys are given that a home names, and what somebody may who has not all privileges.

use http::Method;
use serde_json::{Value, json};
use ward_controller::api::types::{ClusterView, DatastoreView, HostToken, RecryptionView, TaskView, VmView};
use ward_types::{AuditEntry, AuditRecord, Code, EventKind, HomeCrypto, KeyRef, VmConfig, VmId};

use crate::support::{Host, KeyServer, Refusal, Ward, in_time};

async fn with_host() -> (Ward, KeyServer, Host) {
    let (ward, server, mut hosts) = Ward::with_hosts(&["a"]).await;
    (ward, server, hosts.remove(0))
}

/// Encrypts a VM, takes it out of the inventory, and tells its home and its key, which nothing needs then.
async fn left(ward: &Ward, name: &str) -> (VmConfig, KeyRef) {
    ward.api.done(Method::POST, &format!("/vms/{name}/encrypt"), Some(json!({}))).await;
    let view: VmView = ward.api.get(&format!("/vms/{name}")).await.unwrap();
    ward.api.post::<()>(&format!("/vms/{name}/unregister"), json!(null)).await.unwrap();
    (view.config.unwrap(), view.keys[0].clone())
}

/// A home that names a key, as somebody writes it who knows no more of that than its ID.
fn forged(config: &VmConfig, like: &VmConfig) -> VmConfig {
    let home = match &like.home {
        HomeCrypto::Encrypted { .. } => like.home.clone(),
        HomeCrypto::Plain => panic!("it is plain"),
    };
    VmConfig { home, ..config.clone() }
}

async fn denied(answer: Result<impl std::fmt::Debug, Refusal>, privilege: &str) {
    let problem = answer.unwrap_err().0;
    assert_eq!(problem.code, Code::AuthDenied, "{problem:?}");
    assert!(problem.why.contains(privilege), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_home_is_registered_by_who_may_have_its_keys() {
    let (ward, _server, host) = with_host().await;
    let (_, key) = left(&ward, "web").await;
    assert_eq!(host.keys(), []);
    let home = json!({ "directory": "web" });
    let plain = ward.user("plain", &["read", "vm.create", "crypto.manage-keys"], &["root"]).await;
    denied(plain.post::<Value>("/datastores/d/register", home.clone()).await, "crypto.register-vm").await;
    assert_eq!(host.keys(), [], "no key is given for who may not");
    let able = ward.user("able", &["read", "vm.create", "crypto.register-vm"], &["root"]).await;
    let view: VmView = able.post("/datastores/d/register", home).await.unwrap();
    assert_eq!((view.locked, host.keys()), (None, vec![key]));
    let log: Vec<AuditRecord> = ward.api.get("/audit?limit=1000").await.unwrap();
    let entries = log.iter().map(|record| serde_json::from_str::<AuditEntry>(&record.entry).unwrap());
    let told: Vec<_> = entries.filter(|entry| entry.operation == "vm.register-encrypted").collect();
    assert_eq!(told.iter().map(|entry| entry.user.as_str()).collect::<Vec<_>>(), ["plain", "able"]);
}

/// Whoever administers one cluster has no key of another's, whatever homes it writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_gets_no_key_of_another_clusters_vm() {
    let (ward, _server, host) = with_host().await;
    ward.vm("spare").await;
    ward.vm("gone").await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let web = ward.api.get::<VmView>("/vms/web").await.unwrap().config.unwrap();
    let (gone, unneeded) = left(&ward, "gone").await;
    ward.api.post::<ClusterView>("/clusters", json!({ "name": "other" })).await.unwrap();
    let store = json!({ "name": "o", "directory": "/srv/o", "cluster": "other" });
    ward.api.post::<DatastoreView>("/datastores", store).await.unwrap();
    let token: HostToken = ward.api.post("/hosts", json!({ "cluster": "other" })).await.unwrap();
    let theirs = Host::join(&token.token, "theirs", ward.storage.clone()).await.unwrap();
    ward.api.host_event(EventKind::HostConnected, theirs.id, 1).await;
    let all: Vec<Value> = ward.api.get("/roles").await.unwrap();
    let administrator = all.iter().find(|role| role["name"] == "administrator").unwrap();
    let privileges = administrator["privileges"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
    let local = ward.user("local", &privileges.collect::<Vec<_>>(), &["cluster/other"]).await;

    let spare = ward.api.get::<VmView>("/vms/spare").await.unwrap().config.unwrap();
    for (name, like) in [("a", &web), ("b", &gone)] {
        let config = VmConfig { id: VmId::new(), name: name.parse().unwrap(), ..forged(&spare, like) };
        ward.storage.put(&format!("/srv/o/{name}"), config);
        let answer = local.post::<Value>("/datastores/o/register", json!({ "directory": name })).await;
        let problem = answer.unwrap_err().0;
        assert!([Code::AuthDenied, Code::NotFound].contains(&problem.code), "{problem:?}");
        assert!(!problem.to_string().contains("`web`"), "{problem:?}");
    }
    assert_eq!(theirs.keys(), []);
    assert!(!host.keys().contains(&unneeded));
}

/// A description that was swapped under a VM does not bring the keys that it names.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_names_other_keys_is_read_again_by_who_may_have_them() {
    let (ward, mut server, mut host) = with_host().await;
    ward.vm("gone").await;
    ward.vm("plain").await;
    let (gone, other) = left(&ward, "gone").await;
    let plain = ward.api.get::<VmView>("/vms/plain").await.unwrap().config.unwrap();
    ward.storage.put("/srv/d/plain", forged(&plain, &gone));
    let ops = ward.user("ops", &["read", "vm.configure", "vm.power"], &["root"]).await;
    denied(ops.post::<Value>("/vms/plain/reload", json!(null)).await, "crypto.register-vm").await;
    assert_eq!(host.keys(), []);

    // The same of one that is locked, which any request looks at again.
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let web = ward.api.get::<VmView>("/vms/web").await.unwrap().config.unwrap();
    server.stop().await;
    host.cut();
    host.come_back().await;
    in_time("the lock", async {
        while ward.api.get::<VmView>("/vms/web").await.unwrap().locked.is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ward.storage.put("/srv/d/web", forged(&web, &gone));
    server.start_again().await;
    let refused = ops.post::<Value>("/vms/web/start", json!({})).await.unwrap_err();
    assert!(refused.0.why.contains("locked"), "{refused:?}");
    assert!(!host.keys().contains(&other));
    let unlocked = in_time("the unlocking", async {
        loop {
            if let Ok(view) = ward.api.post::<VmView>("/vms/web/unlock", json!(null)).await {
                return view;
            }
        }
    });
    assert!(unlocked.await.keys.contains(&other));
    assert!(host.keys().contains(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_comes_back_is_what_it_was() {
    let (ward, _server, _host) = with_host().await;
    ward.api.post::<Value>("/policies", json!({ "name": "Daily", "rotate_days": 1 })).await.unwrap();
    ward.api.done(Method::POST, "/vms/web/policy", Some(json!({ "home": "Daily", "all_disks": "Daily" }))).await;
    ward.api.post::<VmView>("/vms/web/template", json!({ "template": true })).await.unwrap();
    let before: VmView = ward.api.get("/vms/web").await.unwrap();
    ward.api.post::<()>("/vms/web/unregister", json!(null)).await.unwrap();
    let after: VmView = ward.api.post("/datastores/d/register", json!({ "directory": "web" })).await.unwrap();
    assert!(after.template);
    assert_eq!(after.policies, before.policies);
    assert!(after.policies.iter().all(|policy| policy.policy.as_str() == "Daily"), "{:?}", after.policies);
    assert_eq!(ward.api.post::<Value>("/vms/web/start", json!({})).await.unwrap_err().code(), Code::VmTemplate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_too_old_is_replaced() {
    let (ward, _server, host) = with_host().await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let old = ward.api.get::<VmView>("/vms/web").await.unwrap().keys;
    ward.api.put::<Value>("/providers/kms/rotation", json!({ "days": 90 })).await.unwrap();
    // It is looked at when the controller starts, and each minute.
    let stopped = ward.stop().await;
    stopped.sql("UPDATE key_age SET since = 1").await;
    let ward = stopped.start().await.map_err(|_| "it did not start again").unwrap();
    let told = ward.api.event("the end", |event| event.kind == EventKind::RecryptionEnded).await;
    assert!(told.message.contains("1 VMs done, 0 failed"), "{}", told.message);
    let new = ward.api.get::<VmView>("/vms/web").await.unwrap().keys;
    assert!(new.len() == 1 && new != old, "{new:?}");
    assert_eq!(host.keys(), new);
    let runs: Vec<RecryptionView> = ward.api.get("/recryptions").await.unwrap();
    assert_eq!(runs[0].user.as_str(), "scheduler");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_host_is_away_is_cancelled_by_another_or_when_it_is_back() {
    let (ward, _server, mut hosts) = Ward::with_hosts(&["a"]).await;
    let mut a = hosts.remove(0);
    let begun = async |host: &Host| {
        host.change(|inside| inside.hold = true);
        let task: TaskView = ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
        host.until("the job", |inside| inside.jobs.contains_key(&task.info.id)).await;
        task.info
    };
    let cancel = async |task: &ward_types::TaskInfo| {
        ward.api.post::<()>(&format!("/tasks/{}/cancel", task.id), json!(null)).await.unwrap();
    };
    let task = begun(&a).await;
    a.cut();
    cancel(&task).await;
    a.come_back().await;
    assert_eq!(ward.api.ended(&task).await.problem.unwrap().code, Code::Cancelled);

    let b = ward.host("b").await;
    b.change(|inside| inside.hold = true);
    let task = begun(&a).await;
    a.cut();
    cancel(&task).await;
    assert_eq!(ward.api.ended(&task).await.problem.unwrap().code, Code::Cancelled);
    b.until("nothing left there", |inside| inside.jobs.is_empty()).await;
    assert!(!ward.api.get::<VmView>("/vms/web").await.unwrap().encrypted);
}

/// `Register` of a component sends its key, for who may, and changes nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_has_its_key_given_to_hosts() {
    let (ward, _server, host) = with_host().await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let view: VmView = ward.api.get("/vms/web").await.unwrap();
    let register = json!({ "home": { "op": "register" }, "disks": { "0": { "op": "register" } } });
    let plain = ward.user("plain", &["read", "crypto.recrypt", "crypto.encrypt"], &["root"]).await;
    denied(plain.post::<Value>("/vms/web/crypto", register.clone()).await, "crypto.register-vm").await;
    // What the host has lost unnoticed it has again at the task's end.
    host.change(|inside| inside.keys.retain(|key, _| !view.keys.contains(key)));
    assert_eq!(host.keys(), []);
    ward.api.done(Method::POST, "/vms/web/crypto", Some(register)).await;
    assert_eq!(host.keys(), view.keys);
    let now: VmView = ward.api.get("/vms/web").await.unwrap();
    assert_eq!((now.keys, now.config), (view.keys, view.config));
}
