//! The one task that changes the database.
//!
//! It takes all requests that are waiting into one transaction and answers them once that is on disk: many clients share
//! one flush (group commit), and a single one waits for nobody. Records of requests that only read are in no hurry: they
//! ride along with the next change, or go by themselves within [`RECORDS_WAIT`].

use std::sync::Arc;
use std::time::Duration;

use kmip::ProtocolVersion;
use kmip::message::{RequestMessage, ResponseMessage};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tracing::error;

use super::{Caller, batch, failed};
use crate::Error;
use crate::master::MasterKey;
use crate::store::{self, AuditRow};

/// How long the record of a request that only read may wait to be written.
const RECORDS_WAIT: Duration = Duration::from_millis(50);

/// How many jobs share a transaction at most, and wait for one at most.
const JOBS: usize = 256;

enum Job {
    Write { caller: Caller, request: Box<RequestMessage>, reply: oneshot::Sender<ResponseMessage> },
    Note(Vec<AuditRow>),
}

/// The way to the writing task.
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the task. It ends, with everything written, when the [`Writer`] is dropped.
    pub(crate) fn start(connection: SqliteConnection, master: Arc<MasterKey>) -> (Self, JoinHandle<Result<(), Error>>) {
        let (jobs, waiting) = mpsc::channel(JOBS);
        (Self { jobs }, tokio::spawn(run(connection, master, waiting)))
    }

    /// Does what the request asks. The answer comes when it's on disk.
    pub(super) async fn write(&self, caller: Caller, request: RequestMessage) -> ResponseMessage {
        let version = request.header.protocol_version;
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.send(Job::Write { caller, request: Box::new(request), reply }).await;
        match (sent, answer.await) {
            (Ok(()), Ok(response)) => response,
            _ => failed(version),
        }
    }

    /// Writes records down, soon.
    pub(super) async fn note(&self, rows: Vec<AuditRow>) {
        if self.jobs.send(Job::Note(rows)).await.is_err() {
            error!("operations could not be recorded: the writer has ended");
        }
    }
}

async fn run(
    mut connection: SqliteConnection,
    master: Arc<MasterKey>,
    mut waiting: mpsc::Receiver<Job>,
) -> Result<(), Error> {
    let mut jobs = Vec::new();
    while waiting.recv_many(&mut jobs, JOBS).await > 0 {
        let patience = Instant::now() + RECORDS_WAIT;
        while jobs.len() < JOBS && jobs.iter().all(|job| matches!(job, Job::Note(_))) {
            match timeout_at(patience, waiting.recv()).await {
                Ok(Some(job)) => jobs.push(job),
                _ => break,
            }
        }
        transaction(&mut connection, &master, std::mem::take(&mut jobs)).await;
    }
    connection.close().await?;
    Ok(())
}

/// All jobs, or none.
async fn transaction(connection: &mut SqliteConnection, master: &MasterKey, jobs: Vec<Job>) {
    let mut answers = Vec::new();
    let done = within_transaction(connection, master, jobs, &mut answers).await;
    if let Err(error) = &done {
        error!(%error, "a transaction failed; its requests are answered with a failure");
        if let Err(error) = sqlx::query("ROLLBACK").execute(&mut *connection).await {
            error!(%error, "nor could it be rolled back");
        }
    }
    for (reply, version, response) in answers {
        // The client may have gone.
        let _ = reply.send(if done.is_ok() { response } else { failed(version) });
    }
}

type Answer = (oneshot::Sender<ResponseMessage>, ProtocolVersion, ResponseMessage);

async fn within_transaction(
    connection: &mut SqliteConnection,
    master: &MasterKey,
    jobs: Vec<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let mut records = Vec::new();
    for job in jobs {
        match job {
            Job::Note(rows) => records.extend(rows),
            Job::Write { caller, request, reply } => {
                let version = request.header.protocol_version;
                let (response, rows) = batch::run(master, &caller, connection, *request).await;
                answers.push((reply, version, response));
                records.extend(rows);
            }
        }
    }
    store::append(connection, &records).await?;
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}
