//! Logins, sessions, passwords, what can't be given, and what the audit log keeps of it all.

use http::Method;
use serde_json::json;
use ward_types::{AuditOutcome, Object, Power, Privilege, ProviderKind};

use super::{ADMIN_PASSWORD, House, key};
use crate::store::provider::{self, ProviderRow};
use crate::store::trusted::{self, TrustedRow};
use crate::store::{host, user};

#[tokio::test]
async fn a_session_ends_when_it_is_ended_or_its_user_is() {
    let house = House::new().await;
    let admin = house.log_in("admin", ADMIN_PASSWORD).await.ok()["token"].as_str().unwrap().to_owned();
    let body = json!({ "name": "alice", "password": "a good passphrase" });
    house.post(&admin, "/users", body).await.ok();
    let log_in = async || {
        let session = house.log_in("alice", "a good passphrase").await.ok();
        session["token"].as_str().unwrap().to_owned()
    };

    let (one, two) = (log_in().await, log_in().await);
    let sessions = house.get(&one, "/sessions").await.ok();
    let sessions = sessions.as_array().unwrap();
    assert_eq!(sessions.len(), 2, "a user sees its own sessions only");
    let other = sessions.iter().find(|it| it["current"] == false).unwrap()["id"].as_str().unwrap();
    let all = house.get(&admin, "/sessions").await.ok();
    assert_eq!(all.as_array().unwrap().len(), 3);
    let admins = all.as_array().unwrap().iter().find(|it| it["user"] == "admin").unwrap()["id"].as_str().unwrap();
    house.delete(&one, &format!("/sessions/{admins}")).await.refused(404, "object.not-found");
    house.delete(&one, &format!("/sessions/{other}")).await.ok();
    house.get(&two, "/session").await.refused(401, "auth.required");
    house.get(&one, "/session").await.ok();

    let two = log_in().await;
    let change = json!({ "current": "a good passphrase", "new": "an even better one" });
    house.post(&one, "/session/password", change).await.ok();
    house.get(&one, "/session").await.ok();
    house.get(&two, "/session").await.refused(401, "auth.required");
    house.log_in("alice", "a good passphrase").await.refused(403, "auth.denied");

    house.post(&admin, "/users/alice/password", json!({ "password": "a good passphrase" })).await.ok();
    house.get(&one, "/session").await.refused(401, "auth.required");
    let one = log_in().await;
    house.post(&admin, "/users/alice/disable", json!({})).await.ok();
    house.get(&one, "/session").await.refused(401, "auth.required");
    house.log_in("alice", "a good passphrase").await.refused(403, "auth.denied");
    house.post(&admin, "/users/alice/enable", json!({})).await.ok();
    let one = log_in().await;
    house.delete(&admin, "/users/alice").await.ok();
    house.get(&one, "/session").await.refused(401, "auth.required");
}

#[tokio::test]
async fn an_expired_session_is_none() {
    let house = House::new().await;
    let token = crate::password::random_secret().unwrap();
    let mut tx = house.controller.store.write().await.unwrap();
    let admin = user::find(&mut tx, "admin").await.unwrap().unwrap();
    let hash = crate::password::digest_secret(&token);
    let past = jiff::Timestamp::now().as_microsecond() - 1;
    user::add_session(&mut tx, admin.id, &hash, past).await.unwrap();
    tx.commit().await.unwrap();
    house.get(&token, "/session").await.refused(401, "auth.required");
}

#[tokio::test]
async fn whoever_guesses_must_wait_and_weak_passwords_are_refused() {
    let house = House::new().await;
    for _ in 0..5 {
        house.log_in("admin", "guess").await.refused(403, "auth.denied");
    }
    house.log_in("admin", ADMIN_PASSWORD).await.refused(429, "auth.throttled");
    let admin = house.session_of("admin").await;
    let weak = json!({ "name": "alice", "password": "short" });
    house.post(&admin, "/users", weak).await.refused(400, "request.invalid");
    let refused = house.audit().await.into_iter().filter(|it| it.operation == "session.begin");
    assert_eq!(refused.filter(|it| it.outcome == AuditOutcome::Refused).count(), 5);
}

#[tokio::test]
async fn nobody_gives_what_it_does_not_have() {
    let house = House::new().await;
    let admin = house.session_of("admin").await;
    let privileges: Vec<_> = Privilege::ALL.iter().filter(|it| !it.is_crypto() && !it.is_trust()).collect();
    house.post(&admin, "/roles", json!({ "name": "manager", "privileges": privileges })).await.ok();
    house.add_user("manager", &[]).await;
    house.add_user("alice", &[]).await;
    house.add_user("bob", &[]).await;
    let give = |subject: &str, role: &str| json!({ "subject": subject, "object": "root", "role": role });
    house.post(&admin, "/permissions", give("user/manager", "manager")).await.ok();
    house.post(&admin, "/groups", json!({ "name": "crypto" })).await.ok();
    house.post(&admin, "/permissions", give("group/crypto", "administrator")).await.ok();

    let manager = house.session_of("manager").await;
    house.post(&manager, "/permissions", give("user/alice", "no-crypto-administrator")).await.ok();
    house.post(&manager, "/permissions", give("user/manager", "administrator")).await.refused(403, "auth.denied");
    house.post(&manager, "/permissions", give("user/alice", "trust-administrator")).await.refused(403, "auth.denied");
    let body = json!({ "password": "a new passphrase" });
    house.post(&manager, "/users/admin/password", body.clone()).await.refused(403, "auth.denied");
    house.post(&manager, "/users/alice/password", body).await.ok();
    let join = async |member: &str| {
        let path = format!("/api/v1/groups/crypto/members/{member}");
        house.ask(Method::PUT, &path, Some(&manager), &[], None).await
    };
    join("bob").await.refused(403, "auth.denied");
    let more = json!({ "privileges": ["crypto.decrypt", "permission.manage", "user.manage"] });
    let set = house.ask(Method::PUT, "/api/v1/roles/manager", Some(&manager), &[], Some(more)).await;
    set.refused(403, "auth.denied");
    let refused: Vec<_> = house
        .audit()
        .await
        .into_iter()
        .filter(|it| it.outcome == AuditOutcome::Refused && it.user == "manager")
        .collect();
    assert_eq!(refused.len(), 5);
    assert!(refused[0].detail.contains("crypto."), "{:?}", refused[0]);

    // Those who administer the trust authority stand apart; `admin` is one of both until it is taken out.
    house.post(&admin, "/permissions", give("user/alice", "trust-administrator")).await.ok();
    house.delete(&admin, "/groups/trust-administrators/members/admin").await.ok();
    house.post(&admin, "/permissions", give("user/alice", "trust-administrator")).await.ok();
    house.post(&admin, "/permissions", give("user/manager", "trust-administrator")).await.refused(403, "auth.denied");
}

/// Whoever administers the controller, and that only, can do nothing about what hosts are attested by; whoever administers
/// the trust authority can do that, and nothing else.
#[tokio::test]
async fn the_trust_authority_has_administrators_of_its_own() {
    let house = House::new().await;
    house.add_cluster("default").await;
    house.add_provider("kms").await;
    let row = ProviderRow::new("vault".parse().unwrap(), ProviderKind::Trusted);
    let mut tx = house.controller.store.write().await.unwrap();
    provider::add(&mut tx, &row).await.unwrap();
    let described = TrustedRow { name: row.name, description: String::new(), clusters: vec![] };
    trusted::add(&mut tx, &described).await.unwrap();
    // Known, and away.
    house.controller.links.add(&host::list(&mut tx).await.unwrap()[0]);
    tx.commit().await.unwrap();
    house.add_user("keeper", &[(&Object::Root, "trust-administrator")]).await;
    house.add_user("operator", &[(&Object::Root, "administrator")]).await;
    let (keeper, operator) = (house.session_of("keeper").await, house.session_of("operator").await);
    let admin = house.session_of("admin").await;

    let seen = async |session: &str, path: &str| house.get(session, path).await.ok().as_array().unwrap().len();
    for (session, hosts) in [(&keeper, 1), (&operator, 0), (&admin, 1)] {
        assert_eq!(seen(session, "/trust/hosts").await, hosts);
    }
    let describe = async |session: &str| {
        let body = Some(json!({ "description": "" }));
        house.ask(Method::PUT, "/api/v1/trusted-providers/vault/description", Some(session), &[], body).await
    };
    let problem = describe(&operator).await.refused(403, "auth.denied");
    assert!(problem["why"].as_str().unwrap().contains("trust.manage"), "{problem}");
    describe(&keeper).await.refused(409, "attestation.description-refused");
    describe(&admin).await.refused(409, "attestation.description-refused");
    let remediate = async |session: &str| house.post(session, "/hosts/default-host/remediate", json!(null)).await;
    remediate(&operator).await.refused(403, "auth.denied");
    remediate(&keeper).await.refused(502, "host.unreachable");
    // A provider is of both.
    let new = json!({ "name": "new", "description": "" });
    for session in [&operator, &keeper] {
        house.post(session, "/trusted-providers", new.clone()).await.refused(403, "auth.denied");
    }
    house.post(&admin, "/trusted-providers", new).await.refused(409, "attestation.description-refused");

    assert_eq!(seen(&keeper, "/hosts").await + seen(&keeper, "/vms").await + seen(&keeper, "/providers").await, 0);
    house.get(&keeper, "/hosts/default-host").await.refused(404, "object.not-found");
    house.post(&keeper, "/clusters", json!({ "name": "mine" })).await.refused(403, "auth.denied");
    let audit = house.audit().await;
    let told: Vec<_> = audit.iter().filter(|it| it.operation == "trust.remediate").collect();
    assert_eq!(told.iter().map(|it| it.outcome).collect::<Vec<_>>(), [AuditOutcome::Refused, AuditOutcome::Granted]);
    assert_eq!(told.iter().map(|it| it.user.as_str()).collect::<Vec<_>>(), ["operator", "keeper"]);
}

#[tokio::test]
async fn an_administrator_is_always_left() {
    let house = House::new().await;
    let admin = house.session_of("admin").await;
    let permissions = house.get(&admin, "/permissions").await.ok();
    let own =
        permissions.as_array().unwrap().iter().find(|it| it["subject"] == "group/administrators").unwrap().clone();
    let path = format!("/permissions/{}", own["id"].as_str().unwrap());
    house.delete(&admin, &path).await.refused(409, "user.last-administrator");
    house.delete(&admin, "/users/admin").await.refused(409, "user.last-administrator");
    house.post(&admin, "/users/admin/disable", json!({})).await.refused(409, "user.last-administrator");
    house.add_user("second", &[(&Object::Root, "administrator")]).await;
    house.delete(&admin, &path).await.ok();
    house.get(&admin, "/users").await.refused(403, "auth.denied");
}

#[tokio::test]
async fn the_audit_log_has_who_did_what_to_what_under_which_key() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("web-1", place, Power::Off, Some(&key("42"))).await;
    house.add_user("no-crypto", &[(&Object::Root, "no-crypto-administrator")]).await;
    let (admin, no_crypto) = (house.session_of("admin").await, house.session_of("no-crypto").await);

    let problem = house.post(&no_crypto, "/vms/web-1/decrypt", json!({})).await.refused(403, "auth.denied");
    assert_eq!(problem["what"], "cannot decrypt VM `web-1`");
    assert!(problem["why"].as_str().unwrap().contains("crypto.decrypt"));
    house.get(&no_crypto, "/vms/web-1/console").await.refused(403, "auth.denied");
    // Allowed, and then refused as things stand: there is no host.
    house.post(&admin, "/vms/web-1/decrypt", json!({})).await.refused(409, "host.none");
    for _ in 0..3 {
        house.get(&admin, "/vms/web-1/console").await.refused(409, "vm.not-running");
        house.get(&admin, "/vms/web-1").await.ok();
    }
    let log = house.audit().await;
    let told: Vec<_> = log.iter().map(|it| (it.user.as_str(), it.operation.as_str(), it.outcome)).collect();
    assert_eq!(
        told,
        [
            ("no-crypto", "vm.decrypt", AuditOutcome::Refused),
            ("no-crypto", "vm.console", AuditOutcome::Refused),
            ("admin", "vm.decrypt", AuditOutcome::Granted),
            ("admin", "vm.console", AuditOutcome::Granted),
        ]
    );
    assert!(log.iter().all(|it| it.keys == [key("42")] && it.object_name == "web-1"));

    house.post(&admin, "/hosts", json!({ "cluster": "default" })).await.ok();
    let log = house.audit().await;
    let told: Vec<_> = log[4..].iter().map(|it| (it.operation.as_str(), it.outcome, it.object_name.as_str())).collect();
    assert_eq!(
        told,
        [("host.add", AuditOutcome::Granted, "default"), ("host.add", AuditOutcome::Done, "default")],
        "an enrolment token"
    );

    let listed = house.get(&admin, "/audit?limit=3").await;
    assert!(listed.headers["link"].to_str().unwrap().contains("limit=3&after=3"));
    assert_eq!(listed.ok().as_array().unwrap().len(), 3);
    house.get(&no_crypto, "/audit").await.ok();
    house.get(&house.session_of("no-crypto").await, "/users").await.refused(403, "auth.denied");
}

#[tokio::test]
async fn what_asks_for_nothing_tells_nothing() {
    let house = House::new().await;
    let place = house.add_cluster("default").await;
    house.add_vm("web-1", place, Power::Off, None).await;
    house.add_user("alice", &[]).await;
    let alice = house.session_of("alice").await;
    house.post(&alice, "/vms/web-1/crypto", json!({})).await.refused(404, "object.not-found");
}

/// A login that was under way when the password was changed has the old one.
#[tokio::test]
async fn no_session_begins_under_a_password_that_was_changed() {
    let house = House::new().await;
    house.add_user("alice", &[]).await;
    let mut tx = house.controller.store.write().await.unwrap();
    let read = user::find(&mut tx, "alice").await.unwrap().unwrap();
    assert!(user::begin_session(&mut tx, &read, "one", i64::MAX).await.unwrap());
    user::set_password(&mut tx, read.id, "another", None).await.unwrap();
    assert!(!user::begin_session(&mut tx, &read, "two", i64::MAX).await.unwrap());
    user::set_password(&mut tx, read.id, &read.password_hash, None).await.unwrap();
    user::set_disabled(&mut tx, read.id, true).await.unwrap();
    assert!(!user::begin_session(&mut tx, &read, "three", i64::MAX).await.unwrap());
}

/// Reading under a cryptographic privilege is told once an hour, each kind by itself.
#[tokio::test]
async fn what_is_read_under_a_cryptographic_privilege_is_told() {
    let house = House::new().await;
    house.add_provider("kms").await;
    let admin = house.session_of("admin").await;
    for _ in 0..2 {
        house.get(&admin, "/providers/kms").await.ok();
        house.get(&admin, "/keys/kms%2F1").await;
    }
    let told: Vec<_> = house.audit().await.into_iter().map(|it| (it.operation, it.outcome)).collect();
    let granted = |operation: &str| (operation.to_owned(), AuditOutcome::Granted);
    assert_eq!(told, [granted("provider.read"), granted("key.read")]);
}

#[tokio::test]
async fn a_permission_goes_with_its_object() {
    let house = House::new().await;
    house.add_provider("kms").await;
    house.add_user("alice", &[(&Object::Provider("kms".parse().unwrap()), "administrator")]).await;
    let (admin, alice) = (house.session_of("admin").await, house.session_of("alice").await);
    let seen = async || house.get(&alice, "/providers").await.ok().as_array().unwrap().len();
    assert_eq!(seen().await, 1);
    house.delete(&admin, "/providers/kms").await.ok();
    house.add_provider("kms").await;
    assert_eq!(seen().await, 0);
}
