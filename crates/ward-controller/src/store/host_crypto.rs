//! The encryption modes of hosts, their host keys, and whether they keep keys over a restart.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use sqlx::AnyConnection;
use uuid::Uuid;
use ward_types::{ClusterId, HostCrypto, HostId, KeyLocator, KeyRef, Name};

use super::Result;
use super::cells::{Cells, json, now};
use super::server_key;

/// All that is known of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostStanding {
    pub(crate) crypto: HostCrypto,
    /// The keys that it needs for itself.
    pub(crate) keys: BTreeSet<KeyRef>,
    /// Whether its keys are to outlive a restart: as is said of it, and of its cluster.
    pub(crate) persistence: (Option<bool>, bool),
    /// The dumps, kept and lost, of which an event has told.
    pub(crate) dumps_told: BTreeSet<Name>,
}

/// All modes that were ever set; the other hosts are incapable.
pub(crate) async fn list(db: &mut AnyConnection) -> Result<HashMap<HostId, HostCrypto>> {
    let rows = sqlx::query("SELECT host_id, state FROM host_crypto").fetch_all(db).await?;
    rows.iter().map(|row| Ok((Cells(row).parsed("host_id")?, Cells(row).json("state")?))).collect()
}

pub(crate) async fn get(db: &mut AnyConnection, host: HostId) -> Result<HostCrypto> {
    let row = sqlx::query("SELECT state FROM host_crypto WHERE host_id = $1").bind(host.to_string());
    let row = row.fetch_optional(db).await?;
    row.map_or(Ok(HostCrypto::Incapable), |row| Cells(&row).json("state"))
}

/// How a host of a cluster stands.
pub(crate) async fn standing(db: &mut AnyConnection, host: HostId, cluster: ClusterId) -> Result<HostStanding> {
    let crypto = get(&mut *db, host).await?;
    let keys = keys_of(&mut *db, host).await?;
    let rows = sqlx::query("SELECT name FROM host_dump_told WHERE host_id = $1").bind(host.to_string());
    let rows = rows.fetch_all(&mut *db).await?;
    let dumps_told = rows.iter().map(|row| Cells(row).parsed("name")).collect::<Result<_>>()?;
    let own = said(&mut *db, host.to_string()).await?;
    let persistence = (own, said(db, cluster.to_string()).await?.unwrap_or(false));
    Ok(HostStanding { crypto, keys, persistence, dumps_told })
}

/// Sets a mode. A host key that comes with it is needed.
pub(crate) async fn set(db: &mut AnyConnection, host: HostId, crypto: &HostCrypto) -> Result<()> {
    sqlx::query(
        "INSERT INTO host_crypto (host_id, state) VALUES ($1, $2) \
         ON CONFLICT (host_id) DO UPDATE SET state = excluded.state",
    )
    .bind(host.to_string())
    .bind(json(crypto)?)
    .execute(&mut *db)
    .await?;
    if let Some(key) = crypto.key() {
        add_key(&mut *db, host, key).await?;
    }
    if let Some(attempt) = crypto.attempt() {
        sqlx::query(
            "INSERT INTO host_key_attempt (attempt, host, since) SELECT $1, name, $2 FROM host WHERE id = $3 \
             ON CONFLICT DO NOTHING",
        )
        .bind(attempt.to_string())
        .bind(now())
        .bind(host.to_string())
        .execute(&mut *db)
        .await?;
    }
    server_key::changed(db).await
}

/// A name under which a host key was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) host: Name,
    pub(crate) since: Timestamp,
    /// Whether the host still asks under it.
    pub(crate) goes_on: bool,
}

/// What is known of such a name; nothing where it is none of this controller's.
pub(crate) async fn attempt(db: &mut AnyConnection, attempt: Uuid) -> Result<Option<Attempt>> {
    let row = sqlx::query("SELECT host, since FROM host_key_attempt WHERE attempt = $1").bind(attempt.to_string());
    let Some(row) = row.fetch_optional(&mut *db).await? else { return Ok(None) };
    let goes_on = list(db).await?.values().any(|crypto| crypto.attempt() == Some(attempt));
    Ok(Some(Attempt { host: Cells(&row).parsed("host")?, since: Cells(&row).time("since")?, goes_on }))
}

/// A host needs a key from now on.
pub(crate) async fn add_key(db: &mut AnyConnection, host: HostId, key: &KeyRef) -> Result<()> {
    if matches!(key.key, KeyLocator::Standard { .. }) {
        server_key::needed(&mut *db, key).await?;
    }
    sqlx::query(
        "INSERT INTO host_key (host_id, provider, key_ref, since) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(host.to_string())
    .bind(key.provider.as_str())
    .bind(json(key)?)
    .bind(now())
    .execute(&mut *db)
    .await?;
    server_key::changed(db).await
}

/// A host no longer needs these.
pub(crate) async fn forget_keys(db: &mut AnyConnection, host: HostId, keys: &[KeyRef]) -> Result<()> {
    for key in keys {
        sqlx::query("DELETE FROM host_key WHERE host_id = $1 AND key_ref = $2")
            .bind(host.to_string())
            .bind(json(key)?)
            .execute(&mut *db)
            .await?;
    }
    server_key::changed(db).await
}

/// The keys that a host needs for itself.
pub(crate) async fn keys_of(db: &mut AnyConnection, host: HostId) -> Result<BTreeSet<KeyRef>> {
    let rows = sqlx::query("SELECT key_ref FROM host_key WHERE host_id = $1").bind(host.to_string());
    rows.fetch_all(db).await?.iter().map(|row| Cells(row).json("key_ref")).collect()
}

/// The hosts that need a key for themselves, by name.
pub(crate) async fn under(db: &mut AnyConnection, key: &KeyRef) -> Result<Vec<(HostId, ClusterId, Name)>> {
    let rows = sqlx::query(
        "SELECT host.id, host.cluster_id, host.name FROM host JOIN host_key ON host.id = host_key.host_id \
         WHERE host_key.key_ref = $1 ORDER BY host.name",
    );
    let rows = rows.bind(json(key)?).fetch_all(db).await?;
    let host = |cells: Cells<'_>| Ok((cells.parsed("id")?, cells.parsed("cluster_id")?, cells.parsed("name")?));
    rows.iter().map(|row| host(Cells(row))).collect()
}

/// Notes the dumps of which events have told, in the place of those that were noted.
pub(crate) async fn set_dumps_told(db: &mut AnyConnection, host: HostId, names: &BTreeSet<Name>) -> Result<()> {
    sqlx::query("DELETE FROM host_dump_told WHERE host_id = $1").bind(host.to_string()).execute(&mut *db).await?;
    for name in names {
        sqlx::query("INSERT INTO host_dump_told (host_id, name) VALUES ($1, $2)")
            .bind(host.to_string())
            .bind(name.as_str())
            .execute(&mut *db)
            .await?;
    }
    server_key::changed(db).await
}

/// What is said about a host or cluster; none where nothing is.
async fn said(db: &mut AnyConnection, object: String) -> Result<Option<bool>> {
    let row = sqlx::query("SELECT enabled FROM key_persistence WHERE object = $1").bind(object);
    row.fetch_optional(db).await?.map(|row| Cells(&row).flag("enabled")).transpose()
}

async fn say(db: &mut AnyConnection, object: String, enabled: Option<bool>) -> Result<()> {
    sqlx::query("DELETE FROM key_persistence WHERE object = $1").bind(&object).execute(&mut *db).await?;
    if let Some(enabled) = enabled {
        sqlx::query("INSERT INTO key_persistence (object, enabled) VALUES ($1, $2)")
            .bind(object)
            .bind(i64::from(enabled))
            .execute(&mut *db)
            .await?;
    }
    server_key::changed(db).await
}

/// Says for a host whether its keys outlive a restart; none leaves it to its cluster.
pub(crate) async fn set_persistence(db: &mut AnyConnection, host: HostId, enabled: Option<bool>) -> Result<()> {
    say(db, host.to_string(), enabled).await
}

/// Says it for the hosts of a cluster of which nothing else is said.
pub(crate) async fn set_cluster_persistence(db: &mut AnyConnection, cluster: ClusterId, enabled: bool) -> Result<()> {
    say(db, cluster.to_string(), Some(enabled)).await
}

/// Forgets all of a host that leaves; tells the keys that it needed.
pub(crate) async fn forget(db: &mut AnyConnection, host: HostId) -> Result<Vec<KeyRef>> {
    let keys = keys_of(&mut *db, host).await?;
    say(&mut *db, host.to_string(), None).await?;
    for table in ["host_key", "host_dump_told", "host_crypto"] {
        let delete = format!("DELETE FROM {table} WHERE host_id = $1");
        sqlx::query(sqlx::AssertSqlSafe(delete)).bind(host.to_string()).execute(&mut *db).await?;
    }
    Ok(keys.into_iter().collect())
}
