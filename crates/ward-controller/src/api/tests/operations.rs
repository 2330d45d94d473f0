//! Which privileges an operation takes whose parts are several things: each part takes its own.

use jiff::Timestamp;
use serde_json::{Value, json};
use ward_rpc::api::host::VolumeLabel;
use ward_types::Privilege::{
    self, CryptoAccess, CryptoAddDisk, CryptoClone, CryptoDecrypt, CryptoEncrypt, CryptoEncryptNew, CryptoManageKeys,
    CryptoMigrate, CryptoReadKeyServers, CryptoRecrypt, Read, VmClone, VmConfigure, VmConsole, VmCreate, VmImport,
    VmPower,
};
use ward_types::{
    Code, Component, CryptoSpec, DiskId, DumpAbout, DumpInfo, DumpSubject, Object, PolicyName, Power, Progress, TaskId,
    TaskKind, VmId,
};

use super::{House, key};
use crate::api::auth::Caller;
use crate::api::dumps::readable;
use crate::authz::named;
use crate::plan::{CryptPlan, Origin};
use crate::store::vm::{self, VmRow};
use crate::store::{host_crypto, permission, policy, task, vm_left};
use crate::tasks::Work;
use crate::tasks::may_disk::{From, MayAddDisk};

/// A user with these privileges everywhere.
async fn user_with(house: &House, user: &str, privileges: &[Privilege]) -> String {
    let mut tx = house.controller.store.write().await.unwrap();
    let mut set: Vec<_> = privileges.to_vec();
    set.push(Read);
    permission::add_role(&mut tx, &user.parse().unwrap(), ward_types::PrivilegeSet::of(&set)).await.unwrap();
    tx.commit().await.unwrap();
    house.add_user(user, &[(&Object::Root, user)]).await;
    house.session_of(user).await
}

#[tokio::test]
async fn each_part_takes_its_own_privilege_and_no_other() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("open", place, Power::Off, None).await;
    house.add_provider("kms").await;
    let (encrypts, plain) = ("VM Encryption Policy", "No Encryption Policy");
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let new_vm = |policies: Value| json!({ "name": "new", "disks": [disk], "policies": policies });
    let crypto = |op: &str| json!({ "home": { "op": op } });
    let clone = |keys: &str, op: &str| json!({ "name": "new", "keys": keys, "crypto": { "home": { "op": op } } });
    let table: &[(&str, Value, &[Privilege])] = &[
        ("/vms/open/encrypt", json!({}), &[CryptoEncrypt]),
        ("/vms/open/crypto", crypto("encrypt"), &[CryptoEncrypt]),
        ("/vms/secret/decrypt", json!({}), &[CryptoDecrypt]),
        ("/vms/secret/crypto", crypto("decrypt"), &[CryptoDecrypt]),
        ("/vms/secret/recrypt", json!({}), &[CryptoRecrypt]),
        ("/vms/secret/recrypt", json!({ "deep": true }), &[CryptoRecrypt]),
        ("/vms/secret/crypto", crypto("shallow-recrypt"), &[CryptoRecrypt]),
        ("/vms/secret/crypto", crypto("deep-recrypt"), &[CryptoRecrypt]),
        ("/vms/open/policy", json!({ "home": encrypts }), &[VmConfigure, CryptoEncrypt]),
        ("/vms/secret/policy", json!({ "home": plain }), &[VmConfigure, CryptoDecrypt]),
        ("/vms", new_vm(json!({ "home": encrypts })), &[VmCreate, CryptoEncryptNew]),
        ("/vms/secret/clone", clone("same", "no-op"), &[VmClone, CryptoClone, VmCreate]),
        ("/vms/secret/clone", clone("new-kek", "no-op"), &[VmClone, CryptoClone, VmCreate, CryptoRecrypt]),
        ("/vms/secret/clone", clone("same", "decrypt"), &[VmClone, CryptoClone, VmCreate, CryptoDecrypt]),
        ("/vms/open/clone", clone("same", "no-op"), &[VmClone, VmCreate]),
        ("/vms/open/clone", clone("same", "encrypt"), &[VmClone, VmCreate, CryptoEncryptNew]),
        ("/vms/open/disks", json!({ "from": disk }), &[VmConfigure]),
        (
            "/vms/secret/disks",
            json!({ "from": disk, "crypto": { "op": "encrypt" } }),
            &[VmConfigure, CryptoAddDisk, CryptoEncryptNew],
        ),
        (
            "/vms/secret/disks",
            json!({ "from": disk, "policy": encrypts }),
            &[VmConfigure, CryptoAddDisk, CryptoEncryptNew],
        ),
        ("/vms/open/disks", json!({ "from": { "source": "file", "path": "/image" } }), &[VmConfigure, VmImport]),
    ];
    for (row, (path, body, takes)) in table.iter().enumerate() {
        for lacks in 0..takes.len() {
            let but_one: Vec<_> = takes.iter().copied().filter(|it| *it != takes[lacks]).collect();
            let user = user_with(&house, &format!("u{row}-{lacks}"), &but_one).await;
            let problem = house.post(&user, path, body.clone()).await.refused(403, "auth.denied");
            let why = problem["why"].as_str().unwrap();
            assert!(why.contains(takes[lacks].as_str()), "{path} {body}: {why}");
        }
        // With all of them it is only for want of a host that nothing comes of it.
        let user = user_with(&house, &format!("u{row}"), takes).await;
        let problem = house.post(&user, path, body.clone()).await.refused(409, "host.none");
        assert!(problem["why"].as_str().unwrap().contains("host"), "{path} {body}: {problem}");
    }
}

/// Whatever an encrypted file says of itself: whose key it has, of that VM it is a disk.
#[tokio::test]
async fn an_encrypted_file_takes_what_copying_from_its_vm_takes() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("mine", place, Power::Off, Some(&key("2"))).await;
    let label = VolumeLabel { key: key("1"), vm: VmId::new(), disk: DiskId(0) };
    let origin = Origin::Volume { path: "/store/disk.luks".into(), label, known: None };
    let enough = [VmConfigure, VmImport, CryptoAddDisk, VmClone, CryptoClone];
    for (user, lacks) in [("a", 3), ("b", 4), ("c", 2), ("d", 1), ("e", 0), ("f", 9)] {
        let has: Vec<_> = enough.iter().enumerate().filter(|(n, _)| *n != lacks).map(|(_, it)| *it).collect();
        user_with(&house, user, &has).await;
        let caller = Caller::who_began(&house.controller, "cannot", &user.parse().unwrap()).await.unwrap();
        let mine: VmRow = named(&house.controller, "mine").await.unwrap();
        let asked = MayAddDisk::ask(&house.controller, &caller, mine, (From::File, &origin), (&CryptoSpec::NoOp, None));
        match (asked.await, enough.get(lacks)) {
            (Ok(_), None) => {}
            (Err(problem), Some(lacks)) => {
                assert_eq!(problem.code, Code::AuthDenied);
                assert!(problem.why.contains(lacks.as_str()), "{problem}");
            }
            (_, lacks) => panic!("{user} lacks {lacks:?}"),
        }
    }
}

/// A user who administers another cluster, and may there what its table says; the task is refused for want of a host.
#[tokio::test]
async fn a_key_that_is_there_is_given_where_all_that_needs_it_may_be_had() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let other = house.add_cluster("other").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("mine", other, Power::Off, None).await;
    house.add_vm("own", other, Power::Off, Some(&key("2"))).await;
    house.add_provider("kms").await;
    let mut tx = house.controller.store.write().await.unwrap();
    host_crypto::add_key(&mut tx, place.2, &key("3")).await.unwrap();
    tx.commit().await.unwrap();
    house.add_user("local", &[(&Object::Cluster(other.0), "administrator")]).await;
    let (admin, local) = (house.session_of("admin").await, house.session_of("local").await);
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let ways = |id: &str| {
        let named = json!({ "op": "encrypt", "key_id": id });
        [
            ("/vms/mine/encrypt", json!({ "key_id": id })),
            ("/vms/mine/crypto", json!({ "home": named })),
            ("/vms/own/recrypt", json!({ "key_id": id })),
            ("/vms/own/clone", json!({ "name": "new", "keys": "new-kek", "key_id": id })),
            ("/vms/own/disks", json!({ "from": disk, "crypto": named })),
        ]
    };
    // Its ID is no secret, and opens nothing: not another cluster's VM, not another's host key, not what nobody needs.
    for id in ["1", "3", "4"] {
        for (path, body) in ways(id) {
            let problem = house.post(&local, path, body.clone()).await;
            assert!([403, 404].contains(&problem.status.as_u16()), "{path} {body}: {}", problem.text);
            assert!(!problem.text.contains("secret") && !problem.text.contains("default-host"), "{}", problem.text);
            house.post(&admin, path, body).await.refused(409, "host.none");
        }
    }
    // What hosts of its cluster hold is its own.
    house.post(&local, "/vms/mine/encrypt", json!({ "key_id": "2" })).await.refused(409, "host.none");
    // With what it takes to copy the VM, or to manage keys, it may be had.
    let no_clone = user_with(&house, "no-clone", &[CryptoEncrypt, VmClone]).await;
    let named = |id: &str| json!({ "key_id": id });
    let problem = house.post(&no_clone, "/vms/mine/encrypt", named("1")).await.refused(403, "auth.denied");
    assert!(problem["why"].as_str().unwrap().contains("crypto.clone"), "{problem}");
    let cloner = user_with(&house, "cloner", &[CryptoEncrypt, VmClone, CryptoClone]).await;
    house.post(&cloner, "/vms/mine/encrypt", named("1")).await.refused(409, "host.none");
    house.post(&cloner, "/vms/mine/encrypt", named("3")).await.refused(403, "auth.denied");
    let keeper = user_with(&house, "keeper", &[CryptoEncrypt, CryptoManageKeys, CryptoReadKeyServers]).await;
    house.post(&keeper, "/vms/mine/encrypt", named("4")).await.refused(409, "host.none");
    house.post(&keeper, "/vms/mine/encrypt", named("1")).await.refused(403, "auth.denied");
    let audit = house.audit().await;
    let told = |operation: &str| audit.iter().any(|it| it.operation == operation && it.keys.contains(&key("4")));
    assert!(told("key.adopt"));
}

/// Keys that are replaced sooner are replaced, and such as are replaced later are not.
#[tokio::test]
async fn another_age_of_keys_takes_what_replacing_them_takes() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("open", place, Power::Off, None).await;
    let admin = house.session_of("admin").await;
    house.post(&admin, "/policies", json!({ "name": "Daily", "rotate_days": 1 })).await.ok();
    house.post(&admin, "/policies", json!({ "name": "Open", "encrypts": false })).await.ok();
    let user = user_with(&house, "ops", &[VmConfigure]).await;
    let daily = json!({ "home": "Daily" });
    let problem = house.post(&user, "/vms/secret/policy", daily.clone()).await.refused(403, "auth.denied");
    assert!(problem["why"].as_str().unwrap().contains("crypto.recrypt"), "{problem}");
    house.post(&user, "/vms/open/policy", json!({ "home": "Open" })).await.ok();
    let able = user_with(&house, "able", &[VmConfigure, CryptoRecrypt]).await;
    house.post(&able, "/vms/secret/policy", daily).await.ok();
    house.controller.background.close();
    house.controller.background.wait().await;
    // Nor is it taken from under it again.
    let away = json!({ "home": "VM Encryption Policy" });
    house.post(&user, "/vms/secret/policy", away).await.refused(403, "auth.denied");
}

#[tokio::test]
async fn who_names_another_host_moves_the_vm() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    house.add_vm("open", place, Power::Off, None).await;
    let row = house.host("default-host").await;
    // It does not answer, and is not waited for.
    house.controller.links.add(&row).missed();
    let user = user_with(&house, "ops", &[VmPower]).await;
    let there = json!({ "host": "elsewhere" });
    let problem = house.post(&user, "/vms/secret/start", there.clone()).await.refused(403, "auth.denied");
    assert!(problem["why"].as_str().unwrap().contains("crypto.migrate"), "{problem}");
    let able = user_with(&house, "able", &[VmPower, CryptoMigrate]).await;
    for (user, path, body) in [
        (&able, "/vms/secret/start", there.clone()),
        (&user, "/vms/open/start", there),
        (&user, "/vms/secret/start", json!({ "host": "default-host" })),
        (&user, "/vms/secret/start", json!({})),
    ] {
        let answer = house.post(user, path, body.clone()).await;
        assert!(![401, 403].contains(&answer.status.as_u16()), "{path} {body}: {}", answer.text);
    }
}

/// What was in a VM's memory does not become everybody's by taking the VM out of the inventory.
#[tokio::test]
async fn a_dump_is_as_its_vm_whether_that_is_there_or_not() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let (there, left) = (
        house.add_vm("there", place, Power::Off, Some(&key("1"))).await,
        house.add_vm("left", place, Power::Off, Some(&key("2"))).await,
    );
    let all = [VmConsole, CryptoAccess];
    user_with(&house, "all", &all).await;
    user_with(&house, "host", &[]).await;
    user_with(&house, "but-left", &all).await;
    let admin = house.session_of("admin").await;
    let shut_out = json!({ "subject": "user/but-left", "object": "vm/left", "role": "read-only" });
    house.post(&admin, "/permissions", shut_out).await.ok();
    let on_host = json!({ "subject": "user/host", "object": "host/default-host", "role": "administrator" });
    house.post(&admin, "/permissions", on_host).await.ok();
    let mut tx = house.controller.store.write().await.unwrap();
    let row = vm::get(&mut tx, left).await.unwrap().unwrap();
    vm_left::leave(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    let dump = |named: &str, subject| DumpInfo {
        name: super::name(named),
        about: DumpAbout { host: place.2, taken: Timestamp::now(), subject },
        key: key("3"),
        size: 1,
    };
    let guest = |vm| DumpSubject::Guest { vm };
    let process = DumpSubject::Process { command: "qemu".to_owned(), pid: 1, signal: 11 };
    let dumps = [
        dump("there", guest(there)),
        dump("left", guest(left)),
        dump("unknown", guest(VmId::new())),
        dump("process", process),
    ];
    for (user, reads) in
        [("all", vec!["there", "left", "unknown", "process"]), ("but-left", vec!["there", "unknown"]), ("host", vec![])]
    {
        let caller = Caller::who_began(&house.controller, "cannot", &super::name(user)).await.unwrap();
        let names = readable(&house.controller, &caller, place.0, &dumps).await.unwrap();
        assert_eq!(names.iter().map(|name| name.as_str()).collect::<Vec<_>>(), reads, "{user}");
    }
}

#[tokio::test]
async fn wrapped_keys_are_shown_to_nobody() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    let admin = house.session_of("admin").await;
    for path in ["/vms", "/vms/secret"] {
        let shown = house.get(&admin, path).await;
        assert!(shown.text.contains("wrapped_key") && !shown.text.contains("d3JhcHBlZA"), "{}", shown.text);
    }
}

/// What was said of a VM is not forgotten with its row.
#[tokio::test]
async fn who_is_shut_out_of_a_vm_stays_so_when_it_comes_back() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let vm = house.add_vm("web", place, Power::Off, None).await;
    house.add_user("ops", &[(&Object::Root, "no-crypto-administrator"), (&Object::Vm(vm), "read-only")]).await;
    let (admin, ops) = (house.session_of("admin").await, house.session_of("ops").await);
    house.post(&admin, "/policies", json!({ "name": "Open", "encrypts": false })).await.ok();
    let mut tx = house.controller.store.write().await.unwrap();
    vm::set_template(&mut tx, vm, true).await.unwrap();
    policy::assign(&mut tx, vm, Component::Home, &"Open".parse().unwrap()).await.unwrap();
    let row = vm::get(&mut tx, vm).await.unwrap().unwrap();
    let config = row.config.clone().unwrap();
    vm_left::leave(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    house.get(&admin, "/vms/web").await.refused(404, "object.not-found");
    // It can still be taken away, by who may.
    let left = house.get(&admin, "/permissions").await.ok();
    let left = left.as_array().unwrap().iter().find(|it| it["object"] == format!("vm/{vm}")).unwrap().clone();
    house.delete(&ops, &format!("/permissions/{}", left["id"].as_str().unwrap())).await.refused(403, "auth.denied");

    let mut tx = house.controller.store.write().await.unwrap();
    vm::add(&mut tx, &VmRow { template: false, config: None, ..row }).await.unwrap();
    vm::set_config(&mut tx, vm, &config).await.unwrap();
    vm_left::come_back(&mut tx, vm).await.unwrap();
    tx.commit().await.unwrap();
    let view = house.get(&ops, "/vms/web").await.ok();
    assert_eq!((&view["template"], &view["policies"][0]["policy"]), (&json!(true), &json!("Open")));
    house.delete(&ops, "/vms/web").await.refused(403, "auth.denied");
    house.delete(&admin, &format!("/permissions/{}", left["id"].as_str().unwrap())).await.ok();
}

#[tokio::test]
async fn a_policy_that_a_task_will_need_is_kept() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let vm = house.add_vm("web", place, Power::Off, None).await;
    let admin = house.session_of("admin").await;
    house.post(&admin, "/policies", json!({ "name": "Open", "encrypts": false })).await.ok();
    let open: PolicyName = "Open".parse().unwrap();
    let policies = vec![(Component::Home, open.clone())];
    let work = Work::Crypt { plan: CryptPlan::default(), marks: vec![], policies, host: None };
    let mut tx = house.controller.store.write().await.unwrap();
    let (kind, id) = (TaskKind::VmReconfigure, TaskId::new());
    task::add(&mut tx, (id, kind), (vm, &super::name("web")), &super::name("admin"), &work).await.unwrap();
    // Where one is gone all the same, nothing is put under it, and nothing fails.
    assert!(!policy::assign(&mut tx, vm, Component::Home, &"None".parse().unwrap()).await.unwrap());
    tx.commit().await.unwrap();
    let problem = house.delete(&admin, "/policies/Open").await.refused(409, "object.in-use");
    assert!(problem["why"].as_str().unwrap().contains("web"), "{problem}");
    let mut tx = house.controller.store.write().await.unwrap();
    task::end(&mut tx, id, Progress::default(), None).await.unwrap();
    tx.commit().await.unwrap();
    house.delete(&admin, "/policies/Open").await.ok();
}

#[tokio::test]
async fn a_change_of_policies_names_alone_takes_no_cryptographic_privilege() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    let admin = house.session_of("admin").await;
    house.post(&admin, "/policies", json!({ "name": "Finance" })).await.ok();
    let user = user_with(&house, "ops", &[VmConfigure]).await;
    house.post(&user, "/vms/secret/policy", json!({ "home": "Finance" })).await.ok();
    house.controller.background.close();
    house.controller.background.wait().await;
    let vm = house.get(&user, "/vms/secret").await.ok();
    assert_eq!(vm["policies"], json!([{ "component": "home", "policy": "Finance" }]));
    let policy = house.get(&user, "/policies/Finance").await.ok();
    assert_eq!(policy["vms"], json!(["secret"]));
    // Whoever may not see the VM doesn't see there that it is.
    house.add_user("nobody", &[]).await;
    let nobody = house.session_of("nobody").await;
    assert_eq!(house.get(&nobody, "/policies/Finance").await.ok()["vms"], json!([]));
}

#[tokio::test]
async fn many_vms_are_recrypted_by_who_may_recrypt_each() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_provider("kms").await;
    let mut vms = Vec::new();
    for number in 1..=3 {
        vms.push(house.add_vm(&format!("web-{number}"), place, Power::Off, Some(&key("1"))).await);
    }
    let admin = house.session_of("admin").await;
    let user = user_with(&house, "ops", &[CryptoRecrypt]).await;
    let give = async |vm: usize, role: &str| {
        let body = json!({ "subject": "user/ops", "object": format!("vm/web-{vm}"), "role": role });
        house.post(&admin, "/permissions", body).await.ok();
    };
    let request = json!({ "provider": "kms" });
    let planned = async |token: &str| {
        let plan = house.post(token, "/recryptions/plan", request.clone()).await.ok();
        plan.as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(planned(&user).await, ["web-1", "web-2", "web-3"]);

    // One that may be seen and not recrypted: none is begun.
    give(2, "read-only").await;
    for path in ["/recryptions", "/recryptions/plan"] {
        let problem = house.post(&user, path, request.clone()).await.refused(403, "auth.denied");
        let why = problem["why"].as_str().unwrap();
        assert!(why.contains("`web-2`") && !why.contains("web-1"), "{why}");
    }
    assert_eq!(house.get(&admin, "/recryptions").await.ok(), json!([]));

    // One that may not be seen is not meant.
    let mut tx = house.controller.store.write().await.unwrap();
    permission::add_role(&mut tx, &"nothing".parse().unwrap(), Default::default()).await.unwrap();
    tx.commit().await.unwrap();
    give(2, "nothing").await;
    assert_eq!(planned(&user).await, ["web-1", "web-3"]);
    assert_eq!(planned(&admin).await, ["web-1", "web-2", "web-3"]);

    // What an administrator begins is seen and changed by who may all of it.
    let recryption = house.add_recryption(vms[1], &super::name("web-2")).await;
    let path = format!("/recryptions/{recryption}");
    house.get(&user, &path).await.refused(404, "object.not-found");
    house.post(&user, &format!("{path}/cancel"), Value::Null).await.refused(404, "object.not-found");
    assert_eq!(house.get(&user, "/recryptions").await.ok(), json!([]));
    give(2, "read-only").await;
    assert_eq!(house.get(&user, &path).await.ok()["state"], "paused");
    house.post(&user, &format!("{path}/cancel"), Value::Null).await.refused(403, "auth.denied");
    assert_eq!(house.post(&admin, &format!("{path}/cancel"), Value::Null).await.ok()["state"], "cancelling");
}

#[tokio::test]
async fn nobody_is_called_as_the_controller_calls_itself() {
    let house = House::new().await;
    let admin = house.session_of("admin").await;
    let body = json!({ "name": "scheduler", "password": "a long passphrase" });
    house.post(&admin, "/users", body).await.refused(409, "object.exists");
}

#[tokio::test]
async fn what_a_request_does_not_have_is_refused() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("secret", place, Power::Off, Some(&key("1"))).await;
    house.add_provider("kms").await;
    let admin = house.session_of("admin").await;
    for path in [
        "/vms/secret/encrypt",
        "/vms/secret/decrypt",
        "/vms/secret/recrypt",
        "/vms/secret/crypto",
        "/vms/secret/policy",
        "/vms/secret/template",
        "/vms/secret/clone",
        "/datastores/default-store/register",
        "/policies",
        "/recryptions",
        "/recryptions/plan",
    ] {
        let body = json!({ "name": "new", "directory": "new", "template": true, "unknown": 1 });
        house.post(&admin, path, body).await.refused(400, "request.invalid");
    }
    for bad in
        [json!({ "home": { "op": "decrypt", "deep": true } }), json!({ "home": { "op": "no-op", "key_id": "1" } })]
    {
        house.post(&admin, "/vms/secret/crypto", bad).await.refused(400, "request.invalid");
    }
}
