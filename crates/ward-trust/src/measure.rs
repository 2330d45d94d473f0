//! For measurements: hosts whose TPM is a pair of keys in this process. What they send is what a host sends, and is
//! verified like that; only that their attestation keys live in TPMs is taken for granted, as nothing else could be.

use std::collections::BTreeMap;
use std::path::Path;

use attest::appraisal::Evidence;
use attest::credential::{AkRecord, ResidentAk};
use attest::ek::EkProof;
use attest::hash::{Digest, HashAlg};
use attest::label::Label;
use attest::log::{EventLog, EventType};
use attest::quote::{Nonce, PcrValues, QuoteEvidence, QuoteRequest};
use attest::tpm::{Attributes, Public};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use jiff::Timestamp;
use ward_types::Problem;

use crate::Error;
use crate::api::{Ask, Attest, Token};
use crate::attestation::{KIND, pin};
use crate::client::{Client, Identity};
use crate::home::Home;

/// A boot that hosts claim to have gone through: its event log, and what it leads to.
pub struct Boot {
    log: Vec<u8>,
    pcrs: BTreeMap<u8, Digest>,
}

impl Boot {
    /// Replays an event log, by SHA-256.
    ///
    /// # Errors
    /// If it is none.
    pub fn replay(log: Vec<u8>) -> Result<Self, Error> {
        let bad = |why: &dyn ToString| Error::invalid("an event log", why.to_string());
        let parsed = EventLog::from_bytes(&log).map_err(|error| bad(&error))?;
        let mut pcrs: BTreeMap<u8, Digest> = (0..24).map(|pcr| (pcr, Digest::filled(HashAlg::Sha256, 0))).collect();
        for event in parsed.unverified_events().iter().filter(|event| event.event_type != EventType::NO_ACTION) {
            let digest = event.digests.iter().find(|digest| digest.alg() == HashAlg::Sha256);
            let value = u8::try_from(event.pcr).ok().and_then(|pcr| pcrs.get_mut(&pcr));
            if let (Some(digest), Some(value)) = (digest, value) {
                *value = HashAlg::Sha256.digest(&[value.bytes(), digest.bytes()]);
            }
        }
        Ok(Self { log, pcrs })
    }
}

/// A host.
pub struct SimulatedHost {
    /// Its TLS certificate.
    pub identity: Identity,
    label: Label,
    key: EcdsaKeyPair,
    ek: Public,
    ak: Public,
}

impl SimulatedHost {
    /// The host of that number.
    ///
    /// # Errors
    /// If no keys can be made.
    pub fn new(number: usize) -> Result<Self, Error> {
        let failed = |why: &dyn ToString| Error::invalid("a simulated host", why.to_string());
        let key =
            || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| failed(&"no key could be made"));
        let (ak, ek) = (key()?, key()?);
        let public = |key: &EcdsaKeyPair, attributes: u32, kind: &[u8]| {
            Public::from_tpmt(&area(key.public_key().as_ref(), attributes, kind)).map_err(|error| failed(&error))
        };
        let common = Attributes::FIXED_TPM.0
            | Attributes::FIXED_PARENT.0
            | Attributes::SENSITIVE_DATA_ORIGIN.0
            | Attributes::RESTRICTED.0;
        Ok(Self {
            identity: Identity::generate()?,
            label: format!("simulated-{number}").parse().map_err(|error| failed(&error))?,
            // AES-128-CFB, no scheme; no symmetric algorithm, ECDSA with SHA-256.
            ek: public(&ek, common | Attributes::DECRYPT.0, &[0, 6, 0, 128, 0, 0x43, 0, 0x10])?,
            ak: public(&ak, common | Attributes::SIGN.0, &[0, 0x10, 0, 0x18, 0, 0x0b])?,
            key: ak,
        })
    }

    /// What the attestation service calls it.
    #[must_use]
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Has itself attested.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn attest(&self, client: &Client, policy: &Label, boot: &Boot) -> Result<Token, Problem> {
        let question = client.call(Ask { ak: self.ak.name(), policy: policy.clone() }).await?;
        let failed = |why: &dyn ToString| Problem::internal("a simulated host can't be attested", why.to_string());
        let nonce = Nonce::new(&question.nonce).map_err(|error| failed(&error))?;
        let request = QuoteRequest::new(nonce, question.bank, question.pcrs).map_err(|error| failed(&error))?;
        let request = request.bound_to(self.identity.thumbprint());
        let evidence = self.evidence(&request, boot).ok_or_else(|| failed(&"it can't quote that"))?;
        client.call(Attest { question: question.question, evidence }).await
    }

    /// Its attestation key.
    ///
    /// # Errors
    /// If it is none, which does not happen.
    pub fn attestation_key(&self) -> Result<ResidentAk, Error> {
        ResidentAk::from_own_record(self.record()).map_err(|error| Error::invalid("a simulated host", error))
    }

    fn record(&self) -> AkRecord {
        AkRecord {
            ak: self.ak.to_tpm2b(),
            ek: self.ek.name(),
            ek_proof: EkProof::Pinned { label: self.label.to_string() },
            proven_at: Timestamp::now(),
        }
    }

    /// What it sends in answer to a question; none where it was not asked for PCRs that it has.
    #[must_use]
    pub fn evidence(&self, request: &QuoteRequest, boot: &Boot) -> Option<Evidence> {
        let values: BTreeMap<u8, Digest> =
            request.pcrs().iter().filter_map(|pcr| Some((pcr, boot.pcrs.get(&pcr)?.clone()))).collect();
        let all: Vec<u8> = values.values().flat_map(|value| value.bytes().to_vec()).collect();
        let mut message = b"\xffTCG\x80\x18\0\0".to_vec();
        put(&mut message, &request.qualifying_data());
        // clockInfo and firmwareVersion.
        message.extend([0; 16]);
        message.push(1);
        message.extend([0; 8]);
        message.extend(request.selection());
        put(&mut message, HashAlg::Sha256.digest(&[&all]).bytes());
        let signed = self.key.sign(&SystemRandom::new(), &message).ok()?;
        let (r, s) = signed.as_ref().split_at_checked(32)?;
        let mut signature = vec![0, 0x18, 0, 0x0b];
        put(&mut signature, r);
        put(&mut signature, s);
        let quote = QuoteEvidence { message, signature, pcrs: PcrValues::new(values).ok()? };
        Some(Evidence { quote, event_log: boot.log.clone() })
    }
}

/// TPMT_PUBLIC of a key on P-256.
fn area(point: &[u8], attributes: u32, kind: &[u8]) -> Vec<u8> {
    let mut area = vec![0, 0x23, 0, 0x0b];
    area.extend(attributes.to_be_bytes());
    area.extend([0, 0]);
    area.extend(kind);
    area.extend([0, 3, 0, 0x10]);
    let coordinates = point.get(1..).unwrap_or_default();
    coordinates.chunks(32).for_each(|coordinate| put(&mut area, coordinate));
    area
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // None of them is longer than 255 bytes.
    out.extend([0, u8::try_from(bytes.len()).unwrap_or(u8::MAX)]);
    out.extend(bytes);
}

/// Takes simulated hosts in, as if they had enrolled.
///
/// # Errors
/// If the directory can't be used.
pub async fn enrol(dir: &Path, hosts: &[std::sync::Arc<SimulatedHost>]) -> Result<(), Error> {
    let home = Home::open(dir, &KIND).await?;
    let mut change = home.change().await?;
    for host in hosts {
        let json = serde_json::to_string(&host.record()).map_err(|error| Error::invalid("an AK", error))?;
        pin(&mut change, &host.ek.name(), &host.label).await?;
        let query = "INSERT INTO host (ek, label, ak, ek_public, ak_record, admitted, enrolled_ms) \
                     VALUES (?, ?, ?, ?, ?, TRUE, ?)";
        sqlx::query(query)
            .bind(host.ek.name().to_string())
            .bind(host.label.as_str())
            .bind(host.ak.name().to_string())
            .bind(host.ek.to_tpm2b())
            .bind(json)
            .bind(Timestamp::now().as_millisecond())
            .execute(&mut *change)
            .await?;
    }
    change.commit().await
}
