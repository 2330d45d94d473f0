//! The names of trusted providers' keys, and how hosts stand with the trust authority; never the keys.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Code, NameError, Problem, ProviderName};

/// A KEK as the key provider service wrapped it: an opaque text, not secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9/_.-]+$", min_length = 1, max_length = 1024)]
pub struct TrustedKey(String);

impl TrustedKey {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TrustedKey {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 1024 {
            return Err(NameError::Length(text));
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte)) {
            return Err(NameError::Characters(text));
        }
        Ok(Self(text))
    }
}

impl From<TrustedKey> for String {
    fn from(key: TrustedKey) -> Self {
        key.0
    }
}

impl fmt::Display for TrustedKey {
    /// Its end: enough of the ciphertext to tell keys apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[self.0.len().saturating_sub(8)..])
    }
}

/// How a host stands with the trust authority of one trusted provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrustStatus {
    /// The provider.
    pub provider: ProviderName,
    /// The digest of the services' description that the host goes by.
    pub applied: String,
    /// When the host was attested last with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub attested: Option<Timestamp>,
    /// Until when that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// When the last verdict on it was made, good or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub looked: Option<Timestamp>,
    /// How it failed the last time, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Problem>,
    /// Why no key provider service gives it keys, if none does: it reaches none, or its token is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached: Option<Problem>,
}

impl TrustStatus {
    /// How long after a refusal a host tries again by itself.
    pub const AGAIN: Duration = Duration::from_secs(15);

    /// Until when the last verdict holds: a good one as long as the host's token, a refusal until the host tries again.
    #[must_use]
    pub fn holds_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.expires.filter(|expires| now < *expires) {
            Some(expires) => Some(expires),
            None => self.looked?.checked_add(Self::AGAIN).ok(),
        }
    }

    /// Why the host can't have keys of the provider at this moment, if it can't.
    #[must_use]
    pub fn lack(&self, now: Timestamp) -> Option<Problem> {
        if self.expires.is_some_and(|expires| now < expires) {
            return self.unreached.clone();
        }
        let provider = &self.provider;
        Some(self.trouble.clone().or_else(|| self.unreached.clone()).unwrap_or_else(|| {
            Problem::new(
                Code::AttestationFailed,
                format!("a host gets no key of provider `{provider}`"),
                "it is not attested yet",
                "try again in a moment; `ward trust status` tells how it stands",
            )
        }))
    }
}
