//! Hosts, and the tokens with which they join.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{ClusterId, HostId, KeyRef, Name, Object, TokenId};

use super::cells::{Cells, json, now};
use super::{Result, host_crypto, permission};

#[derive(Clone, Debug)]
pub(crate) struct HostRow {
    pub(crate) id: HostId,
    pub(crate) cluster: ClusterId,
    pub(crate) name: Name,
    pub(crate) address: String,
}

fn host(row: &AnyRow) -> Result<HostRow> {
    let cells = Cells(row);
    Ok(HostRow {
        id: cells.parsed("id")?,
        cluster: cells.parsed("cluster_id")?,
        name: cells.parsed("name")?,
        address: cells.text("address")?,
    })
}

pub(crate) async fn add(db: &mut AnyConnection, host: &HostRow) -> Result<()> {
    sqlx::query("INSERT INTO host (id, cluster_id, name, address, created) VALUES ($1, $2, $3, $4, $5)")
        .bind(host.id.to_string())
        .bind(host.cluster.to_string())
        .bind(host.name.as_str())
        .bind(&host.address)
        .bind(now())
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<HostRow>> {
    let rows = sqlx::query("SELECT * FROM host ORDER BY name").fetch_all(db).await?;
    rows.iter().map(host).collect()
}

/// The host with that name or ID.
pub(crate) async fn find(db: &mut AnyConnection, key: &str) -> Result<Option<HostRow>> {
    let row = sqlx::query("SELECT * FROM host WHERE name = $1 OR id = $1").bind(key).fetch_optional(db).await?;
    row.as_ref().map(host).transpose()
}

/// The hosts that need a key for themselves, by name.
pub(crate) async fn under(db: &mut AnyConnection, key: &KeyRef) -> Result<Vec<HostRow>> {
    let query = "SELECT host.* FROM host JOIN host_key ON host.id = host_key.host_id \
                 WHERE host_key.key_ref = $1 ORDER BY host.name";
    let rows = sqlx::query(query).bind(json(key)?).fetch_all(db).await?;
    rows.iter().map(host).collect()
}

pub(crate) async fn set_address(db: &mut AnyConnection, id: HostId, address: &str) -> Result<()> {
    sqlx::query("UPDATE host SET address = $2 WHERE id = $1").bind(id.to_string()).bind(address).execute(db).await?;
    Ok(())
}

/// Takes a host out; tells the keys that it needed for itself.
pub(crate) async fn remove(db: &mut AnyConnection, id: HostId) -> Result<Vec<KeyRef>> {
    permission::forget(&mut *db, &Object::Host(id)).await?;
    let keys = host_crypto::forget(&mut *db, id).await?;
    sqlx::query("DELETE FROM host WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(keys)
}

pub(crate) async fn add_enrolment(
    db: &mut AnyConnection,
    id: TokenId,
    cluster: ClusterId,
    secret_hash: &str,
    expires: i64,
) -> Result<()> {
    sqlx::query("INSERT INTO enrolment (id, cluster_id, secret_hash, created, expires) VALUES ($1, $2, $3, $4, $5)")
        .bind(id.to_string())
        .bind(cluster.to_string())
        .bind(secret_hash)
        .bind(now())
        .bind(expires)
        .execute(db)
        .await?;
    Ok(())
}

/// Uses an enrolment token up, where it is good: neither used nor expired, and with that secret. Tells its cluster.
pub(crate) async fn use_enrolment(db: &mut AnyConnection, id: TokenId, secret_hash: &str) -> Result<Option<ClusterId>> {
    let row = sqlx::query(
        "UPDATE enrolment SET used = $3 WHERE id = $1 AND secret_hash = $2 AND used IS NULL AND expires > $3 \
         RETURNING cluster_id",
    )
    .bind(id.to_string())
    .bind(secret_hash)
    .bind(now())
    .fetch_optional(db)
    .await?;
    row.map(|row| Cells(&row).parsed("cluster_id")).transpose()
}
