//! Giving keys to hosts: got from the key server, pushed to all hosts of the cluster at once, forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use ward_rpc::{CallError, KeyPush};
use ward_types::{Code, EventKind, EventSubject, HostId, KeyLocator, KeyRef, Problem, ProviderName};

use super::{KeyFault, connect, fetch, id_at_server, not_at_a_server, report};
use crate::controller::{Controller, Shared};
use crate::hosts::Link;
use crate::{native, trusted};

/// How long whoever waits for one host waits for the others, once that one has its keys: a moment, so that the log tells
/// of all of them together. A host that takes longer delays nobody.
pub(crate) const MOMENT: Duration = Duration::from_secs(2);

/// Keys on their way.
#[derive(Clone, Copy)]
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
pub(crate) async fn supply(controller: &Shared, supply: Supply<'_>) -> Result<(), Problem> {
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
    if let Some(key) = got.iter().find(|key| id_at_server(key).is_none()) {
        return Err(report(controller, supply.subject, not_at_a_server(supply.what, key)).await);
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
        let fetched = match fetch(supply.what, (provider, &servers), &keys).await {
            Ok(fetched) => fetched,
            Err(mut fault) => {
                fault.key = fault.key.or_else(|| keys.first().map(|key| (*key).clone()));
                return Err(report(controller, supply.subject, *fault).await);
            }
        };
        for (key, got) in keys.into_iter().zip(fetched) {
            match got {
                Ok(kek) => push.keys.push((key.clone(), kek)),
                Err(fault) => return Err(report(controller, supply.subject, fault).await),
            }
        }
    }
    let given = give(controller, supply.subject, supply.hosts, supply.must, push).await;
    // So that it is known at once which hosts have them.
    supply.hosts.iter().for_each(|link| link.poke.notify_one());
    given
}

/// Gives keys to hosts, all at once. Waits for the host that must have them, and a moment for the others; what becomes of
/// those that take longer is told when it is known.
///
/// # Errors
/// Where the host does not get them that must.
pub(crate) async fn give(
    controller: &Shared,
    subject: &EventSubject,
    hosts: &[Arc<Link>],
    must: Option<HostId>,
    push: KeyPush,
) -> Result<(), Problem> {
    let keys: Vec<KeyRef> = push.keys.iter().map(|(key, _)| key.clone()).collect();
    let mut report = Report { keys, subject: subject.clone(), given: Vec::new() };
    let push = Arc::new(push);
    let (told, mut answers) = mpsc::unbounded_channel();
    for link in hosts {
        let (link, push, told) = (Arc::clone(link), Arc::clone(&push), told.clone());
        controller.background.spawn(async move {
            let answer = link.push_keys(&push).await;
            // Whoever waited may have gone at the end of the process.
            let _ = told.send((link, answer.map(drop)));
        });
    }
    drop((told, push));
    let mut waits_for = must;
    let mut lost = None;
    let mut until = waits_for.is_none().then(|| Instant::now() + MOMENT);
    let all = loop {
        let next = match until {
            None => answers.recv().await,
            Some(until) => match timeout_at(until, answers.recv()).await {
                Ok(next) => next,
                Err(_) => break false,
            },
        };
        let Some((link, answer)) = next else { break true };
        let problem = report.note(controller, &link, answer).await;
        if waits_for == Some(link.id) {
            lost = problem;
            waits_for = None;
            until = Some(Instant::now() + MOMENT);
        }
    };
    report.given(controller).await;
    let named = named(&report.keys);
    if !all {
        let controller = Arc::clone(controller);
        controller.clone().background.spawn(async move {
            while let Some((link, answer)) = answers.recv().await {
                report.note(&controller, &link, answer).await;
                report.given(&controller).await;
            }
        });
    }
    match (lost, waits_for) {
        (None, None) => Ok(()),
        (Some(problem), _) => Err(problem),
        // It was switched off, or has left, since it was chosen.
        (None, Some(_)) => Err(takes_none(&named)),
    }
}

/// The host that must have keys is none of those that may.
pub(crate) fn takes_none(keys: &str) -> Problem {
    Problem::new(
        Code::HostMode,
        format!("cannot give a host {keys}"),
        "its encryption mode is not on any more",
        "choose another host, or switch it on: `ward host encryption enable HOST`",
    )
}

/// What became of a push.
struct Report {
    keys: Vec<KeyRef>,
    subject: EventSubject,
    /// The hosts of which nobody was told yet.
    given: Vec<String>,
}

impl Report {
    fn about(&self) -> EventSubject {
        let only = match self.keys.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        let provider = self.keys.first().map(|key| key.provider.clone());
        EventSubject { key: only.cloned(), provider, ..self.subject.clone() }
    }

    async fn note(&mut self, controller: &Controller, link: &Link, answer: Result<(), CallError>) -> Option<Problem> {
        let error = match answer {
            Ok(()) => {
                self.given.push(link.name.to_string());
                return None;
            }
            Err(error) => error,
        };
        let what = format!("host `{}` did not get {}", link.name, named(&self.keys));
        let problem = error.into_problem(&what);
        let remedy = format!("it gets the key when it answers again, and can; {}", problem.remedy);
        let problem = Problem::new(problem.code, what, problem.why, remedy);
        let subject = EventSubject { host: Some(link.id), ..self.about() };
        controller.record_problem(event_of_push(problem.code), &subject, &problem).await;
        Some(problem)
    }

    async fn given(&mut self, controller: &Controller) {
        if self.given.is_empty() {
            return;
        }
        self.given.sort();
        let message = format!("{} given to host {}", named(&self.keys), self.given.join(", "));
        controller.record(EventKind::KeyPushed, &self.about(), &message).await;
        self.given.clear();
    }
}

/// The event that tells why a host did not get a key.
const fn event_of_push(code: Code) -> EventKind {
    match code {
        Code::HostUnreachable => EventKind::KeyHostUnreachable,
        _ => EventKind::KeyHostUnfit,
    }
}

/// "key kms/1", "keys kms/1, kms/2".
pub(crate) fn named(keys: &[KeyRef]) -> String {
    let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
    match names.as_slice() {
        [only] => format!("key {only}"),
        several => format!("keys {}", several.join(", ")),
    }
}
