use std::time::Duration;

use attest::appraisal::Attested;
use attest::binding::CertThumbprint;
use attest::label::Label;
use attest::token::{CLOCK_SKEW, IssueError, Issuer, TokenError, TokenKey, TokenVerifier, VerifierId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{Timestamp, ToSpan};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::appraisal::{Host, policy};
use crate::common::Log;
use crate::tpm::now;

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// An attestation service, one attested host, and a key provider that trusts the service.
pub(crate) struct Scene {
    issuer: Issuer,
    pkcs8: Vec<u8>,
    pub(crate) attested: Attested,
    verifier: TokenVerifier,
    at: Timestamp,
}

const LIFETIME: u64 = 600;

impl Scene {
    pub(crate) fn new() -> Self {
        let host = Host::booted(Log::of("ovmf"));
        let attested = host.attest(&policy(&[0, 7], vec![host.image("firmware", &[0, 7])])).outcome.unwrap();
        let pkcs8 = TokenKey::generate_pkcs8().unwrap().to_vec();
        let issuer = issuer("attestation", &pkcs8, Duration::from_secs(LIFETIME)).unwrap();
        let verifier = TokenVerifier::new(label("keys")).trusting(issuer.name().clone(), issuer.public_key().clone());
        let at = attested.at();
        Self { issuer, pkcs8, attested, verifier, at }
    }

    pub(crate) fn token(&self) -> String {
        self.issuer.issue(&self.attested, &label("host-1"), &label("keys"), &label("id-1"), self.at).unwrap()
    }

    /// The token with other claims, signed with the service's own key.
    fn with_claims(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.signed(&claims)
    }

    /// The claims of a good token.
    pub(crate) fn claims(&self) -> Value {
        serde_json::from_slice(&part(&self.token(), 1)).unwrap()
    }

    /// Any claims, signed with the service's own key.
    pub(crate) fn signed(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.issuer.public_key().id());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&self.pkcs8)).unwrap()
    }

    /// The token with another header, whose signature then is not over it.
    fn with_header(&self, header: &Value) -> String {
        let token = self.token();
        let (_, rest) = token.split_once('.').unwrap();
        format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
    }

    pub(crate) fn verify(&self, token: &str) -> Result<attest::token::VerifiedToken, TokenError> {
        self.verifier.verify(token, self.attested.certificate(), self.at)
    }
}

fn issuer(name: &str, pkcs8: &[u8], lifetime: Duration) -> Result<Issuer, IssueError> {
    let software = VerifierId { developer: "tests".to_owned(), build: "1".to_owned() };
    Issuer::new(label(name), software, TokenKey::from_pkcs8(pkcs8).unwrap(), lifetime)
}

fn part(token: &str, at: usize) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()
}

#[test]
fn a_token_is_accepted_where_it_should_be() {
    let scene = Scene::new();
    let token = scene.token();
    let verified = scene.verify(&token).unwrap();
    assert_eq!(
        (verified.host(), verified.issuer(), verified.id()),
        (&label("host-1"), scene.issuer.name(), &label("id-1"))
    );
    assert_eq!(verified.ek(), scene.attested.ek());
    assert_eq!(verified.images(), ["firmware/1"]);
    assert_eq!(verified.policies(), [label("test")]);
    assert_eq!(verified.certificate(), scene.attested.certificate());
    assert_eq!(verified.expires().duration_since(verified.issued()).as_secs(), i64::try_from(LIFETIME).unwrap());

    let claims: Value = serde_json::from_slice(&part(&token, 1)).unwrap();
    assert_eq!(claims["eat_profile"], "tag:ietf.org,2026:rats/ear#04");
    assert_eq!(claims["ear_status"], "affirming");
    assert_eq!(claims["cnf"]["x5t#S256"], scene.attested.certificate().to_string());
    let tpm = &claims["submods"]["tpm"];
    assert_eq!(
        tpm["ear_trustworthiness_vector"],
        json!({ "instance-identity": 2, "configuration": 2, "executables": 3 }),
        "of the hardware nothing is said: the EK was imported by itself"
    );
    assert_eq!(tpm["ear_appraisal_policy_ids"], json!(["test"]));
    assert_eq!(tpm["eat_nonce"], URL_SAFE_NO_PAD.encode(scene.attested.nonce().as_bytes()));
}

#[test]
fn a_token_of_another_host_is_of_no_use() {
    let scene = Scene::new();
    let thief = CertThumbprint::of(b"the thief's certificate");
    let error = scene.verifier.verify(&scene.token(), thief, scene.at).unwrap_err();
    assert_eq!(error, TokenError::OtherSession { bound: scene.attested.certificate(), shown: thief });
    assert_eq!(error.code(), "token-of-another-host");
}

#[test]
fn times_are_kept() {
    let scene = Scene::new();
    let token = scene.token();
    let at = |now| scene.verifier.verify(&token, scene.attested.certificate(), now);
    let issued = at(scene.at).unwrap().issued();
    let lifetime = i64::try_from(LIFETIME).unwrap();
    at(issued + (lifetime - 1).seconds()).unwrap();
    assert!(matches!(at(issued + lifetime.seconds()), Err(TokenError::Expired { .. })));
    at(issued - CLOCK_SKEW).unwrap();
    assert!(matches!(at(issued - CLOCK_SKEW - Duration::from_secs(1)), Err(TokenError::NotYet { .. })));

    let denying = |cut_off| {
        let verifier = scene.verifier.clone().refusing_issued_before(Some(cut_off));
        verifier.verify(&token, scene.attested.certificate(), scene.at)
    };
    denying(issued).unwrap();
    let cut_off = issued + 1.nanosecond();
    assert_eq!(denying(cut_off), Err(TokenError::BeforeCutOff { issued, cut_off }));

    let long = scene.with_claims(|claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 86_401));
    assert!(matches!(scene.verify(&long), Err(TokenError::Lifetime(_))));
    let forever = scene.with_claims(|claims| claims["exp"] = json!(i64::MAX));
    assert!(matches!(scene.verify(&forever), Err(TokenError::Malformed { .. })));
    let never = scene.with_claims(|claims| {
        claims.as_object_mut().unwrap().remove("exp");
    });
    assert!(matches!(scene.verify(&never), Err(TokenError::Malformed { .. })));
}

#[test]
fn tokens_are_made_for_fresh_appraisals_and_short_lives_only() {
    let scene = Scene::new();
    let issue = |now| scene.issuer.issue(&scene.attested, &label("h"), &label("keys"), &label("i"), now);
    assert!(matches!(issue(scene.at + 31.seconds()), Err(IssueError::OldAppraisal { .. })));
    assert!(matches!(issue(scene.at - 1.second()), Err(IssueError::OldAppraisal { .. })));
    for lifetime in [Duration::ZERO, Duration::from_secs(86_401)] {
        assert_eq!(issuer("i", &scene.pkcs8, lifetime).err(), Some(IssueError::Lifetime(lifetime)));
    }
    assert!(TokenKey::from_pkcs8(b"nonsense").is_err());
}

#[test]
fn other_algorithms_are_refused_whatever_they_sign_with() {
    let scene = Scene::new();
    let kid = scene.issuer.public_key().id();
    // The old trick: HMAC with the public key, which everybody knows, as its secret.
    let token = scene.token();
    let claims: Value = serde_json::from_slice(&part(&token, 1)).unwrap();
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(kid.clone());
    let secret = EncodingKey::from_secret(scene.issuer.public_key().as_bytes());
    let confused = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
    assert_eq!(scene.verify(&confused), Err(TokenError::Algorithm("HS256".to_owned())));

    for alg in ["none", "None", "ES384", "RS256", "es256", ""] {
        let other = scene.with_header(&json!({ "alg": alg, "typ": "JWT", "kid": kid }));
        assert_eq!(scene.verify(&other), Err(TokenError::Algorithm(alg.to_owned())));
    }
    let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
    assert!(scene.verify(&unsigned).is_err());
    let typed = scene.with_header(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": kid }));
    assert_eq!(scene.verify(&typed), Err(TokenError::Type("at+jwt".to_owned())));
    for (name, value) in [("jwk", json!({})), ("jku", json!("https://x")), ("x5u", json!("x")), ("crit", json!(["x"]))]
    {
        let mut header = json!({ "alg": "ES256", "typ": "JWT", "kid": kid });
        header[name] = value;
        let error = scene.verify(&scene.with_header(&header)).unwrap_err();
        assert!(error.to_string().contains(&format!("unknown field `{name}`")), "{error}");
    }
}

#[test]
fn other_issuers_audiences_profiles_and_states_are_refused() {
    let scene = Scene::new();
    let stranger = issuer("attestation", &TokenKey::generate_pkcs8().unwrap(), Duration::from_secs(60)).unwrap();
    let strange = stranger.issue(&scene.attested, &label("h"), &label("keys"), &label("i"), scene.at).unwrap();
    assert_eq!(scene.verify(&strange), Err(TokenError::UnknownKey(stranger.public_key().id())));

    // A stranger that says that its key is the service's.
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(scene.issuer.public_key().id());
    let claims: Value = serde_json::from_slice(&part(&strange, 1)).unwrap();
    let pkcs8 = TokenKey::generate_pkcs8().unwrap();
    let posing = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&pkcs8)).unwrap();
    assert_eq!(scene.verify(&posing), Err(TokenError::Signature(label("attestation"))));

    let with =
        |name: &str, value: &str| scene.verify(&scene.with_claims(|claims| claims[name] = json!(value))).unwrap_err();
    assert!(matches!(with("iss", "another"), TokenError::Issuer { .. }));
    assert!(matches!(with("aud", "another"), TokenError::Audience { .. }));
    assert!(matches!(with("eat_profile", "tag:ietf.org,2026:rats/ear#03"), TokenError::Profile(_)));
    assert!(matches!(with("ear_status", "warning"), TokenError::Status(_)));
    let inner = scene.with_claims(|claims| claims["submods"]["tpm"]["ear_status"] = json!("contraindicated"));
    assert_eq!(scene.verify(&inner), Err(TokenError::Status("contraindicated".to_owned())));
    let unbound = scene.with_claims(|claims| {
        claims.as_object_mut().unwrap().remove("cnf");
    });
    assert!(matches!(scene.verify(&unbound), Err(TokenError::Malformed { .. })), "a token that is bound to nothing");
    let loosely = scene.with_claims(|claims| claims["cnf"]["jkt"] = json!("x"));
    assert!(matches!(scene.verify(&loosely), Err(TokenError::Malformed { .. })));
}

#[test]
fn every_flipped_bit_of_a_token_is_refused() {
    let scene = Scene::new();
    let token = scene.token();
    let mut reasons = std::collections::BTreeSet::new();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut flipped = token.clone().into_bytes();
            flipped[at] ^= 1 << bit;
            let Ok(flipped) = String::from_utf8(flipped) else { continue };
            let error = scene.verify(&flipped).expect_err("a flipped bit was let in");
            reasons.insert(error.code());
        }
        scene.verify(&token[..at]).expect_err("a token cut short was let in");
    }
    assert!(reasons.contains("token-signature") && reasons.contains("token-malformed"), "{reasons:?}");
    scene.verify(&format!("{token}.")).unwrap_err();
    scene.verify(&format!("{token}=")).unwrap_err();
    scene.verify(&format!(" {token}")).unwrap_err();
    assert!(matches!(scene.verify(&"x".repeat(20_000)), Err(TokenError::TooLong(20_000))));
    assert!(now() >= scene.at);
}
