//! Checking tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::claims::Claims;
use super::{AFFIRMING, ALGORITHM, CLOCK_SKEW, EAR_PROFILE, MAX_LIFETIME, MAX_TOKEN_LEN, TYPE, TokenPublicKey};
use crate::binding::CertThumbprint;
use crate::label::Label;
use crate::tpm::Name;

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is longer than any token is.
    #[error("the token has {0} bytes; {MAX_TOKEN_LEN} at most are read")]
    TooLong(usize),
    /// It could not be read.
    #[error("the token's {part} can't be read: {reason}")]
    Malformed {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It is signed otherwise.
    #[error("the token's algorithm is {0:?}; only {ALGORITHM} is accepted")]
    Algorithm(String),
    /// It is something else.
    #[error("the token's type is {0:?}, not {TYPE:?}")]
    Type(String),
    /// Nobody knows the key that signed it.
    #[error("the token is signed with the key {0}, which is of no trusted attestation service")]
    UnknownKey(String),
    /// The signature is not good.
    #[error("the token's signature is not that of the attestation service {0}")]
    Signature(Label),
    /// The key's owner is somebody else than the token says.
    #[error("the token says that {found:?} issued it, but its key is that of {expected}")]
    Issuer {
        /// `iss`
        found: String,
        /// Whose key it is.
        expected: Label,
    },
    /// It is for somebody else.
    #[error("the token is for {found:?}, not for {expected}")]
    Audience {
        /// `aud`
        found: String,
        /// Who looks at it.
        expected: Label,
    },
    /// It is no attestation result, or of another version.
    #[error("the token's profile is {0:?}, not {EAR_PROFILE:?}")]
    Profile(String),
    /// It does not say that the host is good.
    #[error("the token says that the host is {0:?}, not {AFFIRMING:?}")]
    Status(String),
    /// It was issued later than now.
    #[error("the token was issued at {issued}, and it is only {now} now: a clock is wrong")]
    NotYet {
        /// `iat`
        issued: Timestamp,
        /// When it was looked at.
        now: Timestamp,
    },
    /// It is no longer good.
    #[error("the token expired at {expired}; it is {now} now: attest again")]
    Expired {
        /// `exp`
        expired: Timestamp,
        /// When it was looked at.
        now: Timestamp,
    },
    /// It is good for longer than tokens may be.
    #[error("the token was made for {0:?}; a day at most is accepted")]
    Lifetime(Duration),
    /// Tokens issued before a certain time are not accepted any more.
    #[error("the token was issued at {issued}; all issued before {cut_off} are refused: attest again")]
    BeforeCutOff {
        /// `iat`
        issued: Timestamp,
        /// The time before which all are refused.
        cut_off: Timestamp,
    },
    /// It is another host's.
    #[error("the token is bound to the certificate {bound}, but the TLS session is of {shown}")]
    OtherSession {
        /// The certificate in the token.
        bound: CertThumbprint,
        /// The certificate that was shown.
        shown: CertThumbprint,
    },
}

impl TokenError {
    /// A stable name for the kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) | Self::Malformed { .. } | Self::Type(_) | Self::Profile(_) => "token-malformed",
            Self::Algorithm(_) => "token-algorithm",
            Self::UnknownKey(_) | Self::Issuer { .. } => "token-issuer",
            Self::Signature(_) => "token-signature",
            Self::Audience { .. } => "token-audience",
            Self::Status(_) => "token-status",
            Self::NotYet { .. } => "token-not-yet-valid",
            Self::Expired { .. } => "token-expired",
            Self::Lifetime(_) => "token-lifetime",
            Self::BeforeCutOff { .. } => "token-before-cut-off",
            Self::OtherSession { .. } => "token-of-another-host",
        }
    }
}

/// The header of a token: these three parameters and no others. So a token can't bring its own key (`jwk`, `jku`,
/// `x5u`), and none can be critical.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictHeader {
    alg: String,
    typ: String,
    kid: String,
}

/// Which tokens are accepted.
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    audience: Label,
    issuers: BTreeMap<String, (Label, TokenPublicKey)>,
    cut_off: Option<Timestamp>,
}

impl TokenVerifier {
    /// One that accepts no token yet; `audience` is who looks at them.
    pub fn new(audience: Label) -> Self {
        Self { audience, issuers: BTreeMap::new(), cut_off: None }
    }

    /// Trusts an attestation service. Several may have one name: an old and a new key of one service, say.
    #[must_use]
    pub fn trusting(mut self, issuer: Label, key: TokenPublicKey) -> Self {
        self.issuers.insert(key.id(), (issuer, key));
        self
    }

    /// Refuses all tokens that were issued before that time, whatever they say.
    #[must_use]
    pub fn refusing_issued_before(self, cut_off: Option<Timestamp>) -> Self {
        Self { cut_off, ..self }
    }

    /// Checks a token that was shown in the TLS session of a peer with this certificate.
    ///
    /// # Errors
    /// [`TokenError`] says why it is not accepted.
    pub fn verify(&self, token: &str, shown: CertThumbprint, now: Timestamp) -> Result<VerifiedToken, TokenError> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let header = read_header(token)?;
        if header.alg != ALGORITHM {
            return Err(TokenError::Algorithm(shorten(&header.alg)));
        }
        if header.typ != TYPE {
            return Err(TokenError::Type(shorten(&header.typ)));
        }
        let Some((issuer, key)) = self.issuers.get(&header.kid) else {
            return Err(TokenError::UnknownKey(shorten(&header.kid)));
        };
        let claims = check_signature(token, issuer, key)?;
        self.check_claims(&claims, issuer)?;
        let (issued, expires) = self.check_times(&claims, now)?;
        let bound = claims.cnf.certificate;
        if bound != shown {
            return Err(TokenError::OtherSession { bound, shown });
        }
        let says = claims.submods.tpm.ear_verifier_claims;
        Ok(VerifiedToken {
            host: claims.sub,
            issuer: issuer.clone(),
            id: claims.jti,
            issued,
            expires,
            certificate: bound,
            policies: claims.submods.tpm.ear_appraisal_policy_ids,
            ek: says.ek,
            images: says.images,
        })
    }

    fn check_claims(&self, claims: &Claims, issuer: &Label) -> Result<(), TokenError> {
        if claims.iss != issuer.as_str() {
            return Err(TokenError::Issuer { found: shorten(&claims.iss), expected: issuer.clone() });
        }
        if claims.aud != self.audience.as_str() {
            return Err(TokenError::Audience { found: shorten(&claims.aud), expected: self.audience.clone() });
        }
        if claims.eat_profile != EAR_PROFILE {
            return Err(TokenError::Profile(shorten(&claims.eat_profile)));
        }
        let statuses = [&claims.ear_status, &claims.submods.tpm.ear_status];
        match statuses.into_iter().find(|&status| status != AFFIRMING) {
            Some(status) => Err(TokenError::Status(shorten(status))),
            None => Ok(()),
        }
    }

    fn check_times(&self, claims: &Claims, now: Timestamp) -> Result<(Timestamp, Timestamp), TokenError> {
        let time = |seconds: i64| {
            Timestamp::from_second(seconds)
                .map_err(|error| TokenError::Malformed { part: "claims", reason: error.to_string() })
        };
        let (issued, expires) = (time(claims.iat)?, time(claims.exp)?);
        if issued > now.saturating_add(CLOCK_SKEW).unwrap_or(now) {
            return Err(TokenError::NotYet { issued, now });
        }
        if let Some(cut_off) = self.cut_off.filter(|&cut_off| issued < cut_off) {
            return Err(TokenError::BeforeCutOff { issued, cut_off });
        }
        if expires <= now {
            return Err(TokenError::Expired { expired: expires, now });
        }
        let lifetime = expires.duration_since(issued).unsigned_abs();
        if lifetime > MAX_LIFETIME {
            return Err(TokenError::Lifetime(lifetime));
        }
        Ok((issued, expires))
    }
}

fn read_header(token: &str) -> Result<StrictHeader, TokenError> {
    let bad = |reason: String| TokenError::Malformed { part: "header", reason };
    let parts: Vec<_> = token.split('.').collect();
    let [header, _, _] = parts.as_slice() else {
        return Err(TokenError::Malformed { part: "form", reason: format!("{} parts, not 3", parts.len()) });
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&header).map_err(|error| bad(error.to_string()))
}

/// Times and names are checked by [`TokenVerifier`], which reads no clock.
fn check_signature(token: &str, issuer: &Label, key: &TokenPublicKey) -> Result<Claims, TokenError> {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode(token, &DecodingKey::from_ec_der(key.as_bytes()), &validation) {
        Ok(decoded) => Ok(decoded.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidSignature => TokenError::Signature(issuer.clone()),
            _ => TokenError::Malformed { part: "claims or signature", reason: error.to_string() },
        }),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A token that may be acted upon, for this TLS session: proof that [`TokenVerifier::verify`] accepted it.
///
/// **What this does not prove:** that the host has not been changed since it was attested. The token's life is short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedToken {
    host: Label,
    issuer: Label,
    id: Label,
    issued: Timestamp,
    expires: Timestamp,
    certificate: CertThumbprint,
    policies: Vec<Label>,
    ek: Name,
    images: Vec<String>,
}

impl VerifiedToken {
    /// `sub`: the host, as the attestation service calls it.
    pub fn host(&self) -> &Label {
        &self.host
    }

    /// The attestation service.
    pub fn issuer(&self) -> &Label {
        &self.issuer
    }

    /// `jti`
    pub fn id(&self) -> &Label {
        &self.id
    }

    /// When it was issued.
    pub fn issued(&self) -> Timestamp {
        self.issued
    }

    /// When it ends to be good.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// The certificate it is bound to.
    pub fn certificate(&self) -> CertThumbprint {
        self.certificate
    }

    /// The policies that the host meets.
    pub fn policies(&self) -> &[Label] {
        &self.policies
    }

    /// The Name of the EK of the host's TPM.
    pub fn ek(&self) -> &Name {
        &self.ek
    }

    /// The base images that the host matched.
    pub fn images(&self) -> &[String] {
        &self.images
    }
}
