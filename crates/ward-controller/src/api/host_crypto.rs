//! Host encryption mode, host keys, key persistence, dumps.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body as HttpBody;
use axum::extract::{Json, State};
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use ward_rpc::api::host::{self as rpc, HostStatus, Status, SupportBundle};
use ward_types::{Code, DumpInfo, EventKind, EventSubject, HostCrypto, Name, Power, Problem};

use super::auth::Caller;
use super::dumps::readable;
use super::edge::{ApiResult, Body, Keys};
use super::hosts::one;
use super::types::{HostView, MakeBundle, SetClusterPersistence, SetEncryption, SetHostPersistence};
use crate::authz::operations::{
    self, BundleHost, ChangeHostKey, DisableHost, EnableHost, SetHostPersistence as MayPersist,
};
use crate::authz::{Granted, Note, Target as _, grant_named};
use crate::controller::{Controller, Shared};
use crate::hosts::{self, Link, Rekey};
use crate::plan::ModeChange;
use crate::store::host::HostRow;
use crate::store::{event, host_crypto, task, vm};

/// How long a guest's memory may take to be dumped.
const DUMP_TIMEOUT: Duration = Duration::from_secs(1800);

fn link(controller: &Controller, what: &str, row: &HostRow) -> Result<Arc<Link>, Problem> {
    controller.links.get(row.id).ok_or_else(|| {
        let why = format!("the controller does not look after host `{}` just now", row.name);
        Problem::new(Code::HostUnreachable, what, why, "try again in a moment")
    })
}

/// How the host is, if it answers.
async fn status(link: &Link, what: &str) -> Result<HostStatus, Problem> {
    link.call(Status::default()).await.map_err(|error| error.into_problem(what))
}

fn about(row: &HostRow, user: &Name) -> EventSubject {
    EventSubject { host: Some(row.id), user: Some(user.clone()), ..EventSubject::default() }
}

/// Switches a host's encryption mode on, so that it may have keys: it gets a host key; or off: it gets no more keys, and has
/// none once its agent has started anew.
#[utoipa::path(put, path = "/hosts/{host}/encryption", tag = "host", request_body = SetEncryption,
    params(("host" = String, Path, description = "name or ID")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn set_encryption(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(SetEncryption { on }): Body<SetEncryption>,
) -> ApiResult<Json<HostView>> {
    let host = if on {
        let granted: Granted<EnableHost> = grant_named(&controller, &caller, keys.first(), Note::default()).await?;
        enable(&controller, &granted).await?;
        granted.on().id
    } else {
        let granted: Granted<DisableHost> = grant_named(&controller, &caller, keys.first(), Note::default()).await?;
        disable(&controller, &granted).await?;
        granted.on().id
    };
    one(&controller, host).await
}

async fn enable(controller: &Shared, granted: &Granted<EnableHost>) -> Result<(), Problem> {
    let row = granted.on();
    let what = format!("cannot switch on the encryption mode of host `{}`", row.name);
    let (link, subject) = (link(controller, &what, row)?, about(row, granted.user()));
    status(&link, &what).await?;
    let mut tx = controller.store.write().await?;
    if !matches!(host_crypto::get(&mut tx, row.id).await?, HostCrypto::Safe { .. }) {
        let change = ModeChange::Prepare { attempt: uuid::Uuid::new_v4() };
        let new = hosts::change(&mut tx, &what, &link, change, &subject).await?;
        tx.commit().await?;
        link.set_crypto(new);
    }
    hosts::make_safe(controller, &what, &subject, &link).await
}

async fn disable(controller: &Shared, granted: &Granted<DisableHost>) -> Result<(), Problem> {
    let row = granted.on();
    let what = format!("cannot switch off the encryption mode of host `{}`", row.name);
    let (link, subject) = (link(controller, &what, row)?, about(row, granted.user()));
    let boot = status(&link, &what).await?.boot;
    let mut tx = controller.store.write().await?;
    let rows = vm::list(&mut tx).await?;
    let runs = rows.iter().filter(|vm| vm.power == Power::On && vm.host == Some(row.id) && !vm.keys().is_empty());
    let mut vms: Vec<_> = runs.map(|vm| vm.name.clone()).collect();
    let tasks = task::open(&mut tx).await?;
    vms.extend(tasks.iter().filter(|task| task.work.host() == Some(row.id)).map(|task| task.info.vm_name.clone()));
    vms.sort();
    vms.dedup();
    let new = hosts::change(&mut tx, &what, &link, ModeChange::Disable { boot, vms: &vms }, &subject).await?;
    tx.commit().await?;
    link.set_crypto(new);
    link.poke.notify_one();
    Ok(())
}

/// Gives a host a new host key. Its dumps go under it as far as the old one is there; the old one stays known.
#[utoipa::path(post, path = "/hosts/{host}/encryption/rekey", tag = "host",
    params(("host" = String, Path, description = "name or ID")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn rekey(
    State(controller): State<Shared>,
    granted: Granted<ChangeHostKey>,
) -> ApiResult<Json<HostView>> {
    let row = granted.on();
    let what = format!("cannot change the host key of host `{}`", row.name);
    let link = link(&controller, &what, row)?;
    hosts::rekey(&controller, &what, &about(row, granted.user()), &link, Rekey::Asked).await?;
    one(&controller, row.id).await
}

/// Says whether a host keeps its keys over a restart, sealed to its TPM.
#[utoipa::path(put, path = "/hosts/{host}/key-persistence", tag = "host", request_body = SetHostPersistence,
    params(("host" = String, Path, description = "name or ID")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn set_host_persistence(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(SetHostPersistence { on }): Body<SetHostPersistence>,
) -> ApiResult<Json<HostView>> {
    let how = match on {
        Some(true) => "on",
        Some(false) => "off",
        None => "as its cluster",
    };
    let granted: Granted<MayPersist> = grant_named(&controller, &caller, keys.first(), how.to_owned().into()).await?;
    let row = granted.on();
    let what = format!("cannot set the key persistence of host `{}`", row.name);
    let link = link(&controller, &what, row)?;
    if on == Some(true) && !status(&link, &what).await?.native.tpm {
        let why = format!("host `{}` has no TPM 2.0 to seal keys to", row.name);
        let remedy = format!("run the agent of `{}` with `--tpm`, if the machine has one", row.name);
        return Err(Problem::new(Code::HostUnfit, what, why, remedy).into());
    }
    let mut tx = controller.store.write().await?;
    host_crypto::set_persistence(&mut tx, row.id, on).await?;
    let message = format!("key persistence of host `{}` is {how}", row.name);
    event::record(&mut tx, EventKind::HostKeyPersistence, &about(row, granted.user()), &message).await?;
    tx.commit().await?;
    link.poke.notify_one();
    one(&controller, row.id).await
}

/// Says whether the hosts of a cluster that have a TPM keep their keys over a restart, unless something else is said of them.
#[utoipa::path(put, path = "/clusters/{cluster}/key-persistence", tag = "cluster", request_body = SetClusterPersistence,
    params(("cluster" = String, Path, description = "name or ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn set_cluster_persistence(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(SetClusterPersistence { on }): Body<SetClusterPersistence>,
) -> ApiResult<Json<()>> {
    let how = if on { "on" } else { "off" };
    let granted: Granted<operations::SetClusterPersistence> =
        grant_named(&controller, &caller, keys.first(), how.to_owned().into()).await?;
    let row = granted.on();
    let mut tx = controller.store.write().await?;
    host_crypto::set_cluster_persistence(&mut tx, row.id, on).await?;
    let subject = EventSubject { user: Some(granted.user().clone()), ..EventSubject::default() };
    let message = format!("key persistence of the hosts of cluster `{}` that have a TPM is {how}", row.name);
    event::record(&mut tx, EventKind::HostKeyPersistence, &subject, &message).await?;
    tx.commit().await?;
    controller.links.of_cluster(row.id).iter().for_each(|link| link.poke.notify_one());
    Ok(Json(()))
}

/// Makes a support bundle of a host: a tar archive of its state, its logs and its dumps, these under the password. See
/// `docs/dump-format.md`.
#[utoipa::path(post, path = "/hosts/{host}/support-bundle", tag = "host", request_body = MakeBundle,
    params(("host" = String, Path, description = "name or ID")),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-tar"), (status = "4XX", body = Problem)))]
pub(super) async fn bundle(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(MakeBundle { password }): Body<MakeBundle>,
) -> ApiResult<Response> {
    let how = if password.is_some() { "dumps under a password" } else { "dumps under the host key" };
    let granted: Granted<BundleHost> = grant_named(&controller, &caller, keys.first(), how.to_owned().into()).await?;
    let row = granted.on();
    let what = format!("cannot make a support bundle of host `{}`", row.name);
    if password.as_deref() == Some("") {
        let remedy = "give one, or none at all: then dumps stay under the host key";
        return Err(Problem::new(Code::RequestInvalid, what, "the password is empty", remedy).into());
    }
    let link = link(&controller, &what, row)?;
    let dumps = match password {
        Some(_) => {
            let status = link.snapshot().status;
            let dumps = status.map_or_else(Vec::new, |status| status.crypto.dumps.clone());
            Some(readable(&controller, &caller, row.cluster, &dumps).await?)
        }
        None => None,
    };
    let asked = link.support_bundle(&SupportBundle { password, dumps }).await;
    let answer = asked.map_err(|error| error.into_problem(&what))?;
    let message = format!("a support bundle of host `{}` was made, {how}", row.name);
    controller.record(EventKind::HostSupportBundle, &about(row, granted.user()), &message).await;
    let mut response = Response::new(HttpBody::from_stream(answer.bytes_stream()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(response)
}

/// Dumps the memory of a VM's guest, which waits meanwhile. The dump stays on its host, encrypted under the host key.
#[utoipa::path(post, path = "/vms/{vm}/dump", tag = "vm", params(("vm" = String, Path, description = "name or ID")),
    responses((status = 200, body = DumpInfo), (status = "4XX", body = Problem)))]
pub(super) async fn dump_vm(
    State(controller): State<Shared>,
    granted: Granted<operations::DumpVm>,
) -> ApiResult<Json<DumpInfo>> {
    let row = granted.on();
    let what = format!("cannot dump VM `{}`", row.name);
    let link = row.host.filter(|_| row.power == Power::On).and_then(|host| controller.links.get(host));
    let link = link.ok_or_else(|| {
        Problem::new(Code::VmNotRunning, &what, "it does not run", format!("start it: `ward vm start {}`", row.name))
    })?;
    let dumped = link.call_within(rpc::DumpVm { vm: row.id }, DUMP_TIMEOUT).await;
    let dump = dumped.map_err(|error| Problem { what: what.clone(), ..error.into_problem(&what) })?;
    link.poke.notify_one();
    Ok(Json(dump))
}
