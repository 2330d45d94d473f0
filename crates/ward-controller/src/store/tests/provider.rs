//! Key providers.

use std::time::Duration;

use kmip::certificate::Fingerprint;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, Executor as _};
use ward_secret::SealKey;
use ward_types::ProviderKind;

use super::super::provider::{self, Access, PendingRow, ProviderRow, SealedIdentity, ServerRow};
use super::super::{MIGRATIONS, Store, cluster, sqlite_url};
use super::{Db, conflict, name, on_both, postgres};
use crate::root;

on_both! {
    providers
    servers_and_identities_change
    one_provider_is_the_default_one
    a_cluster_has_a_default_provider_of_its_own
    what_was_told_is_known
    a_sealed_key_is_not_there_in_plain
}

fn row(name: &str) -> ProviderRow {
    let server = |text: &str| ServerRow { address: text.parse().unwrap(), pinned: None };
    let mut row = ProviderRow::new(name.parse().unwrap(), ProviderKind::Standard);
    row.access = Access {
        servers: vec![server("[::1]:65535"), server("a:1"), server("Z.example:2")],
        timeout: Duration::from_millis(1500),
        ca: Some("the CA".into()),
        identity: Some(SealedIdentity { certificate: "the certificate".into(), sealed_key: "c2VhbGVk".into() }),
    };
    row.access.servers[1].pinned = Some(Fingerprint([0xA5; 32]));
    row
}

async fn providers(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert!(provider::list(&mut tx).await.unwrap().is_empty());
    provider::add(&mut tx, &row("b")).await.unwrap();
    provider::add(&mut tx, &ProviderRow { is_default: true, ..row("a") }).await.unwrap();
    let rows = provider::list(&mut tx).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let read = provider::get(&mut tx, &"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((read.kind, read.is_default), (ProviderKind::Standard, true));
    assert_eq!(read.access, row("a").access);
    assert_eq!(rows[0].access, read.access);
    provider::remove(&mut tx, &"a".parse().unwrap()).await.unwrap();
    assert!(provider::get(&mut tx, &"a".parse().unwrap()).await.unwrap().is_none());
    assert!(provider::get(&mut tx, &"b".parse().unwrap()).await.unwrap().is_some());
    tx.commit().await.unwrap();
    conflict(provider::add(&mut db.store.write().await.unwrap(), &row("b")).await);
}

async fn servers_and_identities_change(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for name in ["a", "b"] {
        provider::add(&mut tx, &row(name)).await.unwrap();
    }
    let named = "a".parse().unwrap();
    let mut access = row("a").access;
    access.servers.swap(0, 2);
    access.servers.remove(1);
    access.ca = None;
    access.identity = None;
    provider::set_access(&mut tx, &named, &access).await.unwrap();
    assert_eq!(provider::get(&mut tx, &named).await.unwrap().unwrap().access, access);
    assert_eq!(provider::list(&mut tx).await.unwrap()[1].access, row("b").access);

    assert_eq!(provider::pending(&mut tx, &named).await.unwrap(), None);
    let first = PendingRow { sealed_key: "k".into(), request: Some("r".into()), certificate: None };
    let second = PendingRow { sealed_key: "l".into(), request: None, certificate: Some("c".into()) };
    for pending in [Some(&first), Some(&second), None] {
        provider::set_pending(&mut tx, &named, pending).await.unwrap();
        assert_eq!(provider::pending(&mut tx, &named).await.unwrap().as_ref(), pending);
    }
    // With all of it, it can still go.
    provider::set_pending(&mut tx, &named, Some(&first)).await.unwrap();
    provider::remove(&mut tx, &named).await.unwrap();
    assert_eq!(provider::pending(&mut tx, &named).await.unwrap(), None);
}

async fn a_cluster_has_a_default_provider_of_its_own(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let of_cluster = cluster::add(&mut tx, &name("c")).await.unwrap();
    for name in ["a", "b"] {
        provider::add(&mut tx, &row(name)).await.unwrap();
    }
    let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
    for wanted in [Some(&a), Some(&b), None, Some(&b)] {
        provider::set_default_of(&mut tx, of_cluster, wanted).await.unwrap();
        assert_eq!(provider::default_of(&mut tx, of_cluster).await.unwrap().as_ref(), wanted);
    }
    assert_eq!(provider::defaults(&mut tx).await.unwrap(), [(of_cluster, name("c"), b.clone())]);
    provider::remove(&mut tx, &b).await.unwrap();
    assert_eq!(provider::default_of(&mut tx, of_cluster).await.unwrap(), None);
}

async fn what_was_told_is_known(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    provider::add(&mut tx, &row("a")).await.unwrap();
    let named = "a".parse().unwrap();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    for told in [vec![pair("provider", "red"), pair("server x:1", "green")], vec![pair("provider", "green")]] {
        provider::set_told(&mut tx, &named, &told).await.unwrap();
        assert_eq!(provider::told(&mut tx, &named).await.unwrap(), told);
    }
    provider::remove(&mut tx, &named).await.unwrap();
    assert!(provider::told(&mut tx, &named).await.unwrap().is_empty());
}

async fn one_provider_is_the_default_one(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for name in ["a", "b", "c"] {
        provider::add(&mut tx, &row(name)).await.unwrap();
    }
    for name in ["b", "c", "c"] {
        provider::set_default(&mut tx, &name.parse().unwrap()).await.unwrap();
        let rows = provider::list(&mut tx).await.unwrap();
        let default: Vec<_> = rows.iter().filter(|row| row.is_default).map(|row| row.name.as_str()).collect();
        assert_eq!(default, [name]);
    }
}

async fn a_sealed_key_is_not_there_in_plain(db: Db) {
    let secret = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n";
    let seal = SealKey::generate().unwrap();
    let sealed_key = root::seal(&seal, "provider-key/a", secret.as_bytes()).unwrap();
    let mut tx = db.store.write().await.unwrap();
    let mut sealed = row("a");
    sealed.access.identity = Some(SealedIdentity { certificate: "c".into(), sealed_key });
    provider::add(&mut tx, &sealed).await.unwrap();
    let read = provider::get(&mut tx, &"a".parse().unwrap()).await.unwrap().unwrap();
    let sealed_key = read.access.identity.clone().unwrap().sealed_key;
    // The whole row as the database has it.
    let text = format!("{read:?}");
    assert!(!text.contains("PRIVATE") && !text.contains("MC4CAQAw") && !text.contains(&hex::encode(secret)), "{text}");
    assert_eq!(*root::open(&seal, "provider-key/a", &sealed_key).unwrap(), secret.as_bytes());
    // Neither under another key, nor for another purpose, nor changed.
    let other = SealKey::generate().unwrap();
    assert!(root::open(&other, "provider-key/a", &sealed_key).is_err());
    assert!(root::open(&seal, "provider-key/b", &sealed_key).is_err());
    assert!(root::open(&seal, "provider-key/a", &sealed_key[4..]).is_err());
    assert!(root::open(&seal, "provider-key/a", "no base64!").is_err());
}

/// A database of the time when a provider had one server.
async fn an_older_database_keeps_its_providers(url: &str) {
    sqlx::any::install_default_drivers();
    let mut old = sqlx::AnyConnection::connect(url).await.unwrap();
    let until = MIGRATIONS.iter().filter(|migration| migration.version <= 4).cloned().collect::<Vec<_>>();
    Migrator { migrations: until.into(), ..Migrator::DEFAULT }.run(&mut old).await.unwrap();
    old.execute(
        "INSERT INTO provider (name, kind, server_host, server_port, ca, certificate, sealed_key, is_default, created) \
         VALUES ('kms', 'standard', '::1', 5697, 'ca', 'cert', 'key', 1, 1), ('n', 'native', '', 0, '', '', '', 0, 1)",
    )
    .await
    .unwrap();
    old.close().await.unwrap();
    let store = Store::open(url).await.unwrap();
    let rows = provider::list(&mut store.read().await.unwrap()).await.unwrap();
    let [kms, native] = &rows[..] else { panic!("{rows:?}") };
    let server = ServerRow { address: "[::1]:5697".parse().unwrap(), pinned: None };
    let identity = SealedIdentity { certificate: "cert".into(), sealed_key: "key".into() };
    let (ca, identity) = (Some("ca".to_owned()), Some(identity));
    assert_eq!(kms.access, Access { servers: vec![server], timeout: Access::TIMEOUT, ca, identity });
    assert!(kms.is_default);
    assert_eq!((native.kind, &native.access), (ProviderKind::Native, &Access::default()));
    store.close().await;
}

#[tokio::test]
async fn an_older_sqlite_database_keeps_its_providers() {
    let directory = tempfile::TempDir::new().unwrap();
    an_older_database_keeps_its_providers(&sqlite_url(&directory.path().join("controller.db"))).await;
}

#[tokio::test]
async fn an_older_postgres_database_keeps_its_providers() {
    an_older_database_keeps_its_providers(&postgres::database().await).await;
}
