//! Every endpoint, asked as every kind of user, against a table that is kept beside this file. An endpoint without a row
//! fails the test. `UPDATE_TABLES=1` writes the table anew; read what has changed in it.

use http::Method;
use serde_json::{Value, json};
use ward_types::{Object, Power};

use super::{House, copy, key, name};
use crate::authz::operations::ALL;
use crate::store::permission::SubjectId;
use crate::store::{permission, user};

const IDENTITIES: [(&str, Option<&str>); 5] = [
    ("nobody", None),
    ("read-only", Some("reader")),
    ("no-crypto", Some("no-crypto")),
    ("other-cluster", Some("local")),
    ("administrator", Some("admin")),
];

/// What stands for the parameters of paths.
struct Ids {
    task: String,
    permission: String,
    session: String,
    recryption: String,
}

/// Two clusters; everything that is asked about is in the one that `local` does not administer.
async fn template() -> (House, Ids) {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    let (other, ..) = house.add_cluster("other").await;
    let vm = house.add_vm("web-1", place, Power::Off, Some(&key("1"))).await;
    house.add_disk(vm).await;
    house.add_provider("kms").await;
    let recryption = house.add_recryption(vm, &name("web-1")).await;
    let task = house.add_task((vm, &name("web-1"))).await;
    house.add_user("reader", &[(&Object::Root, "read-only")]).await;
    house.add_user("no-crypto", &[(&Object::Root, "no-crypto-administrator")]).await;
    house.add_user("local", &[(&Object::Cluster(other), "administrator")]).await;
    house.add_user("someone", &[]).await;
    house.session_of("someone").await;
    let mut tx = house.controller.store.write().await.unwrap();
    let group = user::add_group(&mut tx, &name("ops")).await.unwrap();
    permission::add_role(&mut tx, &"operator".parse().unwrap(), Default::default()).await.unwrap();
    let role = "read-only".parse().unwrap();
    let permission = permission::give(&mut tx, SubjectId::Group(group), &Object::Vm(vm), &role, true).await.unwrap();
    let session =
        user::sessions(&mut tx).await.unwrap().into_iter().find(|row| row.user.as_str() == "someone").unwrap();
    tx.commit().await.unwrap();
    let ids =
        Ids { task: task.to_string(), permission: permission.to_string(), session: session.id.to_string(), recryption };
    (house, ids)
}

/// A request that would be in order, if it were allowed.
fn request(method: &str, path: &str, ids: &Ids) -> (String, Option<Value>) {
    let mut uri = String::new();
    for part in path.split('/').skip(1) {
        let part = match part {
            "{vm}" => "web-1",
            "{host}" => "default-host",
            "{provider}" => "kms",
            "{server}" => "127.0.0.1:1",
            "{cluster}" => "default",
            "{task}" => &ids.task,
            "{user}" => "someone",
            "{group}" => "ops",
            "{role}" => "operator",
            "{permission}" => &ids.permission,
            "{session}" => &ids.session,
            "{recryption}" => &ids.recryption,
            "{disk}" => "0",
            "{version}" => "1",
            "{policy}" => "own",
            "{key}" => "kms%2F1",
            "{datastore}" => "default-store",
            unknown if unknown.starts_with('{') => panic!("say in this test what stands for {unknown}"),
            fixed => fixed,
        };
        uri.push('/');
        uri.push_str(part);
    }
    let new_password = "a new passphrase";
    let body = match (method, path.strip_prefix("/api/v1").unwrap()) {
        ("post", "/session") => json!({ "user": "nobody", "password": "wrong" }),
        ("post", "/session/password") => json!({ "current": "wrong", "new": new_password }),
        ("post", "/users") => json!({ "name": "new", "password": new_password }),
        ("post", "/users/{user}/password") => json!({ "password": new_password }),
        ("post", "/groups") => json!({ "name": "new" }),
        ("post", "/roles") => json!({ "name": "new", "privileges": ["read"] }),
        ("put", "/roles/{role}") => json!({ "privileges": ["read"] }),
        ("post", "/permissions") => json!({ "subject": "user/someone", "object": "vm/web-1", "role": "read-only" }),
        ("post", "/clusters") => json!({ "name": "new" }),
        ("post", "/datastores") => json!({ "name": "new", "directory": "/new", "cluster": "default" }),
        ("post", "/hosts") => json!({ "cluster": "default" }),
        ("post", "/providers") => {
            json!({ "name": "new", "servers": ["127.0.0.1:1"] })
        }
        ("post", "/providers/{provider}/servers") => json!({ "server": "127.0.0.1:2" }),
        ("put", "/providers/{provider}/trust") => json!({ "by": "fingerprint", "fingerprint": "ab".repeat(32) }),
        ("post", "/providers/{provider}/identity") => json!({ "method": "self-signed" }),
        ("put", "/clusters/{cluster}/provider") => json!({ "provider": "kms" }),
        ("post", "/vms") => json!({
            "name": "new", "datastore": "default-store",
            "disks": [{ "source": "blank", "size": 4096, "format": "raw" }],
        }),
        ("post", "/vms/{vm}/start" | "/vms/{vm}/stop" | "/vms/{vm}/encrypt") => json!({}),
        ("post", "/vms/{vm}/decrypt" | "/vms/{vm}/recrypt") => json!({}),
        ("post", "/vms/{vm}/crypto") => json!({ "home": { "op": "shallow-recrypt" } }),
        ("post", "/vms/{vm}/policy") => json!({ "home": "No Encryption Policy" }),
        ("post", "/vms/{vm}/disks") => json!({ "from": { "source": "blank", "size": 4096, "format": "raw" } }),
        ("post", "/vms/{vm}/template") => json!({ "template": true }),
        ("post", "/vms/{vm}/tpm") => json!({}),
        ("put", "/vms/{vm}/tpm/certificates") => json!({ "own": true }),
        ("post", "/datastores/{datastore}/register") => json!({ "directory": "old" }),
        ("post", "/vms/{vm}/clone") => json!({ "name": "new" }),
        ("put", "/hosts/{host}/encryption") => json!({ "on": true }),
        ("put", "/hosts/{host}/key-persistence") => json!({ "on": false }),
        ("put", "/clusters/{cluster}/key-persistence") => json!({ "on": true }),
        ("post", "/hosts/{host}/support-bundle") => json!({}),
        ("post", "/policies") => json!({ "name": "new" }),
        ("post", "/keys/check") => json!({}),
        ("put", "/keys/grace") => json!({ "days": 7 }),
        ("post", "/native-providers") => json!({ "name": "new" }),
        ("post", "/native-providers/import") => json!({ "name": "new", "file": "", "password": "" }),
        ("post", "/native-providers/{provider}/export") => json!({ "password": new_password }),
        ("post", "/native-providers/{provider}/keep") => json!({ "version": 1 }),
        ("post", "/trusted-providers") => json!({ "name": "new", "description": "" }),
        ("put", "/trusted-providers/{provider}/description") => json!({ "description": "" }),
        ("put", "/providers/{provider}/rotation") => json!({ "days": 90 }),
        ("post", "/recryptions" | "/recryptions/plan") => json!({ "provider": "kms" }),
        (_, "/session/privileges") => {
            uri.push_str("?object=vm/web-1");
            Value::Null
        }
        _ => Value::Null,
    };
    (uri, Some(body).filter(|body| !body.is_null()))
}

/// The status, and how many items of a list, unless that is the same for all.
fn shown(uri: &str, answer: &super::Answer) -> String {
    let fixed = ["/problems", "/privileges", "/roles"].iter().any(|list| uri.ends_with(list));
    let status = answer.status.as_u16();
    match serde_json::from_str(&answer.text) {
        Ok(Value::Array(items)) if answer.status.is_success() && !fixed => format!("{status} [{}]", items.len()),
        _ => status.to_string(),
    }
}

#[tokio::test]
async fn every_endpoint_answers_every_identity_as_the_table_says() {
    let (house, ids) = template().await;
    let described = house.ask(Method::GET, "/api/openapi.json", None, &[], None).await.ok();
    let mut endpoints = Vec::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let (uri, body) = request(method, path, &ids);
            assert_eq!(body.is_some(), operation.get("requestBody").is_some(), "give {method} {path} a body, or none");
            endpoints.push((method.clone(), path.clone(), uri, body, operation.clone()));
        }
    }
    let template = house.close().await;
    let mut columns = Vec::new();
    let mut takes_crypto = Vec::new();
    for (_, who) in IDENTITIES {
        let mut column = Vec::new();
        let mut house = House::open(copy(template.path())).await;
        for (method, _, uri, body, operation) in &endpoints {
            let token = match who {
                Some(user) => Some(house.session_of(user).await),
                None => None,
            };
            let verb: Method = method.to_uppercase().parse().unwrap();
            let before = house.audit().await.len();
            let answer = house.ask(verb.clone(), uri, token.as_deref(), &[], body.clone()).await;
            if who == Some("admin") {
                takes_crypto.push(house.audit().await[before..].iter().any(|entry| needs_crypto(&entry.operation)));
            }
            let status = answer.status.as_u16().to_string();
            assert!(operation["responses"].get(&status).is_some(), "{method} {uri} does not tell of status {status}");
            column.push(shown(uri, &answer));
            if answer.status.is_success() && verb != Method::GET {
                // The next one is to find all as it was.
                house.close().await;
                house = House::open(copy(template.path())).await;
            }
        }
        house.close().await;
        columns.push(column);
    }
    let asked: Vec<_> = endpoints.iter().map(|it| (it.0.as_str(), it.1.as_str(), &it.4)).collect();
    check_rules(&asked, &columns, &takes_crypto);

    let mut table = format!("{:<6} {:<42}", "", "");
    for (identity, _) in IDENTITIES {
        table.push_str(&format!(" {identity:<13}"));
    }
    for (row, (method, path, ..)) in endpoints.iter().enumerate() {
        table.push_str(&format!("\n{:<6} {path:<42}", method.to_uppercase()));
        for column in &columns {
            table.push_str(&format!(" {:<13}", column[row]));
        }
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/tests/access.txt");
    if std::env::var_os("UPDATE_TABLES").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    let changed: Vec<_> = table.lines().filter(|line| !kept.lines().any(|known| known == *line)).collect();
    assert!(kept == table, "{path} says otherwise; read what changed, then run with UPDATE_TABLES=1:\n{changed:#?}");
}

/// Whether an operation takes a cryptographic privilege, on a VM that is encrypted as the one is that is asked about.
fn needs_crypto(operation: &str) -> bool {
    ALL.iter().any(|line| line.name == operation && line.needs.union(line.if_encrypted).has_crypto())
}

/// What must hold whatever the table says, so that a table written anew hides nothing. `takes_crypto` is what the audit log
/// tells of an administrator's request: that it took a cryptographic privilege.
fn check_rules(endpoints: &[(&str, &str, &Value)], columns: &[Vec<String>], takes_crypto: &[bool]) {
    // Those that are seen to take one, so that the rule does not come to rule nothing.
    assert!(takes_crypto.iter().filter(|takes| **takes).count() > 40, "{takes_crypto:?}");
    let allowed = |identity: usize, row: usize| columns[identity][row].starts_with('2');
    // What a user does about its own login takes no privilege.
    let own = |path: &str| path.starts_with("/api/v1/session") && !path.contains('{');
    for (row, &(method, path, operation)) in endpoints.iter().enumerate() {
        let open = operation.get("security") == Some(&json!([{}]));
        assert_eq!(columns[0][row] == "401", !open, "{method} {path}: nobody");
        if method != "get" && !own(path) {
            assert!(!allowed(1, row), "{method} {path}: read-only changes nothing");
            // In its own cluster there is no VM: nothing comes of it.
            let of_nothing = ["/api/v1/recryptions", "/api/v1/recryptions/plan"].contains(&path);
            assert!(!allowed(3, row) || of_nothing, "{method} {path}: it is of the other cluster");
        }
        if takes_crypto[row] {
            let refused = ["403", "404"].contains(&columns[2][row].as_str());
            assert!(refused, "{method} {path}: without cryptography it is refused, and not only in vain");
        }
        let way_round = ["/users", "/groups", "/roles", "/permissions", "/hosts", "/datastores"];
        if method != "get" && way_round.iter().any(|noun| path["/api/v1".len()..].starts_with(noun)) {
            assert!(!allowed(2, row), "{method} {path}: a way round");
        }
        let refused = ["401", "403", "404"].contains(&columns[4][row].as_str());
        // Those are asked with a wrong password.
        let wrong = path.ends_with("/session/password") || open;
        assert!(!refused || wrong, "{method} {path}: an administrator may");
    }
}

#[tokio::test]
async fn the_console_shows_what_may_be_read() {
    let (house, _) = template().await;
    let page_of = async |user| {
        let token = house.session_of(user).await;
        house.console(&token).await
    };
    for (user, sees) in [("admin", true), ("reader", true), ("no-crypto", true), ("local", false), ("someone", false)] {
        let page = page_of(user).await;
        assert!(page.contains("Log out"), "{user}: {page}");
        for secret in ["web-1", "default-host", "vm stop"] {
            assert_eq!(page.contains(secret), sees, "{user}: {secret}");
        }
    }
    assert!(page_of("local").await.contains("other-host"));
    let nobody = house.console("wrong").await;
    assert!(nobody.contains("Log in") && !nobody.contains("web-1"));
}
