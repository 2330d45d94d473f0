//! What is kept of VMs that were taken out of the inventory while their homes stay. A VM that comes back is as it was: a
//! template, under its storage policies, and who was shut out of it still is, for the permissions on it stay under its ID.

use sqlx::AnyConnection;
use ward_types::{ClusterId, Component, Name, PolicyName, VmId};

use super::cells::{Cells, json, now};
use super::vm::{self, VmRow};
use super::{Result, policy};

/// Such a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VmLeft {
    pub(crate) id: VmId,
    pub(crate) name: Name,
    /// Where it was.
    pub(crate) cluster: ClusterId,
    /// Whether it was a template.
    pub(crate) template: bool,
    /// The storage policies of the components that somebody put under one.
    pub(crate) policies: Vec<(Component, PolicyName)>,
}

/// Takes a VM out of the inventory whose home stays.
pub(crate) async fn leave(db: &mut AnyConnection, row: &VmRow) -> Result<()> {
    let assigned = policy::assigned(&mut *db, Some(row.id)).await?;
    let policies: Vec<_> = assigned.into_iter().map(|((_, component), name)| (component, name)).collect();
    sqlx::query(
        "INSERT INTO vm_left (vm_id, name, cluster_id, template, policies, since) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(row.id.to_string())
    .bind(row.name.as_str())
    .bind(row.cluster.to_string())
    .bind(i64::from(row.template))
    .bind(json(&policies)?)
    .bind(now())
    .execute(&mut *db)
    .await?;
    vm::take_out(db, row.id).await
}

pub(crate) async fn get(db: &mut AnyConnection, id: VmId) -> Result<Option<VmLeft>> {
    let row = sqlx::query("SELECT * FROM vm_left WHERE vm_id = $1").bind(id.to_string()).fetch_optional(db).await?;
    row.map(|row| {
        let cells = Cells(&row);
        Ok(VmLeft {
            id,
            name: cells.parsed("name")?,
            cluster: cells.parsed("cluster_id")?,
            template: cells.flag("template")?,
            policies: cells.json("policies")?,
        })
    })
    .transpose()
}

/// Those that were in a cluster.
pub(crate) async fn of_cluster(db: &mut AnyConnection, cluster: ClusterId) -> Result<Vec<VmId>> {
    let rows = sqlx::query("SELECT vm_id FROM vm_left WHERE cluster_id = $1").bind(cluster.to_string());
    rows.fetch_all(db).await?.iter().map(|row| Cells(row).parsed("vm_id")).collect()
}

/// Makes a VM that is in the inventory again what it was; nothing happens to one that never was.
pub(crate) async fn come_back(db: &mut AnyConnection, id: VmId) -> Result<()> {
    let Some(left) = get(&mut *db, id).await? else { return Ok(()) };
    vm::set_template(&mut *db, id, left.template).await?;
    for (component, name) in &left.policies {
        policy::assign(&mut *db, id, *component, name).await?;
    }
    sqlx::query("DELETE FROM vm_left WHERE vm_id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}
