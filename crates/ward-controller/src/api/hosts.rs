//! Hosts.

use std::collections::HashMap;

use axum::extract::{Json, State};
use ward_types::{HostCrypto, HostId, Name, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Params, not_found};
use super::page::{Listed, Page};
use super::types::{AddHost, HostState, HostToken, HostView, PageQuery, RemoveHost as HowToRemove};
use crate::authz::operations::{ReadHost, RemoveHost};
use crate::authz::{Granted, Sight, grant};
use crate::controller::{Controller, Shared};
use crate::hosts::{Reach, make_token};
use crate::store::cluster::{self, ClusterRow};
use crate::store::host::{self, HostRow};
use crate::store::host_crypto;
use crate::tasks::submit::cluster_named;

/// For how many minutes an enrolment token is good at most.
const MAX_MINUTES: u32 = 7 * 24 * 60;

pub(crate) fn view(
    controller: &Controller,
    row: HostRow,
    clusters: &[ClusterRow],
    modes: &HashMap<HostId, HostCrypto>,
) -> Option<HostView> {
    let crypto = modes.get(&row.id).cloned().unwrap_or_default();
    let cluster: Name = clusters.iter().find(|cluster| cluster.id == row.cluster)?.name.clone();
    let link = controller.links.get(row.id).map(|link| link.snapshot());
    let state = match link.as_ref().map(|link| link.reach) {
        None | Some(Reach::Unknown) => HostState::Unknown,
        Some(Reach::Up) => HostState::Connected,
        Some(Reach::Down) => HostState::Disconnected,
    };
    let status = link.as_ref().and_then(|link| link.status.as_deref());
    Some(HostView {
        id: row.id,
        name: row.name,
        cluster,
        address: link.as_ref().map_or(row.address, |link| link.address.clone()),
        state,
        last_seen: link.as_ref().and_then(|link| link.last_seen),
        version: status.map(|status| status.version.clone()),
        qemu: status.and_then(|status| status.qemu.clone()),
        kvm: status.is_some_and(|status| status.kvm),
        isolation: status.map(|status| status.isolation.clone()).unwrap_or_default(),
        key_count: link.as_ref().map_or(0, |link| link.held.len()),
        keys: link.as_ref().map_or_else(Vec::new, |link| {
            let mut keys: Vec<_> = link.held.iter().cloned().collect();
            keys.sort();
            keys
        }),
        vms: status.map_or_else(Vec::new, |status| status.vms.clone()),
        unfit: status.and_then(|status| status.unfit.clone()),
        native_keys: status.map_or_else(Vec::new, |status| status.native.keys.clone()),
        tpm: status.is_some_and(|status| status.native.tpm),
        tpm_trouble: status.and_then(|status| status.native.trouble.clone()),
        mode: crypto.mode(),
        host_key: crypto.key().cloned(),
        key_persistence: status.is_some_and(|status| status.crypto.persistent),
        dumps: status.map_or_else(Vec::new, |status| status.crypto.dumps.clone()),
        lost_dumps: status.map_or_else(Vec::new, |status| status.crypto.lost.clone()),
        core_handler: status.is_some_and(|status| status.crypto.core_handler),
        uefi: status.is_some_and(|status| status.parts.uefi),
        secure_boot: status.is_some_and(|status| status.parts.secure_boot),
        swtpm: status.is_some_and(|status| status.parts.swtpm),
    })
}

/// Lists hosts.
#[utoipa::path(get, path = "/hosts", tag = "host", params(PageQuery),
    responses((status = 200, body = [HostView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, sight: Sight, page: Page) -> ApiResult<Listed<HostView>> {
    Ok(page.cut(all(&controller, &sight).await?, |view: &HostView| view.name.to_string()))
}

/// All hosts that are to be shown.
pub(crate) async fn all(controller: &Controller, sight: &Sight) -> Result<Vec<HostView>, Problem> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let modes = host_crypto::list(&mut db).await?;
    let mut rows = host::list(&mut db).await?;
    rows.retain(|row| sight.sees(row));
    // Each may hold the same many keys: a list tells how many.
    let brief = |view: HostView| HostView { keys: Vec::new(), ..view };
    Ok(rows.into_iter().filter_map(|row| view(controller, row, &clusters, &modes).map(brief)).collect())
}

/// Shows a host.
#[utoipa::path(get, path = "/hosts/{host}", tag = "host", params(("host" = String, Path, description = "name or ID")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn show(State(controller): State<Shared>, granted: Granted<ReadHost>) -> ApiResult<Json<HostView>> {
    one(&controller, granted.on().id).await
}

/// One host, for those who may see it.
pub(super) async fn one(controller: &Controller, id: HostId) -> ApiResult<Json<HostView>> {
    let missing = || not_found("host", &id.to_string());
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let modes = host_crypto::list(&mut db).await?;
    let row = host::find(&mut db, &id.to_string()).await?.ok_or_else(missing)?;
    Ok(Json(view(controller, row, &clusters, &modes).ok_or_else(missing)?))
}

/// Removes a host. It loses its keys.
#[utoipa::path(delete, path = "/hosts/{host}", tag = "host",
    params(("host" = String, Path, description = "name or ID"), HowToRemove),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove(
    State(controller): State<Shared>,
    granted: Granted<RemoveHost>,
    Params(how): Params<HowToRemove>,
) -> ApiResult<Json<()>> {
    crate::hosts::remove(&controller, &granted, how.force).await?;
    Ok(Json(()))
}

/// Makes a token with which one host can join a cluster.
#[utoipa::path(post, path = "/hosts", tag = "host", request_body = AddHost,
    responses((status = 200, body = HostToken), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddHost>,
) -> ApiResult<Json<HostToken>> {
    let what = "cannot make an enrolment token";
    let cluster = cluster_named(&controller, what, new.cluster.as_deref()).await?;
    let minutes = new.minutes.unwrap_or(60).clamp(1, MAX_MINUTES);
    let note = format!("an enrolment token, good for {minutes} minutes");
    let granted = grant(&controller, &caller, cluster, note.into()).await?;
    let (token, expires) = make_token(&controller, &granted, minutes).await?;
    Ok(Json(HostToken { token: token.to_string(), expires }))
}
