//! The key servers of standard providers.

use axum::extract::{Json, State};
use kmip::certificate::Fingerprint;
use kmip::client::Client;
use kmip::names::ResultReason;
use ward_types::{Code, EventKind, KeyLocator, Problem, ProviderKind, ServerAddress};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys};
use super::providers::{about, change, reported};
use super::types::{AddServer, ProviderView};
use crate::authz::operations::ChangeServers;
use crate::authz::{Granted, grant_named};
use crate::controller::{Controller, Shared};
use crate::keys::{self, Identity, KeyFault};
use crate::store::needed;
use crate::store::provider::{ProviderRow, ServerRow};

/// Adds a key server to a provider: one that has the same keys. Where the provider knows its servers by a CA, or the
/// fingerprint of this one's certificate is given, it must answer over a connection that both sides trust, and have the keys
/// that the inventory needs; else its certificate is to be accepted before it is used.
#[utoipa::path(post, path = "/providers/{provider}/servers", tag = "provider", request_body = AddServer,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(new): Body<AddServer>,
) -> ApiResult<Json<ProviderView>> {
    let AddServer { server: address, first, fingerprint } = new;
    let note = format!("add key server {address}");
    let granted: Granted<ChangeServers> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let row = granted.on();
    let name = &row.name;
    let what = format!("cannot add key server {address} to key provider `{name}`");
    is_standard(&what, row)?;
    let fingerprint = fingerprint.as_deref().map(|text| read_fingerprint(&what, text)).transpose()?;
    let exists = || {
        let why = "it is one of the provider's servers already";
        Problem::new(Code::Exists, what.clone(), why, format!("`ward provider server ls {name}` lists them"))
    };
    if row.access.servers.iter().any(|server| server.address == address) {
        return Err(exists().into());
    }
    let server = ServerRow { address, pinned: fingerprint };
    let subject = about(granted.user(), name);
    if let Err(problem) = try_server(&controller, &what, row, &server).await {
        return Err(reported(&controller, &subject, name, problem).await.into());
    }
    let message = format!("key server {} added to key provider `{name}`", server.address);
    change(&controller, &subject, name, (EventKind::ProviderServers, &message), |access| {
        if access.servers.iter().any(|known| known.address == server.address) {
            return Err(exists());
        }
        let place = if first { 0 } else { access.servers.len() };
        access.servers.insert(place, server.clone());
        Ok(())
    })
    .await
}

/// Whether a server can be one of the provider's.
async fn try_server(controller: &Controller, what: &str, row: &ProviderRow, server: &ServerRow) -> Result<(), Problem> {
    let (name, access) = (&row.name, &row.access);
    let named = |problem: &Problem| Err(Problem { what: what.to_owned(), ..problem.clone() });
    let identity = access.identity.as_ref().map(|sealed| Identity::open(controller, what, name, sealed)).transpose()?;
    let look = keys::look_at(name, access, identity.as_ref(), server).await;
    let (Some(trust), Some(identity)) = (access.trust_in(server), &identity) else {
        // It is not used before somebody has accepted it, but it has to be there.
        return look.connection.problem().map_or(Ok(()), named);
    };
    if let Some(problem) = look.problem() {
        return named(problem);
    }
    let users = needed::of_provider(&mut *controller.store.read().await?, name).await?;
    let Some(key) = users.into_iter().map(|(_, key)| key).next_back() else { return Ok(()) };
    let KeyLocator::Standard { key_id } = &key.key else { return Ok(()) };
    let client = Client::new(access.config(what, &server.address, &trust, identity)?);
    match client.state(key_id.as_str()).await {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(error.result_reason(), Some(ResultReason::ITEM_NOT_FOUND | ResultReason::OBJECT_NOT_FOUND)) =>
        {
            let why = format!("it does not have key {key}, so it is no replica of the provider's other servers");
            let remedy =
                "let the key servers replicate their keys first; a server with other keys is another provider's";
            Err(Problem::new(Code::KeyMissing, what, why, remedy))
        }
        Err(error) => Err(*KeyFault::of_one(what, name, Some(&key), &error).problem),
    }
}

/// Takes a key server from a provider. The last one stays.
#[utoipa::path(delete, path = "/providers/{provider}/servers/{server}", tag = "provider",
    params(("provider" = String, Path, description = "name"), ("server" = String, Path, description = "HOST:PORT")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn remove(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
) -> ApiResult<Json<ProviderView>> {
    let address = keys.last();
    let note = format!("remove key server {address}");
    let granted: Granted<ChangeServers> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let row = granted.on();
    let name = &row.name;
    let what = format!("cannot remove key server {address} from key provider `{name}`");
    is_standard(&what, row)?;
    let none = || {
        let why = format!("key provider `{name}` has no such server");
        Problem::new(Code::NotFound, what.clone(), why, format!("`ward provider server ls {name}` lists them"))
    };
    let address: ServerAddress = address.parse().map_err(|_| none())?;
    let message = format!("key server {address} removed from key provider `{name}`");
    let subject = about(granted.user(), name);
    change(&controller, &subject, name, (EventKind::ProviderServers, &message), |access| {
        if !access.servers.iter().any(|server| server.address == address) {
            return Err(none());
        }
        if access.servers.len() == 1 {
            let remedy = format!(
                "add the one that is to take its place first: `ward provider server add {name} HOST:PORT`; or remove the \
                 provider: `ward provider rm {name}`"
            );
            return Err(Problem::new(Code::InUse, what.clone(), "it is the provider's last server", remedy));
        }
        access.servers.retain(|server| server.address != address);
        Ok(())
    })
    .await
}

/// Whether it is a provider that has servers.
pub(super) fn is_standard(what: &str, row: &ProviderRow) -> Result<(), Problem> {
    if row.kind == ProviderKind::Standard {
        return Ok(());
    }
    let why = format!("key provider `{}` is a {} one, without key servers", row.name, row.kind);
    Err(Problem::new(Code::RequestInvalid, what, why, "name a standard one; `ward provider ls` tells the kinds"))
}

/// Reads a fingerprint.
pub(super) fn read_fingerprint(what: &str, text: &str) -> Result<Fingerprint, Problem> {
    text.parse().map_err(|error: kmip::certificate::NoFingerprint| {
        let remedy = "give it as `openssl x509 -noout -fingerprint -sha256` writes it";
        Problem::new(Code::RequestInvalid, what, format!("`{text}`: {error}"), remedy)
    })
}
