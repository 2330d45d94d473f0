//! Key providers, their servers, and the trust between both sides.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use ward_types::{Name, Problem, ProviderKind, ProviderName, ServerAddress};

use super::NativeView;

/// How a provider or one of its servers stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Light {
    /// It was not looked at yet.
    Unknown,
    /// All is well.
    Green,
    /// It works, and something wants attention.
    Yellow,
    /// It does not work.
    Red,
}

impl fmt::Display for Light {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        })
    }
}

/// What was found when something was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Check {
    /// It could not be told: what comes before it fails.
    #[default]
    Unknown,
    /// It is well.
    Good,
    /// It is not.
    Bad {
        /// What is wrong, and what to do.
        problem: Problem,
    },
}

impl Check {
    /// What is wrong, if anything is.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Bad { problem } => Some(problem),
            _ => None,
        }
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateView {
    /// Whom it is made out to.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// From when it is valid.
    #[schema(value_type = String, format = DateTime)]
    pub not_before: Timestamp,
    /// Until when it is valid.
    #[schema(value_type = String, format = DateTime)]
    pub not_after: Timestamp,
    /// How many whole days are left; below zero once it has expired.
    pub days_left: i64,
    /// SHA-256 of all of it, as `openssl x509 -fingerprint -sha256` writes it.
    pub fingerprint: String,
    /// The host names and addresses that it is made out to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// What it may be used for (extended key usage); without any it is good for everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub purposes: Vec<String>,
}

/// By what a server is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum KnownBy {
    /// By nothing yet: nobody has accepted its certificate.
    Nothing,
    /// By the provider's CA.
    Ca,
    /// By its certificate, which somebody has accepted.
    Fingerprint {
        /// SHA-256 of that certificate.
        fingerprint: String,
    },
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Ca => "CA",
            Self::Fingerprint { .. } => "fingerprint",
        })
    }
}

/// A key server of a provider.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerView {
    /// Where it is.
    pub address: ServerAddress,
    /// By what it is known.
    pub known: KnownBy,
    /// How it stands.
    pub status: Light,
    /// When it was last looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked: Option<Timestamp>,
    /// Whether it can be reached.
    pub connection: Check,
    /// Whether the controller trusts it.
    pub server_trusted: Check,
    /// Whether it trusts the controller.
    pub client_trusted: Check,
    /// The certificate that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// The KMIP version that was agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Who made the server, as it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// How many milliseconds it took to answer, over a new connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// Until when it is asked only if all others fail, since it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub set_aside_until: Option<Timestamp>,
}

impl ServerView {
    /// What is wrong with it, if anything is.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.connection.problem().or(self.server_trusted.problem()).or(self.client_trusted.problem())
    }
}

/// A certificate of the controller's that is not in use yet.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PendingView {
    /// The request for a certificate (PKCS #10, PEM), where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The certificate, PEM; none until it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// What it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
}

/// A key provider.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProviderView {
    /// Its name, which is its identity.
    pub name: ProviderName,
    /// Its kind.
    pub kind: ProviderKind,
    /// How it stands.
    pub status: Light,
    /// Its servers, in the order in which they are asked; none where its kind has none.
    pub servers: Vec<ServerView>,
    /// How many seconds of a request's time one server may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// The authorities whose certificates are good for its servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca: Vec<CertificateView>,
    /// The controller's certificate at its servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// The same, PEM: for its servers to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_pem: Option<String>,
    /// A certificate that is to take that one's place once it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingView>,
    /// Whether keys come from it unless said otherwise.
    pub default: bool,
    /// The clusters for whose VMs keys come from it unless said otherwise, whatever the default one is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_of: Vec<Name>,
    /// The VMs that need one of its keys.
    pub vms: Vec<Name>,
    /// The hosts whose host key is of it, or that keep dumps under one.
    #[serde(default)]
    pub hosts: Vec<Name>,
    /// How many of its keys the inventory needs.
    pub keys_needed: usize,
    /// How many of these could not be had when they were last asked for, or can't be had now.
    pub keys_unreachable: usize,
    /// After how many days its keys are replaced, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_days: Option<u32>,
    /// What is particular to a native one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeView>,
}

/// A standard key provider that is to be known.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddProvider {
    /// Its name, which is its identity.
    pub name: ProviderName,
    /// Its servers, which have the same keys, in the order in which they are to be asked.
    pub servers: Vec<ServerAddress>,
    /// How many seconds of a request's time one server may take; none means 10.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 600)]
    pub timeout_s: Option<u64>,
    /// The certificates of the authorities by which to know the servers, PEM; none: accept their certificates later.
    #[serde(default)]
    pub ca: Option<String>,
    /// The controller's certificate at the servers, PEM; none: give it one later.
    #[serde(default)]
    pub certificate: Option<String>,
    /// The private key that belongs to it, PEM. Kept sealed; no call ever gives it back.
    #[serde(default)]
    pub key: Option<String>,
    /// Whether keys come from it unless said otherwise. The first provider is the default one anyway.
    #[serde(default)]
    pub default: bool,
}

impl fmt::Debug for AddProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddProvider").field("name", &self.name).field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// How to remove a provider.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveProvider {
    /// The provider's name again: remove it although VMs or hosts need its keys.
    #[serde(default)]
    pub force: Option<String>,
}

/// From where keys for a cluster's VMs come.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetClusterProvider {
    /// The provider; none means the default one of all.
    pub provider: Option<ProviderName>,
}

/// A server that is to be asked too.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddServer {
    /// Where it is.
    pub server: ServerAddress,
    /// Whether to ask it before all others, and not after them.
    #[serde(default)]
    pub first: bool,
    /// SHA-256 of the certificate by which to know it; none: by the provider's CA, or by what is accepted later.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// What a server shows, for somebody to look at.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShownServer {
    /// Where it is.
    pub address: ServerAddress,
    /// Whether it can be reached.
    pub connection: Check,
    /// Whether the controller trusts it.
    pub server_trusted: Check,
    /// Its certificate, and those of the authorities behind it as far as it shows them.
    pub certificates: Vec<CertificateView>,
}

/// By what servers are to be known.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TrustServers {
    /// By a certificate that somebody has looked at: every server that shows it just now.
    Fingerprint {
        /// SHA-256 of it.
        fingerprint: String,
    },
    /// By the authorities that issued their certificates: all servers.
    Ca {
        /// The authorities' certificates, PEM.
        ca: String,
    },
}

/// Whom a certificate is to be made out to: the fields that key servers ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateSubject {
    /// Common name: to many key servers the client's name; none means `ward-controller`.
    #[serde(default)]
    pub common_name: Option<String>,
    /// Organization.
    #[serde(default)]
    pub organization: Option<String>,
    /// Part of the organization.
    #[serde(default)]
    pub organizational_unit: Option<String>,
    /// Town.
    #[serde(default)]
    pub locality: Option<String>,
    /// State or province.
    #[serde(default)]
    pub state: Option<String>,
    /// Country, in two letters.
    #[serde(default)]
    pub country: Option<String>,
}

/// A certificate for the controller at a provider's servers. What is in use stays so until the new one has worked.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NewIdentity {
    /// A new key, and a certificate that it signs itself, for the servers to trust as it is.
    SelfSigned {
        /// Whom it is made out to.
        #[serde(default)]
        subject: CertificateSubject,
    },
    /// A new key, and a request for a certificate, for an authority to sign that the servers trust.
    Request {
        /// Whom it is to be made out to.
        #[serde(default)]
        subject: CertificateSubject,
    },
    /// The certificate (chain) that was issued for the latest request.
    Certificate {
        /// PEM.
        certificate: String,
    },
    /// A certificate (chain) and its private key.
    CertificateAndKey {
        /// PEM.
        certificate: String,
        /// PEM. Kept sealed; no call ever gives it back.
        key: String,
    },
}

impl fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SelfSigned { .. } => "SelfSigned",
            Self::Request { .. } => "Request",
            Self::Certificate { .. } => "Certificate",
            Self::CertificateAndKey { .. } => "CertificateAndKey",
        })
    }
}
