//! Which VMs are in the inventory, and as what.

use axum::extract::{Json, State};
use ward_types::{CryptoSpec, KeyWish, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, not_found};
use super::tasks::task_view;
use super::types::{CloneKeys, CloneVm, Register, SetTemplate, TaskView, VmView};
use super::vm_crypto::note;
use super::vms::one;
use crate::authz::operations::{self, SetTemplate as MaySetTemplate, UnlockVm, UnregisterVm};
use crate::authz::{Granted, Note, Sight, grant, grant_named, named};
use crate::controller::Shared;
use crate::plan::CloneWish;
use crate::register;
use crate::store::cluster::{self, DatastoreRow};
use crate::store::vm::VmRow;
use crate::tasks::may::MayCrypt;
use crate::tasks::submit::Order;

/// Takes a VM into the inventory from its home. Where a key that it needs is not to be had, it is locked.
#[utoipa::path(post, path = "/vms/register", tag = "vm", request_body = Register,
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn register(
    State(controller): State<Shared>,
    caller: Caller,
    Body(home): Body<Register>,
) -> ApiResult<Json<VmView>> {
    let note = format!("register the VM in `{}`", home.directory);
    let granted = grant_named(&controller, &caller, &home.datastore, note.into()).await?;
    one(&controller, register::register(&controller, &granted, &home.directory).await?).await
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
    register::unlock(&controller, &granted).await?;
    one(&controller, granted.on().id).await
}

/// Makes a VM a template, which is never started, or a template a VM.
#[utoipa::path(post, path = "/vms/{vm}/template", tag = "vm", request_body = SetTemplate,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = VmView), (status = "4XX", body = Problem)))]
pub(super) async fn template(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(wanted): Body<SetTemplate>,
) -> ApiResult<Json<VmView>> {
    let granted: Granted<MaySetTemplate> = grant_named(&controller, &caller, keys.first(), Note::default()).await?;
    Order { controller: &controller }.set_template(&granted, wanted.template).await?;
    one(&controller, granted.on().id).await
}

/// Makes a VM from another one, which is off: under the same keys, under new ones, encrypted or decrypted on the way.
#[utoipa::path(post, path = "/vms/{vm}/clone", tag = "vm", request_body = CloneVm,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn clone(
    State(controller): State<Shared>,
    sight: Sight,
    keys: Keys,
    Body(new): Body<CloneVm>,
) -> ApiResult<Json<TaskView>> {
    let caller = sight.caller();
    let vm: VmRow = named(&controller, keys.first()).await?;
    let said = format!("clone it as VM `{}`", new.name);
    let source: Granted<operations::CloneVm> = grant(&controller, caller, vm.clone(), said.clone().into()).await?;
    let target = target(&controller, &sight, &vm, new.datastore.as_deref()).await?;
    let target: Granted<operations::CreateVm> = grant(&controller, caller, target, said.into()).await?;
    let key = KeyWish { provider: new.provider, key_id: new.key_id };
    let of_all = match new.keys {
        CloneKeys::Same => CryptoSpec::NoOp,
        CloneKeys::NewKek => CryptoSpec::ShallowRecrypt(key.clone()),
        CloneKeys::New => CryptoSpec::DeepRecrypt(key.clone()),
    };
    let specs: Vec<_> = new.crypto.specs().map(|(_, spec)| spec).chain([&of_all]).collect();
    let notes: Vec<_> = specs.iter().map(|spec| note(spec)).filter(|note| !note.is_empty()).collect();
    let may = MayCrypt::of(&controller, caller, &vm, &specs, &notes.join(", ")).await?;
    let wish = CloneWish { keys: new.keys, key, crypto: new.crypto, tpm: new.tpm.is_some() };
    let info = Order { controller: &controller }.clone_vm((source, target), &may, &new.name, &wish).await?;
    Ok(task_view(&controller, info))
}

/// The datastore for a clone: the one named, or that of the VM itself.
async fn target(controller: &Shared, sight: &Sight, vm: &VmRow, key: Option<&str>) -> Result<DatastoreRow, Problem> {
    let rows = cluster::datastores(&mut *controller.store.read().await?).await?;
    let is_meant = |row: &DatastoreRow| match key {
        None => row.id == vm.datastore,
        Some(key) => sight.sees(row) && (row.name.as_str() == key || row.id.to_string() == key),
    };
    rows.into_iter().find(is_meant).ok_or_else(|| not_found("datastore", key.unwrap_or_default()))
}
