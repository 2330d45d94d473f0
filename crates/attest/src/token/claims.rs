//! The claims of a token. draft-ietf-rats-ear-04, section 3.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{AFFIRMING, VerifierId};
use crate::appraisal::Attested;
use crate::binding::CertThumbprint;
use crate::label::Label;
use crate::secure_boot::SECURE_BOOT_PCR;
use crate::tpm::Name;

#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: Label,
    pub(super) aud: String,
    pub(super) iat: i64,
    pub(super) exp: i64,
    pub(super) jti: Label,
    pub(super) eat_profile: String,
    pub(super) ear_status: String,
    pub(super) ear_verifier_id: VerifierId,
    pub(super) cnf: Confirmation,
    pub(super) submods: Submodules,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Confirmation {
    #[serde(rename = "x5t#S256")]
    pub(super) certificate: CertThumbprint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Submodules {
    pub(super) tpm: Submodule,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Submodule {
    pub(super) ear_status: String,
    pub(super) ear_trustworthiness_vector: TrustVector,
    pub(super) ear_appraisal_policy_ids: Vec<Label>,
    pub(super) eat_nonce: String,
    pub(super) ear_verifier_claims: VerifierClaims,
}

/// AR4SI, section 2.3: what was not looked at is left out.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TrustVector {
    instance_identity: i8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configuration: Option<i8>,
    executables: i8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardware: Option<i8>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct VerifierClaims {
    pub(super) ak: Name,
    pub(super) ek: Name,
    pub(super) reset_count: u32,
    pub(super) images: Vec<String>,
}

impl Submodule {
    pub(super) fn of(attested: &Attested) -> Self {
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
