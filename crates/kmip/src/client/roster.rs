//! Which of several servers of the same keys is asked next, and which are set aside: without input, output or a clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ClientError, Phase};
use crate::names::{Operation, ResultReason};

/// How long a failing server is set aside: at first, doubling with each further failure, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// After the first failure.
    pub first: Duration,
    /// However often it has failed.
    pub most: Duration,
}

impl Default for BackOff {
    /// One second, up to five minutes.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(300) }
    }
}

impl BackOff {
    /// After so many failures in a row.
    fn after(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.most)
    }
}

/// What a server's failure means for the request and for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It doesn't have the object. Another may.
    Lacks,
    /// It didn't do it and can't, which says nothing about other requests. Another may.
    Unable,
    /// It, or the way to it, failed before anything was done.
    Failed,
    /// It failed, and may have done it.
    Doubtful,
    /// It decided: no other is asked.
    Stands,
}

impl Verdict {
    pub(super) fn of(error: &ClientError) -> Self {
        match error {
            ClientError::Encode { .. } | ClientError::Timeout { during: Phase::Waiting(_), .. } => Self::Unable,
            ClientError::NoCommonVersion { .. }
            | ClientError::Timeout { during: Phase::Connecting, .. }
            | ClientError::Tls { .. }
            | ClientError::Unreachable { .. } => Self::Failed,
            ClientError::Interrupted { .. }
            | ClientError::Protocol { .. }
            | ClientError::Timeout { during: Phase::Request(_), .. }
            | ClientError::UnexpectedAnswer { .. } => {
                if error.may_have_taken_effect() {
                    Self::Doubtful
                } else {
                    Self::Failed
                }
            }
            ClientError::NotAKey { .. } => Self::Stands,
            ClientError::Server { operation, reason, .. } => Self::of_refusal(*operation, *reason),
        }
    }

    fn of_refusal(operation: Operation, reason: ResultReason) -> Self {
        match reason {
            ResultReason::ITEM_NOT_FOUND | ResultReason::OBJECT_NOT_FOUND => Self::Lacks,
            // A server that doesn't let us in answers nothing else either.
            ResultReason::AUTHENTICATION_NOT_SUCCESSFUL | ResultReason::NOT_AUTHORISED => Self::Failed,
            ResultReason::GENERAL_FAILURE
            | ResultReason::INTERNAL_SERVER_ERROR
            | ResultReason::OPERATION_NOT_SUPPORTED
            | ResultReason::PROTECTION_STORAGE_UNAVAILABLE
            | ResultReason::SERVER_LIMIT_EXCEEDED => Self::Unable,
            // Its own copy of the key is damaged; of Decrypt, this is what a wrong ciphertext gets.
            ResultReason::CRYPTOGRAPHIC_FAILURE if operation == Operation::GET => Self::Unable,
            _ => Self::Stands,
        }
    }
}

/// How a server did so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// In a row.
    failures: u32,
    pub(super) aside_until: Option<Instant>,
    /// While one request tries a server that was set aside, others don't.
    probed_until: Option<Instant>,
    pub(super) last_success: Option<Instant>,
    pub(super) last_error: Option<(Instant, Arc<ClientError>)>,
    /// Of the last success.
    pub(super) latency: Option<Duration>,
}

impl Standing {
    fn is_aside(&self, now: Instant) -> bool {
        self.aside_until.is_some_and(|until| now < until || self.probed_until.is_some_and(|until| now < until))
    }
}

/// The servers, in the order in which they are to be asked.
pub(super) struct Roster {
    servers: Vec<Standing>,
    back_off: BackOff,
}

impl Roster {
    pub(super) fn new(servers: usize, back_off: BackOff) -> Self {
        Self { servers: vec![Standing::default(); servers], back_off }
    }

    pub(super) fn standing(&self, place: usize) -> Standing {
        self.servers.get(place).cloned().unwrap_or_default()
    }

    /// The server that `attempt` is to ask now, if there is one that it hasn't asked: in order, those that are set aside
    /// last, the soonest to come back first. `patience` is how long it may take to answer.
    pub(super) fn next(&mut self, attempt: &mut Attempt, now: Instant, patience: Duration) -> Option<usize> {
        let unasked = || self.servers.iter().enumerate().filter(|(place, _)| !attempt.has_asked(*place));
        let place = unasked()
            .find(|(_, server)| !server.is_aside(now))
            .or_else(|| unasked().min_by_key(|(_, server)| server.aside_until))
            .map(|(place, _)| place)?;
        let server = self.servers.get_mut(place)?;
        if server.aside_until.is_some() {
            server.probed_until = Some(now + patience);
        }
        attempt.asked.push(place);
        Some(place)
    }

    pub(super) fn succeeded(&mut self, place: usize, now: Instant, latency: Duration) {
        if let Some(server) = self.servers.get_mut(place) {
            *server = Standing {
                last_success: Some(now),
                latency: Some(latency),
                last_error: server.last_error.take(),
                ..Standing::default()
            };
        }
    }

    /// Records a failure. Whether the server is now set aside.
    pub(super) fn failed(&mut self, place: usize, verdict: Verdict, error: &Arc<ClientError>, now: Instant) -> bool {
        let Some(server) = self.servers.get_mut(place) else {
            return false;
        };
        match verdict {
            // It answered, and what it said is about the request.
            Verdict::Stands | Verdict::Lacks => {
                server.aside_until = None;
                server.failures = 0;
                server.last_success = Some(now);
                false
            }
            Verdict::Unable => {
                server.last_error = Some((now, Arc::clone(error)));
                false
            }
            Verdict::Failed | Verdict::Doubtful => {
                server.last_error = Some((now, Arc::clone(error)));
                server.probed_until = None;
                // Requests that were under way together fail together: that is one failure.
                if server.aside_until.is_none_or(|until| until <= now) {
                    server.failures = server.failures.saturating_add(1);
                    server.aside_until = Some(now + self.back_off.after(server.failures));
                }
                true
            }
        }
    }
}

/// One request's way from server to server.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    asked: Vec<usize>,
    failures: Vec<(Verdict, Arc<ClientError>)>,
    lacking: usize,
}

impl Attempt {
    fn has_asked(&self, place: usize) -> bool {
        self.asked.contains(&place)
    }

    /// The server asked last failed.
    pub(super) fn note(&mut self, verdict: Verdict, error: Arc<ClientError>) {
        self.failures.push((verdict, error));
    }

    /// The server asked last has nothing of what was looked for.
    pub(super) fn note_lacking(&mut self) {
        self.lacking += 1;
    }

    /// Whether what was asked for may have been done by a server that then failed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.failures.iter().any(|(verdict, _)| *verdict == Verdict::Doubtful)
    }

    /// Whether some server has nothing of what was looked for, and none refused to look.
    pub(super) fn is_only_unanswered(&self) -> bool {
        self.lacking > 0 && self.failures.iter().all(|(verdict, _)| *verdict != Verdict::Stands)
    }

    /// The failures so far, the one that decides first: a doubt before a failed server, that before an object which the
    /// others lack, since it may be at the server that failed.
    pub(super) fn into_failures(mut self) -> Vec<Arc<ClientError>> {
        // Stable: of those that weigh the same, the first.
        self.failures.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
        self.failures.into_iter().map(|(_, error)| error).collect()
    }

    pub(super) fn doubtful(&self) -> impl Iterator<Item = &ClientError> {
        self.failures.iter().filter(|(verdict, _)| *verdict == Verdict::Doubtful).map(|(_, error)| &**error)
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = &ClientError> {
        self.failures.iter().map(|(_, error)| &**error)
    }
}

#[cfg(test)]
mod tests;
