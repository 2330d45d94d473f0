//! Whether the trust authorities' services answer. That one no longer does, or does again, is an event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use ward_trust::api::{Health, HowItIs};
use ward_trust::client::{Client, Identity};
use ward_trust::services::ServiceAddress;
use ward_types::{Code, EventKind, EventSubject, Problem, ProviderName};

use super::open;
use crate::controller::{Controller, Shared};
use crate::store::trusted;

/// How often services are asked.
const EVERY: Duration = Duration::from_secs(10);

/// How long what was seen counts: a round with a service that does not answer in time is shorter.
const COUNTS: Duration = Duration::from_secs(60);

/// Which of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServiceKind {
    Attestation,
    KeyProvider,
}

/// How an instance is.
#[derive(Clone, Debug)]
pub(crate) struct ServiceState {
    /// The provider of whose description it is.
    pub(crate) provider: ProviderName,
    pub(crate) kind: ServiceKind,
    pub(crate) address: String,
    /// When it was asked last.
    pub(crate) looked: Timestamp,
    /// What it said last.
    pub(crate) health: Option<HowItIs>,
    /// When that was.
    pub(crate) answered: Option<Timestamp>,
    /// Why it does not answer.
    pub(crate) trouble: Option<Problem>,
}

impl ServiceState {
    /// Until when it counts.
    pub(crate) fn expires(&self) -> Timestamp {
        self.looked.saturating_add(COUNTS).unwrap_or(Timestamp::MAX)
    }

    /// Why it does not answer, or why that is not known.
    pub(crate) fn lack(&self, now: Timestamp) -> Option<Problem> {
        if now < self.expires() {
            return self.trouble.clone();
        }
        let why = format!("it was asked last at {}, which was too long ago to count", self.looked);
        let what = format!("how the service at {} is is not known", self.address);
        Some(Problem::new(Code::TrustUnreachable, what, why, "see the controller's log"))
    }
}

type Key = (ProviderName, ServiceKind, String);

/// What is known of all of them.
#[derive(Default)]
pub(crate) struct Services(Mutex<BTreeMap<Key, ServiceState>>);

impl Services {
    pub(crate) fn all(&self) -> Vec<ServiceState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Looks after the services until the controller ends.
pub(crate) async fn watch(controller: Shared) {
    let identity = match Identity::generate() {
        Ok(identity) => Arc::new(identity),
        Err(error) => return tracing::error!(%error, "trust authorities are not looked after"),
    };
    loop {
        let round = look(&controller, &identity);
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = round => {}
        }
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn look(controller: &Controller, identity: &Identity) {
    let rows = match controller.store.read().await {
        Ok(mut db) => trusted::list(&mut db).await,
        Err(error) => Err(error),
    };
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => return tracing::error!(%error, "cannot look after trust authorities"),
    };
    let mut wanted = Vec::new();
    for row in rows {
        let Ok((_, services)) = open("", &row.name, &row.description) else { continue };
        let of = |kind, list: Vec<ServiceAddress>| {
            let name = row.name.clone();
            list.into_iter().map(move |service| (name.clone(), kind, service))
        };
        wanted.extend(of(ServiceKind::Attestation, services.attestation));
        wanted.extend(of(ServiceKind::KeyProvider, services.key_providers));
    }
    let asked = wanted.into_iter().map(|(provider, kind, service)| async move {
        let answer = ask(identity, &service).await;
        ((provider, kind, service.address), answer)
    });
    let answers = join_all(asked).await;
    let mut states = BTreeMap::new();
    for (key, answer) in answers {
        let before = controller.trusted.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let state = next(&key, before.as_ref(), answer);
        if let Some((kind, message)) = change(before.as_ref(), &state) {
            let subject = EventSubject { provider: Some(key.0.clone()), ..EventSubject::default() };
            controller.record(kind, &subject, &message).await;
        }
        states.insert(key, state);
    }
    *controller.trusted.0.lock().unwrap_or_else(PoisonError::into_inner) = states;
}

fn next(
    (provider, kind, address): &Key,
    before: Option<&ServiceState>,
    answer: Result<HowItIs, Problem>,
) -> ServiceState {
    let base = ServiceState {
        provider: provider.clone(),
        kind: *kind,
        address: address.clone(),
        looked: Timestamp::now(),
        health: before.and_then(|state| state.health.clone()),
        answered: before.and_then(|state| state.answered),
        trouble: None,
    };
    match answer {
        Ok(health) => ServiceState { health: Some(health), answered: Some(base.looked), ..base },
        Err(problem) => ServiceState { trouble: Some(problem), ..base },
    }
}

/// What is to be told of a change.
fn change(before: Option<&ServiceState>, now: &ServiceState) -> Option<(EventKind, String)> {
    let name = match now.kind {
        ServiceKind::Attestation => "attestation service",
        ServiceKind::KeyProvider => "key provider service",
    };
    let was_up = before.map(|state| state.trouble.is_none());
    match &now.trouble {
        Some(problem) if was_up != Some(false) => Some((
            EventKind::TrustServiceDown,
            format!("the {name} at {} does not answer: {}. {}", now.address, problem.why, problem.remedy),
        )),
        None if was_up == Some(false) => {
            Some((EventKind::TrustServiceUp, format!("the {name} at {} answers again", now.address)))
        }
        _ => None,
    }
}

async fn ask(identity: &Identity, service: &ServiceAddress) -> Result<HowItIs, Problem> {
    Client::of(identity, service).await?.call(Health {}).await
}
