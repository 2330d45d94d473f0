//! Which VMs are in the inventory, and as what.

use axum::extract::{Json, Path, State};
use ward_types::{KeyWish, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body};
use super::types::{CloneVm, Register, SetTemplate, TaskView, VmView};
use super::vms::{one, task_view};
use crate::controller::Shared;
use crate::plan::CloneWish;
use crate::register;
use crate::tasks::submit::Order;

/// Takes a VM into the inventory from its home. Where a key that it needs is not to be had, it is locked.
#[utoipa::path(post, path = "/vms/register", tag = "vm", request_body = Register,
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn register(
    State(controller): State<Shared>,
    caller: Caller,
    Body(home): Body<Register>,
) -> ApiResult<Json<VmView>> {
    let id = register::register(&controller, caller.user(), &home.datastore, &home.directory).await?;
    one(&controller, &id.to_string()).await
}

/// Takes a VM out of the inventory. Its home stays as it is.
#[utoipa::path(post, path = "/vms/{vm}/unregister", tag = "vm",
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn unregister(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<()>> {
    let order = Order { controller: &controller, user: caller.user() };
    order.unregister(&key).await?;
    Ok(Json(()))
}

/// Tries again to get the keys of a VM that is locked.
#[utoipa::path(post, path = "/vms/{vm}/unlock", tag = "vm", params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn unlock(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<VmView>> {
    let id = register::unlock(&controller, caller.user(), &key).await?;
    one(&controller, &id.to_string()).await
}

/// Makes a VM a template, which is never started, or a template a VM.
#[utoipa::path(post, path = "/vms/{vm}/template", tag = "vm", request_body = SetTemplate,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn template(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    Body(wanted): Body<SetTemplate>,
) -> ApiResult<Json<VmView>> {
    let order = Order { controller: &controller, user: caller.user() };
    order.set_template(&key, wanted.template).await?;
    one(&controller, &key).await
}

/// Makes a VM from another one, which is off: under the same keys, under new ones, encrypted or decrypted on the way.
#[utoipa::path(post, path = "/vms/{vm}/clone", tag = "vm", request_body = CloneVm,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn clone(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    Body(new): Body<CloneVm>,
) -> ApiResult<Json<TaskView>> {
    let wish = CloneWish {
        keys: new.keys,
        key: KeyWish { provider: new.provider, key_id: new.key_id },
        crypto: new.crypto,
        tpm: new.tpm.is_some(),
    };
    let order = Order { controller: &controller, user: caller.user() };
    let info = order.clone_vm(&key, &new.name, new.datastore.as_deref(), &wish).await?;
    Ok(task_view(&controller, info))
}
