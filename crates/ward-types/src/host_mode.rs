//! Host encryption mode: whether a host may hold keys, and the host key under which its dumps are encrypted.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::KeyRef;

/// Whether a host may hold keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HostMode {
    /// It holds no key, and gets none.
    #[default]
    Incapable,
    /// It may have keys; it has no host key yet.
    Prepared,
    /// It has a host key, and gets the keys of its cluster.
    Safe,
    /// It was switched off, and may still hold keys until it starts anew. It gets none.
    PendingIncapable,
}

impl fmt::Display for HostMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Incapable => "incapable",
            Self::Prepared => "prepared",
            Self::Safe => "safe",
            Self::PendingIncapable => "pending-incapable",
        })
    }
}

/// A host's encryption mode with what belongs to it: none is safe without a host key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HostCrypto {
    /// See [`HostMode::Incapable`].
    #[default]
    Incapable,
    /// See [`HostMode::Prepared`].
    Prepared {
        /// Under which name its host key is asked for: the same at each try, so that only one is made.
        attempt: Uuid,
    },
    /// See [`HostMode::Safe`].
    Safe {
        /// The host key.
        key: KeyRef,
        /// Where it is to get another one: under which name that is asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rekey: Option<Uuid>,
    },
    /// See [`HostMode::PendingIncapable`].
    PendingIncapable {
        /// The host key that it had: what dumps itself until then is encrypted too.
        key: KeyRef,
        /// The run of its agent in which it was switched off; the next one ends the waiting.
        boot: Uuid,
    },
}

impl HostCrypto {
    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> HostMode {
        match self {
            Self::Incapable => HostMode::Incapable,
            Self::Prepared { .. } => HostMode::Prepared,
            Self::Safe { .. } => HostMode::Safe,
            Self::PendingIncapable { .. } => HostMode::PendingIncapable,
        }
    }

    /// The host key, where there is one.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyRef> {
        match self {
            Self::Safe { key, .. } | Self::PendingIncapable { key, .. } => Some(key),
            Self::Incapable | Self::Prepared { .. } => None,
        }
    }

    /// Under which name a host key is asked for just now.
    #[must_use]
    pub const fn attempt(&self) -> Option<Uuid> {
        match self {
            Self::Prepared { attempt } => Some(*attempt),
            Self::Safe { rekey, .. } => *rekey,
            Self::Incapable | Self::PendingIncapable { .. } => None,
        }
    }

    /// Whether the keys of VMs are given to it.
    #[must_use]
    pub const fn takes_keys(&self) -> bool {
        matches!(self, Self::Safe { .. })
    }

    /// Whether the keys of native providers are given to it: its host key may be made with one.
    #[must_use]
    pub const fn takes_native_keys(&self) -> bool {
        matches!(self, Self::Prepared { .. } | Self::Safe { .. })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn it_is_stored_with_what_belongs_to_it() {
        let key = KeyRef::standard("kms".parse().unwrap(), "7".to_owned().try_into().unwrap());
        let boot = Uuid::nil();
        for crypto in [
            HostCrypto::Incapable,
            HostCrypto::Prepared { attempt: boot },
            HostCrypto::Safe { key: key.clone(), rekey: None },
            HostCrypto::Safe { key: key.clone(), rekey: Some(boot) },
            HostCrypto::PendingIncapable { key, boot },
        ] {
            let json = serde_json::to_value(&crypto).unwrap();
            assert_eq!(json["mode"], crypto.mode().to_string());
            assert_eq!(serde_json::from_value::<HostCrypto>(json).unwrap(), crypto);
        }
        assert!(serde_json::from_str::<HostCrypto>(r#"{"mode":"safe"}"#).is_err());
    }
}
