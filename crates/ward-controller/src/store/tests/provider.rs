//! Key providers.

use ward_secret::SealKey;
use ward_types::ProviderKind;

use super::super::provider::{self, ProviderRow};
use super::{Db, conflict, on_both};
use crate::root;

on_both! {
    providers
    one_provider_is_the_default_one
    a_sealed_key_is_not_there_in_plain
}

fn row(name: &str) -> ProviderRow {
    ProviderRow {
        name: name.parse().unwrap(),
        kind: ProviderKind::Standard,
        server_host: "::1".into(),
        server_port: 65535,
        ca: "the CA".into(),
        certificate: "the certificate".into(),
        sealed_key: "c2VhbGVk".into(),
        is_default: false,
    }
}

async fn providers(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    assert!(provider::list(&mut tx).await.unwrap().is_empty());
    provider::add(&mut tx, &row("b")).await.unwrap();
    provider::add(&mut tx, &ProviderRow { is_default: true, ..row("a") }).await.unwrap();
    let rows = provider::list(&mut tx).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let read = provider::get(&mut tx, &"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((read.kind, read.server_host.as_str(), read.server_port), (ProviderKind::Standard, "::1", 65535));
    assert_eq!((read.ca.as_str(), read.certificate.as_str()), ("the CA", "the certificate"));
    assert_eq!((read.sealed_key.as_str(), read.is_default), ("c2VhbGVk", true));
    provider::remove(&mut tx, &"a".parse().unwrap()).await.unwrap();
    assert!(provider::get(&mut tx, &"a".parse().unwrap()).await.unwrap().is_none());
    assert!(provider::get(&mut tx, &"b".parse().unwrap()).await.unwrap().is_some());
    tx.commit().await.unwrap();
    conflict(provider::add(&mut db.store.write().await.unwrap(), &row("b")).await);
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
    provider::add(&mut tx, &ProviderRow { sealed_key, ..row("a") }).await.unwrap();
    let read = provider::get(&mut tx, &"a".parse().unwrap()).await.unwrap().unwrap();
    // The whole row as the database has it.
    let text = format!("{read:?}");
    assert!(!text.contains("PRIVATE") && !text.contains("MC4CAQAw") && !text.contains(&hex::encode(secret)), "{text}");
    assert_eq!(*root::open(&seal, "provider-key/a", &read.sealed_key).unwrap(), secret.as_bytes());
    // Neither under another key, nor for another purpose, nor changed.
    let other = SealKey::generate().unwrap();
    assert!(root::open(&other, "provider-key/a", &read.sealed_key).is_err());
    assert!(root::open(&seal, "provider-key/b", &read.sealed_key).is_err());
    assert!(root::open(&seal, "provider-key/a", &read.sealed_key[4..]).is_err());
    assert!(root::open(&seal, "provider-key/a", "no base64!").is_err());
}
