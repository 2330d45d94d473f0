//! Making tokens.

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header};
use serde::{Deserialize, Serialize};

use super::claims::{Claims, Confirmation, Submodule, Submodules};
use super::{AFFIRMING, CLOCK_SKEW, EAR_PROFILE, MAX_LIFETIME, TYPE, TokenKey, TokenPublicKey};
use crate::appraisal::Attested;
use crate::label::Label;

/// A token can't be made, or a key for tokens can't.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The library could not make a key, or not take one in.
    #[error("the key for signing tokens can't be {0}")]
    Key(&'static str),
    /// The lifetime is none, or too long.
    #[error("a token can't be good for {0:?}: a second at least and a day at most are allowed")]
    Lifetime(Duration),
    /// The appraisal is too old.
    #[error("the host was appraised at {appraised}, it is {now} now: attest it again")]
    OldAppraisal {
        /// When the host was appraised.
        appraised: Timestamp,
        /// When the token was to be made.
        now: Timestamp,
    },
    /// The library could not sign.
    #[error("the token could not be signed: {0}")]
    Signing(String),
}

/// The software that appraises, for `ear_verifier_id`. draft-ietf-rats-ear-04, section 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifierId {
    /// Who makes it.
    pub developer: String,
    /// Which it is.
    pub build: String,
}

/// Makes tokens.
pub struct Issuer {
    name: Label,
    software: VerifierId,
    key: TokenKey,
    lifetime: Duration,
}

impl Issuer {
    /// An issuer with this name, whose tokens are good for so long.
    ///
    /// # Errors
    /// [`IssueError::Lifetime`]
    pub fn new(name: Label, software: VerifierId, key: TokenKey, lifetime: Duration) -> Result<Self, IssueError> {
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return Err(IssueError::Lifetime(lifetime));
        }
        Ok(Self { name, software, key, lifetime })
    }

    /// Its name.
    pub fn name(&self) -> &Label {
        &self.name
    }

    /// The public key.
    pub fn public_key(&self) -> &TokenPublicKey {
        self.key.public()
    }

    /// A token for a host that was just attested, bound to the certificate of its TLS session.
    ///
    /// `host` is what the caller calls it, `id` must be unique, `audience` is who is to accept the token.
    ///
    /// # Errors
    /// [`IssueError::OldAppraisal`], [`IssueError::Signing`]
    pub fn issue(
        &self,
        attested: &Attested,
        host: &Label,
        audience: &Label,
        id: &Label,
        now: Timestamp,
    ) -> Result<String, IssueError> {
        if now < attested.at() || now.duration_since(attested.at()).unsigned_abs() > CLOCK_SKEW {
            return Err(IssueError::OldAppraisal { appraised: attested.at(), now });
        }
        let issued = now.as_second();
        let lifetime = i64::try_from(self.lifetime.as_secs()).map_err(|_| IssueError::Lifetime(self.lifetime))?;
        let claims = Claims {
            iss: self.name.to_string(),
            sub: host.clone(),
            aud: audience.to_string(),
            iat: issued,
            exp: issued + lifetime,
            jti: id.clone(),
            eat_profile: EAR_PROFILE.to_owned(),
            ear_status: AFFIRMING.to_owned(),
            ear_verifier_id: self.software.clone(),
            cnf: Confirmation { certificate: attested.certificate() },
            submods: Submodules { tpm: Submodule::of(attested) },
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.key.public().id());
        jsonwebtoken::encode(&header, &claims, self.key.encoding())
            .map_err(|error| IssueError::Signing(error.to_string()))
    }
}
