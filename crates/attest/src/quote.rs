//! Quotes: what a TPM says its PCRs hold, in answer to a nonce.

use std::collections::BTreeMap;

use aws_lc_rs::rand::fill;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::binding::CertThumbprint;
use crate::credential::{CredentialError, ResidentAk};
use crate::hash::{Digest, HashAlg};
use crate::tpm::{AlgId, ClockInfo, KeyParameters, MAX_PCR, Malformed, Name, PcrMask, PcrSelection, Quoted, Signature};

/// Why a quote does not prove what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// The nonce is shorter than a nonce may be.
    #[error("a nonce of {0} bytes proves no freshness; it must have {least} to {most}", least = Nonce::MIN_LEN, most = Nonce::MAX_LEN)]
    NonceLength(usize),
    /// The bank asked for is not strong.
    #[error("the {0} bank proves nothing: collisions in that algorithm can be made; quote sha256 or sha384")]
    WeakBank(HashAlg),
    /// No PCR was asked for.
    #[error("a quote of no PCR proves nothing")]
    NoPcrs,
    /// The message or the signature could not be read.
    #[error("the quote: {0}")]
    Malformed(#[from] Malformed),
    /// The signature is by another scheme or hash than the AK is bound to.
    #[error(
        "the quote's signature is {found} with {found_hash}, but the AK is bound to {expected} with {expected_hash}"
    )]
    Scheme {
        /// sigAlg of the signature.
        found: AlgId,
        /// Its hash.
        found_hash: HashAlg,
        /// The AK's scheme.
        expected: AlgId,
        /// Its hash.
        expected_hash: HashAlg,
    },
    /// The signature is not the AK's over that message.
    #[error("the quote is not signed by the AK with the Name {0}")]
    Signature(Name),
    /// The quote answers another nonce, or was made for another TLS certificate.
    #[error(
        "the quote answers another nonce, or is bound to another certificate: extraData is {}, expected {}",
        hex::encode(.found),
        hex::encode(.expected)
    )]
    Nonce {
        /// extraData
        found: Vec<u8>,
        /// What it should have been.
        expected: Vec<u8>,
    },
    /// Other banks or PCRs were quoted than asked for.
    #[error("the quote is of {found}, asked for was {expected}")]
    Selection {
        /// What was quoted.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The values sent along are of other PCRs, or another bank.
    #[error("the values sent with the quote are of {found}, asked for was {expected}")]
    Values {
        /// What they are of.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The values sent along are not those that the TPM quoted.
    #[error(
        "the PCR values sent with the quote are not the quoted ones: their digest is {found}, pcrDigest is {expected}"
    )]
    PcrDigest {
        /// The digest of the values, in hexadecimal.
        found: String,
        /// pcrDigest, in hexadecimal.
        expected: String,
    },
}

/// What makes a quote fresh: random bytes that are used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(Vec<u8>);

impl Nonce {
    /// The fewest bytes.
    pub const MIN_LEN: usize = 16;
    /// The most bytes: what every TPM takes as qualifyingData.
    pub const MAX_LEN: usize = 32;

    /// A fresh one.
    ///
    /// # Errors
    /// [`CredentialError::Random`]
    pub fn generate() -> Result<Self, CredentialError> {
        let mut bytes = vec![0; Self::MAX_LEN];
        fill(&mut bytes).map_err(|_| CredentialError::Random)?;
        Ok(Self(bytes))
    }

    /// The caller's own. That it is random, was sent to this host only and is used once is for the caller to see to.
    ///
    /// # Errors
    /// [`QuoteError::NonceLength`]
    pub fn new(bytes: &[u8]) -> Result<Self, QuoteError> {
        if (Self::MIN_LEN..=Self::MAX_LEN).contains(&bytes.len()) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(QuoteError::NonceLength(bytes.len()))
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Values of PCRs of one bank. By itself these prove nothing: anybody can write them down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<u8, Digest>", into = "BTreeMap<u8, Digest>")]
pub struct PcrValues {
    bank: HashAlg,
    values: BTreeMap<u8, Digest>,
}

/// Values are not those of PCRs of one bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PCR values must be at least one, of PCRs 0 to {max}, and all of one bank", max = MAX_PCR)]
pub struct NotOneBank;

impl PcrValues {
    /// Values by PCR.
    ///
    /// # Errors
    /// [`NotOneBank`]
    pub fn new(values: BTreeMap<u8, Digest>) -> Result<Self, NotOneBank> {
        let bank = values.values().next().ok_or(NotOneBank)?.alg();
        let good = values.iter().all(|(&index, value)| index <= MAX_PCR && value.alg() == bank);
        if good { Ok(Self { bank, values }) } else { Err(NotOneBank) }
    }

    /// Their bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Which PCRs they are of.
    pub fn mask(&self) -> PcrMask {
        PcrMask::of(self.values.keys().copied())
    }

    /// The value of one.
    pub fn get(&self, index: u8) -> Option<&Digest> {
        self.values.get(&index)
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Digest)> {
        self.values.iter().map(|(&index, value)| (index, value))
    }

    /// TPM 2.0 Library part 3, 18.4 (TPM2_Quote): the digest of their concatenation, ascending.
    fn digest(&self, alg: HashAlg) -> Digest {
        let values: Vec<_> = self.values.values().map(Digest::bytes).collect();
        alg.digest(&values)
    }
}

impl TryFrom<BTreeMap<u8, Digest>> for PcrValues {
    type Error = NotOneBank;

    fn try_from(values: BTreeMap<u8, Digest>) -> Result<Self, NotOneBank> {
        Self::new(values)
    }
}

impl From<PcrValues> for BTreeMap<u8, Digest> {
    fn from(values: PcrValues) -> Self {
        values.values
    }
}

/// What a host sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteEvidence {
    /// quoted: the bytes of a TPMS_ATTEST, without the length of a TPM2B_ATTEST.
    #[serde(with = "crate::text::base64")]
    pub message: Vec<u8>,
    /// The bytes of a TPMT_SIGNATURE.
    #[serde(with = "crate::text::base64")]
    pub signature: Vec<u8>,
    /// The values of the quoted PCRs.
    pub pcrs: PcrValues,
}

/// What a host was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteRequest {
    nonce: Nonce,
    bound_to: Option<CertThumbprint>,
    bank: HashAlg,
    pcrs: PcrMask,
}

impl QuoteRequest {
    /// A request for a quote of these PCRs of one bank.
    ///
    /// # Errors
    /// [`QuoteError::WeakBank`] for SHA-1, [`QuoteError::NoPcrs`].
    pub fn new(nonce: Nonce, bank: HashAlg, pcrs: PcrMask) -> Result<Self, QuoteError> {
        if !bank.is_strong() {
            return Err(QuoteError::WeakBank(bank));
        }
        if pcrs.is_empty() {
            return Err(QuoteError::NoPcrs);
        }
        Ok(Self { nonce, bound_to: None, bank, pcrs })
    }

    /// The same, but the TPM is to quote for the TLS session of this certificate too.
    ///
    /// An agent puts in no certificate but its own; so if what booted is good, and the agent with it, then the end of
    /// the session is the machine that was quoted. Without it an attacker may pass a good machine's quote on as its
    /// own.
    #[must_use]
    pub fn bound_to(self, certificate: CertThumbprint) -> Self {
        Self { bound_to: Some(certificate), ..self }
    }

    /// The nonce.
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// The bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The PCRs.
    pub fn pcrs(&self) -> PcrMask {
        self.pcrs
    }

    /// qualifyingData of TPM2_Quote: the nonce, or, where a certificate is bound in, the SHA-256 of both.
    pub fn qualifying_data(&self) -> Vec<u8> {
        match &self.bound_to {
            None => self.nonce.as_bytes().to_vec(),
            Some(certificate) => {
                let parts = [b"attest quote v1\0".as_slice(), certificate.as_bytes(), self.nonce.as_bytes()];
                HashAlg::Sha256.digest(&parts).bytes().to_vec()
            }
        }
    }

    /// The bytes of the TPML_PCR_SELECTION that TPM2_Quote takes.
    pub fn selection(&self) -> Vec<u8> {
        PcrSelection::list_to_bytes(&[self.wanted()])
    }

    fn wanted(&self) -> PcrSelection {
        PcrSelection { hash: self.bank.id(), pcrs: self.pcrs }
    }

    /// Checks that this AK, which lives in a trusted TPM, signed a quote that answers this request, and that the values
    /// sent along are the quoted ones.
    ///
    /// # Errors
    /// [`QuoteError`] says what failed.
    pub fn verify(&self, ak: &ResidentAk, evidence: &QuoteEvidence) -> Result<VerifiedQuote, QuoteError> {
        let signature = Signature::from_bytes(&evidence.signature)?;
        check_signature(ak, &signature, &evidence.message)?;
        // From here on the message is the TPM's own: a restricted key signs no other that starts as a TPMS_ATTEST does.
        let quoted = Quoted::from_bytes(&evidence.message)?;
        let expected = self.qualifying_data();
        if !bool::from(quoted.extra_data.ct_eq(&expected)) {
            return Err(QuoteError::Nonce { found: quoted.extra_data, expected });
        }
        let wanted = self.wanted();
        if quoted.single_selection() != Some(wanted) {
            let found = quoted.quote.pcr_select.iter().map(describe).collect::<Vec<_>>().join(" and ");
            return Err(QuoteError::Selection { found, expected: describe(&wanted) });
        }
        let given = PcrSelection { hash: evidence.pcrs.bank().id(), pcrs: evidence.pcrs.mask() };
        if given != wanted {
            return Err(QuoteError::Values { found: describe(&given), expected: describe(&wanted) });
        }
        let digest = evidence.pcrs.digest(ak.ak().hash());
        if digest.bytes() != quoted.quote.pcr_digest {
            return Err(QuoteError::PcrDigest {
                found: hex::encode(digest.bytes()),
                expected: hex::encode(&quoted.quote.pcr_digest),
            });
        }
        Ok(VerifiedQuote {
            ak: ak.name(),
            ek: ak.ek().clone(),
            bound_to: self.bound_to,
            pcrs: evidence.pcrs.clone(),
            clock_info: quoted.clock_info,
            firmware_version: quoted.firmware_version,
        })
    }
}

fn describe(selection: &PcrSelection) -> String {
    format!("{} of bank {}", selection.pcrs, selection.hash)
}

fn check_signature(ak: &ResidentAk, signature: &Signature, message: &[u8]) -> Result<(), QuoteError> {
    let (expected, expected_hash) = (ak.ak().scheme(), ak.ak().hash());
    let (found, found_hash) = (signature.scheme(), signature.hash());
    if (found, found_hash) != (expected, expected_hash) {
        return Err(QuoteError::Scheme { found, found_hash, expected, expected_hash });
    }
    let good = match &ak.ak().public().key {
        KeyParameters::Rsa(key) => signature.is_by_rsa(key, message),
        KeyParameters::Ecc(key) => signature.is_by_ecc(key, message),
    };
    if good { Ok(()) } else { Err(QuoteError::Signature(ak.name())) }
}

/// PCR values that a trusted TPM holds: proof that [`QuoteRequest::verify`] accepted them.
///
/// **What this does not prove:** that these values are good (see [`crate::appraisal`]), nor that they still are now:
/// the TPM said so after the nonce was sent, and a reboot may have followed. Nor who relays for whom: the TPM's machine
/// need not be the peer one talks to, unless the quote is [bound](QuoteRequest::bound_to) to the peer's certificate and
/// the values are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedQuote {
    ak: Name,
    ek: Name,
    bound_to: Option<CertThumbprint>,
    pcrs: PcrValues,
    clock_info: ClockInfo,
    firmware_version: u64,
}

impl VerifiedQuote {
    /// The Name of the AK that signed.
    pub fn ak(&self) -> &Name {
        &self.ak
    }

    /// The Name of the EK of the AK's TPM.
    pub fn ek(&self) -> &Name {
        &self.ek
    }

    /// The certificate of the TLS session that it was made for, if it was made for one.
    pub fn bound_to(&self) -> Option<CertThumbprint> {
        self.bound_to
    }

    /// The values, of the bank and PCRs that were asked for and no others.
    pub fn pcrs(&self) -> &PcrValues {
        &self.pcrs
    }

    /// Clock and counters. A change of `reset_count` since the last quote means that the machine booted in between.
    pub fn clock_info(&self) -> ClockInfo {
        self.clock_info
    }

    /// The TPM's firmware version, as its maker numbers it.
    pub fn firmware_version(&self) -> u64 {
        self.firmware_version
    }
}
