//! A wrapped KEK, as it is stored beside the data.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use ward_secret::WrappedKey;
use ward_types::ProviderName;

/// The version of the text form.
const VERSION: &str = "1";

/// The longest ciphertext that is read, in bytes.
const MAX_LEN: usize = 256;

/// A KEK wrapped under the primary key of a key provider: not secret, and enough to get the KEK with. Written
/// `1/PROVIDER/CIPHERTEXT`, the ciphertext in base64url without padding.
///
/// The provider stands there so that a mistake can be told by name. What counts is the ciphertext: it opens under the
/// primary key that it was made under, and under no other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WrappedKek {
    provider: ProviderName,
    ciphertext: Vec<u8>,
}

impl WrappedKek {
    pub(super) fn new(provider: ProviderName, wrapped: &WrappedKey) -> Self {
        Self { provider, ciphertext: wrapped.as_bytes().to_vec() }
    }

    /// The key provider that it says it is of.
    #[must_use]
    pub fn provider(&self) -> &ProviderName {
        &self.provider
    }

    pub(super) fn key(&self) -> WrappedKey {
        WrappedKey::from_bytes(self.ciphertext.clone())
    }
}

/// A text is not a wrapped KEK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a wrapped KEK: it must be `{VERSION}/PROVIDER/CIPHERTEXT`, the ciphertext in base64url")]
pub struct WrappedKekSyntax;

impl FromStr for WrappedKek {
    type Err = WrappedKekSyntax;

    fn from_str(text: &str) -> Result<Self, WrappedKekSyntax> {
        let parse = || {
            let (provider, ciphertext) = text.strip_prefix(VERSION)?.strip_prefix('/')?.split_once('/')?;
            let ciphertext =
                URL_SAFE_NO_PAD.decode(ciphertext).ok().filter(|bytes| (1..=MAX_LEN).contains(&bytes.len()))?;
            Some(Self { provider: provider.parse().ok()?, ciphertext })
        };
        parse().ok_or(WrappedKekSyntax)
    }
}

impl TryFrom<String> for WrappedKek {
    type Error = WrappedKekSyntax;

    fn try_from(text: String) -> Result<Self, WrappedKekSyntax> {
        text.parse()
    }
}

impl From<WrappedKek> for String {
    fn from(wrapped: WrappedKek) -> Self {
        wrapped.to_string()
    }
}

impl fmt::Display for WrappedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}/{}/{}", self.provider, URL_SAFE_NO_PAD.encode(&self.ciphertext))
    }
}

impl fmt::Debug for WrappedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
