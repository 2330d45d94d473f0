//! Opening: the schema comes to be once, and what is there stays.

use ward_types::{EventKind, EventSubject};

use super::super::{Store, StoreError, cluster, event};
use super::{Db, name, on_both};

on_both! {
    opening_again_changes_nothing
    two_may_open_at_once
    a_database_of_a_newer_version_is_refused
}

async fn opening_again_changes_nothing(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let id = cluster::add(&mut tx, &name("c")).await.unwrap();
    event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), "m").await.unwrap();
    tx.commit().await.unwrap();
    db.store.close().await;
    for _ in 0..2 {
        let store = Store::open(&db.url).await.unwrap();
        let mut tx = store.write().await.unwrap();
        assert_eq!(cluster::list(&mut tx).await.unwrap()[0].id, id);
        assert_eq!(event::last(&mut tx, 9).await.unwrap().len(), 1);
        drop(tx);
        store.close().await;
    }
    let store = Store::open(&db.url).await.unwrap();
    let mut tx = store.write().await.unwrap();
    event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), "m").await.unwrap();
    assert_eq!(event::last(&mut tx, 1).await.unwrap()[0].id, 2, "the counter begins anew");
}

async fn two_may_open_at_once(db: Db) {
    let (one, two) = tokio::join!(Store::open(&db.url), Store::open(&db.url));
    let mut tx = one.unwrap().write().await.unwrap();
    cluster::add(&mut tx, &name("c")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(cluster::list(&mut two.unwrap().read().await.unwrap()).await.unwrap().len(), 1);
}

async fn a_database_of_a_newer_version_is_refused(db: Db) {
    db.sql("UPDATE _sqlx_migrations SET version = 99 WHERE version = 1").await;
    assert!(matches!(Store::open(&db.url).await, Err(StoreError::Migrate(_))));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("controller.db");
    std::fs::write(&path, "this is no database, and long enough to see that: ".repeat(100)).unwrap();
    let before = std::fs::read(&path).unwrap();
    let opened = tokio::time::timeout(std::time::Duration::from_secs(20), Store::open_file(&path)).await.unwrap();
    let text = opened.err().unwrap().to_string();
    assert!(text.contains("not a database"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let opening = Store::open("postgres://ward:secret@127.0.0.1:1/nothing");
    let opened = tokio::time::timeout(std::time::Duration::from_secs(20), opening).await.unwrap();
    let text = opened.err().unwrap().to_string();
    assert!(text.contains("refused") && !text.contains("secret"), "{text}");
}
