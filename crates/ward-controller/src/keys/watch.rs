//! Looks at all providers again and again, and tells what has changed.

use futures_util::future::join_all;
use jiff::Timestamp;
use kmip::certificate::CertificateInfo;
use ward_types::{EventSubject, ProviderKind, ProviderName};

use super::health::{self, State, news};
use super::identity::certificate_info;
use super::look::{Look, look};
use super::server::Identity;
use crate::api::types::Light;
use crate::controller::{Controller, Shared};
use crate::store::provider::{self, ProviderRow};
use crate::store::{StoreError, event, needed, vm};

/// Looks until the controller ends.
pub(crate) async fn watch(controller: Shared) {
    loop {
        if let Err(error) = round(&controller).await {
            tracing::error!(%error, "cannot look at the key providers");
        }
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = tokio::time::sleep(controller.watch_period) => {}
        }
    }
}

async fn round(controller: &Shared) -> Result<(), StoreError> {
    let mut rows = provider::list(&mut *controller.store.read().await?).await?;
    rows.retain(|row| row.kind == ProviderKind::Standard);
    let looked = join_all(rows.iter().map(|row| look_again(controller, row)));
    tokio::select! {
        () = controller.shutdown.cancelled() => Ok(()),
        looked = looked => looked.into_iter().collect(),
    }
}

/// Looks at a provider's servers, remembers what was found, and tells what has changed.
pub(crate) async fn look_again(controller: &Controller, row: &ProviderRow) -> Result<(), StoreError> {
    let what = format!("cannot use key provider `{}`", row.name);
    let identity = row.access.identity.as_ref().map(|sealed| Identity::open(controller, &what, &row.name, sealed));
    let identity = match identity.transpose() {
        Ok(identity) => identity,
        Err(problem) => {
            tracing::error!(why = problem.why, "{what}");
            None
        }
    };
    let looks = look(&row.name, &row.access, identity.as_ref()).await;
    drop(identity);
    let summary = summary(controller, row, &looks).await?;
    let states = states(row, &looks, &summary, Timestamp::now().as_second());
    controller.health.put(&row.name, looks);
    tell(controller, &row.name, states).await
}

/// What is known of a provider as a whole.
pub(crate) struct Summary {
    pub(crate) light: Light,
    pub(crate) certificate: Option<CertificateInfo>,
    pub(crate) keys_needed: usize,
    pub(crate) keys_unreachable: usize,
}

/// Puts together what is known of a provider.
pub(crate) async fn summary(controller: &Controller, row: &ProviderRow, looks: &[Look]) -> Result<Summary, StoreError> {
    let now = Timestamp::now().as_second();
    let mut db = controller.store.read().await?;
    let mut needed: Vec<_> = needed::of_provider(&mut db, &row.name).await?.into_iter().map(|(_, key)| key).collect();
    needed.sort();
    needed.dedup();
    let lights: Vec<_> = row.access.servers.iter().map(|server| light_of(looks, &server.address, now)).collect();
    let keys_unreachable = if !lights.is_empty() && lights.iter().all(|light| *light == Light::Red) {
        needed.len()
    } else {
        vm::lost_keys(&mut db, &row.name).await?
    };
    let certificate = row.access.identity.as_ref().and_then(|identity| certificate_info(&identity.certificate));
    let not_after = certificate.as_ref().map(|certificate| certificate.not_after);
    let light = health::provider(&lights, not_after, keys_unreachable, now);
    Ok(Summary { light, certificate, keys_needed: needed.len(), keys_unreachable })
}

/// How a server stands, as far as it was looked at.
pub(crate) fn light_of(looks: &[Look], address: &ward_types::ServerAddress, now: i64) -> Light {
    looks.iter().find(|look| look.address == *address).map_or(Light::Unknown, |look| health::server(look, now))
}

/// All of which events tell when it changes.
fn states(row: &ProviderRow, looks: &[Look], summary: &Summary, now: i64) -> Vec<State> {
    let name = &row.name;
    let mut states = Vec::new();
    let mut wrong = Vec::new();
    for look in looks {
        let (address, light) = (&look.address, health::server(look, now));
        let says = match look.problem() {
            Some(problem) => format!("{}. {}", problem.why, problem.remedy),
            None if light == Light::Yellow => "its certificate is about to expire".to_owned(),
            None => "it answers, and both sides trust each other".to_owned(),
        };
        if light != Light::Green {
            wrong.push(format!("{address} is {light}"));
        }
        let message = format!("key server {address} of key provider `{name}` is {light}: {says}");
        states.extend(State::light(true, &format!("server {address}"), light, message));
        if let Some(certificate) = look.shown.first() {
            let whose = format!("the certificate of key server {address} of key provider `{name}`");
            let remedy = format!("renew it there; `ward provider trust {name}` then shows the new one");
            states.extend(State::certificate(certificate, now, &whose, &remedy));
        }
    }
    if let Some(certificate) = &summary.certificate {
        let whose = format!("the controller's certificate at key provider `{name}`");
        let remedy = format!("give it a new one: `ward provider trust {name} --csr` makes a request for one");
        states.extend(State::certificate(certificate, now, &whose, &remedy));
        if certificate.seconds_left(std::time::SystemTime::now()) < 30 * 86_400 {
            wrong.push("the controller's certificate is about to expire or has expired".to_owned());
        }
    }
    if summary.keys_unreachable > 0 {
        wrong.push(format!("{} of its {} keys can't be had", summary.keys_unreachable, summary.keys_needed));
    }
    let says = if wrong.is_empty() { "all is well".to_owned() } else { wrong.join("; ") };
    let message = format!("key provider `{name}` is {}: {says}; `ward provider show {name}` says more", summary.light);
    states.extend(State::light(false, "provider", summary.light, message));
    states
}

async fn tell(controller: &Controller, name: &ProviderName, states: Vec<State>) -> Result<(), StoreError> {
    let told = provider::told(&mut *controller.store.read().await?, name).await?;
    if news(&told, states.clone()).1 == told {
        return Ok(());
    }
    let mut tx = controller.store.write().await?;
    // It may have been removed, or told by another, since.
    if provider::get(&mut tx, name).await?.is_none() {
        return Ok(());
    }
    let (news, after) = news(&provider::told(&mut tx, name).await?, states);
    let subject = EventSubject { provider: Some(name.clone()), ..EventSubject::default() };
    for state in news {
        event::record(&mut tx, state.kind, &subject, &state.message).await?;
    }
    provider::set_told(&mut tx, name, &after).await?;
    tx.commit().await
}
