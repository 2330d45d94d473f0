//! Clusters, datastores, hosts, enrolment tokens, settings.

use ward_types::{HostId, TokenId};

use super::super::cells::now;
use super::super::host::HostRow;
use super::super::{cluster, host, setting};
use super::{Db, conflict, directory, name, on_both};

on_both! {
    clusters
    datastores
    hosts
    an_enrolment_token_is_good_once
    settings
}

async fn clusters(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert!(cluster::list(&mut tx).await.unwrap().is_empty());
    let b = cluster::add(&mut tx, &name("b")).await.unwrap();
    let a = cluster::add(&mut tx, &name("a")).await.unwrap();
    let listed: Vec<_> = cluster::list(&mut tx).await.unwrap().into_iter().map(|row| (row.id, row.name)).collect();
    assert_eq!(listed, [(a, name("a")), (b, name("b"))]);
    for key in ["b", &b.to_string()] {
        assert_eq!(cluster::find(&mut tx, key).await.unwrap().unwrap().id, b);
    }
    assert!(cluster::find(&mut tx, "c").await.unwrap().is_none());
    tx.commit().await.unwrap();
    conflict(cluster::add(&mut db.store.write().await.unwrap(), &name("a")).await);
}

async fn datastores(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let (one, two) =
        (cluster::add(&mut tx, &name("1")).await.unwrap(), cluster::add(&mut tx, &name("2")).await.unwrap());
    let y = cluster::add_datastore(&mut tx, one, &name("y"), "/srv/ä y").await.unwrap();
    let x = cluster::add_datastore(&mut tx, two, &name("x"), "/srv/ä y").await.unwrap();
    let rows = cluster::datastores(&mut tx).await.unwrap();
    let listed: Vec<_> = rows.into_iter().map(|row| (row.id, row.cluster, row.name, row.directory)).collect();
    assert_eq!(listed, [(x, two, name("x"), directory("/srv/ä y")), (y, one, name("y"), directory("/srv/ä y"))]);
    tx.commit().await.unwrap();
    // A directory once in a cluster, a name once in all.
    for (cluster, datastore, path) in [(one, "z", "/srv/ä y"), (one, "x", "/srv/z")] {
        let mut tx = db.store.write().await.unwrap();
        conflict(cluster::add_datastore(&mut tx, cluster, &name(datastore), path).await);
    }
}

async fn hosts(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let cluster = cluster::add(&mut tx, &name("c")).await.unwrap();
    let row = |host: &str| HostRow { id: HostId::new(), cluster, name: name(host), address: format!("{host}:8445") };
    let (b, a) = (row("b"), row("a"));
    host::add(&mut tx, &b).await.unwrap();
    host::add(&mut tx, &a).await.unwrap();
    host::set_address(&mut tx, b.id, "[::1]:1").await.unwrap();
    let rows = host::list(&mut tx).await.unwrap();
    let listed: Vec<_> = rows.into_iter().map(|row| (row.id, row.cluster, row.name, row.address)).collect();
    let wanted = [(a.id, cluster, name("a"), "a:8445".to_owned()), (b.id, cluster, name("b"), "[::1]:1".to_owned())];
    assert_eq!(listed, wanted);
    for key in ["a", &a.id.to_string()] {
        assert_eq!(host::find(&mut tx, key).await.unwrap().unwrap().id, a.id);
    }
    assert!(host::find(&mut tx, "c").await.unwrap().is_none());
    tx.commit().await.unwrap();
    conflict(host::add(&mut db.store.write().await.unwrap(), &row("a")).await);
}

async fn an_enrolment_token_is_good_once(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let cluster = cluster::add(&mut tx, &name("c")).await.unwrap();
    let (good, old) = (TokenId::new(), TokenId::new());
    host::add_enrolment(&mut tx, good, cluster, "hash", now() + 60_000_000).await.unwrap();
    host::add_enrolment(&mut tx, old, cluster, "hash", now() - 1).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.store.write().await.unwrap();
    let table =
        [(old, "hash", None), (good, "other", None), (TokenId::new(), "hash", None), (good, "hash", Some(cluster))];
    for (id, hash, cluster) in table {
        assert_eq!(host::use_enrolment(&mut tx, id, hash).await.unwrap(), cluster);
    }
    // Not used where the transaction comes to nothing.
    drop(tx);
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(host::use_enrolment(&mut tx, good, "hash").await.unwrap(), Some(cluster));
    tx.commit().await.unwrap();
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(host::use_enrolment(&mut tx, good, "hash").await.unwrap(), None);
}

async fn settings(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert_eq!(setting::get(&mut tx, "a").await.unwrap(), None);
    for value in ["1", "2 ü"] {
        setting::put(&mut tx, "a", value).await.unwrap();
        assert_eq!(setting::get(&mut tx, "a").await.unwrap().as_deref(), Some(value));
    }
    assert_eq!(setting::get(&mut tx, "b").await.unwrap(), None);
}
