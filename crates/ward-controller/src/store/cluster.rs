//! Clusters and their datastores.

use std::path::PathBuf;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{ClusterId, DatastoreId, Name, Object};

use super::cells::{Cells, now};
use super::{Result, permission};

#[derive(Clone, Debug)]
pub(crate) struct ClusterRow {
    pub(crate) id: ClusterId,
    pub(crate) name: Name,
}

#[derive(Clone, Debug)]
pub(crate) struct DatastoreRow {
    pub(crate) id: DatastoreId,
    pub(crate) cluster: ClusterId,
    pub(crate) name: Name,
    pub(crate) directory: PathBuf,
    /// Whether a VM home has ever been there.
    pub(crate) used: bool,
}

fn cluster(row: &AnyRow) -> Result<ClusterRow> {
    let cells = Cells(row);
    Ok(ClusterRow { id: cells.parsed("id")?, name: cells.parsed("name")? })
}

fn datastore(row: &AnyRow) -> Result<DatastoreRow> {
    let cells = Cells(row);
    Ok(DatastoreRow {
        id: cells.parsed("id")?,
        cluster: cells.parsed("cluster_id")?,
        name: cells.parsed("name")?,
        directory: cells.text("directory")?.into(),
        used: cells.flag("used")?,
    })
}

pub(crate) async fn add(db: &mut AnyConnection, name: &Name) -> Result<ClusterId> {
    let id = ClusterId::new();
    sqlx::query("INSERT INTO cluster (id, name, created) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name.as_str())
        .bind(now())
        .execute(db)
        .await?;
    Ok(id)
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<ClusterRow>> {
    let rows = sqlx::query("SELECT * FROM cluster ORDER BY name").fetch_all(db).await?;
    rows.iter().map(cluster).collect()
}

/// The cluster with that name or ID.
pub(crate) async fn find(db: &mut AnyConnection, key: &str) -> Result<Option<ClusterRow>> {
    let row = sqlx::query("SELECT * FROM cluster WHERE name = $1 OR id = $1").bind(key).fetch_optional(db).await?;
    row.as_ref().map(cluster).transpose()
}

pub(crate) async fn add_datastore(
    db: &mut AnyConnection,
    cluster: ClusterId,
    name: &Name,
    directory: &str,
) -> Result<DatastoreId> {
    let id = DatastoreId::new();
    sqlx::query("INSERT INTO datastore (id, cluster_id, name, directory, created) VALUES ($1, $2, $3, $4, $5)")
        .bind(id.to_string())
        .bind(cluster.to_string())
        .bind(name.as_str())
        .bind(directory)
        .bind(now())
        .execute(db)
        .await?;
    Ok(id)
}

/// Forgets a datastore on which no VM of the inventory is.
pub(crate) async fn remove_datastore(db: &mut AnyConnection, id: DatastoreId) -> Result<()> {
    permission::forget(&mut *db, &Object::Datastore(id)).await?;
    sqlx::query("DELETE FROM datastore WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

pub(crate) async fn datastores(db: &mut AnyConnection) -> Result<Vec<DatastoreRow>> {
    let rows = sqlx::query("SELECT * FROM datastore ORDER BY name").fetch_all(db).await?;
    rows.iter().map(datastore).collect()
}
