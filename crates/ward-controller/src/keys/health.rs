//! What was found of a provider, judged: green, yellow or red. Without input, output or a clock.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kmip::certificate::CertificateInfo;
use ward_types::{EventKind, ProviderName};

use super::Look;
use crate::api::types::{Check, Light};

/// With less than this left, in seconds, a certificate wants attention.
const SOON: i64 = 30 * DAY;
const DAY: i64 = 86_400;
/// An event tells that a certificate has less than so many days left; 0: that it has expired.
const THRESHOLDS: [i64; 5] = [0, 1, 7, 14, 30];

/// What was found of each provider when it was last looked at.
#[derive(Default)]
pub(crate) struct Health(Mutex<HashMap<ProviderName, Vec<Look>>>);

impl Health {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProviderName, Vec<Look>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, name: &ProviderName) -> Vec<Look> {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn put(&self, name: &ProviderName, looks: Vec<Look>) {
        self.lock().insert(name.clone(), looks);
    }

    pub(crate) fn forget(&self, name: &ProviderName) {
        self.lock().remove(name);
    }
}

/// How a server stands at a time, in seconds since 1970.
pub(crate) fn server(look: &Look, now: i64) -> Light {
    let checks = [&look.connection, &look.server_trusted, &look.client_trusted];
    if checks.into_iter().any(|check| *check != Check::Good) {
        return Light::Red;
    }
    match look.shown.first() {
        Some(certificate) if certificate.not_after - now < SOON => Light::Yellow,
        _ => Light::Green,
    }
}

/// How a provider stands: by its servers, by when our certificate there ends, by whether keys can't be had.
pub(crate) fn provider(servers: &[Light], not_after: Option<i64>, keys_unreachable: usize, now: i64) -> Light {
    let left = not_after.map(|not_after| not_after - now);
    if servers.iter().all(|light| *light == Light::Unknown) && !servers.is_empty() {
        Light::Unknown
    } else if keys_unreachable > 0
        || left.is_some_and(|left| left < 0)
        || servers.iter().all(|light| *light == Light::Red)
    {
        Light::Red
    } else if left.is_some_and(|left| left < SOON) || servers.iter().any(|light| *light != Light::Green) {
        Light::Yellow
    } else {
        Light::Green
    }
}

/// Something about a provider of which events tell when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Of what: the same whenever it is looked at.
    pub(crate) subject: String,
    pub(crate) state: String,
    /// The event that tells that it has come to this.
    pub(crate) kind: EventKind,
    pub(crate) message: String,
}

/// Where a light counts as known before anything was told of it.
const ASSUMED: Light = Light::Green;
const CERTIFICATE: &str = "certificate ";

impl State {
    /// That of a provider, or of one of its servers; none while it is not known.
    pub(crate) fn light(of_server: bool, subject: &str, light: Light, message: String) -> Option<Self> {
        let kind = match (light, of_server) {
            (Light::Unknown, _) => return None,
            (Light::Green, false) => EventKind::ProviderGreen,
            (Light::Yellow, false) => EventKind::ProviderYellow,
            (Light::Red, false) => EventKind::ProviderRed,
            (Light::Green, true) => EventKind::KeyServerGreen,
            (Light::Yellow, true) => EventKind::KeyServerYellow,
            (Light::Red, true) => EventKind::KeyServerRed,
        };
        Some(Self { subject: subject.to_owned(), state: light.to_string(), kind, message })
    }

    /// That a certificate is about to expire or has expired; none while there is much time. `whose` and `remedy` are for
    /// people.
    pub(crate) fn certificate(info: &CertificateInfo, now: i64, whose: &str, remedy: &str) -> Option<Self> {
        let left = info.not_after - now;
        let passed = |days: &&i64| if **days == 0 { left < 0 } else { left < **days * DAY };
        let threshold = THRESHOLDS.iter().find(passed)?;
        let (kind, says) = match threshold {
            0 => (EventKind::CertificateExpired, "has expired".to_owned()),
            _ => (EventKind::CertificateExpiring, format!("expires in {} days", left / DAY)),
        };
        let message = format!("{whose} (SHA-256 {}) {says}: {remedy}", info.fingerprint);
        Some(Self {
            subject: format!("{CERTIFICATE}{}", info.fingerprint),
            state: threshold.to_string(),
            kind,
            message,
        })
    }
}

/// Of `states`, those that events have not told yet; and what they have told once they have told these.
pub(crate) fn news(told: &[(String, String)], states: Vec<State>) -> (Vec<State>, Vec<(String, String)>) {
    let known = |subject: &str| told.iter().find(|(known, _)| known == subject).map(|(_, state)| state.as_str());
    let is_news = |state: &State| {
        if state.subject.starts_with(CERTIFICATE) {
            let days = |text: &str| text.parse::<i64>().unwrap_or(i64::MAX);
            return days(&state.state) < known(&state.subject).map_or(i64::MAX, days);
        }
        state.state != known(&state.subject).map_or_else(|| ASSUMED.to_string(), str::to_owned)
    };
    let mut after: Vec<_> = states.iter().map(|state| (state.subject.clone(), state.state.clone())).collect();
    // A certificate that is not shown just now may be shown again.
    let unseen = told.iter().filter(|(subject, _)| {
        subject.starts_with(CERTIFICATE) && !states.iter().any(|state| state.subject == *subject)
    });
    after.extend(unseen.cloned());
    after.sort();
    (states.into_iter().filter(is_news).collect(), after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::Timestamp;
    use kmip::certificate::Fingerprint;
    use ward_types::{Code, Problem};

    use super::*;
    use Light::{Green, Red, Unknown, Yellow};

    const NOW: i64 = 1_800_000_000;

    fn certificate(left: i64) -> CertificateInfo {
        CertificateInfo {
            subject: "CN=kms".into(),
            issuer: "CN=ca".into(),
            serial: "01".into(),
            not_before: 0,
            not_after: NOW + left,
            fingerprint: Fingerprint([7; 32]),
            names: vec![],
            purposes: vec![],
            is_ca: false,
            is_self_issued: false,
        }
    }

    fn bad() -> Check {
        Check::Bad { problem: Problem::new(Code::KeyServerTrust, "a", "b", "c") }
    }

    #[test]
    fn a_servers_light() {
        let look = |connection: Check, server_trusted: Check, client_trusted: Check, left| Look {
            address: "kms".parse().unwrap(),
            at: Timestamp::UNIX_EPOCH,
            connection,
            server_trusted,
            client_trusted,
            shown: vec![certificate(left)],
            answer: None,
        };
        let good = || Check::Good;
        let table = [
            (look(good(), good(), good(), 31 * DAY), Green),
            (look(good(), good(), good(), 30 * DAY), Green),
            (look(good(), good(), good(), 30 * DAY - 1), Yellow),
            (look(good(), good(), bad(), 31 * DAY), Red),
            (look(good(), bad(), Check::Unknown, 31 * DAY), Red),
            (look(bad(), Check::Unknown, Check::Unknown, 31 * DAY), Red),
        ];
        for (look, light) in table {
            assert_eq!(server(&look, NOW), light, "{look:?}");
        }
    }

    #[test]
    fn a_providers_light() {
        let far = Some(NOW + 31 * DAY);
        let table: [(&[Light], _, _, _); 12] = [
            (&[Green, Green], far, 0, Green),
            (&[Green, Red], far, 0, Yellow),
            (&[Red, Yellow], far, 0, Yellow),
            (&[Yellow], far, 0, Yellow),
            (&[Green, Unknown], far, 0, Yellow),
            (&[Red, Red], far, 0, Red),
            (&[Unknown, Unknown], far, 0, Unknown),
            (&[], far, 0, Red),
            (&[Green], Some(NOW + 30 * DAY - 1), 0, Yellow),
            (&[Green], Some(NOW - 1), 0, Red),
            (&[Green], None, 0, Green),
            (&[Green], far, 1, Red),
        ];
        for (servers, not_after, keys, light) in table {
            assert_eq!(provider(servers, not_after, keys, NOW), light, "{servers:?} {not_after:?} {keys}");
        }
    }

    /// What is told while a certificate grows old, looked at each hour.
    #[test]
    fn a_certificate_is_told_of_once_per_threshold() {
        let mut told = Vec::new();
        let mut said = Vec::new();
        for hour in (-48..=40 * 24).rev() {
            let state = State::certificate(&certificate(hour * 3600), NOW, "the certificate", "renew it");
            let (news, after) = news(&told, state.into_iter().collect());
            told = after;
            said.extend(news.into_iter().map(|state| (hour, state.state, state.kind)));
        }
        let expiring = |hour, days: &str| (hour, days.to_owned(), EventKind::CertificateExpiring);
        let expected = [
            expiring(30 * 24 - 1, "30"),
            expiring(14 * 24 - 1, "14"),
            expiring(7 * 24 - 1, "7"),
            expiring(23, "1"),
            (-1, "0".to_owned(), EventKind::CertificateExpired),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_light_is_told_of_when_it_changes() {
        let state = |subject: &str, light| State::light(true, subject, light, String::new());
        let mut told = Vec::new();
        let mut tell = |lights: [Light; 2]| {
            let states = [state("a", lights[0]), state("b", lights[1])].into_iter().flatten().collect();
            let (news, after) = news(&told, states);
            told = after;
            news.into_iter().map(|state| format!("{} {}", state.subject, state.state)).collect::<Vec<_>>()
        };
        assert!(tell([Green, Green]).is_empty(), "as is assumed");
        assert_eq!(tell([Green, Red]), ["b red"]);
        assert!(tell([Green, Red]).is_empty());
        assert_eq!(tell([Yellow, Green]), ["a yellow", "b green"]);
        assert_eq!(tell([Green, Unknown]), ["a green"]);
        assert!(tell([Green, Green]).is_empty());
    }

    /// A certificate that is not shown while its server is away is not told of again when it is back.
    #[test]
    fn what_was_told_of_an_unseen_certificate_stays_told() {
        let state = || State::certificate(&certificate(DAY), NOW, "the certificate", "renew it").unwrap();
        let (first, told) = news(&[], vec![state()]);
        assert_eq!(first.len(), 1);
        let (_, told) = news(&told, vec![]);
        assert!(news(&told, vec![state()]).0.is_empty());
    }
}
