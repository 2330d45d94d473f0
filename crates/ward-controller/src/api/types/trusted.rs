//! Trusted key providers.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use ward_types::{Name, Problem, ProviderName};

/// A trusted key provider that is to be known.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTrusted {
    /// Its name, which is its identity: the one that it has at the trust authority.
    pub name: ProviderName,
    /// The signed description of the trust authority's services.
    pub description: String,
    /// The trusted clusters, whose hosts are told of it. All, if none is named.
    #[serde(default)]
    pub clusters: Vec<Name>,
    /// Whether keys come from it unless said otherwise. The first provider is the default one anyway.
    #[serde(default)]
    pub default: bool,
}

/// A newer description of a trusted provider's trust authority.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DescribeTrusted {
    /// The signed description. The same administrators must have signed it as the one before.
    pub description: String,
}

/// How a host stands with a trust authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustedHostView {
    /// The host.
    pub host: Name,
    /// The trusted provider.
    pub provider: ProviderName,
    /// How it is.
    pub state: TrustState,
    /// The digest of the description that it is to go by; none where it is to go by none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    /// The digest of the one that it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// When it was attested last with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub attested: Option<Timestamp>,
    /// Until when the last verdict holds: a good one as long as the host's token is good, a refusal until the host tries
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// How old the last verdict is, good or not, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Why it gets no key, if it gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Problem>,
}

/// How a host or a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrustState {
    /// As it should be: attested, or answering.
    Healthy,
    /// The host gets no keys.
    NotAttested,
    /// It goes by another configuration than it should.
    Differs,
    /// The services go by what nobody has signed: `ward trust config export` signs it.
    NotSigned,
    /// It does not answer.
    Away,
}

impl fmt::Display for TrustState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::NotAttested => "not attested",
            Self::Differs => "differs",
            Self::NotSigned => "not signed",
            Self::Away => "away",
        })
    }
}

/// An instance of a trust authority's service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustServiceView {
    /// The trusted provider in whose description it stands.
    pub provider: ProviderName,
    /// `attestation` or `key-provider`.
    pub service: String,
    /// Where it is.
    pub address: String,
    /// How it is.
    pub state: TrustState,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The digest of the newest signed configuration that any instance of the authority's services goes by; none where none
    /// was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    /// The digest of the configuration that it goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
    /// When it answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered: Option<Timestamp>,
    /// How old this is, in seconds.
    pub age_seconds: u64,
    /// Until when it counts: it is asked anew long before.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Problem>,
}
