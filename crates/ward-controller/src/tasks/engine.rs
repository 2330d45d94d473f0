//! Runs tasks, each until it has ended, and goes on with those that a restart interrupted.

use std::sync::Arc;
use std::time::Duration;

use ward_rpc::CallError;
use ward_rpc::api::host::CancelJob;
use ward_types::{Code, EventKind, EventSubject, Problem, TaskId, TaskInfo};

use super::board::change;
use super::flow;
use super::run::{Interrupted, Run};
use crate::authz::Granted;
use crate::authz::operations::CancelTask;
use crate::controller::{Controller, Shared};
use crate::store::task::{self, TaskRow};
use crate::store::{StoreError, event};

/// How long to wait before a task goes on whose progress could not be written down.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Goes on with every task that has not ended.
pub(crate) async fn resume_all(controller: &Shared) -> Result<(), StoreError> {
    let rows = task::open(&mut *controller.store.read().await?).await?;
    for row in rows {
        let mut tx = controller.store.write().await?;
        let message = format!(
            "task {} ({} of VM `{}`) goes on after a restart of the controller, at: {}",
            row.info.id, row.info.kind, row.info.vm_name, row.info.step
        );
        event::record(&mut tx, EventKind::TaskResumed, &about(&row.info), &message).await?;
        tx.commit().await?;
        spawn(controller, row);
    }
    Ok(())
}

pub(crate) fn about(info: &TaskInfo) -> EventSubject {
    EventSubject { vm: Some(info.vm), task: Some(info.id), user: Some(info.user.clone()), ..EventSubject::default() }
}

/// Runs a task in the background.
pub(crate) fn spawn(controller: &Shared, row: TaskRow) {
    let live = controller.board.add(&row.info);
    let shared = Arc::clone(controller);
    controller.background.spawn(async move {
        let id = row.info.id;
        tokio::select! {
            // What is dropped here is gone on with at the next start.
            () = shared.shutdown.cancelled() => {}
            () = Box::pin(run(&shared, row, live)) => shared.board.remove(id),
        }
    });
}

async fn run(controller: &Shared, mut row: TaskRow, live: tokio::sync::watch::Sender<super::board::Live>) {
    loop {
        let (info, work) = (row.info.clone(), row.work.clone());
        let mut last_work = work;
        let ended = match Run::load(Arc::clone(controller), row, live.clone()).await {
            Ok(mut run) => {
                let ended = flow::run(&mut run).await;
                last_work = run.work;
                ended
            }
            Err(interrupted) => Err(interrupted),
        };
        let retry = match ended {
            Ok(()) => return,
            Err(Interrupted::Store(error)) => error,
            Err(Interrupted::Failed(problem)) => {
                match flow::give_up(controller, &info, &last_work, &problem, &live).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
        };
        tracing::error!(error = %retry, task = %info.id, "a task waits for the store");
        change(&live, |live| live.step = format!("waits for the controller's database: {retry}"));
        tokio::time::sleep(STORE_RETRY).await;
        row = TaskRow { info, work: last_work };
    }
}

/// Asks a task to stop where it can: before a host has begun, and while one works on it. Where that is away, it stops when it
/// is back, or another one takes the job over.
pub(crate) async fn cancel(controller: &Controller, granted: &Granted<CancelTask>) -> Result<(), Problem> {
    let info = &granted.on().info;
    let what = format!("cannot cancel task {}", info.id);
    if info.state.is_final() {
        let why = format!("it has {} already", info.state);
        return Err(Problem::new(Code::Cancelled, what, why, "nothing is to be done"));
    }
    let mut tx = controller.store.write().await?;
    task::cancel(&mut tx, info.id).await?;
    tx.commit().await?;
    let Some(host) = host_of(controller, info.id).await?.and_then(|host| controller.links.get(host)) else {
        return Ok(());
    };
    match host.call(CancelJob { job: info.id }).await {
        // It has not begun, or is away: whoever runs the task sees what is wished.
        Ok(()) | Err(CallError::Unreachable { .. }) => Ok(()),
        Err(CallError::Refused(problem)) if problem.code == Code::NotFound => Ok(()),
        Err(error) => Err(error.into_problem(&what)),
    }
}

async fn host_of(controller: &Controller, id: TaskId) -> Result<Option<ward_types::HostId>, StoreError> {
    let rows = task::open(&mut *controller.store.read().await?).await?;
    Ok(rows.into_iter().find(|row| row.info.id == id).and_then(|row| row.work.host()))
}
