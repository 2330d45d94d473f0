//! The recryption of many VMs.

use axum::extract::{Json, State};
use ward_types::{Problem, TaskId};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, not_found};
use super::page::{Listed, Page};
use super::types::{PageQuery, RecryptionPlan, RecryptionRequest, RecryptionState, RecryptionView};
use crate::authz::operations::{PlanRecryptions, ReadRecryptions, RecryptMany};
use crate::authz::{Granted, Root, grant};
use crate::controller::{Controller, Shared};
use crate::recryption;

async fn view(controller: &Controller, key: &str, id: TaskId) -> ApiResult<Json<RecryptionView>> {
    let view = recryption::view(controller, id).await?;
    Ok(Json(view.ok_or_else(|| not_found("recryption", key))?))
}

fn id(key: &str) -> Result<TaskId, Problem> {
    key.parse().map_err(|_| not_found("recryption", key))
}

/// Tells which VMs a recryption would give new keys, and begins nothing.
#[utoipa::path(post, path = "/recryptions/plan", tag = "recryption", request_body = RecryptionRequest,
    responses((status = 200, body = RecryptionPlan), (status = "4XX", body = Problem)))]
pub(super) async fn plan(
    State(controller): State<Shared>,
    _: Granted<PlanRecryptions>,
    Body(request): Body<RecryptionRequest>,
) -> ApiResult<Json<RecryptionPlan>> {
    Ok(Json(RecryptionPlan { vms: recryption::plan(&controller, &request).await? }))
}

/// Lists recryptions, the newest first.
#[utoipa::path(get, path = "/recryptions", tag = "recryption", params(PageQuery),
    responses((status = 200, body = [RecryptionView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    _: Granted<ReadRecryptions>,
    page: Page,
) -> ApiResult<Listed<RecryptionView>> {
    Ok(page.cut(recryption::all(&controller).await?, |view: &RecryptionView| view.id.to_string()))
}

/// Gives many VMs new keys, so many at a time.
#[utoipa::path(post, path = "/recryptions", tag = "recryption", request_body = RecryptionRequest,
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(request): Body<RecryptionRequest>,
) -> ApiResult<Json<RecryptionView>> {
    let note = serde_json::to_string(&request).unwrap_or_default();
    let granted: Granted<RecryptMany> = grant(&controller, &caller, Root, note.into()).await?;
    let id = recryption::begin(&controller, &granted, request).await?;
    view(&controller, &id.to_string(), id).await
}

/// Shows a recryption with all its VMs: the report.
#[utoipa::path(get, path = "/recryptions/{recryption}", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    _: Granted<ReadRecryptions>,
    keys: Keys,
) -> ApiResult<Json<RecryptionView>> {
    view(&controller, keys.first(), id(keys.first())?).await
}

/// Begins no more VMs until it is resumed.
#[utoipa::path(post, path = "/recryptions/{recryption}/pause", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn pause(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
) -> ApiResult<Json<RecryptionView>> {
    change(&controller, &caller, keys.first(), RecryptionState::Paused).await
}

/// Goes on where it was paused.
#[utoipa::path(post, path = "/recryptions/{recryption}/resume", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn resume(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
) -> ApiResult<Json<RecryptionView>> {
    change(&controller, &caller, keys.first(), RecryptionState::Running).await
}

/// Begins no more VMs; those that were begun are finished.
#[utoipa::path(post, path = "/recryptions/{recryption}/cancel", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn cancel(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
) -> ApiResult<Json<RecryptionView>> {
    change(&controller, &caller, keys.first(), RecryptionState::Cancelling).await
}

async fn change(
    controller: &Controller,
    caller: &Caller,
    key: &str,
    state: RecryptionState,
) -> ApiResult<Json<RecryptionView>> {
    let note = format!("recryption {key}: {state}");
    let granted: Granted<RecryptMany> = grant(controller, caller, Root, note.into()).await?;
    let id = id(key)?;
    recryption::change(controller, &granted, id, state).await?;
    view(controller, key, id).await
}
