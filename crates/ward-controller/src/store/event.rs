//! The event log.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use ward_types::{Event, EventKind, EventSubject, Problem, Severity};

use super::cells::{Cells, json, now, word};
use super::{Result, Tx};

fn event(row: &AnyRow) -> Result<Event> {
    let cells = Cells(row);
    let kind: EventKind = cells.word("kind")?;
    Ok(Event {
        id: cells.int("id")?,
        time: cells.time("time")?,
        kind,
        severity: kind.severity(),
        subject: cells.json("subject")?,
        problem: cells.json_or_null("problem")?,
        message: cells.text("message")?,
    })
}

/// Adds an event. It is told to followers when the transaction is committed.
pub(crate) async fn record(tx: &mut Tx, kind: EventKind, subject: &EventSubject, message: &str) -> Result<()> {
    add(tx, kind, subject, message, None).await
}

/// Adds an event that tells of a problem: with its code, its cause, and what to do about it.
pub(crate) async fn record_problem(
    tx: &mut Tx,
    kind: EventKind,
    subject: &EventSubject,
    problem: &Problem,
) -> Result<()> {
    let message = format!("{}: {}. {}", problem.what, problem.why, problem.remedy);
    add(tx, kind, subject, &message, Some(problem)).await
}

async fn add(
    tx: &mut Tx,
    kind: EventKind,
    subject: &EventSubject,
    message: &str,
    problem: Option<&Problem>,
) -> Result<()> {
    let row = sqlx::query("UPDATE counter SET value = value + 1 WHERE name = 'event' RETURNING value")
        .fetch_one(&mut **tx)
        .await?;
    let id: i64 = row.try_get("value")?;
    let subject = json(subject)?;
    sqlx::query("INSERT INTO event (id, time, kind, subject, message, problem) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(id)
        .bind(now())
        .bind(word(&kind)?)
        .bind(&subject)
        .bind(message)
        .bind(problem.map(json).transpose()?)
        .execute(&mut **tx)
        .await?;
    tx.said = true;
    let code = problem.map(|problem| problem.code.as_str());
    match kind.severity() {
        Severity::Info => tracing::info!(event = kind.as_str(), %subject, %message, "event"),
        Severity::Warning => tracing::warn!(event = kind.as_str(), code, %subject, %message, "event"),
        Severity::Error => tracing::error!(event = kind.as_str(), code, %subject, %message, "event"),
    }
    Ok(())
}

/// The events after number `after`, oldest first.
pub(crate) async fn after(db: &mut AnyConnection, after: i64, limit: i64) -> Result<Vec<Event>> {
    let rows = sqlx::query("SELECT * FROM event WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(event).collect()
}

/// The last events, oldest first.
pub(crate) async fn last(db: &mut AnyConnection, limit: i64) -> Result<Vec<Event>> {
    let rows = sqlx::query("SELECT * FROM event ORDER BY id DESC LIMIT $1").bind(limit).fetch_all(db).await?;
    rows.iter().rev().map(event).collect()
}
