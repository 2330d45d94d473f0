//! Trusted key providers: imported from a signed description, looked at, put right.

use axum::extract::{Json, State};
use jiff::Timestamp;
use ward_types::{ClusterId, Code, EventKind, EventSubject, Privilege, Problem, ProviderKind, ProviderName};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys};
use super::page::{Listed, Page};
use super::providers::exists;
use super::types::{
    AddTrusted, DescribeTrusted, Light, PageQuery, ProviderView, TrustServiceView, TrustState, TrustedHostView,
};
use crate::authz::operations::{AddTrustedProvider, DescribeProvider, RemediateTrust};
use crate::authz::{Granted, Root, Sight, grant, grant_named};
use crate::controller::{Controller, Shared};
use crate::hosts::{Link, Reach};
use crate::store::event;
use crate::store::host;
use crate::store::provider::{self, ProviderRow};
use crate::store::trusted::{self as store, TrustedRow};
use crate::tasks::submit::cluster_named;
use crate::trusted::{self, ServiceKind, ServiceState};

/// How a trusted provider stands: whether instances of both services answer.
pub(super) fn light(controller: &Controller, name: &ProviderName) -> Light {
    let (states, now) = (controller.trusted.all(), Timestamp::now());
    let of = |kind| {
        let states: Vec<_> = states.iter().filter(|state| state.provider == *name && state.kind == kind).collect();
        match states.iter().filter(|state| state.lack(now).is_none()).count() {
            _ if states.is_empty() => Light::Unknown,
            0 => Light::Red,
            up if up < states.len() => Light::Yellow,
            _ => Light::Green,
        }
    };
    match (of(ServiceKind::Attestation), of(ServiceKind::KeyProvider)) {
        (Light::Unknown, _) | (_, Light::Unknown) => Light::Unknown,
        (one, other) => one.max(other),
    }
}

/// Adds a trusted key provider, from the signed description of its trust authority's services. The hosts of its clusters
/// are told of it, and have themselves attested.
#[utoipa::path(post, path = "/trusted-providers", tag = "trust", request_body = AddTrusted,
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddTrusted>,
) -> ApiResult<Json<ProviderView>> {
    let what = format!("cannot add key provider `{}`", new.name);
    let note = format!("add trusted key provider `{}`", new.name);
    let granted: Granted<AddTrustedProvider> = grant(&controller, &caller, Root, note.into()).await?;
    trusted::open(&what, &new.name, &new.description)?;
    let mut clusters: Vec<ClusterId> = Vec::new();
    for name in &new.clusters {
        clusters.push(cluster_named(&controller, &what, Some(name.as_str())).await?.id);
    }
    clusters.sort();
    clusters.dedup();
    let user = Some(granted.user().clone());
    let subject = EventSubject { provider: Some(new.name.clone()), user, ..EventSubject::default() };
    let mut tx = controller.store.write().await?;
    let first = provider::list(&mut tx).await?.is_empty();
    let is_default = new.default || first;
    let row = ProviderRow { is_default, ..ProviderRow::new(new.name.clone(), ProviderKind::Trusted) };
    match provider::add(&mut tx, &row).await {
        Err(error) if error.is_conflict() => return Err(exists(what).into()),
        added => added?,
    }
    store::add(&mut tx, &TrustedRow { name: new.name, description: new.description, clusters }).await?;
    let message = format!("trusted key provider `{}` added", row.name);
    event::record(&mut tx, EventKind::ProviderAdded, &subject, &message).await?;
    if row.is_default {
        provider::set_default(&mut tx, &row.name).await?;
        let message = format!("key provider `{}` is the default one", row.name);
        event::record(&mut tx, EventKind::ProviderDefault, &subject, &message).await?;
    }
    tx.commit().await?;
    tell_all(&controller);
    Ok(Json(super::providers::view(&controller, &row).await?))
}

/// Imports a newer description of a trusted provider's trust authority, and tells the hosts.
#[utoipa::path(put, path = "/trusted-providers/{provider}/description", tag = "trust", request_body = DescribeTrusted,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn describe(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(new): Body<DescribeTrusted>,
) -> ApiResult<Json<ProviderView>> {
    let note = "a newer description of its trust authority".to_owned();
    let granted: Granted<DescribeProvider> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let row = granted.on();
    let what = format!("cannot import the description of key provider `{}`", row.name);
    let mut tx = controller.store.write().await?;
    let Some(old) = store::get(&mut tx, &row.name).await? else {
        let why = format!("it is a {} provider", row.kind);
        return Err(Problem::new(Code::RequestInvalid, what, why, "name a trusted provider").into());
    };
    let (signed, services) = trusted::open(&what, &row.name, &new.description)?;
    trusted::newer(&what, &row.name, &old.description, (&signed, &services))?;
    store::set_description(&mut tx, &row.name, &new.description).await?;
    let user = Some(granted.user().clone());
    let subject = EventSubject { provider: Some(row.name.clone()), user, ..EventSubject::default() };
    trusted::note_import(&mut tx, &subject, &row.name).await?;
    tx.commit().await?;
    tell_all(&controller);
    Ok(Json(super::providers::view(&controller, row).await?))
}

/// The supervisors see what each host is to be told.
fn tell_all(controller: &Controller) {
    controller.links.all().iter().for_each(|link| link.poke.notify_one());
}

/// Lists how hosts stand with the trust authorities of trusted providers: what each is to go by and goes by, and whether it
/// is attested.
#[utoipa::path(get, path = "/trust/hosts", tag = "trust", params(PageQuery),
    responses((status = 200, body = [TrustedHostView]), (status = "4XX", body = Problem)))]
pub(super) async fn hosts(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
) -> ApiResult<Listed<TrustedHostView>> {
    let mut db = controller.store.read().await?;
    let rows = store::list(&mut db).await?;
    let mut hosts = host::list(&mut db).await?;
    drop(db);
    hosts.retain(|row| sight.may(Privilege::TrustRead, row));
    let links = hosts.iter().filter_map(|row| controller.links.get(row.id));
    let views = links.flat_map(|link| of_host(&rows, &link)).collect();
    Ok(page.cut(views, |view: &TrustedHostView| format!("{} {}", view.host, view.provider)))
}

fn of_host(rows: &[TrustedRow], link: &Link) -> Vec<TrustedHostView> {
    let snapshot = link.snapshot();
    let status = snapshot.status.as_ref().map_or_else(Vec::new, |status| status.trust.clone());
    let now = Timestamp::now();
    let desired = trusted::desired(rows, link.cluster);
    let mut names: Vec<_> = desired.keys().chain(status.iter().map(|trust| &trust.provider)).cloned().collect();
    names.sort();
    names.dedup();
    let view = |provider: ProviderName| {
        let trust = status.iter().find(|trust| trust.provider == provider);
        let (desired, applied) = (desired.get(&provider).cloned(), trust.map(|trust| trust.applied.clone()));
        let lack = trust.and_then(|trust| trust.lack(now));
        let state = match (snapshot.reach, desired == applied, &lack) {
            (Reach::Unknown | Reach::Down, ..) => TrustState::Away,
            (Reach::Up, false, _) => TrustState::Differs,
            (Reach::Up, true, Some(_)) => TrustState::NotAttested,
            (Reach::Up, true, None) => TrustState::Healthy,
        };
        let looked = trust.and_then(|trust| trust.looked);
        TrustedHostView {
            host: link.name.clone(),
            provider,
            state,
            desired,
            applied,
            attested: trust.and_then(|trust| trust.attested),
            expires: trust.and_then(|trust| trust.holds_until(now)),
            age_seconds: looked.map(|at| age(at, now)),
            trouble: lack,
        }
    };
    names.into_iter().map(view).collect()
}

/// In seconds; clocks may differ.
fn age(at: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0)
}

/// Lists the instances of the trust authorities' services, and whether they answer.
#[utoipa::path(get, path = "/trust/services", tag = "trust", params(PageQuery),
    responses((status = 200, body = [TrustServiceView]), (status = "4XX", body = Problem)))]
pub(super) async fn services(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
) -> ApiResult<Listed<TrustServiceView>> {
    let mut rows = provider::list(&mut *controller.store.read().await?).await?;
    rows.retain(|row| sight.may(Privilege::TrustRead, row));
    let mut states = controller.trusted.all();
    states.retain(|state| rows.iter().any(|row| row.name == state.provider));
    let views = states.iter().map(|state| of_service(state, &states)).collect();
    Ok(page.cut(views, |view: &TrustServiceView| format!("{} {} {}", view.provider, view.service, view.address)))
}

fn of_service(state: &ServiceState, all: &[ServiceState]) -> TrustServiceView {
    let applied = |state: &ServiceState| state.health.as_ref().and_then(|health| health.configuration.clone());
    // All instances of both services go by one configuration: the newest that the trust administrators have signed.
    let known = all.iter().filter(|other| other.provider == state.provider).filter_map(applied);
    let desired = known.max_by_key(|configuration| configuration.serial).map(|configuration| configuration.digest);
    let applied = applied(state).map(|configuration| configuration.digest);
    let now = Timestamp::now();
    let lack = state.lack(now);
    TrustServiceView {
        provider: state.provider.clone(),
        service: match state.kind {
            ServiceKind::Attestation => "attestation",
            ServiceKind::KeyProvider => "key-provider",
        }
        .to_owned(),
        address: state.address.clone(),
        state: match (&lack, &desired) {
            (Some(_), _) => TrustState::Away,
            (None, None) => TrustState::NotSigned,
            (None, _) if applied != desired => TrustState::Differs,
            (None, Some(_)) => TrustState::Healthy,
        },
        version: state.health.as_ref().map(|health| health.version.clone()),
        desired,
        applied,
        answered: state.answered,
        age_seconds: age(state.looked, now),
        expires: state.expires(),
        trouble: lack,
    }
}

/// Tells a host anew what it is to go by, and has it attested at once, whatever it holds.
#[utoipa::path(post, path = "/hosts/{host}/remediate", tag = "trust",
    params(("host" = String, Path, description = "name or ID")),
    responses((status = 200, body = [TrustedHostView]), (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn remediate(
    State(controller): State<Shared>,
    granted: Granted<RemediateTrust>,
) -> ApiResult<Json<Vec<TrustedHostView>>> {
    let row = granted.on();
    let link = controller.links.get(row.id).ok_or_else(|| {
        let what = format!("cannot have host `{}` attested", row.name);
        Problem::new(Code::HostUnreachable, what, "the host does not answer", "check that its agent runs")
    })?;
    trusted::bring_up_to_date(&controller, &link, true).await?;
    let rows = store::list(&mut *controller.store.read().await?).await?;
    Ok(Json(of_host(&rows, &link)))
}
