//! New keys, storage policies, clones, templates, and VMs that come and go with their homes.

use http::Method;
use kmip::names::State;
use serde_json::{Value, json};
use ward_controller::api::types::{PolicyView, RecryptionPlanVm, RecryptionView, TaskView, VmDiskView, VmView};
use ward_types::{Code, EventKind, KeyRef, Problem, TaskKind};

use crate::support::{Host, KeyServer, Ward, in_time};

async fn ward() -> (Ward, KeyServer, Host) {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    (ward, server, host)
}

async fn encrypted(ward: &Ward, name: &str) -> KeyRef {
    ward.vm(name).await;
    ward.api.done(Method::POST, &format!("/vms/{name}/encrypt"), Some(json!({}))).await;
    key_of(ward, name).await
}

async fn vm(ward: &Ward, name: &str) -> VmView {
    ward.api.get(&format!("/vms/{name}")).await.unwrap()
}

async fn key_of(ward: &Ward, name: &str) -> KeyRef {
    let keys = vm(ward, name).await.keys;
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    key.clone()
}

async fn refused(ward: &Ward, path: &str, body: Value) -> Code {
    ward.api.post::<Value>(path, body).await.unwrap_err().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recrypt_moves_a_running_vm_to_another_provider_and_its_old_key_is_dropped() {
    let (ward, _server, host) = ward().await;
    let other = KeyServer::start().await;
    ward.provider("other", &other).await;
    let old = encrypted(&ward, "web").await;
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    assert_eq!(refused(&ward, "/vms/web/recrypt", json!({ "deep": true })).await, Code::VmRunning);
    ward.api.done(Method::POST, "/vms/web/recrypt", Some(json!({ "provider": "other" }))).await;
    let new = key_of(&ward, "web").await;
    assert_eq!(new.provider.as_str(), "other");
    assert_eq!(host.keys(), std::slice::from_ref(&new), "the old one is forgotten");
    let told = ward.api.told(EventKind::VmRecrypted).await;
    assert!(told[0].message.contains(&new.to_string()) && told[0].message.contains(&old.to_string()), "{told:?}");
    assert_eq!(ward.api.told(EventKind::KeyUnneeded).await[0].subject.key.as_ref(), Some(&old));
    // Of that provider is the host key still, until the host gets another.
    assert_eq!(ward.api.delete::<()>("/providers/kms").await.unwrap_err().code(), Code::InUse);
    ward.api.post::<Value>("/providers/other/default", json!({})).await.unwrap();
    ward.api.post::<Value>("/hosts/h/encryption/rekey", json!({})).await.unwrap();
    assert_eq!(host.keys(), std::slice::from_ref(&new));
    // Nothing needs the provider any more.
    ward.api.delete::<()>("/providers/kms").await.unwrap();
    assert_eq!(refused(&ward, "/vms/web/recrypt", json!({ "provider": "kms" })).await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_component_gets_what_is_asked_of_it_in_one_task() {
    let (ward, _server, _host) = ward().await;
    ward.vm("web").await;
    assert_eq!(refused(&ward, "/vms/web/encrypt", json!({ "disks": [0] })).await, Code::Composition);
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({ "home": true }))).await;
    let asked = json!({ "home": { "op": "shallow-recrypt" }, "disks": { "0": { "op": "encrypt" } } });
    let task: TaskView = ward.api.post("/vms/web/crypto", asked).await.unwrap();
    assert_eq!(task.info.kind, TaskKind::VmReconfigure);
    assert_eq!(ward.api.ended(&task.info).await.problem, None);
    key_of(&ward, "web").await;
    assert_eq!(refused(&ward, "/vms/web/decrypt", json!({ "home": true })).await, Code::Composition);
    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    assert!(!vm(&ward, "web").await.encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_encrypt_and_decrypt_and_are_kept() {
    let (ward, server, _host) = ward().await;
    let finance = json!({ "name": "Finance", "from": "VM Encryption Policy", "rotate_days": 30 });
    ward.api.post::<PolicyView>("/policies", finance).await.unwrap();
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let new = json!({ "name": "web", "disks": [disk], "policies": { "home": "Finance", "all_disks": "Finance" } });
    ward.api.done(Method::POST, "/vms", Some(new)).await;
    assert!(vm(&ward, "web").await.policies.iter().all(|policy| policy.policy.as_str() == "Finance"));
    key_of(&ward, "web").await;
    assert_eq!(ward.api.delete::<()>("/policies/Finance").await.unwrap_err().code(), Code::InUse);

    let keys = server.count().await;
    let same = json!({ "home": "VM Encryption Policy" });
    ward.api.done(Method::POST, "/vms/web/policy", Some(same)).await;
    assert_eq!(server.count().await, keys, "what is encrypted stays under its key");
    let plain = json!({ "home": "No Encryption Policy", "all_disks": "No Encryption Policy" });
    ward.api.done(Method::POST, "/vms/web/policy", Some(plain)).await;
    assert!(!vm(&ward, "web").await.encrypted);
    ward.api.delete::<()>("/policies/Finance").await.unwrap();
    let built_in = ward.api.delete::<()>("/policies/VM%20Encryption%20Policy").await.unwrap_err();
    assert_eq!(built_in.code(), Code::PolicyBuiltIn);
    // What somebody does by hand takes it from under a policy that wants it otherwise.
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    let policies = vm(&ward, "web").await.policies;
    assert!(policies.iter().all(|policy| policy.policy.as_str() == "VM Encryption Policy"), "{policies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_does_not_encrypt_is_kept_for_a_new_vm() {
    let (ward, server, _host) = ward().await;
    let open = json!({ "name": "Open", "encrypts": false });
    ward.api.post::<PolicyView>("/policies", open).await.unwrap();
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let new = json!({ "name": "web", "disks": [disk], "policies": { "home": "Open", "all_disks": "Open" } });
    ward.api.done(Method::POST, "/vms", Some(new)).await;
    let web = vm(&ward, "web").await;
    assert!(!web.encrypted && web.policies.len() == 2);
    assert!(web.policies.iter().all(|policy| policy.policy.as_str() == "Open"), "{:?}", web.policies);
    assert_eq!(server.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_would_refuse_makes_no_key() {
    let (ward, server, host) = ward().await;
    ward.vm("plain").await;
    encrypted(&ward, "web").await;
    let keys = server.count().await;
    let full = Problem::new(Code::StorageFull, "cannot do it", "the datastore is full", "make room");
    host.change(|inside| inside.refuses_jobs = Some(full));
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let encrypts = "VM Encryption Policy";
    for (path, body) in [
        ("/vms/plain/encrypt", json!({})),
        ("/vms/web/recrypt", json!({ "deep": true })),
        ("/vms/web/clone", json!({ "name": "new", "keys": "new" })),
        ("/vms", json!({ "name": "new", "disks": [disk], "policies": { "home": encrypts, "all_disks": encrypts } })),
        ("/vms/web/disks", json!({ "from": disk, "crypto": { "op": "encrypt" } })),
    ] {
        let task: TaskView = ward.api.post(path, body).await.unwrap();
        assert_eq!(
            ward.api.ended(&task.info).await.problem.map(|problem| problem.code),
            Some(Code::StorageFull),
            "{path}"
        );
        assert_eq!(server.count().await, keys, "{path}");
    }
    assert_eq!(ward.api.told(EventKind::KeyUnneeded).await.len(), 0);
    // Nor is one that is there taken into use.
    let there = server.key().await;
    let task: TaskView = ward.api.post("/vms/plain/encrypt", json!({ "key_id": there })).await.unwrap();
    assert!(ward.api.ended(&task.info).await.problem.is_some());
    assert_eq!(server.client().state(&there).await.unwrap(), State::PRE_ACTIVE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_gets_and_loses_disks() {
    let (ward, server, _host) = ward().await;
    let key = encrypted(&ward, "web").await;
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    ward.api
        .done(Method::POST, "/vms/web/disks", Some(json!({ "from": disk, "policy": "VM Encryption Policy" })))
        .await;
    let disks: Vec<VmDiskView> = ward.api.get("/vms/web/disks").await.unwrap();
    assert_eq!(disks.iter().map(|disk| disk.boots).collect::<Vec<_>>(), [true, false]);
    assert_eq!(vm(&ward, "web").await.keys.len(), 2);
    assert_eq!(server.count().await, 2);
    ward.api.done(Method::POST, "/vms/web/disks/1/detach", Some(json!(null))).await;
    let disks: Vec<VmDiskView> = ward.api.get("/vms/web/disks").await.unwrap();
    assert!(!disks[1].attached);
    assert!(ward.api.told(EventKind::KeyUnneeded).await.is_empty(), "what is detached needs its key");
    assert_eq!(refused(&ward, "/vms/web/disks/0/detach", json!(null)).await, Code::Composition);
    assert_eq!(refused(&ward, "/vms/web/disks/7/detach", json!(null)).await, Code::NotFound);
    let task: TaskView = ward.api.delete("/vms/web/disks/1").await.unwrap();
    assert_eq!(ward.api.ended(&task.info).await.problem, None);
    assert_eq!(key_of(&ward, "web").await, key);
    assert_eq!(ward.api.told(EventKind::KeyUnneeded).await.len(), 1);
    assert_eq!(ward.api.told(EventKind::VmDisksChanged).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_vms_get_new_keys_and_a_restart_goes_on() {
    let (ward, _server, host) = ward().await;
    for name in ["a", "b", "c"] {
        encrypted(&ward, name).await;
    }
    ward.vm("plain").await;
    let plan: Vec<RecryptionPlanVm> = ward.api.post("/recryptions/plan", json!({ "provider": "kms" })).await.unwrap();
    assert_eq!(plan.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let none: Vec<RecryptionPlanVm> =
        ward.api.post("/recryptions/plan", json!({ "older_than_days": 1 })).await.unwrap();
    assert_eq!(none, []);

    let old = [key_of(&ward, "a").await, key_of(&ward, "b").await, key_of(&ward, "c").await];
    host.change(|inside| inside.hold = true);
    let asked = json!({ "provider": "kms", "concurrency": 1 });
    let run: RecryptionView = ward.api.post("/recryptions", asked).await.unwrap();
    host.until("the first job", |inside| !inside.jobs.is_empty()).await;
    assert_eq!(host.look(|inside| inside.jobs.len()), 1, "one at a time");
    let path = format!("/recryptions/{}", run.id);
    let paused: RecryptionView = ward.api.post(&format!("{path}/pause"), json!(null)).await.unwrap();
    assert_eq!(paused.state.to_string(), "paused");
    let ward = ward.stop().await.start().await.map_err(|_| "it did not start again").unwrap();
    ward.api.host_event(EventKind::HostConnected, host.id, 2).await;
    host.release();
    let resumed: RecryptionView = ward.api.post(&format!("{path}/resume"), json!(null)).await.unwrap();
    assert_eq!(resumed.total, 3);
    let ended = ward.api.event("the end", |event| event.kind == EventKind::RecryptionEnded).await;
    assert!(ended.message.contains("3 VMs done, 0 failed"), "{}", ended.message);
    for (name, old) in ["a", "b", "c"].into_iter().zip(&old) {
        let new = key_of(&ward, name).await;
        assert!(new != *old, "{name}");
        let recrypted = ward.api.told(EventKind::VmRecrypted).await;
        let times = recrypted.iter().filter(|event| event.message.contains(&format!("VM `{name}` "))).count();
        assert_eq!(times, 1, "{name} once: {recrypted:?}");
    }
    assert_eq!(refused(&ward, &format!("{path}/cancel"), json!(null)).await, Code::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_a_vm_of_its_own() {
    let (ward, _server, _host) = ward().await;
    let key = encrypted(&ward, "web").await;
    ward.api.post::<VmView>("/vms/web/template", json!({ "template": true })).await.unwrap();
    assert_eq!(refused(&ward, "/vms/web/start", json!({})).await, Code::VmTemplate);
    ward.api.done(Method::POST, "/vms/web/clone", Some(json!({ "name": "same" }))).await;
    assert_eq!(key_of(&ward, "same").await, key);
    ward.api.done(Method::POST, "/vms/web/clone", Some(json!({ "name": "new", "keys": "new" }))).await;
    assert!(key_of(&ward, "new").await != key);
    let plain =
        json!({ "name": "plain", "crypto": { "home": { "op": "decrypt" }, "disks": { "0": { "op": "decrypt" } } } });
    ward.api.done(Method::POST, "/vms/web/clone", Some(plain)).await;
    assert!(!vm(&ward, "plain").await.encrypted);
    let half = json!({ "name": "half", "crypto": { "home": { "op": "decrypt" } } });
    assert_eq!(refused(&ward, "/vms/web/clone", half).await, Code::Composition);
    assert_eq!(refused(&ward, "/vms/web/clone", json!({ "name": "new" })).await, Code::Exists);
    assert_eq!(refused(&ward, "/vms/web/clone", json!({ "name": "x", "tpm": "copy" })).await, Code::TpmNone);
    ward.api.done(Method::POST, "/vms/same/start", Some(json!({}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_goes_and_comes_with_its_home_and_is_locked_without_its_key() {
    let (ward, mut server, host) = ward().await;
    let key = encrypted(&ward, "web").await;
    let before = vm(&ward, "web").await;
    ward.api.post::<()>("/vms/web/unregister", json!(null)).await.unwrap();
    assert_eq!(host.keys(), []);
    let home = json!({ "directory": "web" });
    let again: VmView = ward.api.post("/datastores/d/register", home.clone()).await.unwrap();
    assert_eq!((again.id, again.locked), (before.id, None));
    assert_eq!(again.config, before.config);
    assert_eq!(host.keys(), [key], "its key is fetched, for only with it the home can be believed");
    assert_eq!(refused(&ward, "/datastores/d/register", home.clone()).await, Code::Exists);
    let nowhere = json!({ "directory": "none" });
    assert_eq!(refused(&ward, "/datastores/d/register", nowhere).await, Code::NotFound);

    ward.api.post::<()>("/vms/web/unregister", json!(null)).await.unwrap();
    server.stop().await;
    let locked: VmView = ward.api.post("/datastores/d/register", home).await.unwrap();
    let why = locked.locked.expect("a reason");
    assert_eq!(why.code, Code::KeyServerUnreachable);
    assert_eq!(refused(&ward, "/vms/web/start", json!({})).await, Code::KeyServerUnreachable);
    assert_eq!(refused(&ward, "/vms/web/unlock", json!(null)).await, Code::KeyServerUnreachable);
    assert!(!ward.api.told(EventKind::VmLocked).await.is_empty());
    server.start_again().await;
    let unlocked = in_time("the unlocking", async {
        loop {
            if let Ok(vm) = ward.api.post::<VmView>("/vms/web/unlock", json!(null)).await {
                return vm;
            }
        }
    });
    assert_eq!(unlocked.await.locked, None);
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
}
