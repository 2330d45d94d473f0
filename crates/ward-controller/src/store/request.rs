//! Requests that carried a key by which a repetition is known, and what came of them.

use jiff::{SignedDuration, Timestamp};
use sqlx::AnyConnection;
use ward_types::{Code, Problem, TaskId, UserId};

use super::cells::{Cells, now};
use super::{Result, Tx};

/// For how long they are remembered.
pub(crate) const REMEMBERED: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A request with an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestKey {
    /// Whose it is.
    pub(crate) user: UserId,
    pub(crate) value: String,
    /// The hash of the request, sealed: it may hold a password.
    pub(crate) sealed_request: String,
    /// The hash of what the user may do.
    pub(crate) rights: String,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Task(TaskId),
    Recryption(TaskId),
    /// An answer, sealed: it may hold a secret.
    Answer(String),
}

/// A request that was done.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) sealed_request: String,
    pub(crate) rights: String,
    pub(crate) came: Came,
}

/// Writes down what came of a request. Fails with a conflict where that of one with its key is written down already.
pub(crate) async fn add(db: &mut AnyConnection, key: &RequestKey, came: &Came) -> Result<()> {
    let since = Timestamp::now().checked_sub(REMEMBERED).unwrap_or(Timestamp::UNIX_EPOCH);
    sqlx::query("DELETE FROM request_key WHERE created < $1").bind(since.as_microsecond()).execute(&mut *db).await?;
    let (task, recryption, answer) = match came {
        Came::Task(id) => (Some(id.to_string()), None, None),
        Came::Recryption(id) => (None, Some(id.to_string()), None),
        Came::Answer(sealed) => (None, None, Some(sealed.clone())),
    };
    sqlx::query(
        "INSERT INTO request_key (user_id, value, sealed_request, rights, task_id, recryption_id, sealed_answer, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(key.user.to_string())
    .bind(&key.value)
    .bind(&key.sealed_request)
    .bind(&key.rights)
    .bind(task)
    .bind(recryption)
    .bind(answer)
    .bind(now())
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down, in the transaction in which it begins, what a request begins.
pub(crate) async fn began(tx: &mut Tx, what: &str, key: &RequestKey, came: &Came) -> Result<(), Problem> {
    match add(tx, key, came).await {
        // The same request, at the same time, at another controller on the same database.
        Err(error) if error.is_conflict() => {
            let why = "the same request is being done already";
            Err(Problem::new(Code::Busy, what, why, "send it again: it is answered with what came of it"))
        }
        added => Ok(added?),
    }
}

/// The request of that key that a user has had done.
pub(crate) async fn find(db: &mut AnyConnection, user: UserId, value: &str) -> Result<Option<Done>> {
    let row = sqlx::query("SELECT * FROM request_key WHERE user_id = $1 AND value = $2")
        .bind(user.to_string())
        .bind(value)
        .fetch_optional(db)
        .await?;
    row.map(|row| {
        let cells = Cells(&row);
        let came = match (cells.parsed_or_null("task_id")?, cells.parsed_or_null("recryption_id")?) {
            (Some(task), _) => Came::Task(task),
            (None, Some(recryption)) => Came::Recryption(recryption),
            (None, None) => Came::Answer(cells.text("sealed_answer")?),
        };
        Ok(Done { sealed_request: cells.text("sealed_request")?, rights: cells.text("rights")?, came })
    })
    .transpose()
}
