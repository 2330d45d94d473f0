//! What changes the encryption of VMs.

use axum::extract::{Json, State};
use ward_types::{CryptoRequest, CryptoSpec, KeyWish, Power, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, OptionalBody};
use super::tasks::task_view;
use super::types::{Decrypt, Encrypt, Recrypt, SetPolicy, TaskView};
use crate::authz::operations::SetPolicyOfVm;
use crate::authz::{Granted, Note, grant, named};
use crate::controller::Shared;
use crate::plan::{self, Selection, Verb, VmFacts};
use crate::store::policy;
use crate::store::vm::VmRow;
use crate::tasks::may::MayCrypt;
use crate::tasks::submit::Order;

async fn whole(
    controller: &Shared,
    caller: &Caller,
    key: &str,
    selection: &Selection,
    verb: Verb,
) -> ApiResult<Json<TaskView>> {
    let vm: VmRow = named(controller, key).await?;
    let spec = verb.clone().spec();
    let may = MayCrypt::of(controller, caller, &vm, &[&spec], &note(&spec)).await?;
    let info = Order { controller }.crypt_whole(&may, &vm, verb.kind(), selection, verb).await?;
    Ok(task_view(controller, info))
}

/// With which key, for the audit log.
pub(super) fn note(spec: &CryptoSpec) -> String {
    let (CryptoSpec::Encrypt(wish) | CryptoSpec::ShallowRecrypt(wish) | CryptoSpec::DeepRecrypt(wish)) = spec else {
        return String::new();
    };
    let key = wish.key_id.as_ref().map_or_else(|| "a new key".to_owned(), |id| format!("key {id}"));
    let provider = wish.provider.as_ref().map_or_else(|| "the default provider".to_owned(), ToString::to_string);
    format!("{key} of {provider}")
}

/// Encrypts a VM: its home and all its disks, or those parts that are named.
#[utoipa::path(post, path = "/vms/{vm}/encrypt", tag = "vm", request_body = Encrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn encrypt(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(how): Body<Encrypt>,
) -> ApiResult<Json<TaskView>> {
    let verb = Verb::Encrypt(KeyWish { provider: how.provider, key_id: how.key_id });
    whole(&controller, &caller, keys.first(), &Selection { home: how.home, disks: how.disks }, verb).await
}

/// Decrypts a VM: its disks, then its home; or those parts that are named.
#[utoipa::path(post, path = "/vms/{vm}/decrypt", tag = "vm", request_body = Decrypt,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn decrypt(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    OptionalBody(how): OptionalBody<Decrypt>,
) -> ApiResult<Json<TaskView>> {
    let selection = Selection { home: how.home, disks: how.disks };
    whole(&controller, &caller, keys.first(), &selection, Verb::Decrypt).await
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
    OptionalBody(how): OptionalBody<Recrypt>,
) -> ApiResult<Json<TaskView>> {
    let verb = Verb::Recrypt { deep: how.deep, key: KeyWish { provider: how.provider, key_id: how.key_id } };
    whole(&controller, &caller, keys.first(), &Selection { home: how.home, disks: how.disks }, verb).await
}

/// Does what is asked of each component of a VM, all in one task.
#[utoipa::path(post, path = "/vms/{vm}/crypto", tag = "vm", request_body = CryptoRequest,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn crypto(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(request): Body<CryptoRequest>,
) -> ApiResult<Json<TaskView>> {
    let vm: VmRow = named(&controller, keys.first()).await?;
    let specs: Vec<_> = request.specs().map(|(_, spec)| spec).collect();
    let notes: Vec<_> = specs.iter().map(|spec| note(spec)).filter(|note| !note.is_empty()).collect();
    let may = MayCrypt::of(&controller, &caller, &vm, &specs, &notes.join(", ")).await?;
    let info = Order { controller: &controller }.crypt(&may, &vm, &request).await?;
    Ok(task_view(&controller, info))
}

/// Puts parts of a VM under storage policies, and encrypts and decrypts them as these want.
#[utoipa::path(post, path = "/vms/{vm}/policy", tag = "vm", request_body = SetPolicy,
    params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(super) async fn set_policy(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(wanted): Body<SetPolicy>,
) -> ApiResult<Json<TaskView>> {
    let vm: VmRow = named(&controller, keys.first()).await?;
    let names = wanted.home.iter().chain(&wanted.all_disks).chain(wanted.disks.values());
    let said: Vec<_> = names.map(ToString::to_string).collect();
    let note = Note::from(said.join(", "));
    let granted: Granted<SetPolicyOfVm> = grant(&controller, &caller, vm.clone(), note.clone()).await?;
    let rows = policy::list(&mut *controller.store.read().await?).await?;
    // Where that refuses, the order below does too, and says why.
    let request = plan::set_policy(facts(&vm), &wanted, &rows).map_or_else(|_| CryptoRequest::default(), |it| it.0);
    let specs: Vec<_> = request.specs().map(|(_, spec)| spec).collect();
    let may = MayCrypt::of(&controller, &caller, &vm, &specs, &note.detail).await?;
    let info = Order { controller: &controller }.set_policy(granted, &may, &wanted).await?;
    Ok(task_view(&controller, info))
}

/// What is known of a VM without asking anybody else.
fn facts(row: &VmRow) -> VmFacts<'_> {
    VmFacts {
        name: &row.name,
        config: row.config.as_ref(),
        power: Power::Off,
        host: None,
        busy: None,
        locked: row.locked.as_ref(),
        template: row.template,
    }
}
