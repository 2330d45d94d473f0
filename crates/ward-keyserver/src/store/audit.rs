//! What was asked, by whom, and how it ended.

use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::{AuditEntry, Error, OperationCount};

/// One operation that was asked for, not yet written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub(crate) at_ms: i64,
    pub(crate) peer: String,
    pub(crate) operation: String,
    pub(crate) object: Option<String>,
    pub(crate) result: String,
}

/// Rows in one statement: SQLite takes so many parameters and more.
const ROWS: usize = 1000;

/// Writes rows down. A trigger of the schema counts them.
pub(crate) async fn append(connection: &mut SqliteConnection, rows: &[AuditRow]) -> Result<(), Error> {
    for rows in rows.chunks(ROWS) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO audit (at_ms, peer, operation, object, result) ");
        insert.push_values(rows, |mut values, row| {
            values
                .push_bind(row.at_ms)
                .push_bind(&row.peer)
                .push_bind(&row.operation)
                .push_bind(&row.object)
                .push_bind(&row.result);
        });
        insert.build().persistent(rows.len() < 3).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The last `n`, oldest first.
pub(crate) async fn tail(connection: &mut SqliteConnection, n: u32) -> Result<Vec<AuditEntry>, Error> {
    let rows = sqlx::query(
        "SELECT sequence, at_ms, peer, operation, object, result FROM audit ORDER BY sequence DESC LIMIT ?",
    )
    .bind(n)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .rev()
        .map(|row| {
            Ok(AuditEntry {
                sequence: row.try_get("sequence")?,
                at_ms: row.try_get("at_ms")?,
                peer: row.try_get("peer")?,
                operation: row.try_get("operation")?,
                object: row.try_get("object")?,
                result: row.try_get("result")?,
            })
        })
        .collect()
}

pub(crate) async fn counts(connection: &mut SqliteConnection) -> Result<Vec<OperationCount>, Error> {
    let rows =
        sqlx::query("SELECT operation, count FROM operation_count ORDER BY operation").fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok(OperationCount { operation: row.try_get("operation")?, count: row.try_get("count")? }))
        .collect()
}
