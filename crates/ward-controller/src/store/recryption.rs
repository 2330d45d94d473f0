//! The recryption of many VMs, the age of keys, and at what age they are replaced.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{KeyRef, Name, Problem, ProviderName, TaskId, VmId};

use super::cells::{Cells, json, now, word};
use super::vm::VmRow;
use super::{Result, vm};
use crate::api::types::{RecryptionRequest, RecryptionState, RecryptionVm, RecryptionVmState};

#[derive(Clone, Debug)]
pub(crate) struct RecryptionRow {
    pub(crate) id: TaskId,
    pub(crate) user: Name,
    pub(crate) request: RecryptionRequest,
    pub(crate) state: RecryptionState,
    pub(crate) created: Timestamp,
    pub(crate) ended: Option<Timestamp>,
}

fn recryption(row: &AnyRow) -> Result<RecryptionRow> {
    let cells = Cells(row);
    Ok(RecryptionRow {
        id: cells.parsed("id")?,
        user: cells.parsed("user_name")?,
        request: cells.json("request")?,
        state: cells.word("state")?,
        created: cells.time("created")?,
        ended: cells.time_or_null("ended")?,
    })
}

/// Adds one that is to be begun, with its VMs.
pub(crate) async fn add(db: &mut AnyConnection, row: &RecryptionRow, vms: &[RecryptionVm]) -> Result<()> {
    sqlx::query("INSERT INTO recryption (id, user_name, request, state, created) VALUES ($1, $2, $3, $4, $5)")
        .bind(row.id.to_string())
        .bind(row.user.as_str())
        .bind(json(&row.request)?)
        .bind(word(&row.state)?)
        .bind(row.created.as_microsecond())
        .execute(&mut *db)
        .await?;
    for vm in vms {
        sqlx::query("INSERT INTO recryption_vm (recryption_id, vm_id, vm_name, state) VALUES ($1, $2, $3, $4)")
            .bind(row.id.to_string())
            .bind(vm.vm.to_string())
            .bind(vm.name.as_str())
            .bind(word(&vm.state)?)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// The newest first.
pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<RecryptionRow>> {
    let rows = sqlx::query("SELECT * FROM recryption ORDER BY created DESC, id DESC").fetch_all(db).await?;
    rows.iter().map(recryption).collect()
}

pub(crate) async fn get(db: &mut AnyConnection, id: TaskId) -> Result<Option<RecryptionRow>> {
    let row = sqlx::query("SELECT * FROM recryption WHERE id = $1").bind(id.to_string()).fetch_optional(db).await?;
    row.as_ref().map(recryption).transpose()
}

/// Those that are to be gone on with.
pub(crate) async fn open(db: &mut AnyConnection) -> Result<Vec<RecryptionRow>> {
    let rows = sqlx::query("SELECT * FROM recryption WHERE ended IS NULL ORDER BY created").fetch_all(db).await?;
    rows.iter().map(recryption).collect()
}

/// Those that are to be gone on with, and those that were begun after a time.
pub(crate) async fn open_or_after(db: &mut AnyConnection, time: Timestamp) -> Result<Vec<RecryptionRow>> {
    let query = "SELECT * FROM recryption WHERE ended IS NULL OR created > $1 ORDER BY created";
    let rows = sqlx::query(query).bind(time.as_microsecond()).fetch_all(db).await?;
    rows.iter().map(recryption).collect()
}

/// Changes the state of one that has not ended; says whether it did.
pub(crate) async fn set_state(db: &mut AnyConnection, id: TaskId, state: RecryptionState) -> Result<bool> {
    let ended = state.is_final().then(now);
    let done = sqlx::query("UPDATE recryption SET state = $2, ended = $3 WHERE id = $1 AND ended IS NULL")
        .bind(id.to_string())
        .bind(word(&state)?)
        .bind(ended)
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

pub(crate) async fn vms(db: &mut AnyConnection, id: TaskId) -> Result<Vec<RecryptionVm>> {
    let rows = sqlx::query("SELECT * FROM recryption_vm WHERE recryption_id = $1 ORDER BY vm_name")
        .bind(id.to_string())
        .fetch_all(db)
        .await?;
    let read = |row: &AnyRow| {
        let cells = Cells(row);
        Ok(RecryptionVm {
            vm: cells.parsed("vm_id")?,
            name: cells.parsed("vm_name")?,
            state: cells.word("state")?,
            task: cells.parsed_or_null("task_id")?,
            problem: cells.json_or_null("problem")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Those of its VMs that are still in the inventory.
pub(crate) async fn rows(db: &mut AnyConnection, id: TaskId) -> Result<Vec<VmRow>> {
    let mut rows = Vec::new();
    for item in vms(db, id).await? {
        rows.extend(vm::get(db, item.vm).await?);
    }
    Ok(rows)
}

pub(crate) async fn set_vm(
    db: &mut AnyConnection,
    id: TaskId,
    vm: VmId,
    state: RecryptionVmState,
    task: Option<TaskId>,
    problem: Option<&Problem>,
) -> Result<()> {
    sqlx::query(
        "UPDATE recryption_vm SET state = $3, task_id = COALESCE($4, task_id), problem = $5 \
         WHERE recryption_id = $1 AND vm_id = $2",
    )
    .bind(id.to_string())
    .bind(vm.to_string())
    .bind(word(&state)?)
    .bind(task.map(|task| task.to_string()))
    .bind(problem.map(json).transpose()?)
    .execute(db)
    .await?;
    Ok(())
}

/// Since when each key has been in use: of all keys, or of some.
pub(crate) async fn key_ages(db: &mut AnyConnection, some: Option<&[KeyRef]>) -> Result<BTreeMap<KeyRef, Timestamp>> {
    let read = |row: &AnyRow| Ok((Cells(row).json("key_ref")?, Cells(row).time("since")?));
    let Some(keys) = some else {
        return sqlx::query("SELECT * FROM key_age").fetch_all(db).await?.iter().map(read).collect();
    };
    let mut ages = BTreeMap::new();
    for key in keys {
        let row = sqlx::query("SELECT * FROM key_age WHERE key_ref = $1").bind(json(key)?);
        ages.extend(row.fetch_optional(&mut *db).await?.as_ref().map(read).transpose()?);
    }
    Ok(ages)
}

/// After how many days the keys of which provider are replaced.
pub(crate) async fn rotations(db: &mut AnyConnection) -> Result<BTreeMap<ProviderName, u32>> {
    let rows = sqlx::query("SELECT * FROM rotation").fetch_all(db).await?;
    let read = |row: &AnyRow| Ok((Cells(row).parsed("provider")?, Cells(row).number("days")?));
    rows.iter().map(read).collect()
}

/// Sets that, or that they are not.
pub(crate) async fn set_rotation(db: &mut AnyConnection, provider: &ProviderName, days: Option<u32>) -> Result<()> {
    sqlx::query("DELETE FROM rotation WHERE provider = $1").bind(provider.as_str()).execute(&mut *db).await?;
    if let Some(days) = days {
        sqlx::query("INSERT INTO rotation (provider, days) VALUES ($1, $2)")
            .bind(provider.as_str())
            .bind(i64::from(days))
            .execute(db)
            .await?;
    }
    Ok(())
}
