//! The audit log: append-only, each entry chained to the one before it by a hash.

use aws_lc_rs::digest;
use jiff::Timestamp;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use ward_types::{AuditEntry, AuditOutcome, AuditRecord, KeyRef, Object, PrivilegeSet, TaskId};

use super::cells::{Cells, json};
use super::{Result, StoreError, Tx};

/// What stands in the place of a hash before the first entry.
pub(crate) const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// An entry that is to be written.
pub(crate) struct Draft<'a> {
    pub(crate) user: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) outcome: AuditOutcome,
    pub(crate) object: Object,
    pub(crate) object_name: String,
    pub(crate) privileges: PrivilegeSet,
    pub(crate) keys: Vec<KeyRef>,
    pub(crate) task: Option<TaskId>,
    pub(crate) detail: String,
}

/// The hash of an entry's text.
pub(crate) fn hash_of(entry: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, entry.as_bytes()))
}

fn record_of(row: &AnyRow) -> Result<AuditRecord> {
    let cells = Cells(row);
    Ok(AuditRecord { entry: cells.text("entry")?, hash: cells.text("hash")? })
}

/// Appends an entry. Appending ones wait for one another, so that the chain never forks.
pub(crate) async fn record(tx: &mut Tx, draft: Draft<'_>) -> Result<()> {
    let row = sqlx::query("UPDATE counter SET value = value + 1 WHERE name = 'audit' RETURNING value")
        .fetch_one(&mut **tx)
        .await?;
    let id: i64 = row.try_get("value")?;
    let previous = sqlx::query("SELECT hash FROM audit WHERE id = $1").bind(id - 1).fetch_optional(&mut **tx).await?;
    let entry = AuditEntry {
        number: u64::try_from(id)
            .map_err(|_| StoreError::Corrupt { column: "value".to_owned(), why: format!("{id}") })?,
        time: Timestamp::now(),
        user: draft.user.to_owned(),
        operation: draft.operation.to_owned(),
        outcome: draft.outcome,
        object: draft.object,
        object_name: draft.object_name,
        privileges: draft.privileges,
        keys: draft.keys,
        task: draft.task,
        detail: draft.detail,
        previous: previous.map_or(Ok(BEGINNING.to_owned()), |row| Cells(&row).text("hash"))?,
    };
    let text = json(&entry)?;
    let hash = hash_of(&text);
    sqlx::query("INSERT INTO audit (id, entry, hash) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(&text)
        .bind(&hash)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// How many entries were ever written.
pub(crate) async fn count(db: &mut AnyConnection) -> Result<i64> {
    let row = sqlx::query("SELECT value FROM counter WHERE name = 'audit'").fetch_one(db).await?;
    Cells(&row).int("value")
}

/// The entries after number `after`, oldest first.
pub(crate) async fn after(db: &mut AnyConnection, after: i64, limit: i64) -> Result<Vec<AuditRecord>> {
    let rows = sqlx::query("SELECT entry, hash FROM audit WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(record_of).collect()
}
