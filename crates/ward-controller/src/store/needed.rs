//! Which keys are needed: by VMs, as their descriptions say, and by hosts, as host keys.

use std::fmt;

use sqlx::AnyConnection;
use ward_types::{ClusterId, KeyRef, Name, ProviderName};

use super::Result;
use super::cells::{Cells, json};

/// Who needs a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum KeyOwner {
    Vm(Name),
    /// Its host key, or an earlier one that opens dumps which it keeps.
    Host(Name),
}

impl fmt::Display for KeyOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(name) => write!(f, "VM `{name}`"),
            Self::Host(name) => write!(f, "host `{name}`"),
        }
    }
}

/// Every key that something needs, each once.
pub(crate) async fn all(db: &mut AnyConnection) -> Result<Vec<KeyRef>> {
    let rows = sqlx::query("SELECT DISTINCT key_ref FROM needed_key ORDER BY key_ref").fetch_all(db).await?;
    rows.iter().map(|row| Cells(row).json("key_ref")).collect()
}

/// Some of them, each once: at most `limit`, and after which one to go on, where there are more.
pub(crate) async fn some(
    db: &mut AnyConnection,
    after: Option<&str>,
    limit: usize,
) -> Result<(Vec<KeyRef>, Option<String>)> {
    let query = "SELECT DISTINCT key_ref FROM needed_key WHERE key_ref > $1 ORDER BY key_ref LIMIT $2";
    let asked = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = sqlx::query(query).bind(after.unwrap_or("")).bind(asked).fetch_all(db).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more).map(|row| Cells(row).text("key_ref")).transpose()?;
    Ok((rows.iter().map(|row| Cells(row).json("key_ref")).collect::<Result<_>>()?, last))
}

/// How many they are.
pub(crate) async fn count(db: &mut AnyConnection) -> Result<usize> {
    let row = sqlx::query("SELECT COUNT(DISTINCT key_ref) AS keys FROM needed_key").fetch_one(db).await?;
    Cells(&row).int("keys").map(|keys| usize::try_from(keys).unwrap_or(0))
}

/// Who needs a key of that provider, with the key: VMs, then hosts, each by name.
pub(crate) async fn of_provider(db: &mut AnyConnection, provider: &ProviderName) -> Result<Vec<(KeyOwner, KeyRef)>> {
    let rows = sqlx::query("SELECT owner, name, key_ref FROM needed_key WHERE provider = $1 ORDER BY owner DESC, name")
        .bind(provider.as_str())
        .fetch_all(db)
        .await?;
    let owner = |cells: &Cells<'_>| -> Result<KeyOwner> {
        let name = cells.parsed("name")?;
        Ok(if cells.text("owner")? == "host" { KeyOwner::Host(name) } else { KeyOwner::Vm(name) })
    };
    rows.iter().map(|row| Ok((owner(&Cells(row))?, Cells(row).json("key_ref")?))).collect()
}

/// Whether a VM of the cluster has ever needed the key.
pub(crate) async fn was_in(db: &mut AnyConnection, key: &KeyRef, cluster: ClusterId) -> Result<bool> {
    let row = sqlx::query("SELECT 1 AS one FROM key_cluster WHERE key_ref = $1 AND cluster_id = $2")
        .bind(json(key)?)
        .bind(cluster.to_string())
        .fetch_optional(db)
        .await?;
    Ok(row.is_some())
}

/// Of `keys`, those that nothing needs.
pub(crate) async fn unneeded(db: &mut AnyConnection, keys: Vec<KeyRef>) -> Result<Vec<KeyRef>> {
    let mut unneeded = Vec::new();
    for key in keys {
        let row = sqlx::query("SELECT COUNT(*) AS users FROM needed_key WHERE key_ref = $1")
            .bind(json(&key)?)
            .fetch_one(&mut *db)
            .await?;
        if Cells(&row).int("users")? == 0 {
            unneeded.push(key);
        }
    }
    Ok(unneeded)
}
