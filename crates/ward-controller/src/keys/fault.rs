//! What a key server's failure means: which code, which event, what to do about it.

use kmip::client::{ClientError, ReplicasError, TlsFault};
use kmip::names::ResultReason;
use ward_types::{Code, EventKind, KeyRef, Problem, ProviderName};

/// Something wrong with a key or a key server.
#[derive(Clone, Debug)]
pub(crate) struct KeyFault {
    pub(crate) kind: EventKind,
    pub(crate) provider: ProviderName,
    pub(crate) key: Option<KeyRef>,
    pub(crate) problem: Box<Problem>,
}

impl KeyFault {
    /// What it means for `what`, which was about `key` if it was about one, that no server of the provider did it.
    pub(crate) fn of(what: &str, provider: &ProviderName, key: Option<&KeyRef>, error: &ReplicasError) -> Self {
        let Some(decisive) = error.decisive() else {
            return Self::new(provider, key, Problem::internal(what, error));
        };
        let mut fault = Self::of_one(what, provider, key, decisive);
        if error.failures().count() > 1 {
            fault.problem.why = format!("key provider `{provider}`: {error}");
        }
        fault
    }

    /// What the failure of one server means.
    pub(crate) fn of_one(what: &str, provider: &ProviderName, key: Option<&KeyRef>, error: &ClientError) -> Self {
        let (code, remedy) = meaning(provider, key, error);
        let field = match error {
            ClientError::Tls { fault, .. } => fault.field(),
            _ => None,
        };
        let field = field.map_or_else(String::new, |field| format!(" (its field {field})"));
        Self::new(provider, key, Problem::new(code, what, format!("key provider `{provider}`: {error}{field}"), remedy))
    }

    /// A fault that is known by its problem.
    pub(crate) fn new(provider: &ProviderName, key: Option<&KeyRef>, problem: Problem) -> Self {
        Self { kind: event_of(problem.code), provider: provider.clone(), key: key.cloned(), problem: Box::new(problem) }
    }
}

/// The event that tells of a key problem.
pub(super) fn event_of(code: Code) -> EventKind {
    match code {
        Code::KeyServerUnreachable => EventKind::KeyServerUnreachable,
        Code::KeyServerTrust => EventKind::KeyServerTrust,
        Code::KeyMissing => EventKind::KeyMissingAtServer,
        Code::KeyNotUsable => EventKind::KeyNotUsable,
        Code::HostUnreachable => EventKind::KeyHostUnreachable,
        // No host can have it.
        Code::ProviderNone => EventKind::KeyNotOnHost,
        Code::HostUnfit | Code::HostNone => EventKind::KeyHostUnfit,
        Code::AttestationFailed
        | Code::HostNotEnrolled
        | Code::HostNotAdmitted
        | Code::TokenRefused
        | Code::EnrolmentRefused => EventKind::HostNotAttested,
        Code::TrustUnreachable => EventKind::TrustServiceDown,
        code => super::event_of_host(code).unwrap_or(EventKind::KeyServerRefused),
    }
}

fn meaning(provider: &ProviderName, key: Option<&KeyRef>, error: &ClientError) -> (Code, String) {
    match error {
        ClientError::Unreachable { address, .. }
        | ClientError::Timeout { address, .. }
        | ClientError::Interrupted { address, .. } => (
            Code::KeyServerUnreachable,
            format!(
                "check that the key server at {address} runs and that the network reaches it; \
                 `ward provider show {provider}` asks it again"
            ),
        ),
        ClientError::Tls { fault, .. } => (Code::KeyServerTrust, trust_remedy(provider, fault)),
        ClientError::NotAKey { id, .. } => {
            (Code::KeyNotUsable, format!("name another key: object {id} is not one that can be used"))
        }
        ClientError::Server { reason, .. } => refusal(provider, key, *reason),
        ClientError::NoCommonVersion { .. } => {
            (Code::KeyServerRefused, "use a key server that speaks KMIP 1.1 to 2.1".to_owned())
        }
        _ => (
            Code::KeyServerRefused,
            "see the key server's log: it answers in a way that KMIP does not allow".to_owned(),
        ),
    }
}

fn refusal(provider: &ProviderName, key: Option<&KeyRef>, reason: ResultReason) -> (Code, String) {
    match (reason, key) {
        (ResultReason::ITEM_NOT_FOUND | ResultReason::OBJECT_NOT_FOUND | ResultReason::OBJECT_DESTROYED, Some(key)) => {
            (
                Code::KeyMissing,
                format!(
                    "restore key {key} at the key server (from its backup or a replica); \
                 the data that it protects opens with no other"
                ),
            )
        }
        (ResultReason::OBJECT_ARCHIVED, Some(key)) => {
            (Code::KeyNotUsable, format!("recover key {key} from the key server's archive"))
        }
        (
            ResultReason::ILLEGAL_OPERATION
            | ResultReason::KEY_VALUE_NOT_PRESENT
            | ResultReason::SENSITIVE
            | ResultReason::NOT_EXTRACTABLE
            | ResultReason::WRONG_KEY_LIFECYCLE_STATE,
            Some(key),
        ) => {
            (Code::KeyNotUsable, format!("see at the key server in which state key {key} is, and what forbids its use"))
        }
        (
            ResultReason::PERMISSION_DENIED
            | ResultReason::AUTHENTICATION_NOT_SUCCESSFUL
            | ResultReason::NOT_AUTHORISED,
            _,
        ) => (
            Code::KeyServerRefused,
            format!("at the key server, allow the client certificate of key provider `{provider}` to do this"),
        ),
        _ => (Code::KeyServerRefused, "see the key server's log for the reason".to_owned()),
    }
}

fn trust_remedy(provider: &ProviderName, fault: &TlsFault) -> String {
    let look = format!("`ward provider trust {provider}`");
    match fault {
        TlsFault::ServerCertificateExpired { .. } => {
            format!("renew the key server's certificate, then accept the new one: {look} shows it")
        }
        TlsFault::ServerCertificateNotYetValid { .. } => {
            "check the clocks of the controller and the key server".to_owned()
        }
        TlsFault::ServerCertificateName { .. } => format!(
            "use the host name that the key server's certificate is made out to (`ward provider server add` and `rm`), \
             issue it a certificate for this one, or accept this certificate by its fingerprint: {look} shows it"
        ),
        TlsFault::ServerCertificateUnknownIssuer => format!(
            "give the certificate of the CA that issued the key server's certificate, `ward provider trust {provider} \
             --ca FILE`, or accept the server's certificate by its fingerprint: {look} shows it"
        ),
        TlsFault::ServerCertificateNotPinned { .. } => format!(
            "find out at the key server whether its certificate was renewed; if so, accept the new one: {look} shows it"
        ),
        TlsFault::ServerCertificatePurpose { .. } => format!(
            "issue the key server a certificate with extended key usage serverAuth, or accept this certificate by its \
             fingerprint: {look} shows it"
        ),
        fault if fault.is_about_server_certificate() => "give the key server a certificate that can be used".to_owned(),
        TlsFault::ClientCertificateExpired => format!(
            "give the controller a new certificate: `ward provider trust {provider} --csr` makes a request for one"
        ),
        fault if fault.is_about_client_certificate() => format!(
            "at the key server, trust the controller's certificate (`ward provider trust {provider} --out FILE` writes \
             it), or give the controller one that the key server trusts, with extended key usage clientAuth: `ward \
             provider trust {provider} --csr` makes a request for one"
        ),
        TlsFault::NotTls => "check the port: KMIP over TLS is usually on 5696".to_owned(),
        _ => "see the key server's log, and compare the TLS versions and cipher suites of both sides".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kmip::client::Phase;
    use kmip::names::Operation;
    use std::time::Duration;
    use ward_types::KeyId;

    use super::*;

    fn server(reason: ResultReason) -> ClientError {
        ClientError::Server { address: "k:5696".into(), operation: Operation::GET, reason, message: "no".into() }
    }

    fn tls(fault: TlsFault) -> ClientError {
        ClientError::Tls { address: "k:5696".into(), fault }
    }

    #[test]
    fn each_failure_has_its_code_and_its_event() {
        let provider: ProviderName = "kms".parse().unwrap();
        let key = KeyRef::standard(provider.clone(), KeyId::try_from("7".to_owned()).unwrap());
        let refused = || std::io::ErrorKind::ConnectionRefused.into();
        let address = || "k:5696".to_owned();
        let table = [
            (ClientError::Unreachable { address: address(), source: refused() }, Code::KeyServerUnreachable),
            (
                ClientError::Interrupted { address: address(), operation: Operation::GET, source: refused() },
                Code::KeyServerUnreachable,
            ),
            (
                ClientError::Timeout { address: address(), during: Phase::Connecting, after: Duration::from_secs(1) },
                Code::KeyServerUnreachable,
            ),
            (tls(TlsFault::ServerCertificateExpired { not_after: None }), Code::KeyServerTrust),
            (tls(TlsFault::ClientCertificateUnknownIssuer), Code::KeyServerTrust),
            (tls(TlsFault::NotTls), Code::KeyServerTrust),
            (ClientError::NoCommonVersion { address: address(), offered: vec![] }, Code::KeyServerRefused),
            (server(ResultReason::ITEM_NOT_FOUND), Code::KeyMissing),
            (server(ResultReason::OBJECT_ARCHIVED), Code::KeyNotUsable),
            (server(ResultReason::ILLEGAL_OPERATION), Code::KeyNotUsable),
            (server(ResultReason::PERMISSION_DENIED), Code::KeyServerRefused),
            (server(ResultReason::GENERAL_FAILURE), Code::KeyServerRefused),
        ];
        for (error, code) in table {
            let fault = KeyFault::of_one("cannot x", &provider, Some(&key), &error);
            assert_eq!(fault.problem.code, code, "{error}");
            assert!(fault.kind.as_str().starts_with("key.error."), "{error}: {}", fault.kind);
            assert!(fault.problem.why.contains("`kms`"), "{}", fault.problem.why);
            assert!(!fault.problem.remedy.is_empty());
            assert_eq!(fault.key.as_ref(), Some(&key));
        }
    }

    #[test]
    fn a_trust_problem_names_the_field() {
        let provider: ProviderName = "kms".parse().unwrap();
        let fault = TlsFault::ServerCertificateName { expected: "a".into(), presented: vec!["b".into()] };
        let problem = KeyFault::of_one("cannot x", &provider, None, &tls(fault)).problem;
        assert!(problem.why.contains("\"a\"") && problem.why.contains('b'), "{}", problem.why);
    }

    #[test]
    fn without_a_key_nothing_is_said_to_be_missing() {
        let provider: ProviderName = "kms".parse().unwrap();
        let fault = KeyFault::of_one("cannot x", &provider, None, &server(ResultReason::ITEM_NOT_FOUND));
        assert_eq!(fault.problem.code, Code::KeyServerRefused);
    }
}
