//! The recryption of many VMs.

use axum::extract::{Json, State};
use jiff::Timestamp;
use ward_types::{Problem, TaskId};

use super::edge::{ApiResult, Body, Params, not_found};
use super::page::{Listed, Page};
use super::types::{
    PageQuery, RecryptionPlanVm, RecryptionQuery, RecryptionRequest, RecryptionState, RecryptionView, RecryptionVm,
};
use crate::authz::operations::{BeginRecryption, ChangeRecryption, PlanRecryption, ReadRecryption};
use crate::authz::{Granted, Note, Sight, grant};
use crate::controller::{Controller, Shared};
use crate::recryption;

pub(super) async fn view(controller: &Controller, id: TaskId) -> ApiResult<Json<RecryptionView>> {
    let view = recryption::view(controller, id).await?;
    Ok(Json(view.ok_or_else(|| not_found("recryption", &id.to_string()))?))
}

/// Tells which VMs a recryption would give new keys, of those that may be seen, and begins nothing. It takes the privilege
/// to recrypt on every one of them. By name, in pages.
#[utoipa::path(post, path = "/recryptions/plan", tag = "recryption", params(PageQuery), request_body = RecryptionRequest,
    responses((status = 200, body = [RecryptionPlanVm]), (status = "4XX", body = Problem)))]
pub(super) async fn plan(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
    Body(request): Body<RecryptionRequest>,
) -> ApiResult<Listed<RecryptionPlanVm>> {
    let planned = recryption::plan(&controller, &request, &sight).await?;
    let _: Granted<PlanRecryption> = grant(&controller, sight.caller(), planned.fleet, Note::default()).await?;
    Ok(page.cut(planned.vms, |vm: &RecryptionPlanVm| vm.name.to_string()))
}

/// Lists recryptions, the newest first.
#[utoipa::path(get, path = "/recryptions", tag = "recryption", params(RecryptionQuery),
    responses((status = 200, body = [RecryptionView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    sight: Sight,
    Params(query): Params<RecryptionQuery>,
    page: Page,
) -> ApiResult<Listed<RecryptionView>> {
    let (views, more) = recryption::newest(&controller, &sight, query.after, page.limit).await?;
    let last = views.last().filter(|_| more).map(|view| view.id.to_string());
    Ok(page.page(views, last))
}

/// Gives many VMs new keys, so many at a time: of those that may be seen all for which the request asks. It takes the
/// privilege to recrypt on every one of them.
#[utoipa::path(post, path = "/recryptions", tag = "recryption", request_body = RecryptionRequest,
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    sight: Sight,
    Body(request): Body<RecryptionRequest>,
) -> ApiResult<Json<RecryptionView>> {
    let planned = recryption::plan(&controller, &request, &sight).await?;
    let note = format!("{} VMs", planned.vms.len());
    let granted: Granted<BeginRecryption> = grant(&controller, sight.caller(), planned.fleet, note.into()).await?;
    let id = recryption::begin(&controller, granted, request, planned.vms, Timestamp::now()).await?;
    view(&controller, id).await
}

/// Shows a recryption: how far it is.
#[utoipa::path(get, path = "/recryptions/{recryption}", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    granted: Granted<ReadRecryption>,
) -> ApiResult<Json<RecryptionView>> {
    match granted.on().recryption() {
        Some(id) => view(&controller, id).await,
        None => Err(not_found("recryption", "").into()),
    }
}

/// Lists the VMs of a recryption, by name, and what came of each: the report.
#[utoipa::path(get, path = "/recryptions/{recryption}/vms", tag = "recryption",
    params(("recryption" = String, Path, description = "ID"), PageQuery),
    responses((status = 200, body = [RecryptionVm]), (status = "4XX", body = Problem)))]
pub(super) async fn vms(
    State(controller): State<Shared>,
    granted: Granted<ReadRecryption>,
    page: Page,
) -> ApiResult<Listed<RecryptionVm>> {
    match granted.on().recryption() {
        Some(id) => {
            Ok(page.cut(recryption::report(&controller, id).await?, |item: &RecryptionVm| item.name.to_string()))
        }
        None => Err(not_found("recryption", "").into()),
    }
}

/// Begins no more VMs until it is resumed.
#[utoipa::path(post, path = "/recryptions/{recryption}/pause", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn pause(
    State(controller): State<Shared>,
    granted: Granted<ChangeRecryption>,
) -> ApiResult<Json<RecryptionView>> {
    change(&controller, &granted, RecryptionState::Paused).await
}

/// Goes on where it was paused.
#[utoipa::path(post, path = "/recryptions/{recryption}/resume", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn resume(
    State(controller): State<Shared>,
    granted: Granted<ChangeRecryption>,
) -> ApiResult<Json<RecryptionView>> {
    change(&controller, &granted, RecryptionState::Running).await
}

/// Begins no more VMs; those that were begun are finished.
#[utoipa::path(post, path = "/recryptions/{recryption}/cancel", tag = "recryption",
    params(("recryption" = String, Path, description = "ID")),
    responses((status = 200, body = RecryptionView), (status = "4XX", body = Problem)))]
pub(super) async fn cancel(
    State(controller): State<Shared>,
    granted: Granted<ChangeRecryption>,
) -> ApiResult<Json<RecryptionView>> {
    change(&controller, &granted, RecryptionState::Cancelling).await
}

async fn change(
    controller: &Controller,
    granted: &Granted<ChangeRecryption>,
    state: RecryptionState,
) -> ApiResult<Json<RecryptionView>> {
    let id = recryption::change(controller, granted, state).await?;
    view(controller, id).await
}
