//! Which VMs are in the inventory, and as what.

use axum::extract::{Json, State};
use ward_types::{KeyWish, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys};
use super::tasks::task_view;
use super::types::{CloneVm, Register, SetTemplate, TaskView, VmView};
use super::vms::one;
use crate::authz::operations::{RegisterVm, SetTemplate as MaySetTemplate, UnlockVm, UnregisterVm};
use crate::authz::{Granted, grant_named, named};
use crate::controller::Shared;
use crate::plan::CloneWish;
use crate::register;
use crate::tasks::may::MayClone;
use crate::tasks::submit::Order;

/// Takes a VM into the inventory from its home on a datastore. Where a key that it needs is not to be had, it is locked.
#[utoipa::path(post, path = "/datastores/{datastore}/register", tag = "vm", request_body = Register,
    params(("datastore" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn register(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(Register { directory }): Body<Register>,
) -> ApiResult<Json<VmView>> {
    let note = format!("directory `{directory}`");
    let granted: Granted<RegisterVm> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let id = register::register(&controller, granted, &directory).await?;
    one(&controller, id).await
}

/// Takes a VM out of the inventory. Its home stays as it is.
#[utoipa::path(post, path = "/vms/{vm}/unregister", tag = "vm",
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn unregister(
    State(controller): State<Shared>,
    granted: Granted<UnregisterVm>,
) -> ApiResult<Json<()>> {
    Order { controller: &controller }.unregister(granted).await?;
    Ok(Json(()))
}

/// Tries again to get the keys of a VM that is locked.
#[utoipa::path(post, path = "/vms/{vm}/unlock", tag = "vm", params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn unlock(State(controller): State<Shared>, granted: Granted<UnlockVm>) -> ApiResult<Json<VmView>> {
    let id = granted.on().id;
    register::unlock(&controller, granted).await?;
    one(&controller, id).await
}

/// Makes a VM a template, which is never started, or a template a VM.
#[utoipa::path(post, path = "/vms/{vm}/template", tag = "vm", request_body = SetTemplate,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn template(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(SetTemplate { template }): Body<SetTemplate>,
) -> ApiResult<Json<VmView>> {
    let note = if template { "a template" } else { "no template" };
    let granted: Granted<MaySetTemplate> =
        grant_named(&controller, &caller, keys.first(), note.to_owned().into()).await?;
    let id = granted.on().id;
    Order { controller: &controller }.set_template(granted, template).await?;
    one(&controller, id).await
}

/// Makes a VM from another one, which is off: under the same keys, under new ones, encrypted or decrypted on the way.
#[utoipa::path(post, path = "/vms/{vm}/clone", tag = "vm", request_body = CloneVm,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn clone(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(new): Body<CloneVm>,
) -> ApiResult<Json<TaskView>> {
    let vm = named(&controller, keys.first()).await?;
    let wish = CloneWish {
        keys: new.keys,
        key: KeyWish { provider: new.provider, key_id: new.key_id },
        crypto: new.crypto,
        tpm: new.tpm,
    };
    let may = MayClone::ask(&controller, &caller, vm, (&new.name, new.datastore.as_deref()), &wish).await?;
    let info = Order { controller: &controller }.clone_vm(&may, &new.name, &wish).await?;
    Ok(task_view(&controller, info))
}
