//! What an attested host shows to whoever hands out keys: a signed token, good for a short time and for one TLS key.
//!
//! A JWT (RFC 7519) with the claims of an EAT attestation result (draft-ietf-rats-ear-04), whose trustworthiness vector
//! is that of AR4SI, and with the certificate it is bound to (`cnf` with `x5t#S256`: RFC 7800, RFC 8705 section 3.1). It
//! is signed with ECDSA on P-256 (`ES256`); nothing else is accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::appraisal::Attested;
use crate::binding::CertThumbprint;
use crate::hash::HashAlg;
use crate::label::Label;
use crate::secure_boot::SECURE_BOOT_PCR;
use crate::tpm::Name;

/// The longest token that is read, in bytes.
pub const MAX_TOKEN_LEN: usize = 16 * 1024;

/// The longest time for which a token may be made.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How far the clocks of issuer and verifier may be apart.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);

const TYPE: &str = "JWT";
const ALGORITHM: &str = "ES256";
const EAR_PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
const AFFIRMING: &str = "affirming";

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

/// The public key of an attestation service: a point on P-256, as SEC 1 writes it. In base64url without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenPublicKey([u8; 65]);

impl TokenPublicKey {
    /// The key with these bytes: 4, x, y. That the point is on the curve shows when a signature is checked.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().filter(|bytes: &[u8; 65]| bytes[0] == 4).map(Self)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `kid`: SHA-256 of its bytes, in base64url.
    pub fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(HashAlg::Sha256.digest(&[&self.0]).bytes())
    }
}

impl fmt::Debug for TokenPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())
    }
}

impl Serialize for TokenPublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for TokenPublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        Self::from_bytes(&bytes).ok_or_else(|| serde::de::Error::custom("not a point on P-256 of 65 bytes"))
    }
}

/// The private key of an attestation service. It shows itself to nobody.
pub struct TokenKey {
    encoding: EncodingKey,
    public: TokenPublicKey,
}

impl TokenKey {
    /// A fresh key, as PKCS #8 in DER: to be kept sealed.
    ///
    /// # Errors
    /// [`IssueError::Key`]
    pub fn generate_pkcs8() -> Result<Zeroizing<Vec<u8>>, IssueError> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        document.map(|pkcs8| Zeroizing::new(pkcs8.as_ref().to_vec())).map_err(|_| IssueError::Key("made"))
    }

    /// The key in this PKCS #8 document.
    ///
    /// # Errors
    /// [`IssueError::Key`] if it is not one on P-256.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, IssueError> {
        let bad = IssueError::Key("taken in: it is not PKCS #8 with a key on P-256");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| bad.clone())?;
        let public = TokenPublicKey::from_bytes(pair.public_key().as_ref()).ok_or(bad)?;
        Ok(Self { encoding: EncodingKey::from_ec_der(pkcs8), public })
    }

    /// The public key.
    pub fn public(&self) -> &TokenPublicKey {
        &self.public
    }
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
        header.kid = Some(self.key.public.id());
        jsonwebtoken::encode(&header, &claims, &self.key.encoding)
            .map_err(|error| IssueError::Signing(error.to_string()))
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: Label,
    aud: String,
    iat: i64,
    exp: i64,
    jti: Label,
    eat_profile: String,
    ear_status: String,
    ear_verifier_id: VerifierId,
    cnf: Confirmation,
    submods: Submodules,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    #[serde(rename = "x5t#S256")]
    certificate: CertThumbprint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Submodules {
    tpm: Submodule,
}

#[derive(Serialize, Deserialize)]
struct Submodule {
    ear_status: String,
    ear_trustworthiness_vector: TrustVector,
    ear_appraisal_policy_ids: Vec<Label>,
    eat_nonce: String,
    ear_verifier_claims: VerifierClaims,
}

/// AR4SI, section 2.3: what was not looked at is left out.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct TrustVector {
    instance_identity: i8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configuration: Option<i8>,
    executables: i8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardware: Option<i8>,
}

#[derive(Serialize, Deserialize)]
struct VerifierClaims {
    ak: Name,
    ek: Name,
    reset_count: u32,
    images: Vec<String>,
}

impl Submodule {
    fn of(attested: &Attested) -> Self {
        Self {
            ear_status: AFFIRMING.to_owned(),
            ear_trustworthiness_vector: TrustVector {
                // The instance is known, and not known to be compromised.
                instance_identity: 2,
                // The configuration is known and approved.
                configuration: attested.vouched().contains(SECURE_BOOT_PCR).then_some(2),
                // What was loaded in booting is approved; what ran afterwards is not known.
                executables: 3,
                // The hardware is genuine.
                hardware: attested.ek_certified().then_some(2),
            },
            ear_appraisal_policy_ids: vec![attested.policy().clone()],
            eat_nonce: URL_SAFE_NO_PAD.encode(attested.nonce().as_bytes()),
            ear_verifier_claims: VerifierClaims {
                ak: attested.ak().clone(),
                ek: attested.ek().clone(),
                reset_count: attested.reset_count(),
                images: attested.images().iter().map(ToString::to_string).collect(),
            },
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
