//! Keys that lie at key servers and that Ward made or uses.

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{KeyRef, ProviderName};

use super::Result;
use super::cells::{Cells, json, now};

/// What is known of a key that lies at a key server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerKey {
    pub(crate) key: KeyRef,
    /// Whether Ward made it.
    pub(crate) made: bool,
    /// Since when nothing needs it; none while something does.
    pub(crate) unneeded: Option<Timestamp>,
    /// Whether it is being destroyed.
    pub(crate) destroying: bool,
}

fn server_key(row: &AnyRow) -> Result<ServerKey> {
    let cells = Cells(row);
    Ok(ServerKey {
        key: cells.json("key_ref")?,
        made: cells.flag("made")?,
        unneeded: cells.time_or_null("unneeded")?,
        destroying: cells.time_or_null("destroying")?.is_some(),
    })
}

/// Those of a provider, or of all, that are needed or that are not.
pub(crate) async fn list(
    db: &mut AnyConnection,
    provider: Option<&ProviderName>,
    unneeded: bool,
) -> Result<Vec<ServerKey>> {
    let query = match (provider, unneeded) {
        (None, false) => "SELECT * FROM server_key ORDER BY key_ref",
        (None, true) => "SELECT * FROM server_key WHERE unneeded IS NOT NULL ORDER BY key_ref",
        (Some(_), false) => "SELECT * FROM server_key WHERE provider = $1 ORDER BY key_ref",
        (Some(_), true) => "SELECT * FROM server_key WHERE provider = $1 AND unneeded IS NOT NULL ORDER BY key_ref",
    };
    let mut query = sqlx::query(query);
    if let Some(provider) = provider {
        query = query.bind(provider.as_str());
    }
    query.fetch_all(db).await?.iter().map(server_key).collect()
}

pub(crate) async fn get(db: &mut AnyConnection, key: &KeyRef) -> Result<Option<ServerKey>> {
    let row = sqlx::query("SELECT * FROM server_key WHERE key_ref = $1").bind(json(key)?).fetch_optional(db).await?;
    row.as_ref().map(server_key).transpose()
}

/// Writes down that something needs the key from now on.
pub(super) async fn needed(db: &mut AnyConnection, key: &KeyRef) -> Result<()> {
    sqlx::query(
        "INSERT INTO server_key (key_ref, provider, made) VALUES ($1, $2, 0) \
         ON CONFLICT (key_ref) DO UPDATE SET unneeded = NULL",
    )
    .bind(json(key)?)
    .bind(key.provider.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down that Ward has made the key.
pub(crate) async fn made(db: &mut AnyConnection, key: &KeyRef) -> Result<()> {
    sqlx::query(
        "INSERT INTO server_key (key_ref, provider, made) VALUES ($1, $2, 1) \
         ON CONFLICT (key_ref) DO UPDATE SET made = 1",
    )
    .bind(json(key)?)
    .bind(key.provider.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down that nothing needs the key any more, since a moment ago or since earlier.
pub(crate) async fn unneeded(db: &mut AnyConnection, key: &KeyRef, since: Option<Timestamp>) -> Result<()> {
    let since = since.map_or_else(now, Timestamp::as_microsecond);
    sqlx::query(
        "INSERT INTO server_key (key_ref, provider, made, unneeded) VALUES ($1, $2, 0, $3) \
         ON CONFLICT (key_ref) DO UPDATE SET unneeded = COALESCE(server_key.unneeded, excluded.unneeded)",
    )
    .bind(json(key)?)
    .bind(key.provider.as_str())
    .bind(since)
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down that the key is being destroyed, or that it stays after all.
pub(crate) async fn set_destroying(db: &mut AnyConnection, key: &KeyRef, destroying: bool) -> Result<()> {
    sqlx::query("UPDATE server_key SET destroying = $2 WHERE key_ref = $1")
        .bind(json(key)?)
        .bind(destroying.then(now))
        .execute(db)
        .await?;
    Ok(())
}

/// Of `keys`, one that is being destroyed.
pub(crate) async fn being_destroyed(db: &mut AnyConnection, keys: &[KeyRef]) -> Result<Option<KeyRef>> {
    for key in keys {
        if get(&mut *db, key).await?.is_some_and(|known| known.destroying) {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}

/// Forgets a key that is no more.
pub(crate) async fn destroyed(db: &mut AnyConnection, key: &KeyRef) -> Result<()> {
    sqlx::query("DELETE FROM server_key WHERE key_ref = $1").bind(json(key)?).execute(db).await?;
    Ok(())
}

/// Another number means that other keys may be needed, or elsewhere.
pub(crate) async fn generation(db: &mut AnyConnection) -> Result<i64> {
    let row = sqlx::query("SELECT value FROM counter WHERE name = 'keys'").fetch_one(db).await?;
    Cells(&row).int("value")
}

/// Says that other keys are needed, or elsewhere.
pub(super) async fn changed(db: &mut AnyConnection) -> Result<()> {
    sqlx::query("UPDATE counter SET value = value + 1 WHERE name = 'keys'").execute(db).await?;
    Ok(())
}
