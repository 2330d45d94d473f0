//! Tasks.

use std::time::Duration;

use axum::extract::{Json, State};
use ward_types::{Problem, TaskId};

use super::auth::Caller;
use super::edge::{ApiResult, Key, Params, not_found};
use super::types::{TaskQuery, TaskView, WatchQuery};
use crate::controller::{Controller, Shared};
use crate::store::task;
use crate::tasks;

const MAX_WAIT_MS: u32 = 30_000;
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 1000;

pub(crate) async fn newest(controller: &Controller, open: bool, limit: u32) -> Result<Vec<TaskView>, Problem> {
    let rows = task::list(&mut *controller.store.read().await?, open, i64::from(limit)).await?;
    let view = |info| {
        let (info, revision) = controller.board.merged(info);
        TaskView { info, revision }
    };
    Ok(rows.into_iter().map(view).collect())
}

/// Lists tasks, the newest first.
#[utoipa::path(get, path = "/tasks", tag = "task", params(TaskQuery),
    responses((status = 200, body = [TaskView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    _: Caller,
    Params(query): Params<TaskQuery>,
) -> ApiResult<Json<Vec<TaskView>>> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    Ok(Json(newest(&controller, query.open, limit).await?))
}

/// Shows a task; waits for a change where that is asked.
#[utoipa::path(get, path = "/tasks/{task}", tag = "task",
    params(("task" = String, Path, description = "ID"), WatchQuery),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    _: Caller,
    Key(key): Key,
    Params(query): Params<WatchQuery>,
) -> ApiResult<Json<TaskView>> {
    let id: TaskId = key.parse().map_err(|_| not_found("task", &key))?;
    let wait = Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS).into());
    let found = controller.board.watch(&controller.store, id, query.seen, wait).await?;
    let (info, revision) = found.ok_or_else(|| not_found("task", &key))?;
    Ok(Json(TaskView { info, revision }))
}

/// Asks a task to stop: possible while a host works on it. What was done is undone.
#[utoipa::path(post, path = "/tasks/{task}/cancel", tag = "task", params(("task" = String, Path, description = "ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn cancel(State(controller): State<Shared>, _: Caller, Key(key): Key) -> ApiResult<Json<()>> {
    let id: TaskId = key.parse().map_err(|_| not_found("task", &key))?;
    let info = task::get(&mut *controller.store.read().await?, id).await?;
    let info = info.ok_or_else(|| not_found("task", &key))?;
    tasks::cancel(&controller, &info).await?;
    Ok(Json(()))
}
