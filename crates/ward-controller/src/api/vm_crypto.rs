//! What changes the encryption of VMs.

use axum::extract::{Json, State};
use ward_types::{CryptoRequest, KeyWish, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys};
use super::tasks::task_view;
use super::types::{Decrypt, Encrypt, Recrypt, SetPolicy, TaskView};
use crate::authz::operations::{DecryptVm, EncryptVm, ReadVm, RecryptVm, SetVmPolicy};
use crate::authz::{Granted, Note, grant, grant_named, named};
use crate::controller::Shared;
use crate::plan::{Selection, Verb};
use crate::tasks::may::{MayCrypt, key, parts};
use crate::tasks::submit::Order;

/// Encrypts a VM: its home and all its disks, or those parts that are named.
#[utoipa::path(post, path = "/vms/{vm}/encrypt", tag = "vm", request_body = Encrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn encrypt(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(Encrypt { provider, key_id, home, disks }): Body<Encrypt>,
) -> ApiResult<Json<TaskView>> {
    let wish = KeyWish { provider, key_id };
    let note = format!("{}: {}", parts(home, &disks), key(&wish));
    let granted: Granted<EncryptVm> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let order = Order { controller: &controller };
    let info = order.crypt_whole(&granted.into(), &Selection { home, disks }, Verb::Encrypt(wish)).await?;
    Ok(task_view(&controller, info))
}

/// Decrypts a VM: its disks, then its home; or those parts that are named.
#[utoipa::path(post, path = "/vms/{vm}/decrypt", tag = "vm", request_body = Decrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn decrypt(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(Decrypt { home, disks }): Body<Decrypt>,
) -> ApiResult<Json<TaskView>> {
    let note = parts(home, &disks);
    let granted: Granted<DecryptVm> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let order = Order { controller: &controller };
    let info = order.crypt_whole(&granted.into(), &Selection { home, disks }, Verb::Decrypt).await?;
    Ok(task_view(&controller, info))
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
    keys: Keys,
    Body(Recrypt { deep, provider, key_id, home, disks }): Body<Recrypt>,
) -> ApiResult<Json<TaskView>> {
    let wish = KeyWish { provider, key_id };
    let note = format!("{}: {}{}", parts(home, &disks), if deep { "deep, " } else { "" }, key(&wish));
    let granted: Granted<RecryptVm> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let order = Order { controller: &controller };
    let verb = Verb::Recrypt { deep, key: wish };
    let info = order.crypt_whole(&granted.into(), &Selection { home, disks }, verb).await?;
    Ok(task_view(&controller, info))
}

/// Does what is asked of each component of a VM, all in one task. It takes the privilege for each kind of thing asked.
#[utoipa::path(post, path = "/vms/{vm}/crypto", tag = "vm", request_body = CryptoRequest,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn crypto(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(request): Body<CryptoRequest>,
) -> ApiResult<Json<TaskView>> {
    let vm = named(&controller, keys.first()).await?;
    let may = MayCrypt::ask(&controller, &caller, vm, &request, &[]).await?;
    if may.is_nothing() {
        // What is wrong with the request is told to those who may see the VM.
        let _: Granted<ReadVm> = grant(&controller, &caller, may.vm().clone(), Note::default()).await?;
    }
    let info = Order { controller: &controller }.crypt(&may, &request).await?;
    Ok(task_view(&controller, info))
}

/// Puts parts of a VM under storage policies, and encrypts and decrypts them as these want, which takes the privileges
/// for that too. Where the keys of what is encrypted are replaced at another age then, it takes the privilege to recrypt.
#[utoipa::path(post, path = "/vms/{vm}/policy", tag = "vm", request_body = SetPolicy,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn set_policy(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(wanted): Body<SetPolicy>,
) -> ApiResult<Json<TaskView>> {
    let granted: Granted<SetVmPolicy> = grant_named(&controller, &caller, keys.first(), note(&wanted)).await?;
    let order = Order { controller: &controller };
    let (request, rotated) = order.policy_request(&granted, &wanted).await?;
    let may = MayCrypt::ask(&controller, &caller, granted.on().clone(), &request, &rotated).await?;
    let info = order.set_policy(granted, &may, &wanted).await?;
    Ok(task_view(&controller, info))
}

fn note(SetPolicy { home, all_disks, disks }: &SetPolicy) -> Note {
    let home = home.iter().map(|policy| format!("the VM home: {policy}"));
    let all = all_disks.iter().map(|policy| format!("all disks: {policy}"));
    let disks = disks.iter().map(|(disk, policy)| format!("{disk}: {policy}"));
    home.chain(all).chain(disks).collect::<Vec<_>>().join("; ").into()
}
