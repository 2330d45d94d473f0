//! Groups, roles, permissions, the audit log, repeated requests.

use sqlx::Executor as _;
use ward_types::{AuditOutcome, Object, Privilege, PrivilegeSet, Subject, TaskId, VmId};

use super::super::audit::{self, Draft};
use super::super::permission::{self, SubjectId};
use super::super::request::{self, Came, RequestKey};
use super::super::{Tx, user, vm};
use super::{Db, conflict, name, on_both};
use crate::audit::Verifier;
use crate::authz::Grant;

on_both! {
    what_a_user_was_given_is_its_own_and_its_groups
    a_subject_has_one_role_on_an_object
    the_policy_is_everything_that_decides
    the_audit_log_never_forks
    a_request_key_is_taken_once
    the_audit_log_takes_no_change
}

async fn what_a_user_was_given_is_its_own_and_its_groups(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let ann = user::add(&mut tx, &name("ann"), "h").await.unwrap();
    let bob = user::add(&mut tx, &name("bob"), "h").await.unwrap();
    let ops = user::add_group(&mut tx, &name("ops")).await.unwrap();
    user::join(&mut tx, ops, ann).await.unwrap();
    user::join(&mut tx, ops, ann).await.unwrap();
    let vm = Object::Vm(VmId::new());
    let power = PrivilegeSet::of(&[Privilege::VmPower]);
    permission::add_role(&mut tx, &"starter".parse().unwrap(), power).await.unwrap();
    permission::give(&mut tx, SubjectId::User(ann), &vm, &"starter".parse().unwrap(), false).await.unwrap();
    permission::give(&mut tx, SubjectId::Group(ops), &Object::Root, &"read-only".parse().unwrap(), true).await.unwrap();
    let mut grants = permission::grants_of(&mut tx, ann).await.unwrap();
    grants.sort_by_key(|grant| grant.own);
    let read_only = PrivilegeSet::of(&[Privilege::Read, Privilege::EventRead]);
    assert_eq!(
        grants,
        [
            Grant { object: Object::Root, own: false, propagates: true, privileges: read_only },
            Grant { object: vm.clone(), own: true, propagates: false, privileges: power },
        ]
    );
    assert!(permission::grants_of(&mut tx, bob).await.unwrap().is_empty());
    permission::set_role(&mut tx, &"starter".parse().unwrap(), PrivilegeSet::NONE).await.unwrap();
    let grants = permission::grants_of(&mut tx, ann).await.unwrap();
    assert!(grants.iter().any(|grant| grant.own && grant.privileges.is_empty()));
    user::leave(&mut tx, ops, ann).await.unwrap();
    permission::forget(&mut tx, &vm).await.unwrap();
    assert!(permission::grants_of(&mut tx, ann).await.unwrap().is_empty());
    user::remove_group(&mut tx, ops).await.unwrap();
    user::remove(&mut tx, ann).await.unwrap();
    assert!(permission::list(&mut tx).await.unwrap().is_empty());
}

async fn a_subject_has_one_role_on_an_object(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let ann = SubjectId::User(user::add(&mut tx, &name("ann"), "h").await.unwrap());
    let ops = SubjectId::Group(user::add_group(&mut tx, &name("ops")).await.unwrap());
    for subject in [ann, ops, ann] {
        for role in ["read-only", "administrator"] {
            permission::give(&mut tx, subject, &Object::Root, &role.parse().unwrap(), true).await.unwrap();
        }
    }
    let rows = permission::list(&mut tx).await.unwrap();
    let given: Vec<_> = rows.iter().map(|row| (row.given.subject.clone(), row.given.role.as_str())).collect();
    assert_eq!(given.len(), 2);
    assert!(given.contains(&(Subject::User(name("ann")), "administrator")));
    assert!(given.contains(&(Subject::Group(name("ops")), "administrator")));
    permission::remove(&mut tx, rows[0].id).await.unwrap();
    assert_eq!(permission::list(&mut tx).await.unwrap().len(), 1);
}

async fn the_policy_is_everything_that_decides(db: Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    let row = place.vm("web");
    vm::add(&mut tx, &row).await.unwrap();
    let ann = user::add(&mut tx, &name("ann"), "h").await.unwrap();
    user::set_disabled(&mut tx, ann, true).await.unwrap();
    let ops = user::add_group(&mut tx, &name("ops")).await.unwrap();
    user::join(&mut tx, ops, ann).await.unwrap();
    let object = Object::Vm(row.id);
    permission::give(&mut tx, SubjectId::Group(ops), &object, &"read-only".parse().unwrap(), true).await.unwrap();
    let policy = permission::policy(&mut tx).await.unwrap();
    assert_eq!(policy.users, [(name("ann"), false)].into());
    assert_eq!(policy.groups, [(name("ops"), [name("ann")].into())].into());
    assert_eq!(policy.roles.len(), 4);
    assert_eq!(policy.paths[&object], [object.clone(), Object::Cluster(place.cluster), Object::Root]);
    assert!(!policy.has_administrator());
}

async fn note(tx: &mut Tx, detail: String) {
    let draft = Draft {
        user: "ann",
        operation: "vm.encrypt",
        outcome: AuditOutcome::Granted,
        object: Object::Root,
        object_name: "root".to_owned(),
        privileges: PrivilegeSet::of(&[Privilege::CryptoEncrypt]),
        keys: vec![super::key("kms", "1")],
        task: None,
        detail,
    };
    audit::record(tx, draft).await.unwrap();
}

async fn the_audit_log_never_forks(db: Db) {
    let writers: Vec<_> = (0..12)
        .map(|number| {
            let store = db.store.clone();
            tokio::spawn(async move {
                let mut tx = store.write().await.unwrap();
                note(&mut tx, format!("{number} one")).await;
                tokio::task::yield_now().await;
                note(&mut tx, format!("{number} two")).await;
                // What is undone leaves no gap.
                if number % 3 == 0 { drop(tx) } else { tx.commit().await.unwrap() }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut verifier = Verifier::new(None);
    let records = audit::after(&mut db.store.read().await.unwrap(), 0, 100).await.unwrap();
    for record in &records {
        verifier.next(record).unwrap();
    }
    assert_eq!(verifier.finish().unwrap().number, 16);
    assert_eq!(audit::after(&mut db.store.read().await.unwrap(), 3, 2).await.unwrap(), records[3..5]);
}

async fn a_request_key_is_taken_once(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let ann = user::add(&mut tx, &name("ann"), "none").await.unwrap();
    let bob = user::add(&mut tx, &name("bob"), "none").await.unwrap();
    let key = |user| RequestKey { user, value: "k".to_owned(), sealed_request: "h".to_owned(), rights: "r".to_owned() };
    let task = Came::Task(TaskId::new());
    request::add(&mut tx, &key(ann), &task).await.unwrap();
    request::add(&mut tx, &key(bob), &Came::Answer("a".to_owned())).await.unwrap();
    let found = request::find(&mut tx, ann, "k").await.unwrap().unwrap();
    assert_eq!((&found.came, found.sealed_request.as_str(), found.rights.as_str()), (&task, "h", "r"));
    assert_eq!(request::find(&mut tx, bob, "k").await.unwrap().unwrap().came, Came::Answer("a".to_owned()));
    assert!(request::find(&mut tx, ann, "other").await.unwrap().is_none());
    // With its user it is forgotten: a new one of the name inherits nothing.
    user::remove(&mut tx, bob).await.unwrap();
    assert!(request::find(&mut tx, bob, "k").await.unwrap().is_none());
    conflict(request::add(&mut tx, &key(ann), &task).await);
}

async fn the_audit_log_takes_no_change(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    note(&mut tx, "kept".to_owned()).await;
    tx.commit().await.unwrap();
    for change in ["DELETE FROM audit", "UPDATE audit SET hash = ''"] {
        let mut tx = db.store.write().await.unwrap();
        let error = tx.execute(change).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    let mut db = db.store.read().await.unwrap();
    assert_eq!(audit::after(&mut db, 0, 9).await.unwrap().len(), 1);
    assert_eq!(audit::count(&mut db).await.unwrap(), 1);
}
