//! What changes the encryption of VMs.

use axum::extract::{Json, Path, State};
use ward_types::{CryptoRequest, KeyWish, Problem, TaskKind};

use super::auth::Caller;
use super::edge::{ApiResult, Body, OptionalBody};
use super::types::{Components, Decrypt, Encrypt, Recrypt, SetPolicy, TaskView};
use super::vms::task_view;
use crate::controller::Shared;
use crate::plan::{Selection, Verb};
use crate::tasks::submit::Order;

async fn whole(
    controller: &Shared,
    caller: &Caller,
    (key, kind): (&str, TaskKind),
    components: Components,
    verb: Verb,
) -> ApiResult<Json<TaskView>> {
    let selection = Selection { home: components.home, disks: components.disks };
    let order = Order { controller, user: caller.user() };
    let info = order.crypt_whole(key, kind, &selection, verb).await?;
    Ok(task_view(controller, info))
}

/// Encrypts a VM: its home and all its disks, or those parts that are named.
#[utoipa::path(post, path = "/vms/{vm}/encrypt", tag = "vm", request_body = Encrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn encrypt(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    Body(how): Body<Encrypt>,
) -> ApiResult<Json<TaskView>> {
    let verb = Verb::Encrypt(KeyWish { provider: how.provider, key_id: how.key_id });
    whole(&controller, &caller, (&key, TaskKind::VmEncrypt), how.components, verb).await
}

/// Decrypts a VM: its disks, then its home; or those parts that are named.
#[utoipa::path(post, path = "/vms/{vm}/decrypt", tag = "vm", request_body = Decrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn decrypt(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    OptionalBody(how): OptionalBody<Decrypt>,
) -> ApiResult<Json<TaskView>> {
    whole(&controller, &caller, (&key, TaskKind::VmDecrypt), how.components, Verb::Decrypt).await
}

/// Gives a VM new keys. A shallow recrypt puts a new KEK in the place of the old one, while the VM runs if it does: the
/// data and their DEK stay, and whoever has an old copy of a header and the old KEK can still read them. A deep one makes
/// new DEKs and writes everything anew; the VM must be off.
#[utoipa::path(post, path = "/vms/{vm}/recrypt", tag = "vm", request_body = Recrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn recrypt(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    OptionalBody(how): OptionalBody<Recrypt>,
) -> ApiResult<Json<TaskView>> {
    let verb = Verb::Recrypt { deep: how.deep, key: KeyWish { provider: how.provider, key_id: how.key_id } };
    whole(&controller, &caller, (&key, TaskKind::VmRecrypt), how.components, verb).await
}

/// Does what is asked of each component of a VM, all in one task.
#[utoipa::path(post, path = "/vms/{vm}/crypto", tag = "vm", request_body = CryptoRequest,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn crypto(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    Body(request): Body<CryptoRequest>,
) -> ApiResult<Json<TaskView>> {
    let order = Order { controller: &controller, user: caller.user() };
    let info = order.crypt(&key, &request).await?;
    Ok(task_view(&controller, info))
}

/// Puts parts of a VM under storage policies, and encrypts and decrypts them as these want.
#[utoipa::path(post, path = "/vms/{vm}/policy", tag = "vm", request_body = SetPolicy,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn set_policy(
    State(controller): State<Shared>,
    caller: Caller,
    Path(key): Path<String>,
    Body(wanted): Body<SetPolicy>,
) -> ApiResult<Json<TaskView>> {
    let order = Order { controller: &controller, user: caller.user() };
    let info = order.set_policy(&key, &wanted).await?;
    Ok(task_view(&controller, info))
}
