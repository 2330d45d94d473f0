//! Requests that carried a key by which a repetition is known.

use sqlx::AnyConnection;
use ward_types::{Name, TaskId};

use super::Result;
use super::cells::Cells;

/// A request with an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    pub(crate) value: String,
    /// SHA-256 of method, path and body.
    pub(crate) hash: String,
}

/// Writes down which task a request began. Fails with a conflict where one of that key began one already.
pub(crate) async fn add(db: &mut AnyConnection, user: &Name, key: &RequestKey, task: TaskId) -> Result<()> {
    sqlx::query("INSERT INTO request_key (user_name, value, request_hash, task_id) VALUES ($1, $2, $3, $4)")
        .bind(user.as_str())
        .bind(&key.value)
        .bind(&key.hash)
        .bind(task.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// The task that a request of that key began, with the hash of the request.
pub(crate) async fn find(db: &mut AnyConnection, user: &Name, value: &str) -> Result<Option<(TaskId, String)>> {
    let row = sqlx::query("SELECT task_id, request_hash FROM request_key WHERE user_name = $1 AND value = $2")
        .bind(user.as_str())
        .bind(value)
        .fetch_optional(db)
        .await?;
    row.map(|row| Ok((Cells(&row).parsed("task_id")?, Cells(&row).text("request_hash")?))).transpose()
}
