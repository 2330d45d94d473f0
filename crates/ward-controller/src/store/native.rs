//! Native key providers: what is theirs beside their rows as providers. Their keys lie here sealed.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{ClusterId, KdkId, ProviderName};

use super::Result;
use super::cells::{Cells, now};

#[derive(Clone, Debug)]
pub(crate) struct NativeRow {
    pub(crate) name: ProviderName,
    pub(crate) key_id: KdkId,
    pub(crate) tpm_required: bool,
    /// When the key as it is now was backed up, in microseconds since 1970.
    pub(crate) backed_up: Option<i64>,
    /// When somebody was last told that it is not.
    pub(crate) reminded: Option<i64>,
    /// The clusters whose hosts have the key; empty means every cluster.
    pub(crate) clusters: Vec<ClusterId>,
    /// The versions of the key, from the first on.
    pub(crate) versions: Vec<VersionRow>,
}

#[derive(Clone, Debug)]
pub(crate) struct VersionRow {
    pub(crate) version: u32,
    /// Ciphertext under the controller's root key, base64.
    pub(crate) sealed_kdk: String,
    /// When it was made, in microseconds since 1970.
    pub(crate) created: i64,
}

/// A provider that was deleted although VMs needed it.
#[derive(Clone, Debug)]
pub(crate) struct RemovedRow {
    pub(crate) name: ProviderName,
    pub(crate) key_id: KdkId,
    pub(crate) reminded: i64,
}

impl NativeRow {
    /// Whether the hosts of a cluster have the key.
    pub(crate) fn serves(&self, cluster: ClusterId) -> bool {
        self.clusters.is_empty() || self.clusters.contains(&cluster)
    }

    /// The version under which new keys are made.
    pub(crate) fn current(&self) -> u32 {
        self.versions.last().map_or(0, |version| version.version)
    }
}

fn native(row: &AnyRow) -> Result<NativeRow> {
    let cells = Cells(row);
    Ok(NativeRow {
        name: cells.parsed("name")?,
        key_id: cells.parsed("key_id")?,
        tpm_required: cells.flag("tpm_required")?,
        backed_up: cells.time_or_null("backed_up")?.map(|time| time.as_microsecond()),
        reminded: cells.time_or_null("reminded")?.map(|time| time.as_microsecond()),
        clusters: Vec::new(),
        versions: Vec::new(),
    })
}

/// Adds what is a native provider's own. Its row as a provider must be there.
pub(crate) async fn add(db: &mut AnyConnection, row: &NativeRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO native_provider (name, key_id, tpm_required, backed_up, reminded) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(row.name.as_str())
    .bind(row.key_id.to_string())
    .bind(i64::from(row.tpm_required))
    .bind(row.backed_up)
    .bind(row.reminded)
    .execute(&mut *db)
    .await?;
    for cluster in &row.clusters {
        sqlx::query("INSERT INTO native_cluster (provider, cluster_id) VALUES ($1, $2)")
            .bind(row.name.as_str())
            .bind(cluster.to_string())
            .execute(&mut *db)
            .await?;
    }
    for version in &row.versions {
        add_version(db, &row.name, version).await?;
    }
    // It is back; another key under its name is not it.
    sqlx::query("DELETE FROM native_removed WHERE name = $1 AND key_id = $2")
        .bind(row.name.as_str())
        .bind(row.key_id.to_string())
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn add_version(db: &mut AnyConnection, name: &ProviderName, version: &VersionRow) -> Result<()> {
    sqlx::query("INSERT INTO native_key (provider, version, sealed_kdk, created) VALUES ($1, $2, $3, $4)")
        .bind(name.as_str())
        .bind(i64::from(version.version))
        .bind(&version.sealed_kdk)
        .bind(version.created)
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn remove_version(db: &mut AnyConnection, name: &ProviderName, version: u32) -> Result<()> {
    sqlx::query("DELETE FROM native_key WHERE provider = $1 AND version = $2")
        .bind(name.as_str())
        .bind(i64::from(version))
        .execute(db)
        .await?;
    Ok(())
}

/// All native providers, by name.
pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<NativeRow>> {
    let rows = sqlx::query("SELECT * FROM native_provider ORDER BY name").fetch_all(&mut *db).await?;
    let mut list = rows.iter().map(native).collect::<Result<Vec<_>>>()?;
    let versions = sqlx::query("SELECT * FROM native_key ORDER BY provider, version").fetch_all(&mut *db).await?;
    let clusters = sqlx::query("SELECT * FROM native_cluster").fetch_all(db).await?;
    for row in &mut list {
        for cells in versions.iter().map(Cells) {
            if cells.text("provider")? == row.name.as_str() {
                row.versions.push(VersionRow {
                    version: cells.number("version")?,
                    sealed_kdk: cells.text("sealed_kdk")?,
                    created: cells.int("created")?,
                });
            }
        }
        for cells in clusters.iter().map(Cells) {
            if cells.text("provider")? == row.name.as_str() {
                row.clusters.push(cells.parsed("cluster_id")?);
            }
        }
    }
    Ok(list)
}

pub(crate) async fn get(db: &mut AnyConnection, name: &ProviderName) -> Result<Option<NativeRow>> {
    Ok(list(db).await?.into_iter().find(|row| row.name == *name))
}

/// Says when the key as it is now was backed up: now, or not at all.
pub(crate) async fn set_backed_up(db: &mut AnyConnection, name: &ProviderName, backed_up: Option<i64>) -> Result<()> {
    sqlx::query("UPDATE native_provider SET backed_up = $2, reminded = NULL WHERE name = $1")
        .bind(name.as_str())
        .bind(backed_up)
        .execute(db)
        .await?;
    Ok(())
}

/// Says that somebody was just told that the key is not backed up.
pub(crate) async fn set_reminded(db: &mut AnyConnection, name: &ProviderName, now: i64) -> Result<()> {
    for query in [
        "UPDATE native_provider SET reminded = $2 WHERE name = $1",
        "UPDATE native_removed SET reminded = $2 WHERE name = $1",
    ] {
        sqlx::query(query).bind(name.as_str()).bind(now).execute(&mut *db).await?;
    }
    Ok(())
}

/// Removes what is a native provider's own: before its row as a provider.
pub(crate) async fn remove(db: &mut AnyConnection, name: &ProviderName) -> Result<()> {
    for query in [
        "DELETE FROM native_key WHERE provider = $1",
        "DELETE FROM native_cluster WHERE provider = $1",
        "DELETE FROM native_provider WHERE name = $1",
    ] {
        sqlx::query(query).bind(name.as_str()).execute(&mut *db).await?;
    }
    Ok(())
}

/// Writes down that VMs need a provider that was deleted.
pub(crate) async fn note_removed(db: &mut AnyConnection, name: &ProviderName, key_id: KdkId) -> Result<()> {
    sqlx::query("DELETE FROM native_removed WHERE name = $1").bind(name.as_str()).execute(&mut *db).await?;
    sqlx::query("INSERT INTO native_removed (name, key_id, removed, reminded) VALUES ($1, $2, $3, $3)")
        .bind(name.as_str())
        .bind(key_id.to_string())
        .bind(now())
        .execute(db)
        .await?;
    Ok(())
}

/// The providers that VMs needed when they were deleted, and that have not come back.
pub(crate) async fn removed(db: &mut AnyConnection) -> Result<Vec<RemovedRow>> {
    let rows = sqlx::query("SELECT * FROM native_removed ORDER BY name").fetch_all(db).await?;
    let removed = |row| {
        let cells = Cells(row);
        let (name, key_id) = (cells.parsed("name")?, cells.parsed("key_id")?);
        Ok(RemovedRow { name, key_id, reminded: cells.int("reminded")? })
    };
    rows.iter().map(removed).collect()
}

/// Forgets one of them: no VM needs it any more.
pub(crate) async fn forget_removed(db: &mut AnyConnection, name: &ProviderName) -> Result<()> {
    sqlx::query("DELETE FROM native_removed WHERE name = $1").bind(name.as_str()).execute(db).await?;
    Ok(())
}
