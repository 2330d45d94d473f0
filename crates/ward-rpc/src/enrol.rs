//! The token with which a host joins: where the controller is, how to know it, and a secret that is good once.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use ward_secret::Zeroizing;
use ward_types::TokenId;

const PREFIX: &str = "ward-enrol-v1.";

/// A text that is no enrolment token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this is no enrolment token (one starts with `{PREFIX}`); make one with `ward host add`")]
pub struct TokenError;

/// An enrolment token. It holds the controller's CA certificate whole, so that a host need not trust the first
/// controller that answers.
#[derive(Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// Its ID.
    pub id: TokenId,
    /// Its secret, base64.
    pub secret: String,
    /// Where hosts reach the controller: `HOST:PORT`.
    pub controller: String,
    /// The name in the controller's certificate.
    pub server_name: String,
    /// The controller's CA certificate, PEM.
    pub ca: String,
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken")
            .field("id", &self.id)
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}

impl EnrolmentToken {
    /// The token as one line of text.
    ///
    /// # Errors
    /// [`TokenError`] where it can't be written as JSON, which does not happen.
    pub fn to_text(&self) -> Result<Zeroizing<String>, TokenError> {
        let json = Zeroizing::new(serde_json::to_vec(self).map_err(|_| TokenError)?);
        Ok(Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&json))))
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let payload = text.trim().strip_prefix(PREFIX).ok_or(TokenError)?;
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError)?);
        serde_json::from_slice(&json).map_err(|_| TokenError)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn round_trip_and_no_secret_in_debug() {
        let token = EnrolmentToken {
            id: TokenId::new(),
            secret: "c2VjcmV0".into(),
            controller: "127.0.0.1:7443".into(),
            server_name: "x.controller.ward.internal".into(),
            ca: "pem".into(),
        };
        let text = token.to_text().unwrap();
        let read: EnrolmentToken = format!("{}\n", *text).parse().unwrap();
        assert_eq!((read.id, &read.secret, &read.ca), (token.id, &token.secret, &token.ca));
        assert!(!format!("{token:?}").contains("c2VjcmV0"));
        assert_eq!("ward-enrol-v1.!".parse::<EnrolmentToken>().err(), Some(TokenError));
    }
}
