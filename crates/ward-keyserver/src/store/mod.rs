//! The database: keys, what is known of them, and what was asked.

mod audit;
mod objects;
mod rows;

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};

pub(crate) use audit::{AuditRow, append, counts, tail};
pub(crate) use objects::{
    by_id, delete_attributes, insert, insert_attribute, of_owner, replace_attribute, update_lifecycle, wipe,
};

use crate::Error;
use crate::master::MasterKey;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// How many requests may read at a time.
const READERS: u32 = 4;

fn options(state_dir: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(state_dir.join("keys.db"))
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit is on disk before it returns.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        // What is deleted is overwritten.
        .pragma("secure_delete", "ON")
        // The log is copied back when it has this many pages: seldom enough not to be felt.
        .pragma("wal_autocheckpoint", "4000")
        .disable_statement_logging()
}

/// Makes the database, or brings its schema up to date, and checks that the master key is its own.
pub(crate) async fn init(state_dir: &Path, master: &MasterKey) -> Result<(), Error> {
    let path = state_dir.join("keys.db");
    if !path.exists() {
        whole_file::write_new(&path, &[], whole_file::Readers::Owner)?;
    }
    let mut connection = options(state_dir).connect().await?;
    MIGRATIONS.run(&mut connection).await?;
    check_master(&mut connection, master).await
}

/// That the database was sealed under this master key. One that has no keys yet is bound to it.
async fn check_master(connection: &mut SqliteConnection, master: &MasterKey) -> Result<(), Error> {
    sqlx::query("INSERT INTO meta (name, value) VALUES ('master_check', ?) ON CONFLICT DO NOTHING")
        .bind(master.seal_check()?)
        .execute(&mut *connection)
        .await?;
    let sealed: Vec<u8> =
        sqlx::query_scalar("SELECT value FROM meta WHERE name = 'master_check'").fetch_one(connection).await?;
    master.open_check(sealed)
}

/// The one connection that writes.
pub(crate) async fn writer(state_dir: &Path) -> Result<SqliteConnection, Error> {
    Ok(options(state_dir).connect().await?)
}

/// Connections that only read.
pub(crate) async fn readers(state_dir: &Path) -> Result<SqlitePool, Error> {
    let options = options(state_dir).pragma("query_only", "ON");
    Ok(SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await?)
}

/// One connection that only reads, for who looks in from outside.
pub(crate) async fn reader(state_dir: &Path) -> Result<SqliteConnection, Error> {
    if !state_dir.join("keys.db").exists() {
        return Err(Error::NotInitialized { path: state_dir.to_owned() });
    }
    Ok(options(state_dir).pragma("query_only", "ON").connect().await?)
}
