//! VMs: the index of what lies in their homes, and where they run.

use std::collections::{BTreeSet, HashMap};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{
    ClusterId, DatastoreId, HostId, KeyLocator, KeyRef, Name, Object, Power, Problem, ProviderName, VmConfig, VmId,
};

use super::cells::{Cells, json, now, word};
use super::{Result, permission, server_key};

#[derive(Clone, Debug)]
pub(crate) struct VmRow {
    pub(crate) id: VmId,
    pub(crate) name: Name,
    pub(crate) cluster: ClusterId,
    pub(crate) datastore: DatastoreId,
    pub(crate) directory: Name,
    /// None while the home is being made.
    pub(crate) config: Option<VmConfig>,
    /// Where it runs, or ran last.
    pub(crate) host: Option<HostId>,
    pub(crate) power: Power,
    /// Why it can't be used, if it can't.
    pub(crate) locked: Option<Problem>,
    /// Whether it is a template, which is never started.
    pub(crate) template: bool,
}

fn vm(row: &AnyRow) -> Result<VmRow> {
    let cells = Cells(row);
    Ok(VmRow {
        id: cells.parsed("id")?,
        name: cells.parsed("name")?,
        cluster: cells.parsed("cluster_id")?,
        datastore: cells.parsed("datastore_id")?,
        directory: cells.parsed("directory")?,
        config: cells.json_or_null("config")?,
        host: cells.parsed_or_null("host_id")?,
        power: cells.word("power")?,
        locked: cells.json_or_null("locked")?,
        template: cells.flag("template")?,
    })
}

/// Adds a VM whose home is about to be made.
pub(crate) async fn add(db: &mut AnyConnection, vm: &VmRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO vm (id, name, cluster_id, datastore_id, directory, power, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(vm.id.to_string())
    .bind(vm.name.as_str())
    .bind(vm.cluster.to_string())
    .bind(vm.datastore.to_string())
    .bind(vm.directory.as_str())
    .bind(word(&vm.power)?)
    .bind(now())
    .execute(&mut *db)
    .await?;
    sqlx::query("UPDATE datastore SET used = 1 WHERE id = $1").bind(vm.datastore.to_string()).execute(db).await?;
    Ok(())
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<VmRow>> {
    let rows = sqlx::query("SELECT * FROM vm ORDER BY name").fetch_all(db).await?;
    rows.iter().map(vm).collect()
}

pub(crate) async fn get(db: &mut AnyConnection, id: VmId) -> Result<Option<VmRow>> {
    let row = sqlx::query("SELECT * FROM vm WHERE id = $1").bind(id.to_string()).fetch_optional(db).await?;
    row.as_ref().map(vm).transpose()
}

/// The VM with that name or ID.
pub(crate) async fn find(db: &mut AnyConnection, key: &str) -> Result<Option<VmRow>> {
    let row = sqlx::query("SELECT * FROM vm WHERE name = $1 OR id = $1").bind(key).fetch_optional(db).await?;
    row.as_ref().map(vm).transpose()
}

/// Writes down what the home says, and which keys that means.
pub(crate) async fn set_config(db: &mut AnyConnection, id: VmId, config: &VmConfig) -> Result<()> {
    sqlx::query("UPDATE vm SET config = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(json(config)?)
        .execute(&mut *db)
        .await?;
    sqlx::query("DELETE FROM vm_key WHERE vm_id = $1").bind(id.to_string()).execute(&mut *db).await?;
    server_key::changed(&mut *db).await?;
    for key in config.keys() {
        if matches!(key.key, KeyLocator::Standard { .. }) {
            server_key::needed(&mut *db, key).await?;
        }
        sqlx::query("INSERT INTO vm_key (vm_id, provider, key_ref) VALUES ($1, $2, $3)")
            .bind(id.to_string())
            .bind(key.provider.as_str())
            .bind(json(key)?)
            .execute(&mut *db)
            .await?;
        sqlx::query(
            "INSERT INTO key_cluster (key_ref, cluster_id) SELECT $1, cluster_id FROM vm WHERE id = $2 \
             ON CONFLICT (key_ref, cluster_id) DO NOTHING",
        )
        .bind(json(key)?)
        .bind(id.to_string())
        .execute(&mut *db)
        .await?;
        sqlx::query("INSERT INTO key_age (key_ref, since) VALUES ($1, $2) ON CONFLICT (key_ref) DO NOTHING")
            .bind(json(key)?)
            .bind(now())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Writes down why a VM can't be used, or that it can.
pub(crate) async fn set_locked(db: &mut AnyConnection, id: VmId, why: Option<&Problem>) -> Result<()> {
    sqlx::query("UPDATE vm SET locked = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(why.map(json).transpose()?)
        .execute(db)
        .await?;
    Ok(())
}

/// Makes a VM a template, or a template a VM.
pub(crate) async fn set_template(db: &mut AnyConnection, id: VmId, template: bool) -> Result<()> {
    sqlx::query("UPDATE vm SET template = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(i64::from(template))
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn set_power(db: &mut AnyConnection, id: VmId, power: Power, host: Option<HostId>) -> Result<()> {
    sqlx::query("UPDATE vm SET power = $2, host_id = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(word(&power)?)
        .bind(host.map(|host| host.to_string()))
        .execute(db)
        .await?;
    Ok(())
}

/// Takes a VM out whose home is gone too, and all that was said of it.
pub(crate) async fn remove(db: &mut AnyConnection, id: VmId) -> Result<()> {
    permission::forget(&mut *db, &Object::Vm(id)).await?;
    take_out(db, id).await
}

/// Takes the row of a VM out, and what follows from it.
pub(super) async fn take_out(db: &mut AnyConnection, id: VmId) -> Result<()> {
    server_key::changed(&mut *db).await?;
    sqlx::query("DELETE FROM vm_key WHERE vm_id = $1").bind(id.to_string()).execute(&mut *db).await?;
    sqlx::query("DELETE FROM vm_policy WHERE vm_id = $1").bind(id.to_string()).execute(&mut *db).await?;
    sqlx::query("DELETE FROM vm WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

/// Every key that a VM of the cluster needs, each once.
pub(crate) async fn keys_of_cluster(db: &mut AnyConnection, cluster: ClusterId) -> Result<Vec<KeyRef>> {
    let rows = sqlx::query(
        "SELECT DISTINCT vm_key.key_ref FROM vm_key JOIN vm ON vm.id = vm_key.vm_id \
         WHERE vm.cluster_id = $1 ORDER BY vm_key.key_ref",
    )
    .bind(cluster.to_string())
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Cells(row).json("key_ref")).collect()
}

/// The VMs that need a key, by name.
pub(crate) async fn under(db: &mut AnyConnection, key: &KeyRef) -> Result<Vec<VmRow>> {
    let query = "SELECT vm.* FROM vm JOIN vm_key ON vm.id = vm_key.vm_id WHERE vm_key.key_ref = $1 ORDER BY vm.name";
    let rows = sqlx::query(query).bind(json(key)?).fetch_all(db).await?;
    rows.iter().map(vm).collect()
}

/// The VMs of a cluster that are locked.
pub(crate) async fn locked(db: &mut AnyConnection, cluster: ClusterId) -> Result<Vec<VmRow>> {
    let query = "SELECT * FROM vm WHERE cluster_id = $1 AND locked IS NOT NULL ORDER BY name";
    let rows = sqlx::query(query).bind(cluster.to_string()).fetch_all(db).await?;
    rows.iter().map(vm).collect()
}

/// The VMs that ought to run on a host.
pub(crate) async fn running_on(db: &mut AnyConnection, host: HostId) -> Result<BTreeSet<VmId>> {
    let rows = sqlx::query("SELECT id FROM vm WHERE host_id = $1 AND power = $2")
        .bind(host.to_string())
        .bind(word(&Power::On)?)
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| Cells(row).parsed("id")).collect()
}

/// In which cluster each VM is.
pub(crate) async fn clusters(db: &mut AnyConnection) -> Result<HashMap<VmId, ClusterId>> {
    let rows = sqlx::query("SELECT id, cluster_id FROM vm").fetch_all(db).await?;
    rows.iter()
        .map(|row| {
            let cells = Cells(row);
            Ok((cells.parsed("id")?, cells.parsed("cluster_id")?))
        })
        .collect()
}

/// Forgets that VMs ran on a host, which is no more.
pub(crate) async fn forget_host(db: &mut AnyConnection, host: HostId) -> Result<()> {
    sqlx::query("UPDATE vm SET host_id = NULL WHERE host_id = $1").bind(host.to_string()).execute(db).await?;
    Ok(())
}

/// How many keys of that provider VMs need that are locked since a key is not to be had.
pub(crate) async fn lost_keys(db: &mut AnyConnection, provider: &ProviderName) -> Result<usize> {
    let rows = sqlx::query(
        "SELECT DISTINCT vm_key.key_ref, vm.locked FROM vm_key JOIN vm ON vm.id = vm_key.vm_id \
         WHERE vm_key.provider = $1 AND vm.locked IS NOT NULL ORDER BY vm_key.key_ref",
    )
    .bind(provider.as_str())
    .fetch_all(db)
    .await?;
    let mut lost = Vec::new();
    for row in &rows {
        let cells = Cells(row);
        let problem: Problem = cells.json("locked")?;
        if problem.code.is_about_keys() {
            lost.push(cells.text("key_ref")?);
        }
    }
    lost.dedup();
    Ok(lost.len())
}
