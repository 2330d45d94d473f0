//! Which privileges an operation takes whose parts are several things: each part takes its own.

use serde_json::{Value, json};
use ward_rpc::api::host::VolumeLabel;
use ward_types::Privilege::{
    self, CryptoAddDisk, CryptoClone, CryptoDecrypt, CryptoEncrypt, CryptoEncryptNew, CryptoRecrypt, Read, VmClone,
    VmConfigure, VmCreate, VmImport,
};
use ward_types::{Code, CryptoSpec, DiskId, Object, Power, VmId};

use super::{House, key};
use crate::api::auth::Caller;
use crate::authz::named;
use crate::plan::Origin;
use crate::store::permission;
use crate::store::vm::VmRow;
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
