//! Key providers.

use axum::extract::{Json, State};
use jiff::Timestamp;
use kmip::certificate::CertificateInfo;
use kmip::client::{ClientIdentity, ServerTrust};
use ward_secret::Zeroizing;
use ward_types::{Code, EventKind, EventSubject, Name, Problem, ProviderKind, ProviderName};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, Params};
use super::page::{Listed, Page};
use super::types::{
    AddProvider, CertificateView, KnownBy, Light, NativeState, NativeView, PageQuery, PendingView, ProviderView,
    RemoveProvider as HowToRemove, ServerView, SetClusterProvider, SetRotation,
};
use super::{native, trusted};
use crate::authz::operations::{self, ReadProvider, RemoveProvider, SetClusterDefault, SetDefaultProvider};
use crate::authz::{Granted, Root, Sight, grant, grant_named};
use crate::controller::{Controller, Shared};
use crate::keys::identity::{self, Brought};
use crate::keys::{self, Identity, KeyFault};
use crate::root;
use crate::store::needed::KeyOwner;
use crate::store::provider::{self, Access, ProviderRow, SealedIdentity, ServerRow};
use crate::store::{Tx, event, needed, recryption, task};

pub(super) async fn view(controller: &Controller, row: &ProviderRow) -> Result<ProviderView, Problem> {
    let access = &row.access;
    let looks = controller.health.get(&row.name);
    let summary = keys::summary(controller, row, &looks).await?;
    let mut db = controller.store.read().await?;
    let users = needed::of_provider(&mut db, &row.name).await?;
    let pending = provider::pending(&mut db, &row.name).await?;
    let rotate_days = recryption::rotations(&mut db).await?.get(&row.name).copied();
    let defaults = provider::defaults(&mut db).await?;
    drop(db);
    let native = native::view(controller, &row.name, &users).await?;
    let (mut vms, mut hosts) = (Vec::new(), Vec::new());
    for (owner, _) in users {
        match owner {
            KeyOwner::Vm(vm) => vms.push(vm),
            KeyOwner::Host(host) => hosts.push(host),
        }
    }
    vms.dedup();
    hosts.dedup();
    let standing = controller.key_servers.status(row);
    let server = |server: &ServerRow| {
        let look = looks.iter().find(|look| look.address == server.address);
        let standing = standing.iter().find(|standing| standing.address == server.address.to_string());
        let set_aside = standing.and_then(|standing| standing.set_aside_until);
        let answer = look.and_then(|look| look.answer.as_ref());
        ServerView {
            address: server.address.clone(),
            known: match (&server.pinned, &access.ca) {
                (Some(pinned), _) => KnownBy::Fingerprint { fingerprint: pinned.to_string() },
                (None, Some(_)) => KnownBy::Ca,
                (None, None) => KnownBy::Nothing,
            },
            status: keys::light_of(&looks, &server.address, Timestamp::now().as_second()),
            checked: look.map(|look| look.at),
            connection: look.map(|look| look.connection.clone()).unwrap_or_default(),
            server_trusted: look.map(|look| look.server_trusted.clone()).unwrap_or_default(),
            client_trusted: look.map(|look| look.client_trusted.clone()).unwrap_or_default(),
            certificate: look.and_then(|look| look.shown.first()).map(certificate),
            version: answer.map(|answer| answer.version.clone()),
            vendor: answer.and_then(|answer| answer.vendor.clone()),
            latency_ms: answer.map(|answer| answer.latency_ms),
            set_aside_until: set_aside.and_then(|time| Timestamp::try_from(time).ok()),
        }
    };
    Ok(ProviderView {
        name: row.name.clone(),
        kind: row.kind,
        status: match row.kind {
            ProviderKind::Trusted => trusted::light(controller, &row.name),
            _ => native.as_ref().map_or(summary.light, light_of_native),
        },
        servers: access.servers.iter().map(server).collect(),
        timeout_s: (row.kind == ProviderKind::Standard).then_some(access.timeout.as_secs()),
        ca: access.ca.iter().flat_map(|ca| identity::certificates(ca)).map(|info| certificate(&info)).collect(),
        certificate: summary.certificate.as_ref().map(certificate),
        certificate_pem: access.identity.as_ref().map(|identity| identity.certificate.clone()),
        pending: pending.map(|pending| PendingView {
            certificate: pending.certificate.as_deref().and_then(identity::certificate_info).as_ref().map(certificate),
            request: pending.request,
            pem: pending.certificate,
        }),
        default: row.is_default,
        default_of: defaults.into_iter().filter(|(.., of)| *of == row.name).map(|(_, cluster, _)| cluster).collect(),
        vms,
        hosts,
        keys_needed: summary.keys_needed,
        keys_unreachable: summary.keys_unreachable,
        rotate_days,
        native,
    })
}

/// What a certificate says, for people.
pub(crate) fn certificate(info: &CertificateInfo) -> CertificateView {
    let time = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    CertificateView {
        subject: info.subject.clone(),
        issuer: info.issuer.clone(),
        serial: info.serial.clone(),
        not_before: time(info.not_before),
        not_after: time(info.not_after),
        days_left: (info.not_after - Timestamp::now().as_second()).div_euclid(86_400),
        fingerprint: info.fingerprint.to_string(),
        names: info.names.clone(),
        purposes: info.purposes.clone(),
    }
}

const fn light_of_native(native: &NativeView) -> Light {
    match native.state {
        NativeState::NotBackedUp => Light::Red,
        NativeState::Warning => Light::Yellow,
        NativeState::Active => Light::Green,
    }
}

pub(super) fn about(user: &Name, name: &ProviderName) -> EventSubject {
    EventSubject { provider: Some(name.clone()), user: Some(user.clone()), ..EventSubject::default() }
}

/// A problem with a key server, told in the event log too.
pub(super) async fn reported(
    controller: &Controller,
    subject: &EventSubject,
    name: &ProviderName,
    problem: Problem,
) -> Problem {
    // Of what the user has given nothing is told that no server had a part in.
    match problem.code {
        Code::RequestInvalid | Code::Internal => problem,
        _ => keys::report(controller, subject, KeyFault::new(name, None, problem)).await,
    }
}

/// Lists key providers.
#[utoipa::path(get, path = "/providers", tag = "provider", params(PageQuery),
    responses((status = 200, body = [ProviderView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
) -> ApiResult<Listed<ProviderView>> {
    Ok(page.cut(all(&controller, &sight).await?, |view: &ProviderView| view.name.to_string()))
}

/// All key providers that may be seen.
pub(crate) async fn all(controller: &Controller, sight: &Sight) -> Result<Vec<ProviderView>, Problem> {
    let mut rows = provider::list(&mut *controller.store.read().await?).await?;
    rows.retain(|row| sight.sees(row));
    let mut views = Vec::new();
    for row in &rows {
        views.push(view(controller, row).await?);
    }
    Ok(views)
}

/// Shows a key provider, and looks at its servers.
#[utoipa::path(get, path = "/providers/{provider}", tag = "provider",
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    granted: Granted<ReadProvider>,
) -> ApiResult<Json<ProviderView>> {
    looked_at(&controller, granted.on()).await
}

/// A provider, just looked at.
pub(super) async fn looked_at(controller: &Controller, row: &ProviderRow) -> ApiResult<Json<ProviderView>> {
    if row.kind == ProviderKind::Standard {
        keys::look_again(controller, row).await?;
    }
    Ok(Json(view(controller, row).await?))
}

/// Adds a standard key provider. With a CA and a certificate of ours it is added only if that works: one of its servers
/// must answer, and none may be found not to be trusted, or not to trust us. Without, trust is set up afterwards.
#[utoipa::path(post, path = "/providers", tag = "provider", request_body = AddProvider,
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddProvider>,
) -> ApiResult<Json<ProviderView>> {
    let AddProvider { name, servers, timeout_s, ca, certificate, key, default } = new;
    let key = key.map(Zeroizing::new);
    let what = format!("cannot add key provider `{name}`");
    let listed = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let note = format!("add key provider `{name}` with key servers {listed}");
    let granted: Granted<operations::AddProvider> = grant(&controller, &caller, Root, note.into()).await?;
    let invalid = |why: String, remedy: &str| Problem::new(Code::RequestInvalid, what.clone(), why, remedy);
    if servers.is_empty() {
        return Err(invalid("it has no key server".into(), "name one with `--server HOST:PORT`, or several").into());
    }
    if let Some(twice) = servers.iter().enumerate().find(|(place, it)| servers[..*place].contains(it)) {
        return Err(invalid(format!("key server {} is named twice", twice.1), "name each once").into());
    }
    let mut row = ProviderRow::new(name, ProviderKind::Standard);
    row.access.servers = servers.into_iter().map(|address| ServerRow { address, pinned: None }).collect();
    if let Some(seconds) = timeout_s {
        if !(1..=600).contains(&seconds) {
            return Err(invalid(format!("{seconds} seconds is no time for an answer"), "give 1 to 600 seconds").into());
        }
        row.access.timeout = std::time::Duration::from_secs(seconds);
    }
    if let Some(ca) = &ca {
        check_ca(&what, ca)?;
    }
    row.access.ca = ca;
    let identity = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            ClientIdentity::from_pem(&certificate, &key)
                .map_err(|error| identity::unusable(&what, &Brought::WithKey, &error))?;
            Some(Identity { certificate, key: Zeroizing::new(key.as_bytes().to_vec()) })
        }
        (Some(_), None) => return Err(invalid("the certificate has no key".into(), "give `--key` too").into()),
        (None, Some(_)) => return Err(invalid("the key has no certificate".into(), "give `--cert` too").into()),
    };
    if provider::get(&mut *controller.store.read().await?, &row.name).await?.is_some() {
        return Err(exists(what).into());
    }
    let subject = about(granted.user(), &row.name);
    if row.access.ca.is_some() {
        let looks = keys::look(&row.name, &row.access, identity.as_ref()).await;
        let trusted = looks.iter().find_map(|look| look.server_trusted.problem());
        let judged = match (&identity, trusted) {
            (None, None) => Ok(()),
            (None, Some(problem)) => Err(Problem { what: what.clone(), ..problem.clone() }),
            (Some(_), _) => identity::usable(&what, &looks),
        };
        if let Err(problem) = judged {
            return Err(reported(&controller, &subject, &row.name, problem).await.into());
        }
    }
    if let Some(Identity { certificate, key }) = identity {
        row.access.identity = Some(sealed(&controller, &what, &row.name, certificate, &key)?);
    }
    let mut tx = controller.store.write().await?;
    let first = provider::list(&mut tx).await?.is_empty();
    row.is_default = default || first;
    match provider::add(&mut tx, &row).await {
        Err(error) if error.is_conflict() => return Err(exists(what).into()),
        added => added?,
    }
    let message = format!("key provider `{}` added, with key servers {listed}", row.name);
    event::record(&mut tx, EventKind::ProviderAdded, &subject, &message).await?;
    if row.is_default {
        provider::set_default(&mut tx, &row.name).await?;
        let message = format!("key provider `{}` is the default one", row.name);
        event::record(&mut tx, EventKind::ProviderDefault, &subject, &message).await?;
    }
    tx.commit().await?;
    looked_at(&controller, &row).await
}

/// An identity with its key sealed.
pub(super) fn sealed(
    controller: &Controller,
    what: &str,
    name: &ProviderName,
    certificate: String,
    key: &[u8],
) -> Result<SealedIdentity, Problem> {
    let sealed_key =
        root::seal(&controller.seal, &keys::seal_purpose(name), key).map_err(|error| Problem::internal(what, error))?;
    Ok(SealedIdentity { certificate, sealed_key })
}

/// Whether servers can be known by that CA.
pub(super) fn check_ca(what: &str, ca: &str) -> Result<(), Problem> {
    ServerTrust::Authorities(ca.as_bytes().to_vec()).validate().map_err(|error| {
        let remedy = "give the certificates of the authorities that issued the key servers' certificates, as PEM";
        Problem::new(Code::RequestInvalid, what, error.to_string(), remedy)
    })
}

pub(super) fn exists(what: String) -> Problem {
    let why = "there is one of that name already";
    Problem::new(Code::Exists, what, why, "choose another name, or remove that one with `ward provider rm`")
}

/// Makes a key provider the default one.
#[utoipa::path(post, path = "/providers/{provider}/default", tag = "provider",
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn make_default(
    State(controller): State<Shared>,
    granted: Granted<SetDefaultProvider>,
) -> ApiResult<Json<ProviderView>> {
    let name = granted.on().name.clone();
    let mut tx = controller.store.write().await?;
    provider::set_default(&mut tx, &name).await?;
    let subject = about(granted.user(), &name);
    let message = format!("key provider `{name}` is the default one");
    event::record(&mut tx, EventKind::ProviderDefault, &subject, &message).await?;
    tx.commit().await?;
    let row = ProviderRow { is_default: true, ..granted.on().clone() };
    Ok(Json(view(&controller, &row).await?))
}

/// Says from which provider keys for a cluster's VMs come unless another is named: from one of its own, or else from the
/// default one of all.
#[utoipa::path(put, path = "/clusters/{cluster}/provider", tag = "provider", request_body = SetClusterProvider,
    params(("cluster" = String, Path, description = "name or ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn set_cluster_default(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(wanted): Body<SetClusterProvider>,
) -> ApiResult<Json<()>> {
    let note = wanted.provider.as_ref().map_or_else(|| "the default of all".to_owned(), |name| format!("`{name}`"));
    let granted: Granted<SetClusterDefault> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let cluster = granted.on();
    let message = match &wanted.provider {
        Some(name) => {
            // Nobody learns of a provider, or uses it, that it may not see.
            let _: Granted<ReadProvider> =
                grant_named(&controller, &caller, name.as_str(), String::new().into()).await?;
            format!("key provider `{name}` is the default one of cluster `{}`", cluster.name)
        }
        None => format!("cluster `{}` has no default key provider of its own any more", cluster.name),
    };
    let mut tx = controller.store.write().await?;
    provider::set_default_of(&mut tx, cluster.id, wanted.provider.as_ref()).await?;
    let user = Some(granted.user().clone());
    let subject = EventSubject { provider: wanted.provider, user, ..EventSubject::default() };
    event::record(&mut tx, EventKind::ProviderDefault, &subject, &message).await?;
    tx.commit().await?;
    Ok(Json(()))
}

/// Sets at what age a key provider's keys are replaced, without anybody asking each time.
#[utoipa::path(put, path = "/providers/{provider}/rotation", tag = "provider", request_body = SetRotation,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn set_rotation(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(rotation): Body<SetRotation>,
) -> ApiResult<Json<ProviderView>> {
    let message = |name: &ProviderName| match rotation.days {
        Some(days) => format!("keys of key provider `{name}` are replaced after {days} days"),
        None => format!("keys of key provider `{name}` are not replaced for their age"),
    };
    let note = rotation.days.map_or_else(|| "never".to_owned(), |days| format!("after {days} days"));
    let granted: Granted<operations::SetRotation> =
        grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let row = granted.on();
    let name = &row.name;
    if rotation.days == Some(0) {
        let what = format!("cannot set the rotation of key provider `{name}`");
        return Err(Problem::new(Code::RequestInvalid, what, "0 days is no age", "give 1 day or more").into());
    }
    let mut tx = controller.store.write().await?;
    recryption::set_rotation(&mut tx, name, rotation.days).await?;
    event::record(&mut tx, EventKind::RotationSet, &about(granted.user(), name), &message(name)).await?;
    tx.commit().await?;
    Ok(Json(view(&controller, row).await?))
}

/// Removes a key provider that nothing needs. The keys of a standard one stay at its servers; the key of a native one is
/// deleted everywhere, and only a backup brings it back. One that VMs or hosts need can be removed where its name is said
/// again: they run on as long as the hosts have their keys.
#[utoipa::path(delete, path = "/providers/{provider}", tag = "provider",
    params(("provider" = String, Path, description = "name"), HowToRemove),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove(
    State(controller): State<Shared>,
    granted: Granted<RemoveProvider>,
    Params(how): Params<HowToRemove>,
) -> ApiResult<Json<()>> {
    let row = granted.on();
    let name = row.name.clone();
    let what = format!("cannot remove key provider `{name}`");
    if row.kind == ProviderKind::Native {
        return native::remove(&controller, &granted, how.force.as_deref()).await;
    }
    let mut tx = controller.store.write().await?;
    let needed_by = needed_by(&mut tx, &name).await?;
    // A VM that is being encrypted will need its key, though its row does not say so yet.
    let tasks = task::open(&mut tx).await?.into_iter().filter(|task| task.work.providers().any(|it| *it == name));
    let tasks: Vec<_> =
        tasks.map(|task| format!("VM `{}` (task {}, {})", task.info.vm_name, task.info.id, task.info.kind)).collect();
    let users = [needed_by.clone(), tasks.clone()].concat();
    let forced = match how.force {
        _ if users.is_empty() => false,
        Some(again) if again == name.as_str() && tasks.is_empty() => true,
        Some(again) if again == name.as_str() => {
            let why = format!("{} is at work with its keys", tasks.join(", "));
            return Err(Problem::new(Code::Busy, what, why, "wait for it, or cancel it").into());
        }
        Some(again) => {
            let why = format!("{} needs its keys, and `{again}` is not its name", users.join(", "));
            let remedy = format!("say its name, `{name}`, to remove it although they need it");
            return Err(Problem::new(Code::RequestInvalid, what, why, remedy).into());
        }
        None => {
            let why = format!("{} needs its keys", users.join(", "));
            let remedy = format!(
                "give them other keys first: `ward recrypt run --provider {name} --to OTHER`, and hosts with `ward host \
                 encryption rekey HOST` where another provider is the default one; or decrypt them; or remove \
                 it all the same, with `--force {name}`: they run on only as long as their hosts have the keys"
            );
            return Err(Problem::new(Code::InUse, what, why, remedy).into());
        }
    };
    provider::remove(&mut tx, &name).await?;
    recryption::set_rotation(&mut tx, &name, None).await?;
    let subject = about(granted.user(), &name);
    let (kind, message) = if forced {
        let message = format!(
            "key provider `{name}` removed although {} needs its keys, which stay at its servers: add it again under \
             that name before a host starts anew",
            needed_by.join(", ")
        );
        (EventKind::ProviderRemovedInUse, message)
    } else {
        (EventKind::ProviderRemoved, format!("key provider `{name}` removed; its keys stay at its servers"))
    };
    event::record(&mut tx, kind, &subject, &message).await?;
    tx.commit().await?;
    controller.key_servers.forget(&name);
    controller.health.forget(&name);
    Ok(Json(()))
}

/// Who needs a key of that provider, and which.
async fn needed_by(tx: &mut Tx, name: &ProviderName) -> Result<Vec<String>, Problem> {
    let users = needed::of_provider(tx, name).await?;
    Ok(users.iter().map(|(owner, key)| format!("{owner} (key {key})")).collect())
}

/// A provider as it is now, to be changed.
pub(super) async fn again(tx: &mut Tx, name: &ProviderName) -> Result<ProviderRow, Problem> {
    provider::get(tx, name).await?.ok_or_else(|| super::edge::not_found("provider", name.as_str()))
}

/// Changes how a provider's servers are reached, in one transaction with what is told of it.
pub(super) async fn change(
    controller: &Controller,
    subject: &EventSubject,
    name: &ProviderName,
    (kind, message): (EventKind, &str),
    change: impl FnOnce(&mut Access) -> Result<(), Problem>,
) -> ApiResult<Json<ProviderView>> {
    let mut tx = controller.store.write().await?;
    let mut row = again(&mut tx, name).await?;
    change(&mut row.access)?;
    provider::set_access(&mut tx, name, &row.access).await?;
    event::record(&mut tx, kind, subject, message).await?;
    tx.commit().await?;
    looked_at(controller, &row).await
}
