//! Encryption modes of hosts, and the keys that hosts need for themselves.

use std::collections::BTreeSet;

use uuid::Uuid;
use ward_types::{HostCrypto, HostId, KdkId, ProviderKind};

use super::super::host::HostRow;
use super::super::host_crypto::{self, HostStanding};
use super::super::native::NativeRow;
use super::super::provider::ProviderRow;
use super::super::{Store, cluster, host, native, needed, provider, server_key, vm};
use super::{Db, config, key, name, on_both};

on_both! {
    a_mode_with_what_belongs_to_it
    a_host_key_is_needed_as_long_as_its_host_needs_it
    whether_keys_outlive_a_restart_is_said_of_hosts_and_clusters
    hosts_of_clusters_with_keys_are_prepared_by_an_upgrade
}

async fn a_mode_with_what_belongs_to_it(db: Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(host_crypto::get(&mut tx, place.host).await.unwrap(), HostCrypto::Incapable);
    assert!(host_crypto::list(&mut tx).await.unwrap().is_empty());
    let own = key("kms", "1");
    let before = server_key::generation(&mut tx).await.unwrap();
    for crypto in [
        HostCrypto::Prepared { attempt: Uuid::new_v4() },
        HostCrypto::Safe { key: own.clone(), rekey: Some(Uuid::new_v4()) },
        HostCrypto::PendingIncapable { key: own.clone(), boot: Uuid::new_v4() },
        HostCrypto::Incapable,
    ] {
        host_crypto::set(&mut tx, place.host, &crypto).await.unwrap();
        assert_eq!(host_crypto::get(&mut tx, place.host).await.unwrap(), crypto);
        assert_eq!(host_crypto::list(&mut tx).await.unwrap()[&place.host], crypto);
    }
    assert!(server_key::generation(&mut tx).await.unwrap() >= before + 4, "whoever looks after hosts looks again");
    assert!(host_crypto::set(&mut tx, HostId::new(), &HostCrypto::Incapable).await.is_err());
}

async fn a_host_key_is_needed_as_long_as_its_host_needs_it(db: Db) {
    let place = db.place().await;
    let (one, two) = (key("kms", "1"), key("kms", "2"));
    let mut tx = db.store.write().await.unwrap();
    let safe = |key| HostCrypto::Safe { key, rekey: None };
    host_crypto::set(&mut tx, place.host, &safe(one.clone())).await.unwrap();
    host_crypto::set(&mut tx, place.host, &safe(two.clone())).await.unwrap();
    // The older one may open dumps.
    let both = vec![one.clone(), two.clone()];
    let standing = host_crypto::standing(&mut tx, place.host, place.cluster).await.unwrap();
    assert_eq!(standing.keys.into_iter().collect::<Vec<_>>(), both);
    let row = place.vm("a");
    vm::add(&mut tx, &row).await.unwrap();
    vm::set_config(&mut tx, row.id, &config(&row, Some(&two), None)).await.unwrap();
    assert_eq!(needed::all(&mut tx).await.unwrap(), both);
    assert_eq!(needed::count(&mut tx).await.unwrap(), 2);
    let (some, after) = needed::some(&mut tx, None, 1).await.unwrap();
    assert_eq!(some, std::slice::from_ref(&one));
    assert_eq!(needed::some(&mut tx, after.as_deref(), 5).await.unwrap(), (vec![two.clone()], None));
    let users = needed::of_provider(&mut tx, &one.provider).await.unwrap();
    let host_name = host::find(&mut tx, &place.host.to_string()).await.unwrap().unwrap().name;
    let users: Vec<_> = users.into_iter().map(|(owner, key)| format!("{owner} {key}")).collect();
    let mut wanted = [format!("host `{host_name}` kms/1"), format!("host `{host_name}` kms/2")];
    wanted.sort();
    assert_eq!((users[0].as_str(), users.len()), ("VM `a` kms/2", 3));
    assert!(wanted.iter().all(|user| users.contains(user)), "{users:?}");
    let under = host_crypto::under(&mut tx, &one).await.unwrap();
    assert_eq!(under, [(place.host, place.cluster, host_name)]);
    assert_eq!(needed::unneeded(&mut tx, both.clone()).await.unwrap(), []);
    assert_eq!(server_key::get(&mut tx, &one).await.unwrap().unwrap().unneeded, None);
    assert_eq!(vm::keys_of_cluster(&mut tx, place.cluster).await.unwrap(), std::slice::from_ref(&two), "of VMs only");

    host_crypto::forget_keys(&mut tx, place.host, std::slice::from_ref(&one)).await.unwrap();
    assert_eq!(needed::unneeded(&mut tx, both).await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(host::remove(&mut tx, place.host).await.unwrap(), std::slice::from_ref(&two));
    assert!(host_crypto::list(&mut tx).await.unwrap().is_empty());
    let users = needed::of_provider(&mut tx, &two.provider).await.unwrap();
    assert_eq!(users, [(needed::KeyOwner::Vm(name("a")), two)]);
}

async fn whether_keys_outlive_a_restart_is_said_of_hosts_and_clusters(db: Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    let none = host_crypto::standing(&mut tx, place.host, place.cluster).await.unwrap();
    assert_eq!(none, HostStanding::default());
    host_crypto::set_cluster_persistence(&mut tx, place.cluster, true).await.unwrap();
    host_crypto::set_persistence(&mut tx, place.host, Some(false)).await.unwrap();
    let told: BTreeSet<ward_types::Name> = ["a".parse().unwrap(), "b".parse().unwrap()].into();
    host_crypto::set_dumps_told(&mut tx, place.host, &BTreeSet::from(["old".parse().unwrap()])).await.unwrap();
    host_crypto::set_dumps_told(&mut tx, place.host, &told).await.unwrap();
    let said = host_crypto::standing(&mut tx, place.host, place.cluster).await.unwrap();
    assert_eq!((said.persistence, said.dumps_told), ((Some(false), true), told));
    host_crypto::set_persistence(&mut tx, place.host, None).await.unwrap();
    let said = host_crypto::standing(&mut tx, place.host, place.cluster).await.unwrap();
    assert_eq!((said.persistence, said.crypto), ((None, true), HostCrypto::Incapable));
}

async fn hosts_of_clusters_with_keys_are_prepared_by_an_upgrade(db: Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    let mut elsewhere = Vec::new();
    for other in ["plain", "native"] {
        let cluster = cluster::add(&mut tx, &name(other)).await.unwrap();
        let row = HostRow { id: HostId::new(), cluster, name: name(other), address: format!("{other}:1") };
        host::add(&mut tx, &row).await.unwrap();
        elsewhere.push(row);
    }
    let row = place.vm("a");
    vm::add(&mut tx, &row).await.unwrap();
    vm::set_config(&mut tx, row.id, &config(&row, Some(&key("kms", "1")), None)).await.unwrap();
    let provider = ProviderRow::new("n".parse().unwrap(), ProviderKind::Native);
    provider::add(&mut tx, &provider).await.unwrap();
    let row = NativeRow {
        name: provider.name,
        key_id: KdkId::new(),
        tpm_required: false,
        backed_up: None,
        reminded: None,
        clusters: vec![elsewhere[1].cluster],
        versions: Vec::new(),
    };
    native::add(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();

    // As it was before there were host keys.
    db.sql("DROP VIEW needed_key").await;
    for table in ["host_crypto", "host_dump_told", "host_key_attempt", "host_key", "key_persistence"] {
        db.sql(&format!("DROP TABLE {table}")).await;
    }
    db.sql("DELETE FROM _sqlx_migrations WHERE version = 10").await;
    db.store.close().await;

    let store = Store::open(&db.url).await.unwrap();
    let mut tx = store.write().await.unwrap();
    let prepared = |id: HostId| HostCrypto::Prepared { attempt: id.uuid() };
    assert_eq!(host_crypto::get(&mut tx, place.host).await.unwrap(), prepared(place.host));
    assert_eq!(host_crypto::get(&mut tx, elsewhere[0].id).await.unwrap(), HostCrypto::Incapable);
    assert_eq!(host_crypto::get(&mut tx, elsewhere[1].id).await.unwrap(), prepared(elsewhere[1].id));
    // What a killed attempt made is found by the host's name.
    for (id, host) in [(place.host, "h"), (elsewhere[1].id, "native")] {
        let attempt = host_crypto::attempt(&mut tx, id.uuid()).await.unwrap().unwrap();
        assert_eq!((attempt.host, attempt.goes_on), (name(host), true));
    }
    // Nothing else has changed.
    assert_eq!(needed::all(&mut tx).await.unwrap(), [key("kms", "1")]);
}
