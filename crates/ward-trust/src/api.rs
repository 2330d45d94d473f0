//! What hosts and the services say to each other: JSON, posted to `/v1/NAME`; a KEK comes as plain bytes. A refusal is
//! a [`ward_types::Problem`].

use attest::appraisal::{Evidence, Report};
use attest::credential::CredentialBlob;
use attest::hash::HashAlg;
use attest::label::Label;
use attest::token::TokenPublicKey;
use attest::tpm::{Name, PcrMask};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ward_rpc::Call;
use ward_types::ProviderName;

use crate::key_provider::WrappedKek;

/// To either service: whether it is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {}

/// Answers [`Health`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HowItIs {
    /// The program's version.
    pub version: String,
    /// The signed configuration that it goes by; none where it has taken none in, or was changed since.
    pub configuration: Option<Applied>,
}

/// A signed configuration that a service goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its digest.
    pub digest: String,
    /// Its serial: the higher one is the newer one.
    pub serial: i64,
}

impl Call for Health {
    type Reply = HowItIs;
    const NAME: &'static str = "health";
}

/// To the attestation service: what its tokens are known by. For who sets up a key provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Describe {}

/// Answers [`Describe`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The service's name.
    pub issuer: Label,
    /// The key that it signs tokens with.
    pub token_key: TokenPublicKey,
    /// Who its tokens are for.
    pub audience: Label,
    /// The certificate by which it is known, in PEM.
    pub certificate: String,
}

impl Call for Describe {
    type Reply = Description;
    const NAME: &'static str = "describe";
}

/// To the attestation service: a host shows its TPM.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrol {
    /// The endorsement key's TPM2B_PUBLIC.
    #[serde(with = "base64_bytes")]
    pub ek: Vec<u8>,
    /// Its certificate in DER, if it has one; as the TPM's NV memory gives it.
    #[serde(with = "base64_option")]
    pub ek_certificate: Option<Vec<u8>>,
    /// The attestation key's TPM2B_PUBLIC.
    #[serde(with = "base64_bytes")]
    pub ak: Vec<u8>,
}

/// Answers [`Enrol`]: what only that TPM can open, if it has that attestation key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolChallenge {
    /// Which question this is.
    pub question: Uuid,
    /// For TPM2_ActivateCredential.
    pub credential: CredentialBlob,
}

impl Call for Enrol {
    type Reply = EnrolChallenge;
    const NAME: &'static str = "enrol";
}

/// To the attestation service: what TPM2_ActivateCredential gave.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolAnswer {
    /// Which question this answers.
    pub question: Uuid,
    /// certInfo
    #[serde(with = "base64_bytes")]
    pub secret: Vec<u8>,
}

/// Answers [`EnrolAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// What the service calls the host.
    pub host: Label,
    /// Whether it is let in already, or an administrator must do so first.
    pub admitted: bool,
}

impl Call for EnrolAnswer {
    type Reply = Enrolled;
    const NAME: &'static str = "enrol-answer";
}

/// To the attestation service: an enrolled host wants a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The Name of its attestation key.
    pub ak: Name,
    /// The policy that it wants to meet: that of its cluster.
    pub policy: Label,
}

/// Answers [`Ask`]: what to quote. The host binds the nonce to *its own* certificate
/// ([`attest::quote::QuoteRequest::bound_to`]): to none that anybody names to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Which question this is.
    pub question: Uuid,
    /// The nonce.
    #[serde(with = "base64_bytes")]
    pub nonce: Vec<u8>,
    /// The bank to quote.
    pub bank: HashAlg,
    /// The PCRs to quote.
    pub pcrs: PcrMask,
}

impl Call for Ask {
    type Reply = Question;
    const NAME: &'static str = "ask";
}

/// To the attestation service: the evidence.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attest {
    /// Which question this answers.
    pub question: Uuid,
    /// Quote and event log.
    pub evidence: Evidence,
}

/// Answers [`Attest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// The token, to be shown to key provider services.
    pub token: String,
    /// When it ends to be good.
    pub expires: Timestamp,
    /// What was looked at, and what was not.
    pub report: Report,
}

impl Call for Attest {
    type Reply = Token;
    const NAME: &'static str = "attest";
}

/// To the key provider service, with a token: a new KEK. What answers it is the KEK, 32 bytes, and then the text of a
/// [`WrappedKek`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeKek {
    /// The key provider.
    pub provider: ProviderName,
}

impl MakeKek {
    /// The path under which it is posted.
    pub const PATH: &'static str = "/v1/make-kek";
}

/// To the key provider service, with a token: a wrapped KEK in plain. What answers it is the KEK, 32 bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnwrapKek {
    /// The key provider.
    pub provider: ProviderName,
    /// What [`MakeKek`] gave.
    pub wrapped: WrappedKek,
}

impl UnwrapKek {
    /// The path under which it is posted.
    pub const PATH: &'static str = "/v1/unwrap-kek";
}

/// To the key provider service, with a token: whether keys would be given for it. What answers it is nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowToken {}

impl ShowToken {
    /// The path under which it is posted.
    pub const PATH: &'static str = "/v1/show-token";
}

/// The media type of a KEK.
pub const KEK_MEDIA_TYPE: &str = "application/octet-stream";

pub(crate) mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

mod base64_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Bytes(#[serde(with = "super::base64_bytes")] Vec<u8>);

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Bytes).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Bytes>::deserialize(deserializer)?.map(|bytes| bytes.0))
    }
}
