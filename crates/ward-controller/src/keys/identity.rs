//! Who the controller is to a provider's servers: certificates that are made, brought along, and tried before they are
//! used.

use jiff::Timestamp;
use kmip::certificate::CertificateInfo;
use kmip::client::{ClientIdentity, IdentityError, PendingIdentity, Subject};
use ward_types::{Code, Problem, ProviderName};

use super::look::{Look, look};
use super::server::Identity;
use crate::api::types::{CertificateSubject, Check};
use crate::store::provider::Access;

/// To whom a certificate is made out unless said otherwise.
const COMMON_NAME: &str = "ward-controller";
/// For how many years a certificate is good that signs itself.
const YEARS: i16 = 10;

/// What the first certificate of a PEM text says.
pub(crate) fn certificate_info(pem: &str) -> Option<CertificateInfo> {
    certificates(pem).into_iter().next()
}

/// What the certificates of a PEM text say, as far as they can be read.
pub(crate) fn certificates(pem: &str) -> Vec<CertificateInfo> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let der = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    der.filter_map(|der| CertificateInfo::from_der(&der).ok()).collect()
}

/// To whom a certificate is to be made out.
pub(crate) fn subject(subject: CertificateSubject) -> Subject {
    let CertificateSubject { common_name, organization, organizational_unit, locality, state, country } = subject;
    let common_name = common_name.unwrap_or_else(|| COMMON_NAME.to_owned());
    Subject { common_name, organization, organizational_unit, locality, state, country }
}

/// A new key that signs its own certificate.
pub(crate) fn self_signed(what: &str, wanted: CertificateSubject) -> Result<ClientIdentity, Problem> {
    let this_year = jiff::tz::Offset::UTC.to_datetime(Timestamp::now()).year();
    let pending = PendingIdentity::generate(subject(wanted));
    let made = pending.and_then(|pending| pending.self_signed(i32::from(this_year + YEARS)));
    made.map_err(|error| unusable(what, &Brought::Made, &error))
}

/// From where a certificate is.
pub(crate) enum Brought<'a> {
    /// From the controller itself.
    Made,
    /// From an authority, for the latest request of this provider.
    ForRequest(&'a ProviderName),
    /// From the user, with its key.
    WithKey,
}

/// Why a certificate can't be ours, down to the field, and what to do.
pub(crate) fn unusable(what: &str, brought: &Brought<'_>, error: &IdentityError) -> Problem {
    let (code, why, remedy) = match (error, brought) {
        (IdentityError::ForAnotherKey, Brought::ForRequest(name)) => (
            Code::RequestInvalid,
            "the certificate is not for the latest request: its field subjectPublicKeyInfo has another key".to_owned(),
            format!(
                "have the latest request signed, which `ward provider trust {name} --out FILE` writes again; a new \
                 request makes those before it worthless"
            ),
        ),
        (IdentityError::ForAnotherKey, _) => (
            Code::RequestInvalid,
            "the private key does not belong to the certificate: its field subjectPublicKeyInfo has another key"
                .to_owned(),
            "give the private key that the certificate was issued for".to_owned(),
        ),
        (IdentityError::NotCurrent { not_before, not_after }, _) => {
            let now = Timestamp::now().as_second();
            let day = |seconds: i64| {
                Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
            };
            let (why, remedy) = if *not_after < now {
                let why = format!("the client certificate has expired: its field notAfter is {}", day(*not_after));
                (why, "have a new certificate issued for the controller")
            } else {
                let why =
                    format!("the client certificate is not valid yet: its field notBefore is {}", day(*not_before));
                (why, "wait until then, or check the clocks of the controller and of who issued it")
            };
            (Code::KeyServerTrust, why, remedy.to_owned())
        }
        (IdentityError::Purpose { has }, _) => (
            Code::KeyServerTrust,
            format!(
                "the client certificate is not meant for clients: its field extendedKeyUsage has {} and lacks clientAuth",
                has.join(", ")
            ),
            "have it issued with extended key usage clientAuth".to_owned(),
        ),
        (IdentityError::Certificate(_), _) => (
            Code::RequestInvalid,
            error.to_string(),
            "give the controller's certificate as PEM, with those of the authorities between behind it".to_owned(),
        ),
        (IdentityError::Key(_), _) => {
            (Code::RequestInvalid, error.to_string(), "give the certificate's private key as PEM".to_owned())
        }
        (error, _) => (Code::Internal, error.to_string(), "report this as a defect".to_owned()),
    };
    Problem::new(code, what, why, remedy)
}

/// Tries an identity at all servers of a provider. It works where at least one answers and none that can be reached does
/// not trust it.
///
/// # Errors
/// Says which server does not take it, and why; or that none could be asked.
pub(crate) async fn try_it(
    what: &str,
    name: &ProviderName,
    access: &Access,
    identity: &Identity,
) -> Result<Vec<Look>, Problem> {
    let looks = look(name, access, Some(identity)).await;
    judge(what, name, looks)
}

fn judge(what: &str, name: &ProviderName, looks: Vec<Look>) -> Result<Vec<Look>, Problem> {
    let named = |problem: &Problem| Problem { what: what.to_owned(), ..problem.clone() };
    if let Some(problem) = looks.iter().find_map(|look| look.client_trusted.problem()) {
        return Err(named(problem));
    }
    if looks.iter().any(Look::is_usable) {
        return Ok(looks);
    }
    // Which servers are trusted is another question than whether this works, but it comes first.
    let first = looks.iter().find_map(|look| look.server_trusted.problem()).or(looks.iter().find_map(Look::problem));
    Err(first.map_or_else(
        || {
            let why = format!("key provider `{name}` has no key server to try it at");
            let remedy = format!("add one with `ward provider server add {name} HOST:PORT`");
            Problem::new(Code::KeyServerUnreachable, what, why, remedy)
        },
        named,
    ))
}

/// Whether servers may be used as they were found: at least one answers, and of none is it known that one side does not trust
/// the other.
///
/// # Errors
/// Says what is wrong with which.
pub(crate) fn usable(what: &str, looks: &[Look]) -> Result<(), Problem> {
    let named = |problem: &Problem| Err(Problem { what: what.to_owned(), ..problem.clone() });
    if let Some(problem) = looks.iter().find_map(Look::trust_problem) {
        return named(problem);
    }
    match looks.iter().find_map(|look| look.connection.problem()) {
        Some(problem) if !looks.iter().any(|look| look.connection == Check::Good) => named(problem),
        _ => Ok(()),
    }
}
