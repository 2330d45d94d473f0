//! VMs and the keys that they need.

use ward_types::{HostId, Power, TaskId, VmId};

use super::super::vm::{self, VmRow};
use super::super::{cluster, needed, task};
use super::{Db, Place, config, conflict, key, name, on_both};
use crate::tasks::Work;

on_both! {
    vms
    a_home_is_one_vms
    what_refers_to_nothing_is_refused
    keys_follow_the_description
    a_vm_goes_with_its_keys_and_leaves_its_tasks
}

async fn vms(db: Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    let (b, a) = (place.vm("b"), place.vm("a"));
    vm::add(&mut tx, &b).await.unwrap();
    vm::add(&mut tx, &a).await.unwrap();
    assert_eq!(vm::list(&mut tx).await.unwrap().iter().map(|row| row.id).collect::<Vec<_>>(), [a.id, b.id]);
    let read = vm::get(&mut tx, a.id).await.unwrap().unwrap();
    assert_eq!(
        (read.name, read.cluster, read.datastore, read.directory),
        (a.name.clone(), place.cluster, place.datastore, a.directory.clone())
    );
    assert_eq!((read.config, read.host, read.power), (None, None, Power::Off));
    for key in ["a", &a.id.to_string()] {
        assert_eq!(vm::find(&mut tx, key).await.unwrap().unwrap().id, a.id);
    }
    assert!(vm::find(&mut tx, "c").await.unwrap().is_none());
    assert!(vm::get(&mut tx, VmId::new()).await.unwrap().is_none());

    let described = config(&a, Some(&key("kms", "1")), None);
    vm::set_config(&mut tx, a.id, &described).await.unwrap();
    vm::set_power(&mut tx, a.id, Power::On, Some(place.host)).await.unwrap();
    let read = vm::get(&mut tx, a.id).await.unwrap().unwrap();
    assert_eq!((read.config, read.host, read.power), (Some(described), Some(place.host), Power::On));
    vm::set_power(&mut tx, a.id, Power::Off, None).await.unwrap();
    let read = vm::get(&mut tx, a.id).await.unwrap().unwrap();
    assert_eq!((read.host, read.power), (None, Power::Off));
    let untouched = vm::get(&mut tx, b.id).await.unwrap().unwrap();
    assert_eq!((untouched.config, untouched.power), (None, Power::Off));
}

async fn a_home_is_one_vms(db: Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    vm::add(&mut tx, &place.vm("a")).await.unwrap();
    tx.commit().await.unwrap();
    for row in
        [place.vm("a"), VmRow { directory: name("a"), ..place.vm("b") }, VmRow { name: name("a"), ..place.vm("b") }]
    {
        conflict(vm::add(&mut db.store.write().await.unwrap(), &row).await);
    }
}

async fn what_refers_to_nothing_is_refused(db: Db) {
    let place = db.place().await;
    let nowhere = VmRow { datastore: ward_types::DatastoreId::new(), ..place.vm("a") };
    assert!(vm::add(&mut db.store.write().await.unwrap(), &nowhere).await.is_err());
    let mut tx = db.store.write().await.unwrap();
    let row = place.vm("a");
    vm::add(&mut tx, &row).await.unwrap();
    assert!(vm::set_power(&mut tx, row.id, Power::On, Some(HostId::new())).await.is_err());
    drop(tx);
    let mut tx = db.store.write().await.unwrap();
    assert!(cluster::add_datastore(&mut tx, ward_types::ClusterId::new(), &name("x"), "/x").await.is_err());
}

async fn keys_follow_the_description(db: Db) {
    let place = db.place().await;
    let (one, two, other) = (key("kms", "1"), key("kms", "2"), key("other", "1"));
    let mut tx = db.store.write().await.unwrap();
    let (a, b) = (place.vm("a"), place.vm("b"));
    for row in [&a, &b] {
        vm::add(&mut tx, row).await.unwrap();
    }
    vm::set_config(&mut tx, a.id, &config(&a, Some(&one), Some(&one))).await.unwrap();
    vm::set_config(&mut tx, b.id, &config(&b, Some(&one), Some(&other))).await.unwrap();
    assert_eq!(vm::keys_of_cluster(&mut tx, place.cluster).await.unwrap(), [one.clone(), other.clone()]);
    let users = |rows: Vec<(needed::KeyOwner, ward_types::KeyRef)>| {
        rows.into_iter().map(|(owner, key)| format!("{owner} {key}")).collect::<Vec<_>>()
    };
    assert_eq!(users(needed::of_provider(&mut tx, &one.provider).await.unwrap()), ["VM `a` kms/1", "VM `b` kms/1"]);
    assert_eq!(users(needed::of_provider(&mut tx, &other.provider).await.unwrap()), ["VM `b` other/1"]);
    let asked = vec![one.clone(), two.clone(), other.clone()];
    assert_eq!(needed::unneeded(&mut tx, asked.clone()).await.unwrap(), std::slice::from_ref(&two));

    vm::set_config(&mut tx, b.id, &config(&b, None, None)).await.unwrap();
    assert_eq!(vm::keys_of_cluster(&mut tx, place.cluster).await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(needed::unneeded(&mut tx, asked.clone()).await.unwrap(), [two.clone(), other.clone()]);
    vm::set_config(&mut tx, a.id, &config(&a, Some(&two), Some(&one))).await.unwrap();
    assert_eq!(needed::unneeded(&mut tx, asked).await.unwrap(), [other]);
    assert_eq!(vm::keys_of_cluster(&mut tx, ward_types::ClusterId::new()).await.unwrap(), []);
}

async fn a_vm_goes_with_its_keys_and_leaves_its_tasks(db: Db) {
    let place: Place = db.place().await;
    let row = place.vm("a");
    let mut tx = db.store.write().await.unwrap();
    vm::add(&mut tx, &row).await.unwrap();
    vm::set_config(&mut tx, row.id, &config(&row, Some(&key("kms", "1")), None)).await.unwrap();
    let work = Work::Remove { keys: vec![], host: None };
    let kind = ward_types::TaskKind::VmRemove;
    let added = task::add(&mut tx, (TaskId::new(), kind), (row.id, &row.name), &name("ann"), &work).await.unwrap();
    vm::remove(&mut tx, row.id).await.unwrap();
    assert!(vm::get(&mut tx, row.id).await.unwrap().is_none());
    assert!(vm::keys_of_cluster(&mut tx, place.cluster).await.unwrap().is_empty());
    assert!(needed::of_provider(&mut tx, &"kms".parse().unwrap()).await.unwrap().is_empty());
    assert_eq!(task::get(&mut tx, added.info.id).await.unwrap().unwrap().vm_name, row.name);
}
