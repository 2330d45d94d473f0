//! vTPMs of VMs.

use axum::extract::{Json, State};
use ward_types::{KeyWish, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys};
use super::tasks::task_view;
use super::types::{AddTpm, CertifyTpm, TaskView, TpmCa, TpmView};
use crate::authz::operations::{self, ReadVm, RemoveTpm};
use crate::authz::{Granted, grant_named};
use crate::controller::Shared;
use crate::tasks::may::key;
use crate::tasks::submit::Order;
use crate::vtpm;

/// Shows a VM's vTPM: the certificates of its endorsement keys, and requests for others.
#[utoipa::path(get, path = "/vms/{vm}/tpm", tag = "vm", params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TpmView), (status = "4XX", body = Problem)))]
pub(super) async fn show(granted: Granted<ReadVm>) -> ApiResult<Json<TpmView>> {
    Ok(Json(vtpm::view(granted.on())?))
}

/// Shows the controller's CA for vTPMs, by which guests' verifiers know them. Whoever has logged in may see it.
#[utoipa::path(get, path = "/tpm/ca", tag = "vm",
    responses((status = 200, body = TpmCa), (status = "4XX", body = Problem)))]
pub(super) async fn ca(State(controller): State<Shared>, _: Caller) -> ApiResult<Json<TpmCa>> {
    Ok(Json(vtpm::ca(&controller.vtpm)?))
}

/// Gives a vTPM other certificates: some that another CA made of its keys, or new ones of the controller's own. The VM must
/// be off.
#[utoipa::path(put, path = "/vms/{vm}/tpm/certificates", tag = "vm", request_body = CertifyTpm,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn certify(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(asked): Body<CertifyTpm>,
) -> ApiResult<Json<TaskView>> {
    let note = if asked.own { "the controller's own certificates" } else { "another CA's certificates" };
    let granted: Granted<operations::CertifyTpm> =
        grant_named(&controller, &caller, keys.first(), note.to_owned().into()).await?;
    let info = Order { controller: &controller }.certify_tpm(granted, &asked).await?;
    Ok(task_view(&controller, info))
}

/// Gives a VM a vTPM. Its home is encrypted with it where it is not, its disks stay as they are. The VM must have UEFI and
/// be off.
#[utoipa::path(post, path = "/vms/{vm}/tpm", tag = "vm", request_body = AddTpm,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(AddTpm { provider, key_id }): Body<AddTpm>,
) -> ApiResult<Json<TaskView>> {
    let wish = KeyWish { provider, key_id };
    let granted: Granted<operations::AddTpm> =
        grant_named(&controller, &caller, keys.first(), key(&wish).into()).await?;
    let info = Order { controller: &controller }.add_tpm(granted, &wish).await?;
    Ok(task_view(&controller, info))
}

/// Takes a VM's vTPM away, with all that its guest keeps in it. The VM must be off; its home stays encrypted.
#[utoipa::path(delete, path = "/vms/{vm}/tpm", tag = "vm",
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn remove(State(controller): State<Shared>, granted: Granted<RemoveTpm>) -> ApiResult<Json<TaskView>> {
    let info = Order { controller: &controller }.remove_tpm(granted).await?;
    Ok(task_view(&controller, info))
}
