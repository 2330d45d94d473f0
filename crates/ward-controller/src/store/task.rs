//! Tasks: what was asked, how far it is for good, how it ended.

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{Name, Problem, Progress, ProgressUnit, TaskId, TaskInfo, TaskKind, TaskState, VmId};

use super::Result;
use super::cells::{Cells, json, now, word};
use crate::tasks::Work;

#[derive(Clone, Debug)]
pub(crate) struct TaskRow {
    pub(crate) info: TaskInfo,
    /// What it takes, and which durable steps are behind it.
    pub(crate) work: Work,
}

fn info(row: &AnyRow) -> Result<TaskInfo> {
    let cells = Cells(row);
    Ok(TaskInfo {
        id: cells.parsed("id")?,
        kind: cells.word("kind")?,
        vm: cells.parsed("vm_id")?,
        vm_name: cells.parsed("vm_name")?,
        state: cells.word("state")?,
        step: cells.text("step")?,
        progress: Progress {
            done: cells.number("progress_done")?,
            total: cells.number("progress_total")?,
            unit: ProgressUnit::default(),
        },
        problem: cells.json_or_null("problem")?,
        user: cells.parsed("user_name")?,
        created: cells.time("created")?,
        ended: cells.time_or_null("ended")?,
    })
}

fn task(row: &AnyRow) -> Result<TaskRow> {
    Ok(TaskRow { info: info(row)?, work: Cells(row).json("work")? })
}

/// Adds a task that is to be begun. Fails with a conflict where the VM has an open one.
pub(crate) async fn add(
    db: &mut AnyConnection,
    (id, kind): (TaskId, TaskKind),
    vm: (VmId, &Name),
    user: &Name,
    work: &Work,
) -> Result<TaskRow> {
    let created = now();
    let step = "queued";
    sqlx::query(
        "INSERT INTO task (id, kind, vm_id, vm_name, user_name, state, step, work, progress_done, progress_total, \
         created) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, $9)",
    )
    .bind(id.to_string())
    .bind(word(&kind)?)
    .bind(vm.0.to_string())
    .bind(vm.1.as_str())
    .bind(user.as_str())
    .bind(word(&TaskState::Queued)?)
    .bind(step)
    .bind(json(work)?)
    .bind(created)
    .execute(db)
    .await?;
    let info = TaskInfo {
        id,
        kind,
        vm: vm.0,
        vm_name: vm.1.clone(),
        state: TaskState::Queued,
        step: step.to_owned(),
        progress: Progress::default(),
        problem: None,
        user: user.clone(),
        created: Timestamp::from_microsecond(created).unwrap_or_default(),
        ended: None,
    };
    Ok(TaskRow { info, work: work.clone() })
}

/// Writes down that a durable step is behind the task.
pub(crate) async fn set_work(db: &mut AnyConnection, id: TaskId, step: &str, work: &Work) -> Result<()> {
    sqlx::query("UPDATE task SET state = $2, step = $3, work = $4 WHERE id = $1 AND ended IS NULL")
        .bind(id.to_string())
        .bind(word(&TaskState::Running)?)
        .bind(step)
        .bind(json(work)?)
        .execute(db)
        .await?;
    Ok(())
}

/// Ends a task, well or badly.
pub(crate) async fn end(
    db: &mut AnyConnection,
    id: TaskId,
    progress: Progress,
    problem: Option<&Problem>,
) -> Result<()> {
    let (state, step) = match problem {
        None => (TaskState::Succeeded, "done"),
        Some(_) => (TaskState::Failed, "failed"),
    };
    sqlx::query(
        "UPDATE task SET state = $2, step = $3, problem = $4, progress_done = $5, progress_total = $6, ended = $7 \
         WHERE id = $1 AND ended IS NULL",
    )
    .bind(id.to_string())
    .bind(word(&state)?)
    .bind(step)
    .bind(problem.map(json).transpose()?)
    .bind(i64::try_from(progress.done).unwrap_or(i64::MAX))
    .bind(i64::try_from(progress.total).unwrap_or(i64::MAX))
    .bind(now())
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down that a task is to end where it can; says whether it has not ended.
pub(crate) async fn cancel(db: &mut AnyConnection, id: TaskId) -> Result<bool> {
    let query = "UPDATE task SET cancelled = 1 WHERE id = $1 AND ended IS NULL";
    Ok(sqlx::query(query).bind(id.to_string()).execute(db).await?.rows_affected() > 0)
}

/// Whether somebody has asked for that.
pub(crate) async fn is_cancelled(db: &mut AnyConnection, id: TaskId) -> Result<bool> {
    let row = sqlx::query("SELECT cancelled FROM task WHERE id = $1").bind(id.to_string()).fetch_optional(db).await?;
    row.map_or(Ok(false), |row| Cells(&row).flag("cancelled"))
}

pub(crate) async fn get(db: &mut AnyConnection, id: TaskId) -> Result<Option<TaskInfo>> {
    let row = sqlx::query("SELECT * FROM task WHERE id = $1").bind(id.to_string()).fetch_optional(db).await?;
    row.as_ref().map(info).transpose()
}

/// The newest tasks first, open ones only where that is asked.
pub(crate) async fn list(db: &mut AnyConnection, open: bool, limit: i64) -> Result<Vec<TaskInfo>> {
    before(db, open, None, limit).await
}

/// As [`list`], those that were begun before a task where one is named.
pub(crate) async fn before(
    db: &mut AnyConnection,
    open: bool,
    before: Option<TaskId>,
    limit: i64,
) -> Result<Vec<TaskInfo>> {
    const LAST: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";
    // IDs grow with time.
    let query = if open {
        "SELECT * FROM task WHERE ended IS NULL AND id < $1 ORDER BY id DESC LIMIT $2"
    } else {
        "SELECT * FROM task WHERE id < $1 ORDER BY id DESC LIMIT $2"
    };
    let before = before.map_or_else(|| LAST.to_owned(), |id| id.to_string());
    let rows = sqlx::query(query).bind(before).bind(limit).fetch_all(db).await?;
    rows.iter().map(info).collect()
}

/// The tasks that are to be gone on with.
pub(crate) async fn open(db: &mut AnyConnection) -> Result<Vec<TaskRow>> {
    let rows = sqlx::query("SELECT * FROM task WHERE ended IS NULL ORDER BY created, id").fetch_all(db).await?;
    rows.iter().map(task).collect()
}

/// The open task of a VM.
pub(crate) async fn open_of_vm(db: &mut AnyConnection, vm: VmId) -> Result<Option<TaskInfo>> {
    let row = sqlx::query("SELECT * FROM task WHERE vm_id = $1 AND ended IS NULL")
        .bind(vm.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(info).transpose()
}
