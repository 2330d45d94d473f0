//! What the controller keeps, in SQL: one code path for SQLite and PostgreSQL.
//!
//! One module for each noun; each is a set of functions on a connection, so that a caller can put several into one
//! transaction. A change and the events that tell of it are always one transaction.

pub(crate) mod audit;
pub(crate) mod cells;
pub(crate) mod cluster;
pub(crate) mod event;
pub(crate) mod host;
pub(crate) mod host_crypto;
pub(crate) mod native;
pub(crate) mod needed;
pub(crate) mod permission;
pub(crate) mod policy;
pub(crate) mod provider;
pub(crate) mod recryption;
pub(crate) mod request;
pub(crate) mod server_key;
pub(crate) mod setting;
pub(crate) mod task;
pub(crate) mod trusted;
pub(crate) mod user;
pub(crate) mod vm;
pub(crate) mod vm_left;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Executor as _, Transaction};
use tokio::sync::watch;
use ward_types::{Code, Problem};

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database failed.
    #[error("the controller's database: {0}")]
    Sql(#[from] sqlx::Error),
    /// Its schema can't be brought up to date.
    #[error("the controller's database can't be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what this program would not have written.
    #[error("the controller's database: column `{column}` holds {why}")]
    Corrupt {
        /// Which column.
        column: String,
        /// What it holds.
        why: String,
    },
}

impl StoreError {
    /// Whether a row could not be added since there is one that it may not be added beside.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }

    /// Whether it would fail the same way however often it were tried: the database is there, and does not take it.
    pub(crate) fn is_for_good(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Database(error)) => {
                error.is_unique_violation() || error.is_foreign_key_violation() || error.is_check_violation()
            }
            Self::Sql(_) | Self::Migrate(_) => false,
            Self::Corrupt { .. } => true,
        }
    }

    /// Whether a text was given that no text of the database can be (PostgreSQL: `character_not_in_repertoire`).
    fn is_unkeepable(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.code().as_deref() == Some("22021"))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_unkeepable() {
            return Self::new(
                Code::RequestInvalid,
                "cannot keep or look for a text",
                "it has a character that the controller's database does not take (U+0000)",
                "leave that character out",
            );
        }
        tracing::error!(%error, "the store failed");
        Self::new(
            Code::StorageIo,
            "the controller cannot read or write its state",
            error.to_string(),
            "check the disk that holds the controller's state directory (or its PostgreSQL server), then try again",
        )
    }
}

/// What the store gives back.
pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The audit log is only added to, whoever asks, as long as nobody takes these away: that shows in the chain. The two
/// databases write them differently, so that they are no migration.
const APPEND_ONLY_SQLITE: &str = "\
    CREATE TRIGGER IF NOT EXISTS audit_not_changed BEFORE UPDATE ON audit \
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END; \
    CREATE TRIGGER IF NOT EXISTS audit_not_cut BEFORE DELETE ON audit \
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;";
const APPEND_ONLY_POSTGRES: &str = "\
    CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$; \
    CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit \
        FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();";

/// The controller's database.
#[derive(Clone)]
pub(crate) struct Store {
    pool: AnyPool,
    sqlite: bool,
    said: watch::Sender<()>,
}

impl Store {
    /// Opens the database at `url` (`sqlite://…` or `postgres://…`) and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn open(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        // A pool tries for long and then says only that it did; one connection says what is wrong.
        let mut first = AnyConnection::connect(url).await?;
        prepare(&mut first, sqlite).await?;
        first.close().await?;
        let pool = AnyPoolOptions::new()
            .max_connections(if sqlite { 4 } else { 8 })
            .acquire_timeout(Duration::from_secs(30))
            .after_connect(move |connection, _| Box::pin(prepare(connection, sqlite)))
            .connect(url)
            .await?;
        MIGRATIONS.run(&pool).await?;
        let store = Self { pool, sqlite, said: watch::Sender::new(()) };
        let mut tx = store.write().await?;
        tx.execute(if sqlite { APPEND_ONLY_SQLITE } else { APPEND_ONLY_POSTGRES }).await?;
        tx.commit().await?;
        Ok(store)
    }

    /// Opens the SQLite database in a file, which is made where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn open_file(path: &Path) -> Result<Self> {
        Self::open(&sqlite_url(path)).await
    }

    /// A connection to read with.
    pub(crate) async fn read(&self) -> Result<PoolConnection<Any>> {
        Ok(self.pool.acquire().await?)
    }

    /// A transaction to write with; undone unless committed. There is one at a time, on both databases: a rule that
    /// reads before it writes sees nobody else's half.
    pub(crate) async fn write(&self) -> Result<Tx> {
        // A transaction of SQLite that begins by reading can't always go on to write.
        let begin = if self.sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let mut inner = self.pool.begin_with(begin).await?;
        if !self.sqlite {
            // Every event takes this lock anyway; taken first, no two transactions can wait for each other.
            inner.execute("LOCK TABLE counter IN EXCLUSIVE MODE").await?;
        }
        Ok(Tx { inner, said: false, notify: self.said.clone() })
    }

    /// Tells whenever events were added.
    pub(crate) fn events_added(&self) -> watch::Receiver<()> {
        self.said.subscribe()
    }

    /// Ends all connections.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Sets a new connection up.
async fn prepare(connection: &mut AnyConnection, sqlite: bool) -> Result<(), sqlx::Error> {
    if sqlite {
        // WAL with FULL: a commit is on disk before anybody is told of it.
        connection
            .execute(
                "PRAGMA busy_timeout = 30000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                 PRAGMA foreign_keys = ON;",
            )
            .await?;
    }
    Ok(())
}

/// The URL of an SQLite file.
fn sqlite_url(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut url = "sqlite://".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url.push_str("?mode=rwc");
    url
}

/// A transaction. Whoever follows the event log hears of its events when it is committed.
pub(crate) struct Tx {
    inner: Transaction<'static, Any>,
    said: bool,
    notify: watch::Sender<()>,
}

impl Tx {
    pub(crate) async fn commit(self) -> Result<()> {
        self.inner.commit().await?;
        if self.said {
            self.notify.send_replace(());
        }
        Ok(())
    }
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }
}
