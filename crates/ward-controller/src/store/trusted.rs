//! Trusted key providers: what is theirs beside their rows as providers. Nothing of it is secret.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{ClusterId, ProviderName};

use super::Result;
use super::cells::{Cells, now};

#[derive(Clone, Debug)]
pub(crate) struct TrustedRow {
    pub(crate) name: ProviderName,
    /// The signed description of the trust authority's services.
    pub(crate) description: String,
    /// The clusters whose hosts are told of it; empty means every cluster.
    pub(crate) clusters: Vec<ClusterId>,
}

impl TrustedRow {
    /// Whether the hosts of a cluster are told of it.
    pub(crate) fn serves(&self, cluster: ClusterId) -> bool {
        self.clusters.is_empty() || self.clusters.contains(&cluster)
    }
}

fn trusted(row: &AnyRow) -> Result<TrustedRow> {
    let cells = Cells(row);
    Ok(TrustedRow { name: cells.parsed("name")?, description: cells.text("description")?, clusters: Vec::new() })
}

/// Adds what is a trusted provider's own. Its row as a provider must be there.
pub(crate) async fn add(db: &mut AnyConnection, row: &TrustedRow) -> Result<()> {
    sqlx::query("INSERT INTO trusted_provider (name, description, imported) VALUES ($1, $2, $3)")
        .bind(row.name.as_str())
        .bind(&row.description)
        .bind(now())
        .execute(&mut *db)
        .await?;
    for cluster in &row.clusters {
        sqlx::query("INSERT INTO trusted_cluster (provider, cluster_id) VALUES ($1, $2)")
            .bind(row.name.as_str())
            .bind(cluster.to_string())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// All trusted providers, by name.
pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<TrustedRow>> {
    let rows = sqlx::query("SELECT * FROM trusted_provider ORDER BY name").fetch_all(&mut *db).await?;
    let mut list = rows.iter().map(trusted).collect::<Result<Vec<_>>>()?;
    let clusters = sqlx::query("SELECT * FROM trusted_cluster").fetch_all(db).await?;
    for row in &mut list {
        for cells in clusters.iter().map(Cells) {
            if cells.text("provider")? == row.name.as_str() {
                row.clusters.push(cells.parsed("cluster_id")?);
            }
        }
    }
    Ok(list)
}

pub(crate) async fn get(db: &mut AnyConnection, name: &ProviderName) -> Result<Option<TrustedRow>> {
    Ok(list(db).await?.into_iter().find(|row| row.name == *name))
}

/// Puts a newer description in the place of the old one.
pub(crate) async fn set_description(db: &mut AnyConnection, name: &ProviderName, description: &str) -> Result<()> {
    sqlx::query("UPDATE trusted_provider SET description = $2, imported = $3 WHERE name = $1")
        .bind(name.as_str())
        .bind(description)
        .bind(now())
        .execute(db)
        .await?;
    Ok(())
}
