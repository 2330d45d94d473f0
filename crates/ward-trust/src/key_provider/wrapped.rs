//! A wrapped KEK, as it is stored beside the data.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use ward_types::{NameError, ProviderName, TrustedKey};

/// The longest ciphertext that is read, in bytes.
const MAX_LEN: usize = 256;

/// How a KEK is wrapped; in the text form, its first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Method {
    /// AES-KWP (RFC 5649), by this service, which holds the primary key.
    KeyWrap,
    /// AES-GCM by the key server, which keeps the primary key: IV (12 bytes), tag (16 bytes), ciphertext. What is
    /// authenticated beside it is [`WrappedKek::additional_data`].
    Gcm,
}

impl Method {
    const fn text(self) -> &'static str {
        match self {
            Self::KeyWrap => "1",
            Self::Gcm => "2",
        }
    }
}

/// A KEK wrapped under the primary key of a key provider: not secret, and enough to get the KEK with. Written
/// `METHOD/PROVIDER/CIPHERTEXT`, the ciphertext in base64url without padding.
///
/// The provider stands there so that a mistake can be told by name. What counts is the ciphertext: it opens under the
/// primary key that it was made under, and under no other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WrappedKek {
    method: Method,
    provider: ProviderName,
    ciphertext: Vec<u8>,
}

impl WrappedKek {
    pub(super) fn new(method: Method, provider: ProviderName, ciphertext: Vec<u8>) -> Self {
        Self { method, provider, ciphertext }
    }

    /// The key provider that it says it is of.
    #[must_use]
    pub fn provider(&self) -> &ProviderName {
        &self.provider
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// What binds a KEK that a key server encrypts to its use, so that nothing else of that key passes for one.
    pub(super) fn additional_data(provider: &ProviderName) -> Vec<u8> {
        format!("ward trusted KEK v1\0{provider}").into_bytes()
    }

    /// As a key reference holds it.
    ///
    /// # Errors
    /// None for what was made here: names of providers and base64url have only characters that a reference may have.
    pub fn to_key(&self) -> Result<TrustedKey, NameError> {
        TrustedKey::try_from(self.to_string())
    }
}

/// A text is not a wrapped KEK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a wrapped KEK: it must be `METHOD/PROVIDER/CIPHERTEXT`, the ciphertext in base64url")]
pub struct WrappedKekSyntax;

impl FromStr for WrappedKek {
    type Err = WrappedKekSyntax;

    fn from_str(text: &str) -> Result<Self, WrappedKekSyntax> {
        let parse = || {
            let (method, rest) = text.split_once('/')?;
            let method = [Method::KeyWrap, Method::Gcm].into_iter().find(|known| known.text() == method)?;
            let (provider, ciphertext) = rest.split_once('/')?;
            let ciphertext =
                URL_SAFE_NO_PAD.decode(ciphertext).ok().filter(|bytes| (1..=MAX_LEN).contains(&bytes.len()))?;
            Some(Self { method, provider: provider.parse().ok()?, ciphertext })
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
        write!(f, "{}/{}/{}", self.method.text(), self.provider, URL_SAFE_NO_PAD.encode(&self.ciphertext))
    }
}

impl fmt::Debug for WrappedKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
