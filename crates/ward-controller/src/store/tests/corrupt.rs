//! Rows that hold what this program would not have written: an error that names the column, never a panic.

use ward_types::{EventKind, EventSubject, Power, ProviderKind, TaskId, TaskKind};

use super::super::cells::now;
use super::super::provider::{self, ProviderRow, ServerRow};
use super::super::{StoreError, Tx, cluster, event, host, needed, task, user, vm};
use super::{Db, config, key, name, on_both};
use crate::tasks::Work;

on_both! {
    a_cell_that_makes_no_sense_is_told
}

/// Text that is none of what a column may hold.
const NONSENSE: &str = "'%&'";

/// Every column whose content must make sense, and a text or number that makes none.
const CELLS: &[(&str, &str, &str)] = &[
    ("cluster", "id", NONSENSE),
    ("cluster", "name", NONSENSE),
    ("datastore", "id", NONSENSE),
    ("datastore", "cluster_id", NONSENSE),
    ("datastore", "name", NONSENSE),
    ("host", "id", NONSENSE),
    ("host", "cluster_id", NONSENSE),
    ("host", "name", NONSENSE),
    ("vm", "id", NONSENSE),
    ("vm", "name", NONSENSE),
    ("vm", "cluster_id", NONSENSE),
    ("vm", "datastore_id", NONSENSE),
    ("vm", "directory", "'../x'"),
    ("vm", "config", "'{\"version\":1}'"),
    ("vm", "config", "'{'"),
    ("vm", "host_id", NONSENSE),
    ("vm", "power", "'half'"),
    ("vm_key", "key_ref", NONSENSE),
    ("provider", "name", NONSENSE),
    ("provider", "kind", "'other'"),
    ("provider", "timeout_ms", "-1"),
    ("key_server", "host", "'two words'"),
    ("key_server", "port", "65536"),
    ("key_server", "port", "-1"),
    ("key_server", "pinned", NONSENSE),
    ("task", "id", NONSENSE),
    ("task", "kind", "'vm-dance'"),
    ("task", "vm_id", NONSENSE),
    ("task", "vm_name", NONSENSE),
    ("task", "user_name", NONSENSE),
    ("task", "state", NONSENSE),
    ("task", "work", "'{\"work\":\"dance\"}'"),
    ("task", "problem", NONSENSE),
    ("task", "progress_done", "-1"),
    ("task", "progress_total", "-1"),
    ("task", "created", "9223372036854775807"),
    ("task", "ended", "-9223372036854775807"),
    ("event", "time", "9223372036854775807"),
    ("event", "kind", NONSENSE),
    ("event", "subject", "'[1]'"),
    ("account", "id", NONSENSE),
    ("account", "name", NONSENSE),
    ("session", "id", NONSENSE),
];

/// A row in every table.
async fn fill(db: &Db) {
    let place = db.place().await;
    let mut tx = db.store.write().await.unwrap();
    let row = place.vm("web");
    vm::add(&mut tx, &row).await.unwrap();
    vm::set_config(&mut tx, row.id, &config(&row, Some(&key("kms", "1")), None)).await.unwrap();
    vm::set_power(&mut tx, row.id, Power::On, Some(place.host)).await.unwrap();
    let mut provider = ProviderRow::new("kms".parse().unwrap(), ProviderKind::Standard);
    provider.access.servers = vec![ServerRow { address: "h:5696".parse().unwrap(), pinned: None }];
    provider::add(&mut tx, &provider).await.unwrap();
    let work = Work::Remove { keys: vec![], host: None };
    task::add(&mut tx, (TaskId::new(), TaskKind::VmRemove), (row.id, &row.name), &name("ann"), &work).await.unwrap();
    event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), "m").await.unwrap();
    let ann = user::add(&mut tx, &name("ann"), "hash").await.unwrap();
    user::add_session(&mut tx, ann, "secret", now() + 1_000_000_000).await.unwrap();
    tx.commit().await.unwrap();
}

/// Reads all there is.
async fn read_all(tx: &mut Tx) -> Result<(), StoreError> {
    let clusters = cluster::list(tx).await?;
    cluster::datastores(tx).await?;
    host::list(tx).await?;
    vm::list(tx).await?;
    for row in clusters {
        vm::keys_of_cluster(tx, row.id).await?;
    }
    needed::of_provider(tx, &"kms".parse().unwrap()).await?;
    provider::list(tx).await?;
    task::list(tx, false, 9).await?;
    task::open(tx).await?;
    event::after(tx, 0, 9).await?;
    user::find(tx, "ann").await?;
    user::find(tx, "%&").await?;
    user::session(tx, "secret").await?;
    Ok(())
}

async fn a_cell_that_makes_no_sense_is_told(db: Db) {
    fill(&db).await;
    let mut tx = db.store.write().await.unwrap();
    read_all(&mut tx).await.unwrap();
    drop(tx);
    // Columns that refer to others could not be changed else.
    let sqlite = db.store.sqlite;
    for (table, column, value) in CELLS {
        let mut tx = db.store.write().await.unwrap();
        let unguard =
            if sqlite { "PRAGMA defer_foreign_keys = ON" } else { "SET LOCAL session_replication_role = replica" };
        sqlx::query(unguard).execute(&mut *tx).await.unwrap();
        let change = format!("UPDATE {table} SET {column} = {value}");
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&mut *tx).await.unwrap();
        match read_all(&mut tx).await {
            Err(StoreError::Corrupt { column: told, .. }) => assert_eq!(told, *column, "{table}.{column} = {value}"),
            other => panic!("{table}.{column} = {value}: {other:?}"),
        }
    }
}

/// SQLite keeps what it is given, of whatever type.
#[tokio::test]
async fn a_cell_of_another_type_is_told() {
    let db = Db::sqlite().await;
    fill(&db).await;
    let cells = [
        ("event", "time", "'noon'"),
        ("event", "message", "x'ff00'"),
        ("event", "kind", "x'ff00'"),
        ("task", "created", "'noon'"),
        ("task", "problem", "x'ff00'"),
        ("provider", "is_default", "'maybe'"),
        ("key_server", "port", "1.5"),
        ("cluster", "name", "x'ff00'"),
    ];
    for (table, column, value) in cells {
        let mut tx = db.store.write().await.unwrap();
        let change = format!("UPDATE {table} SET {column} = {value}");
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&mut *tx).await.unwrap();
        match read_all(&mut tx).await {
            Err(StoreError::Corrupt { column: told, .. }) => assert_eq!(told, column, "{table}.{column} = {value}"),
            other => panic!("{table}.{column} = {value}: {other:?}"),
        }
    }
}
