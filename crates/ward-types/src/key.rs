//! How a key is named; never the key.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{KdkRef, NameError, NativeKey, ProviderName, TrustedKey, VmId};

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
    /// The controller makes the provider's key; hosts make KEKs and wrap them under it.
    Native,
    /// A trust authority makes KEKs, and hands them to hosts that it has attested.
    Trusted,
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Standard => "standard",
            Self::Native => "native",
            Self::Trusted => "trusted",
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
    /// By unwrapping it: the reference holds the KEK, under the provider's key.
    Native(Box<NativeKey>),
    /// By having the trust authority unwrap it, for a host that it has attested.
    Trusted {
        /// The KEK, under the provider's primary key.
        wrapped: TrustedKey,
    },
}

impl KeyRef {
    /// A key of a standard provider.
    #[must_use]
    pub const fn standard(provider: ProviderName, key_id: KeyId) -> Self {
        Self { provider, key: KeyLocator::Standard { key_id } }
    }

    /// A key of a native provider.
    #[must_use]
    pub fn native(provider: ProviderName, key: NativeKey) -> Self {
        Self { provider, key: KeyLocator::Native(Box::new(key)) }
    }

    /// A key of a trusted provider.
    #[must_use]
    pub const fn trusted(provider: ProviderName, wrapped: TrustedKey) -> Self {
        Self { provider, key: KeyLocator::Trusted { wrapped } }
    }

    /// Whether the reference holds the key itself, wrapped: it lies nowhere else.
    #[must_use]
    pub const fn is_wrapped(&self) -> bool {
        match self.key {
            KeyLocator::Standard { .. } => false,
            KeyLocator::Native(_) | KeyLocator::Trusted { .. } => true,
        }
    }

    /// The provider's key that a host must have to unwrap this one; none where it must have the key itself.
    #[must_use]
    pub fn kdk(&self) -> Option<KdkRef> {
        match &self.key {
            KeyLocator::Standard { .. } | KeyLocator::Trusted { .. } => None,
            KeyLocator::Native(key) => {
                Some(KdkRef { provider: self.provider.clone(), key_id: key.key_id, version: key.version })
            }
        }
    }

    /// The only VM that may use the key; none where any may.
    #[must_use]
    pub fn bound_to(&self) -> Option<VmId> {
        match &self.key {
            KeyLocator::Standard { .. } | KeyLocator::Trusted { .. } => None,
            KeyLocator::Native(key) => Some(key.vm),
        }
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            KeyLocator::Standard { key_id } => write!(f, "{}/{key_id}", self.provider),
            KeyLocator::Native(key) => write!(f, "{}/{key}", self.provider),
            KeyLocator::Trusted { wrapped } => write!(f, "{}/{wrapped}", self.provider),
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

    #[test]
    fn a_native_reference_holds_what_it_takes() {
        let key = NativeKey {
            key_id: "6f1c2a52-7b0e-4c2e-9a57-0d6b1f2a3c4d".parse().unwrap(),
            version: 2,
            salt: crate::Salt([0xa5; 32]),
            wrapped: crate::WrappedKek([1; 40]),
            vm: "0190c5b2-8a1e-7b3c-8d4e-5f60718293a4".parse().unwrap(),
        };
        let key = KeyRef::native("n1".parse().unwrap(), key);
        let json = serde_json::to_string(&key).unwrap();
        assert!(json.starts_with(r#"{"provider":"n1","kind":"native","key_id":"6f1c2a52-"#), "{json}");
        assert_eq!(serde_json::from_str::<KeyRef>(&json).unwrap(), key);
        assert_eq!(key.to_string(), "n1/v2/a5a5a5a5");
        assert_eq!(key.kdk().unwrap().version, 2);
    }

    #[test]
    fn a_trusted_reference_is_the_wrapped_key() {
        let wrapped = TrustedKey::try_from("2/vault/AAAABBBBCCCCDDDD".to_owned()).unwrap();
        let key = KeyRef::trusted("vault".parse().unwrap(), wrapped);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, r#"{"provider":"vault","kind":"trusted","wrapped":"2/vault/AAAABBBBCCCCDDDD"}"#);
        assert_eq!(serde_json::from_str::<KeyRef>(&json).unwrap(), key);
        assert_eq!(key.to_string(), "vault/CCCCDDDD");
        assert!(key.is_wrapped() && key.kdk().is_none());
        for bad in ["", "2/vault/AA AA", "2/vault/\u{e4}", &"A".repeat(1025)] {
            assert!(TrustedKey::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
