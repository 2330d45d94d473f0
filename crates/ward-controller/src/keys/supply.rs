//! Giving keys to hosts: got from the key server, pushed to all hosts of the cluster at once, forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use kmip::client::Replicas;
use ward_rpc::{CallError, KeyPush};
use ward_secret::{Kek, Zeroizing};
use ward_types::{Code, EventKind, EventSubject, HostId, KeyLocator, KeyRef, Problem, ProviderName};

use super::{KeyFault, connect, not_at_a_server, report};
use crate::controller::Controller;
use crate::hosts::Link;
use crate::{native, trusted};

/// Keys on their way.
pub(crate) struct Supply<'a> {
    /// For what, as a problem says it.
    pub(crate) what: &'a str,
    /// What the events are about.
    pub(crate) subject: &'a EventSubject,
    /// Which keys.
    pub(crate) keys: &'a [KeyRef],
    /// To which hosts.
    pub(crate) hosts: &'a [Arc<Link>],
    /// The host without which it was in vain; the others may be away.
    pub(crate) must: Option<HostId>,
}

/// Gets keys from their servers and gives them to hosts. They are in this process's memory only while this runs.
pub(crate) async fn supply(controller: &Controller, supply: Supply<'_>) -> Result<(), Problem> {
    let (mut unwrapped, mut attested, mut got) = (Vec::new(), Vec::new(), Vec::new());
    for key in supply.keys {
        match key.key {
            KeyLocator::Standard { .. } => got.push(key),
            KeyLocator::Native(_) => unwrapped.push(key),
            KeyLocator::Trusted { .. } => attested.push(key),
        }
    }
    if let Some(first) = unwrapped.first()
        && let Err(problem) = native::give(controller, &supply, &unwrapped).await
    {
        let fault = KeyFault::new(&first.provider, Some(first), problem);
        return Err(report(controller, supply.subject, fault).await);
    }
    if let Some(first) = attested.first()
        && let Err(problem) = trusted::obtain(controller, &supply, &attested).await
    {
        let fault = KeyFault::new(&first.provider, Some(first), problem);
        return Err(report(controller, supply.subject, fault).await);
    }
    if got.is_empty() {
        return Ok(());
    }
    let mut by_provider: BTreeMap<&ProviderName, Vec<&KeyRef>> = BTreeMap::new();
    for key in got {
        by_provider.entry(&key.provider).or_default().push(key);
    }
    let mut push = KeyPush::default();
    for (provider, keys) in by_provider {
        let servers = match connect(controller, supply.what, provider).await {
            Ok(servers) => servers,
            Err(problem) => {
                let fault = KeyFault::new(provider, keys.first().copied(), problem);
                return Err(report(controller, supply.subject, fault).await);
            }
        };
        for key in keys {
            match get(supply.what, &servers, key).await {
                Ok(kek) => push.keys.push((key.clone(), kek)),
                Err(fault) => return Err(report(controller, supply.subject, fault).await),
            }
        }
    }
    give(controller, &supply, &push).await
}

async fn get(what: &str, servers: &Replicas, key: &KeyRef) -> Result<Kek, KeyFault> {
    let KeyLocator::Standard { key_id } = &key.key else { return Err(not_at_a_server(what, key)) };
    let fault = |error| KeyFault::of(what, &key.provider, Some(key), &error);
    let bytes = match servers.get_key(key_id.as_str()).await {
        Ok(bytes) => bytes,
        Err(error) => {
            // A destroyed key is refused in many words; its state says it in one.
            if error.result_reason().is_some()
                && let Ok(state) = servers.state(key_id.as_str()).await
            {
                let mut fault = fault(error);
                if fault.problem.code == Code::KeyNotUsable || state_forbids(state) {
                    fault = KeyFault::new(
                        &key.provider,
                        Some(key),
                        Problem::new(
                            Code::KeyNotUsable,
                            what,
                            format!("key {key} is {state} at its key server, which does not give it out"),
                            "restore the key at the key server; the data that it protects opens with no other",
                        ),
                    );
                }
                return Err(fault);
            }
            return Err(fault(error));
        }
    };
    let mut copy = Zeroizing::new(bytes.expose().to_vec());
    Kek::take(&mut copy).map_err(|error| {
        let (code, remedy) = match error {
            ward_secret::SecretError::Length { .. } => (Code::KeyNotUsable, "name a key of AES-256"),
            _ => (Code::Internal, "raise the limit of locked memory (RLIMIT_MEMLOCK) of the controller"),
        };
        let problem = Problem::new(code, what, format!("key {key}: {error}"), remedy);
        KeyFault::new(&key.provider, Some(key), problem)
    })
}

fn state_forbids(state: kmip::names::State) -> bool {
    use kmip::names::State;
    matches!(state, State::DESTROYED | State::DESTROYED_COMPROMISED)
}

async fn give(controller: &Controller, supply: &Supply<'_>, push: &KeyPush) -> Result<(), Problem> {
    let answers = join_all(supply.hosts.iter().map(|link| async move { (link, link.push_keys(push).await) })).await;
    let keys = supply.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut given = Vec::new();
    let mut lost = None;
    for (link, answer) in answers {
        let error = match answer {
            Ok(_) => {
                given.push(link.name.to_string());
                continue;
            }
            Err(error) => error,
        };
        let (kind, problem) = match error {
            CallError::Unreachable { .. } => (EventKind::KeyHostUnreachable, error.into_problem(supply.what)),
            CallError::Refused(problem) => (EventKind::KeyHostUnfit, *problem),
        };
        let mut subject = supply.subject.clone();
        subject.host = Some(link.id);
        subject.key = supply.keys.first().cloned();
        let message = format!(
            "host `{}` did not get key {keys}: {}. It gets the key when it answers again. {}",
            link.name, problem.why, problem.remedy
        );
        controller.record(kind, &subject, &message).await;
        if supply.must == Some(link.id) {
            lost = Some(problem);
        }
    }
    if !given.is_empty() {
        let mut subject = supply.subject.clone();
        subject.key = supply.keys.first().cloned();
        let message = format!("key {keys} given to host {}", given.join(", "));
        controller.record(EventKind::KeyPushed, &subject, &message).await;
    }
    lost.map_or(Ok(()), Err)
}
