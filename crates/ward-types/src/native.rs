//! The names of a native provider's keys, and of what is wrapped under them; never the keys. See `docs/native-format.md`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{KdkId, ProviderName, VmId};

/// One version of a native provider's key (KDK), by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct KdkRef {
    /// The provider.
    pub provider: ProviderName,
    /// The key's ID, the same in all its versions: what a provider that is restored must have again.
    pub key_id: KdkId,
    /// The version; the first is 1.
    pub version: u32,
}

impl fmt::Display for KdkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {} ({})", self.provider, self.version, self.key_id)
    }
}

/// A KEK as ciphertext: wrapped under a key that is derived from the provider's KDK, for one VM.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct NativeKey {
    /// The KDK's ID.
    pub key_id: KdkId,
    /// The KDK's version.
    pub version: u32,
    /// What makes the derived key this KEK's alone.
    pub salt: Salt,
    /// The KEK, wrapped.
    pub wrapped: WrappedKek,
    /// The VM for which it was made; it opens for no other.
    pub vm: VmId,
}

impl fmt::Display for NativeKey {
    /// The version, and enough of the salt to tell KEKs apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}/", self.version)?;
        self.salt.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not base64 of so many bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {length} bytes in base64")]
pub struct BytesError {
    text: String,
    length: usize,
}

macro_rules! base64_bytes {
    ($($(#[$meta:meta])* $name:ident, $length:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(pub [u8; $length]);

        impl TryFrom<String> for $name {
            type Error = BytesError;

            fn try_from(text: String) -> Result<Self, BytesError> {
                let bytes = STANDARD.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
                bytes.map(Self).ok_or(BytesError { text, length: $length })
            }
        }

        impl From<$name> for String {
            fn from(bytes: $name) -> Self {
                STANDARD.encode(bytes.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), STANDARD.encode(self.0))
            }
        }
    )*};
}

base64_bytes! {
    /// A random salt; base64 in text. Not secret.
    Salt, 32;
    /// A KEK wrapped with AES-KWP; base64 in text. Not secret.
    WrappedKek, 40;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn bytes_travel_as_base64_of_their_length() {
        let salt = Salt([7; 32]);
        let json = serde_json::to_string(&salt).unwrap();
        assert_eq!(json, r#""BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=""#);
        assert_eq!(serde_json::from_str::<Salt>(&json).unwrap(), salt);
        for bad in ["", "BwcH", "*", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"] {
            assert!(Salt::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
