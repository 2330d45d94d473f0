//! Storage policies, and which component of which VM is under which.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{Component, KeyRef, PolicyName, ProviderName, VmId};

use super::Result;
use super::cells::{Cells, json, now};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyRow {
    pub(crate) name: PolicyName,
    /// Whether what is under it is encrypted.
    pub(crate) encrypts: bool,
    /// Where keys come from; none means the default provider.
    pub(crate) provider: Option<ProviderName>,
    /// After how many days keys are replaced.
    pub(crate) rotate_days: Option<u32>,
    pub(crate) built_in: bool,
}

fn policy(row: &AnyRow) -> Result<PolicyRow> {
    let cells = Cells(row);
    Ok(PolicyRow {
        name: cells.parsed("name")?,
        encrypts: cells.flag("encrypts")?,
        provider: cells.parsed_or_null("provider")?,
        rotate_days: cells.number_or_null("rotate_days")?,
        built_in: cells.flag("built_in")?,
    })
}

pub(crate) async fn add(db: &mut AnyConnection, row: &PolicyRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO policy (name, encrypts, provider, rotate_days, built_in, created) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(row.name.as_str())
    .bind(i64::from(row.encrypts))
    .bind(row.provider.as_ref().map(|name| name.as_str().to_owned()))
    .bind(row.rotate_days.map(i64::from))
    .bind(i64::from(row.built_in))
    .bind(now())
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<PolicyRow>> {
    let rows = sqlx::query("SELECT * FROM policy ORDER BY name").fetch_all(db).await?;
    rows.iter().map(policy).collect()
}

pub(crate) async fn get(db: &mut AnyConnection, name: &PolicyName) -> Result<Option<PolicyRow>> {
    let row = sqlx::query("SELECT * FROM policy WHERE name = $1").bind(name.as_str()).fetch_optional(db).await?;
    row.as_ref().map(policy).transpose()
}

pub(crate) async fn remove(db: &mut AnyConnection, name: &PolicyName) -> Result<()> {
    sqlx::query("DELETE FROM policy WHERE name = $1").bind(name.as_str()).execute(db).await?;
    Ok(())
}

/// Puts a component under a policy; says whether it is, for the policy may be gone.
pub(crate) async fn assign(db: &mut AnyConnection, vm: VmId, component: Component, name: &PolicyName) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO vm_policy (vm_id, component, policy) SELECT $1, $2, name FROM policy WHERE name = $3 \
         ON CONFLICT (vm_id, component) DO UPDATE SET policy = excluded.policy",
    )
    .bind(vm.to_string())
    .bind(json(&component)?)
    .bind(name.as_str())
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Which components are under which policy, of all VMs or of one.
pub(crate) async fn assigned(
    db: &mut AnyConnection,
    vm: Option<VmId>,
) -> Result<BTreeMap<(VmId, Component), PolicyName>> {
    let rows = match vm {
        None => sqlx::query("SELECT * FROM vm_policy").fetch_all(db).await?,
        Some(vm) => sqlx::query("SELECT * FROM vm_policy WHERE vm_id = $1").bind(vm.to_string()).fetch_all(db).await?,
    };
    let read = |row: &AnyRow| {
        let cells = Cells(row);
        Ok(((cells.parsed("vm_id")?, cells.json("component")?), cells.parsed("policy")?))
    };
    rows.iter().map(read).collect()
}

/// Takes from under their policies components that are not as these want, or no more: somebody changed them by hand.
pub(crate) async fn follow(db: &mut AnyConnection, vm: VmId, now: &BTreeMap<Component, Option<KeyRef>>) -> Result<()> {
    let policies: BTreeMap<_, _> = list(db).await?.into_iter().map(|row| (row.name, row.encrypts)).collect();
    for ((_, component), name) in assigned(db, Some(vm)).await? {
        let fits = now.get(&component).is_some_and(|key| policies.get(&name) == Some(&key.is_some()));
        if !fits {
            sqlx::query("DELETE FROM vm_policy WHERE vm_id = $1 AND component = $2")
                .bind(vm.to_string())
                .bind(json(&component)?)
                .execute(&mut *db)
                .await?;
        }
    }
    Ok(())
}
