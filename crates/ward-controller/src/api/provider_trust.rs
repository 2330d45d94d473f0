//! The trust between the controller and key servers, both ways. Whatever is new is tried before it takes the place of what
//! works.

use axum::extract::{Json, State};
use kmip::client::{ClientIdentity, PendingIdentity};
use ward_secret::Zeroizing;
use ward_types::{Code, EventKind, EventSubject, Problem, ProviderName};

use super::auth::Caller;
use super::edge::{ApiResult, Body, Keys};
use super::page::{Listed, Page};
use super::provider_servers::{is_standard, read_fingerprint};
use super::providers::{about, again, certificate, change, check_ca, looked_at, reported, sealed, view};
use super::types::{CertificateSubject, Check, NewIdentity, PageQuery, ProviderView, ShownServer, TrustServers};
use crate::authz::operations::{ChangeTrust, ReadProvider};
use crate::authz::{Granted, grant_named};
use crate::controller::{Controller, Shared};
use crate::keys::identity::{self, Brought, unusable};
use crate::keys::{self, Identity};
use crate::root;
use crate::store::event;
use crate::store::provider::{self, Access, PendingRow, ProviderRow, SealedIdentity};

/// Shows the certificates that a provider's servers show just now.
#[utoipa::path(get, path = "/providers/{provider}/certificates", tag = "provider",
    params(("provider" = String, Path, description = "name"), PageQuery),
    responses((status = 200, body = [ShownServer]), (status = "4XX", body = Problem)))]
pub(super) async fn certificates(granted: Granted<ReadProvider>, page: Page) -> ApiResult<Listed<ShownServer>> {
    let row = granted.on();
    is_standard(&format!("cannot show the certificates of the servers of key provider `{}`", row.name), row)?;
    let looks = keys::look(&row.name, &row.access, None).await;
    let shown = looks.into_iter().map(|look| ShownServer {
        address: look.address,
        connection: look.connection,
        server_trusted: look.server_trusted,
        certificates: look.shown.iter().map(certificate).collect(),
    });
    Ok(page.cut(shown.collect(), |shown: &ShownServer| shown.address.to_string()))
}

/// Says by what servers are known: by a certificate that they show just now and that somebody has looked at, or by the
/// authorities that issued their certificates. Refused, and nothing changed, where that is not so.
#[utoipa::path(put, path = "/providers/{provider}/trust", tag = "provider", request_body = TrustServers,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn trust(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(how): Body<TrustServers>,
) -> ApiResult<Json<ProviderView>> {
    let note = match &how {
        TrustServers::Fingerprint { fingerprint } => format!("servers with the certificate {fingerprint}"),
        TrustServers::Ca { .. } => "servers with certificates of a CA".to_owned(),
    };
    let granted: Granted<ChangeTrust> = grant_named(&controller, &caller, keys.first(), note.into()).await?;
    let row = granted.on();
    let what = format!("cannot trust the servers of key provider `{}`", row.name);
    is_standard(&what, row)?;
    let subject = about(granted.user(), &row.name);
    let decided = match how {
        TrustServers::Fingerprint { fingerprint } => by_fingerprint(&what, row, &fingerprint).await,
        TrustServers::Ca { ca } => by_ca(&what, row, ca).await,
    };
    let (access, message) = match decided {
        Ok(decided) => decided,
        Err(problem) => return Err(reported(&controller, &subject, &row.name, problem).await.into()),
    };
    change(&controller, &subject, &row.name, (EventKind::ProviderTrust, &message), |now| {
        if *now != row.access {
            return Err(changed_meanwhile(&what));
        }
        *now = access;
        Ok(())
    })
    .await
}

fn changed_meanwhile(what: &str) -> Problem {
    Problem::new(Code::Busy, what, "the provider was changed meanwhile", "look at it and try again")
}

async fn by_fingerprint(what: &str, row: &ProviderRow, fingerprint: &str) -> Result<(Access, String), Problem> {
    let fingerprint = read_fingerprint(what, fingerprint)?;
    let mut wanted = row.access.clone();
    for server in &mut wanted.servers {
        server.pinned = Some(fingerprint);
    }
    let looks = keys::look(&row.name, &wanted, None).await;
    let mut accepted = Vec::new();
    let mut access = row.access.clone();
    for (server, look) in access.servers.iter_mut().zip(&looks) {
        if look.server_trusted == Check::Good {
            server.pinned = Some(fingerprint);
            accepted.push(server.address.to_string());
        }
    }
    if accepted.is_empty() {
        // One that shows it and is not good all the same, an expired one, say, comes first.
        let shows = |look: &&keys::Look| look.shown.first().is_some_and(|info| info.fingerprint == fingerprint);
        if let Some(problem) = looks.iter().find(shows).and_then(keys::Look::problem) {
            return Err(Problem { what: what.to_owned(), ..problem.clone() });
        }
        let shown = looks.iter().map(|look| match (look.shown.first(), look.connection.problem()) {
            (Some(info), _) => format!("{} shows {}", look.address, info.fingerprint),
            (None, Some(problem)) => problem.why.clone(),
            (None, None) => format!("{} shows none", look.address),
        });
        let why = format!("no server shows a certificate with the SHA-256 fingerprint {fingerprint}: {}", {
            shown.collect::<Vec<_>>().join("; ")
        });
        let remedy =
            format!("compare them with those at the key servers; `ward provider trust {}` shows them", row.name);
        return Err(Problem::new(Code::KeyServerTrust, what, why, remedy));
    }
    let message = format!(
        "key provider `{}`: {} is known by its certificate with the SHA-256 fingerprint {fingerprint}, which was accepted",
        row.name,
        accepted.join(", ")
    );
    Ok((access, message))
}

async fn by_ca(what: &str, row: &ProviderRow, ca: String) -> Result<(Access, String), Problem> {
    check_ca(what, &ca)?;
    let mut wanted = Access { ca: Some(ca), ..row.access.clone() };
    for server in &mut wanted.servers {
        server.pinned = None;
    }
    let looks = keys::look(&row.name, &wanted, None).await;
    let named = |problem: &Problem| Err(Problem { what: what.to_owned(), ..problem.clone() });
    if let Some(problem) = looks.iter().find_map(|look| look.server_trusted.problem()) {
        return named(problem);
    }
    if let (false, Some(problem)) =
        (looks.iter().any(|look| look.server_trusted == Check::Good), looks.iter().find_map(keys::Look::problem))
    {
        return named(problem);
    }
    // Of one that does not answer just now it is not known whether the CA is good for it: what it was known by stays.
    for ((server, before), look) in wanted.servers.iter_mut().zip(&row.access.servers).zip(&looks) {
        if look.server_trusted != Check::Good {
            server.pinned = before.pinned;
        }
    }
    let message = format!("key provider `{}`: its servers are known by certificates of a given CA", row.name);
    Ok((wanted, message))
}

/// Gives the controller a certificate for a provider's servers. What is in use stays so until the new one has worked: a
/// certificate that is for the latest request, or that came with its key, is tried at once; one that the servers do not know
/// yet is tried when that is asked for.
#[utoipa::path(post, path = "/providers/{provider}/identity", tag = "provider", request_body = NewIdentity,
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn identify(
    State(controller): State<Shared>,
    caller: Caller,
    keys: Keys,
    Body(new): Body<NewIdentity>,
) -> ApiResult<Json<ProviderView>> {
    let note = match &new {
        NewIdentity::SelfSigned { .. } => "a certificate that signs itself",
        NewIdentity::Request { .. } => "a request for a certificate",
        NewIdentity::Certificate { .. } => "the certificate for the latest request",
        NewIdentity::CertificateAndKey { .. } => "a certificate with its key",
    };
    let granted: Granted<ChangeTrust> = grant_named(&controller, &caller, keys.first(), note.to_owned().into()).await?;
    let row = granted.on();
    let name = &row.name;
    let what = format!("cannot give the controller a certificate for key provider `{name}`");
    is_standard(&what, row)?;
    let subject = about(granted.user(), name);
    match new {
        NewIdentity::SelfSigned { subject: wanted } => {
            let identity = identity::self_signed(&what, checked(&what, wanted)?)?;
            let pending =
                keep(&controller, &what, name, identity.expose_key_pem(), None, Some(identity.certificate_pem()))?;
            store(&controller, &subject, name, pending, "made, with a certificate that it signs itself").await?;
            Ok(Json(view(&controller, row).await?))
        }
        NewIdentity::Request { subject: wanted } => {
            let made = PendingIdentity::generate(identity::subject(checked(&what, wanted)?));
            let made = made.and_then(|pending| Ok((pending.request_pem()?, pending)));
            let (request, pending) = made.map_err(|error| unusable(&what, &Brought::Made, &error))?;
            let pending = keep(&controller, &what, name, &pending.expose_key_pem(), Some(request), None)?;
            store(&controller, &subject, name, pending, "made, with a request for a certificate").await?;
            Ok(Json(view(&controller, row).await?))
        }
        NewIdentity::Certificate { certificate } => {
            let pending = provider::pending(&mut *controller.store.read().await?, name).await?;
            let pending = pending.filter(|pending| pending.request.is_some()).ok_or_else(|| {
                let why = "no request for a certificate was made";
                let remedy = format!(
                    "make one with `ward provider trust {name} --csr` and have it signed; or give the certificate's \
                     private key too, with `--key`"
                );
                Problem::new(Code::RequestInvalid, what.clone(), why, remedy)
            })?;
            let key = open_pending(&controller, &what, name, &pending)?;
            let request = PendingIdentity::from_key_pem(&key, identity::subject(CertificateSubject::default()));
            let complete = request.and_then(|request| request.complete(&certificate));
            complete.map_err(|error| unusable(&what, &Brought::ForRequest(name), &error))?;
            let pending = PendingRow { certificate: Some(certificate), ..pending };
            store(&controller, &subject, name, pending, "is certified").await?;
            use_pending(&controller, &what, &subject, name).await
        }
        NewIdentity::CertificateAndKey { certificate, key } => {
            let key = Zeroizing::new(key);
            ClientIdentity::from_pem(&certificate, &key).map_err(|error| unusable(&what, &Brought::WithKey, &error))?;
            let pending = keep(&controller, &what, name, &key, None, Some(&certificate))?;
            store(&controller, &subject, name, pending, "was given, with its certificate").await?;
            use_pending(&controller, &what, &subject, name).await
        }
    }
}

/// A subject whose fields a certificate can hold.
fn checked(what: &str, wanted: CertificateSubject) -> Result<CertificateSubject, Problem> {
    let invalid = |why: String, remedy: &str| Err(Problem::new(Code::RequestInvalid, what, why, remedy));
    let fields = [
        ("common name", &wanted.common_name, 64),
        ("organization", &wanted.organization, 64),
        ("organizational unit", &wanted.organizational_unit, 64),
        ("locality", &wanted.locality, 128),
        ("state", &wanted.state, 128),
    ];
    // RFC 5280, appendix A.1: the upper bounds.
    for (field, value, most) in fields {
        if value.as_ref().is_some_and(|value| value.is_empty() || value.chars().count() > most) {
            return invalid(
                format!("the {field} has no character, or more than {most}"),
                "give a shorter one, or none",
            );
        }
    }
    if wanted.country.as_ref().is_some_and(|it| it.len() != 2 || !it.bytes().all(|byte| byte.is_ascii_uppercase())) {
        return invalid("the country is not two capital letters".into(), "give its ISO 3166 code, such as CH");
    }
    Ok(wanted)
}

/// What is to be kept of an identity until it has worked.
fn keep(
    controller: &Controller,
    what: &str,
    name: &ProviderName,
    key: &str,
    request: Option<String>,
    certificate: Option<&str>,
) -> Result<PendingRow, Problem> {
    let SealedIdentity { sealed_key, .. } = sealed(controller, what, name, String::new(), key.as_bytes())?;
    Ok(PendingRow { sealed_key, request, certificate: certificate.map(str::to_owned) })
}

fn open_pending(
    controller: &Controller,
    what: &str,
    name: &ProviderName,
    pending: &PendingRow,
) -> Result<Zeroizing<String>, Problem> {
    let opened = root::open(&controller.seal, &keys::seal_purpose(name), &pending.sealed_key);
    let key = opened.map_err(|error| {
        let remedy = format!("begin anew: `ward provider trust {name} --csr`");
        Problem::new(Code::KeyServerTrust, what, format!("the new private key can't be unsealed: {error}"), remedy)
    })?;
    let key = String::from_utf8(key.to_vec()).map_err(|_| Problem::internal(what, "a private key is no PEM"))?;
    Ok(Zeroizing::new(key))
}

/// Keeps an identity until it has worked, in place of any that was kept so before.
async fn store(
    controller: &Controller,
    subject: &EventSubject,
    name: &ProviderName,
    pending: PendingRow,
    says: &str,
) -> Result<(), Problem> {
    let mut tx = controller.store.write().await?;
    again(&mut tx, name).await?;
    provider::set_pending(&mut tx, name, Some(&pending)).await?;
    let message = format!("a new key of the controller for key provider `{name}` {says}; it is not in use yet");
    event::record(&mut tx, EventKind::ProviderTrust, subject, &message).await?;
    Ok(tx.commit().await?)
}

/// Tries the controller's new certificate at the provider's servers, and uses it from then on if it works.
#[utoipa::path(post, path = "/providers/{provider}/identity/try", tag = "provider",
    params(("provider" = String, Path, description = "name")),
    responses((status = 200, body = ProviderView), (status = "4XX", body = Problem)))]
pub(super) async fn try_identity(
    State(controller): State<Shared>,
    granted: Granted<ChangeTrust>,
) -> ApiResult<Json<ProviderView>> {
    let name = &granted.on().name;
    let what = format!("cannot use the controller's new certificate for key provider `{name}`");
    is_standard(&what, granted.on())?;
    use_pending(&controller, &what, &about(granted.user(), name), name).await
}

async fn use_pending(
    controller: &Controller,
    what: &str,
    subject: &EventSubject,
    name: &ProviderName,
) -> ApiResult<Json<ProviderView>> {
    let mut db = controller.store.read().await?;
    let row = provider::get(&mut db, name).await?.ok_or_else(|| changed_meanwhile(what))?;
    let pending = provider::pending(&mut db, name).await?;
    drop(db);
    let none = || {
        let why = "there is none that waits to be tried";
        let remedy = format!("`ward provider trust {name}` tells how to make one");
        Problem::new(Code::RequestInvalid, what, why, remedy)
    };
    let pending = pending.ok_or_else(none)?;
    let Some(certificate) = pending.certificate.clone() else {
        let why = "its certificate has not come yet: there is a request only";
        let remedy = format!(
            "have the request signed, which `ward provider trust {name} --out FILE` writes again, and give the \
             certificate with `ward provider trust {name} --cert FILE`"
        );
        return Err(Problem::new(Code::RequestInvalid, what, why, remedy).into());
    };
    let key = open_pending(controller, what, name, &pending)?;
    let identity = Identity { certificate: certificate.clone(), key: Zeroizing::new(key.as_bytes().to_vec()) };
    if let Err(mut problem) = identity::try_it(what, name, &row.access, &identity).await {
        let before = match row.access.identity {
            Some(_) => "the certificate before it stays in use",
            None => "it is kept",
        };
        problem.remedy =
            format!("{}; {before}, and `ward provider trust {name} --try` tries the new one again", problem.remedy);
        return Err(reported(controller, subject, name, problem).await.into());
    }
    let mut tx = controller.store.write().await?;
    let mut row = again(&mut tx, name).await?;
    if provider::pending(&mut tx, name).await?.as_ref() != Some(&pending) {
        return Err(changed_meanwhile(what).into());
    }
    row.access.identity = Some(SealedIdentity { certificate, sealed_key: pending.sealed_key });
    provider::set_access(&mut tx, name, &row.access).await?;
    provider::set_pending(&mut tx, name, None).await?;
    let message = format!("the controller shows a new certificate to the servers of key provider `{name}`: it works");
    event::record(&mut tx, EventKind::ProviderTrust, subject, &message).await?;
    tx.commit().await?;
    looked_at(controller, &row).await
}
