//! How a key is named; never the key.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{NameError, ProviderName};

/// The ID that a key server chose for a key (KMIP: Unique Identifier): an opaque text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$", min_length = 1, max_length = 1024)]
pub struct KeyId(String);

impl KeyId {
    /// The ID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 1024 {
            return Err(NameError::Length(text));
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::Characters(text));
        }
        Ok(Self(text))
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a KEK comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderKind {
    /// A key server that speaks KMIP.
    Standard,
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Standard => "standard",
        })
    }
}

/// Which KEK opens a component, in full: stored beside the data, and enough to get the key with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct KeyRef {
    /// The provider, by the name that is its identity.
    pub provider: ProviderName,
    /// The key within it.
    #[serde(flatten)]
    pub key: KeyLocator,
}

/// How a provider finds a key; one variant for each kind of provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KeyLocator {
    /// By its ID at the key server.
    Standard {
        /// The ID that the key server chose.
        key_id: KeyId,
    },
}

impl KeyRef {
    /// A key of a standard provider.
    #[must_use]
    pub const fn standard(provider: ProviderName, key_id: KeyId) -> Self {
        Self { provider, key: KeyLocator::Standard { key_id } }
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            KeyLocator::Standard { key_id } => write!(f, "{}/{key_id}", self.provider),
        }
    }
}

/// The state of a key at its server (KMIP 1.4, section 3.22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Made, not yet to be used.
    PreActive,
    /// The only state in which a key encrypts.
    Active,
    /// No longer to be used to encrypt.
    Deactivated,
    /// Suspected to be known to others.
    Compromised,
    /// Its bytes are gone.
    Destroyed,
    /// Its bytes are gone, and it was compromised.
    DestroyedCompromised,
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PreActive => "Pre-Active",
            Self::Active => "Active",
            Self::Deactivated => "Deactivated",
            Self::Compromised => "Compromised",
            Self::Destroyed => "Destroyed",
            Self::DestroyedCompromised => "Destroyed Compromised",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_key_reference_is_flat_in_json() {
        let key = KeyRef::standard("kms".parse().unwrap(), KeyId::try_from("42".to_owned()).unwrap());
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, r#"{"provider":"kms","kind":"standard","key_id":"42"}"#);
        assert_eq!(serde_json::from_str::<KeyRef>(&json).unwrap(), key);
        assert_eq!(key.to_string(), "kms/42");
    }
}
