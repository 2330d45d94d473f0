//! Key providers.

use axum::extract::{Json, State};
use ward_secret::Zeroizing;
use ward_types::{Code, EventKind, EventSubject, Problem, ProviderKind, ProviderName};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys, Params};
use super::page::{Listed, Page};
use super::types::{AddProvider, Live, PageQuery, ProviderView, RemoveProvider as HowToRemove, SetRotation};
use super::{native, trusted};
use crate::authz::operations::{self, ReadProvider, RemoveProvider, SetDefaultProvider};
use crate::authz::{Granted, Root, Sight, grant, grant_named};
use crate::controller::{Controller, Shared};
use crate::keys::{self, probe};
use crate::root;
use crate::store::provider::{self, ProviderRow};
use crate::store::{event, recryption, task, vm};

pub(super) async fn view(controller: &Controller, row: &ProviderRow) -> Result<ProviderView, Problem> {
    let users = vm::users_of_provider(&mut *controller.store.read().await?, &row.name).await?;
    let native = native::view(controller, &row.name, &users).await?;
    let mut vms: Vec<_> = users.into_iter().map(|(vm, _)| vm).collect();
    vms.dedup();
    let server = match row.kind {
        ProviderKind::Standard => join_server(&row.server_host, row.server_port),
        ProviderKind::Native => String::new(),
        ProviderKind::Trusted => trusted::addresses(controller, &row.name).await?,
    };
    Ok(ProviderView {
        name: row.name.clone(),
        kind: row.kind,
        server,
        default: row.is_default,
        vms,
        rotate_days: recryption::rotations(&mut *controller.store.read().await?).await?.get(&row.name).copied(),
        native,
        live: None,
    })
}

fn join_server(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address.
fn split_server(text: &str) -> Option<(String, u16)> {
    let default = kmip::client::DEFAULT_PORT;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        match rest.strip_prefix(':') {
            Some(port) => (host, port.parse().ok()?),
            None if rest.is_empty() => (host, default),
            None => return None,
        }
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (text, default),
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, default),
        }
    };
    (!host.is_empty() && port != 0).then(|| (host.to_owned(), port))
}

/// Lists key providers.
#[utoipa::path(get, path = "/providers", tag = "provider", params(PageQuery),
    responses((status = 200, body = [ProviderView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
) -> ApiResult<Listed<ProviderView>> {
    let mut rows = provider::list(&mut *controller.store.read().await?).await?;
    rows.retain(|row| sight.sees(row));
    let mut views = Vec::new();
    for row in &rows {
        views.push(view(&controller, row).await?);
    }
    Ok(page.cut(views, |view: &ProviderView| view.name.to_string()))
}

/// Shows a key provider, and asks its server how it is.
#[utoipa::path(get, path = "/providers/{provider}", tag = "provider",
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn show(
    State(controller): State<Shared>,
    granted: Granted<ReadProvider>,
) -> ApiResult<Json<ProviderView>> {
    let row = granted.on();
    if row.kind != ProviderKind::Standard {
        return Ok(Json(view(&controller, row).await?));
    }
    let what = format!("cannot reach key provider `{}`", row.name);
    let live = match keys::client_of(&controller, &what, row) {
        Ok(client) => probe(&what, &row.name, &client).await.map_err(|fault| *fault.problem),
        Err(problem) => Err(problem),
    };
    let mut view = view(&controller, row).await?;
    view.live = Some(live.unwrap_or_else(|problem| Live::Down { problem }));
    Ok(Json(view))
}

/// Adds a standard key provider. Its server must answer, over a connection that both sides trust, before it is added.
#[utoipa::path(post, path = "/providers", tag = "provider", request_body = AddProvider,
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddProvider>,
) -> ApiResult<Json<ProviderView>> {
    let key = Zeroizing::new(new.key);
    let what = format!("cannot add key provider `{}`", new.name);
    let note = format!("add key provider `{}` with server {}", new.name, new.server);
    let _: Granted<operations::AddProvider> = grant(&controller, &caller, Root, note.into()).await?;
    let (host, port) = split_server(&new.server).ok_or_else(|| {
        let why = format!("`{}` is no server", new.server);
        Problem::new(Code::RequestInvalid, what.clone(), why, "give it as HOST:PORT")
    })?;
    if provider::get(&mut *controller.store.read().await?, &new.name).await?.is_some() {
        return Err(exists(what).into());
    }
    let client = keys::client(&what, (&host, port), &new.ca, &new.certificate, key.as_bytes())?;
    let subject =
        EventSubject { provider: Some(new.name.clone()), user: Some(caller.user().clone()), ..EventSubject::default() };
    let live = match probe(&what, &new.name, &client).await {
        Ok(live) => live,
        Err(fault) => return Err(keys::report(&controller, &subject, fault).await.into()),
    };
    let sealed_key = root::seal(&controller.seal, &keys::seal_purpose(&new.name), key.as_bytes())
        .map_err(|error| Problem::internal(what.clone(), error))?;
    let mut tx = controller.store.write().await?;
    let first = provider::list(&mut tx).await?.is_empty();
    let row = ProviderRow {
        name: new.name,
        kind: ProviderKind::Standard,
        server_host: host,
        server_port: port,
        ca: new.ca,
        certificate: new.certificate,
        sealed_key,
        is_default: new.default || first,
    };
    match provider::add(&mut tx, &row).await {
        Err(error) if error.is_conflict() => return Err(exists(what).into()),
        added => added?,
    }
    let message = format!("key provider `{}` added, with server {}", row.name, join_server(&row.server_host, port));
    event::record(&mut tx, EventKind::ProviderAdded, &subject, &message).await?;
    if row.is_default {
        provider::set_default(&mut tx, &row.name).await?;
        let message = format!("key provider `{}` is the default one", row.name);
        event::record(&mut tx, EventKind::ProviderDefault, &subject, &message).await?;
    }
    tx.commit().await?;
    let mut view = view(&controller, &row).await?;
    view.live = Some(live);
    Ok(Json(view))
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
    let user = Some(granted.user().clone());
    let subject = EventSubject { provider: Some(name.clone()), user, ..EventSubject::default() };
    let message = format!("key provider `{name}` is the default one");
    event::record(&mut tx, EventKind::ProviderDefault, &subject, &message).await?;
    tx.commit().await?;
    let row = ProviderRow { is_default: true, ..granted.on().clone() };
    Ok(Json(view(&controller, &row).await?))
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
    let user = Some(granted.user().clone());
    let subject = EventSubject { provider: Some(name.clone()), user, ..EventSubject::default() };
    event::record(&mut tx, EventKind::RotationSet, &subject, &message(name)).await?;
    tx.commit().await?;
    Ok(Json(view(&controller, row).await?))
}

/// Removes a key provider that no VM needs. The keys of a standard one stay at its server; the key of a native one is
/// deleted everywhere, and only a backup brings it back. A native one can be removed although VMs need it, where its name
/// is said again.
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
    let vms = vm::users_of_provider(&mut tx, &name).await?;
    let vms = vms.iter().map(|(vm, key)| format!("VM `{vm}` (key {key})"));
    // A VM that is being encrypted will need its key, though its row does not say so yet.
    let tasks = task::open(&mut tx).await?.into_iter().filter(|task| task.work.providers().any(|it| *it == name));
    let tasks = tasks.map(|task| format!("VM `{}` (task {}, {})", task.info.vm_name, task.info.id, task.info.kind));
    let users: Vec<_> = vms.chain(tasks).collect();
    if !users.is_empty() {
        let why = format!("{} needs its keys", users.join(", "));
        let remedy =
            format!("give them other keys first: `ward recrypt run --provider {name} --to OTHER`; or decrypt them");
        return Err(Problem::new(Code::InUse, what, why, remedy).into());
    }
    provider::remove(&mut tx, &name).await?;
    recryption::set_rotation(&mut tx, &name, None).await?;
    let user = Some(granted.user().clone());
    let subject = EventSubject { provider: Some(name.clone()), user, ..EventSubject::default() };
    let message = format!("key provider `{name}` removed; its keys stay at its server");
    event::record(&mut tx, EventKind::ProviderRemoved, &subject, &message).await?;
    tx.commit().await?;
    Ok(Json(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_every_form() {
        let good = [
            ("kms", "kms", 5696),
            ("kms:1", "kms", 1),
            ("127.0.0.1:5697", "127.0.0.1", 5697),
            ("[::1]:5", "::1", 5),
            ("[::1]", "::1", 5696),
            ("::1", "::1", 5696),
        ];
        for (text, host, port) in good {
            assert_eq!(split_server(text), Some((host.to_owned(), port)), "{text}");
        }
        for bad in ["", ":1", "kms:0", "kms:x", "kms:70000", "[::1", "[::1]5"] {
            assert_eq!(split_server(bad), None, "{bad}");
        }
    }
}
