//! Every function of the store, on SQLite and on PostgreSQL: one test body for both.
#![allow(clippy::unwrap_used)]

mod access;
mod corrupt;
mod host_crypto;
mod inventory;
mod log;
#[allow(unreachable_pub)]
#[path = "../../../tests/postgres/mod.rs"]
mod postgres;
mod provider;
mod race;
mod schema;
mod task;
mod user;
mod vm;

use std::path::PathBuf;

use sqlx::{AssertSqlSafe, Executor as _};
use tempfile::TempDir;
use ward_types::{
    Boot, ClusterId, DatastoreId, DiskConfig, DiskCrypto, DiskId, HomeCrypto, HostId, KeyId, KeyRef, Name, PlainFormat,
    Power, VmConfig, VmId, WrappedHomeKey,
};

use super::host::HostRow;
use super::vm::VmRow;
use super::{Store, StoreError, cluster, host, sqlite_url};

/// Makes of each body a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::store::tests::Db::sqlite().await).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::store::tests::Db::postgres().await).await;
            })*
        }
    };
}
use on_both;

/// A store of a test's own.
struct Db {
    store: Store,
    url: String,
    /// What holds the SQLite file.
    _directory: Option<TempDir>,
}

impl Db {
    async fn sqlite() -> Self {
        let directory = TempDir::new().unwrap();
        let url = sqlite_url(&directory.path().join("a %?#b.db"));
        Self { store: Store::open(&url).await.unwrap(), url, _directory: Some(directory) }
    }

    async fn postgres() -> Self {
        let url = postgres::database().await;
        Self { store: Store::open(&url).await.unwrap(), url, _directory: None }
    }

    /// Changes the database behind the store's back.
    async fn sql(&self, statement: &str) {
        self.store.pool.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    }

    /// A cluster with a datastore and a host.
    async fn place(&self) -> Place {
        let mut tx = self.store.write().await.unwrap();
        let cluster = cluster::add(&mut tx, &name("c")).await.unwrap();
        let datastore = cluster::add_datastore(&mut tx, cluster, &name("d"), "/srv/d").await.unwrap();
        let host = HostRow { id: HostId::new(), cluster, name: name("h"), address: "h:1".into() };
        host::add(&mut tx, &host).await.unwrap();
        tx.commit().await.unwrap();
        Place { cluster, datastore, host: host.id }
    }
}

#[derive(Clone, Copy)]
struct Place {
    cluster: ClusterId,
    datastore: DatastoreId,
    host: HostId,
}

impl Place {
    fn vm(self, vm: &str) -> VmRow {
        VmRow {
            id: VmId::new(),
            name: name(vm),
            cluster: self.cluster,
            datastore: self.datastore,
            directory: name(vm),
            config: None,
            host: None,
            power: Power::Off,
            locked: None,
            template: false,
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn key(provider: &str, id: &str) -> KeyRef {
    KeyRef::standard(provider.parse().unwrap(), KeyId::try_from(id.to_owned()).unwrap())
}

/// The description of a VM whose home and only disk are encrypted under these keys.
fn config(row: &VmRow, home: Option<&KeyRef>, disk: Option<&KeyRef>) -> VmConfig {
    VmConfig {
        version: VmConfig::VERSION,
        id: row.id,
        name: row.name.clone(),
        cpus: 1,
        memory_mib: 64,
        boot: Boot::Disk,
        home: home.map_or(HomeCrypto::Plain, |key| HomeCrypto::Encrypted {
            key: key.clone(),
            wrapped_key: WrappedHomeKey("AAAA".into()),
        }),
        disks: vec![DiskConfig {
            id: DiskId(0),
            file: "disk-0.img".parse().unwrap(),
            size: 1 << 20,
            plain_format: PlainFormat::Raw,
            crypto: disk.map_or(DiskCrypto::Plain, |key| DiskCrypto::Encrypted { key: key.clone() }),
            attached: true,
        }],
        firmware: ward_types::Firmware::Bios,
        tpm: None,
    }
}

fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    let error = result.unwrap_err();
    assert!(error.is_conflict(), "{error}");
}

fn directory(path: &str) -> PathBuf {
    path.into()
}
