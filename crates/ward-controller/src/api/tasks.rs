//! Tasks.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Json, State};
use ward_types::{Problem, TaskInfo};

use super::edge::{ApiResult, Params, not_found};
use super::page::{Listed, Page};
use super::types::{TaskQuery, TaskView, WatchQuery};
use crate::authz::operations::{CancelTask, ReadTask};
use crate::authz::{Granted, Sight, TaskTarget};
use crate::controller::{Controller, Shared};
use crate::store::{task, vm};
use crate::tasks;

const MAX_WAIT_MS: u32 = 30_000;
/// How many tasks are read at a time.
const BATCH: i64 = 200;

/// The newest tasks that are to be shown, at most `limit`, and whether there are more.
pub(crate) async fn newest(
    controller: &Controller,
    sight: &Sight,
    query: &TaskQuery,
    limit: usize,
) -> Result<(Vec<TaskView>, bool), Problem> {
    let mut db = controller.store.read().await?;
    let vms: HashMap<_, _> = vm::list(&mut db).await?.into_iter().map(|row| (row.id, row)).collect();
    let mut views = Vec::new();
    let mut before = query.after;
    loop {
        let rows = task::before(&mut db, query.open, before, BATCH).await?;
        let Some(last) = rows.last() else { return Ok((views, false)) };
        before = Some(last.id);
        for info in rows {
            let vm = vms.get(&info.vm).cloned();
            let target = TaskTarget::new(info, vm);
            if !sight.sees(&target) {
                continue;
            }
            if views.len() == limit {
                return Ok((views, true));
            }
            views.push(task_view(controller, target.info).0);
        }
    }
}

/// A task as it is shown.
pub(crate) fn task_view(controller: &Controller, info: TaskInfo) -> Json<TaskView> {
    let (info, revision) = controller.board.merged(info);
    Json(TaskView { info, revision })
}

/// Lists tasks, the newest first.
#[utoipa::path(get, path = "/tasks", tag = "task", params(TaskQuery),
    responses((status = 200, body = [TaskView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    sight: Sight,
    Params(query): Params<TaskQuery>,
    page: Page,
) -> ApiResult<Listed<TaskView>> {
    let (views, more) = newest(&controller, &sight, &query, page.limit).await?;
    let last = views.last().filter(|_| more).map(|view| view.info.id.to_string());
    Ok(page.page(views, last))
}

/// Shows a task; waits for a change where that is asked.
#[utoipa::path(get, path = "/tasks/{task}", tag = "task",
    params(("task" = String, Path, description = "ID"), WatchQuery),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    granted: Granted<ReadTask>,
    Params(query): Params<WatchQuery>,
) -> ApiResult<Json<TaskView>> {
    let id = granted.on().info.id;
    let wait = Duration::from_millis(query.wait_ms.min(MAX_WAIT_MS).into());
    let found = controller.board.watch(&controller.store, id, query.seen, wait).await?;
    let (info, revision) = found.ok_or_else(|| not_found("task", &id.to_string()))?;
    Ok(Json(TaskView { info, revision }))
}

/// Asks a task to stop, where it can: what was done is undone. One whose host is away, with its VM, stops when that answers.
#[utoipa::path(post, path = "/tasks/{task}/cancel", tag = "task", params(("task" = String, Path, description = "ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn cancel(State(controller): State<Shared>, granted: Granted<CancelTask>) -> ApiResult<Json<()>> {
    tasks::cancel(&controller, &granted).await?;
    Ok(Json(()))
}
