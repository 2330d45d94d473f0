//! What an appraisal looked at, and what it did not.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::binding::CertThumbprint;
use crate::boot::BootChain;
use crate::credential::ResidentAk;
use crate::ek::EkProof;
use crate::hash::HashAlg;
use crate::image::{BaseImage, Difference, ImageId, Mode, Validity};
use crate::log::VerifiedLog;
use crate::quote::VerifiedQuote;
use crate::secure_boot::SecureBoot;
use crate::tpm::{Name, PcrMask};

/// Something that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// The attestation key lives in the TPM of that endorsement key.
    AkInTpm {
        /// The AK's Name.
        ak: Name,
        /// The EK's Name.
        ek: Name,
        /// When it was proven.
        proven_at: Timestamp,
    },
    /// A trusted CA certified the endorsement key.
    EkCertified {
        /// The CA.
        issuer: String,
        /// SHA-256 of the certificate, in hexadecimal.
        sha256: String,
    },
    /// The TPM holds these PCR values, after the nonce was sent.
    Quoted {
        /// The bank.
        bank: HashAlg,
        /// The PCRs.
        pcrs: PcrMask,
        /// The number of boots that the TPM counts.
        reset_count: u32,
    },
    /// The quote was made for the TLS session of this certificate.
    BoundTo {
        /// The certificate.
        certificate: CertThumbprint,
    },
    /// The log leads to the quoted values.
    LogReplays {
        /// How many events it has in the quoted PCRs.
        events: usize,
    },
    /// Secure Boot is on, with keys, and checked what was booted.
    SecureBootEnforced,
    /// Base images in force match these PCRs.
    Vouched {
        /// The PCRs.
        pcrs: PcrMask,
    },
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AkInTpm { ak, ek, proven_at } => {
                write!(f, "the AK {ak} lives in the TPM of the EK {ek}, as it proved at {proven_at}")
            }
            Self::EkCertified { issuer, .. } => write!(f, "{issuer} certified that TPM"),
            Self::Quoted { bank, pcrs, reset_count } => {
                write!(f, "the TPM holds the values given for PCRs {pcrs} of bank {bank}, in its boot {reset_count}")
            }
            Self::BoundTo { certificate } => write!(f, "it quoted for the TLS session of certificate {certificate}"),
            Self::LogReplays { events } => write!(f, "{events} logged events lead to those values"),
            Self::SecureBootEnforced => f.write_str("Secure Boot checked what was booted"),
            Self::Vouched { pcrs } => write!(f, "base images match PCRs {pcrs}"),
        }
    }
}

/// Something that was not verified, and that nobody may take for verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Gap {
    /// Whether the TPM's maker has revoked its certificate.
    EkRevocation,
    /// Who made the TPM: its key was imported by itself.
    EkMaker {
        /// What it was imported as.
        label: String,
    },
    /// PCRs that were quoted and that no image in force that matches covers: their values are proven, not judged.
    NotVouched {
        /// The PCRs.
        pcrs: PcrMask,
    },
    /// PCRs that were not quoted.
    NotQuoted {
        /// The PCRs.
        pcrs: PcrMask,
        /// How many events of the log they have.
        events: usize,
    },
    /// Data of events whose digests are of something else: names and paths of boot images, say.
    EventData {
        /// How many events of the quoted PCRs are concerned.
        events: usize,
    },
    /// The state of Secure Boot: PCR 7 was not quoted, or does not say.
    SecureBoot,
    /// What has run since the boot was measured.
    SinceBoot,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EkRevocation => f.write_str("whether the TPM's certificate was revoked"),
            Self::EkMaker { label } => write!(f, "who made the TPM: its key was imported as {label:?}"),
            Self::NotVouched { pcrs } => write!(f, "whether the values of PCRs {pcrs} are good: no base image says"),
            Self::NotQuoted { pcrs, events } => write!(f, "PCRs {pcrs}, and {events} logged events of theirs"),
            Self::EventData { events } => {
                write!(f, "names and descriptions in {events} events, whose digests are of something else")
            }
            Self::SecureBoot => f.write_str("whether Secure Boot is on"),
            Self::SinceBoot => f.write_str("what has run since the boot was measured"),
        }
    }
}

/// Whether an image is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is.
    InForce,
    /// It will be.
    NotYet,
    /// It was.
    Expired,
}

/// How a machine compares with an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// The image.
    pub id: ImageId,
    /// What it does.
    pub mode: Mode,
    /// When it is in force.
    pub validity: Validity,
    /// Whether it is.
    pub standing: Standing,
    /// The PCRs that it covers.
    pub covers: PcrMask,
    /// Where the machine differs from it; nowhere, if it matches.
    pub differences: Vec<Difference>,
}

impl ImageReport {
    pub(super) fn of(image: &BaseImage, log: &VerifiedLog, now: Timestamp) -> Self {
        let validity = image.validity();
        let standing = if now < validity.from {
            Standing::NotYet
        } else if validity.until.is_some_and(|until| until <= now) {
            Standing::Expired
        } else {
            Standing::InForce
        };
        Self {
            id: image.id().clone(),
            mode: image.mode(),
            validity,
            standing,
            covers: image.covers(),
            differences: image.differences(log),
        }
    }

    /// Whether the machine matches it.
    pub fn matches(&self) -> bool {
        self.differences.is_empty()
    }

    /// Whether the image vouches for the machine: it matches, is in force, and has a say.
    pub fn counts(&self) -> bool {
        self.matches() && self.standing == Standing::InForce && self.mode == Mode::Enforce
    }
}

impl fmt::Display for ImageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = if self.matches() { "matches" } else { "does not match" };
        match (self.mode, self.standing) {
            (Mode::DryRun, _) if self.matches() => write!(f, "base image {} is a dry run; it would match", self.id)?,
            (Mode::DryRun, _) => write!(f, "base image {} is a dry run; it would have failed", self.id)?,
            (_, Standing::InForce) => write!(f, "base image {} {fits}", self.id)?,
            (_, Standing::NotYet) => {
                write!(f, "base image {} {fits}, but is valid only from {}", self.id, self.validity.from)?;
            }
            (_, Standing::Expired) => {
                let until = self.validity.until.unwrap_or(Timestamp::MAX);
                write!(f, "base image {} {fits}, but was valid until {until}", self.id)?;
            }
        }
        self.differences
            .iter()
            .enumerate()
            .try_for_each(|(at, difference)| write!(f, "{} {difference}", if at == 0 { ":" } else { "," }))
    }
}

/// A failure as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureText {
    /// The kind of failure, by a stable name.
    pub code: String,
    /// What failed and why.
    pub message: String,
}

impl From<(String, String)> for FailureText {
    fn from((code, message): (String, String)) -> Self {
        Self { code, message }
    }
}

/// What an appraisal looked at, and what it did not. Good for showing and for keeping; it proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When.
    pub at: Timestamp,
    /// What was verified.
    pub verified: Vec<Fact>,
    /// What was not verified.
    pub not_verified: Vec<Gap>,
    /// What was wrong: nothing, if the machine is trusted.
    pub failures: Vec<FailureText>,
    /// How the machine compares with each base image, whether it has a say or not.
    pub images: Vec<ImageReport>,
    /// The state of Secure Boot, if it is known.
    pub secure_boot: Option<SecureBoot>,
    /// What was booted, if it is known.
    pub boot: Option<BootChain>,
}

impl Report {
    pub(super) fn new(at: Timestamp) -> Self {
        Self {
            at,
            verified: Vec::new(),
            not_verified: vec![Gap::SinceBoot],
            failures: Vec::new(),
            images: Vec::new(),
            secure_boot: None,
            boot: None,
        }
    }

    /// The dry runs that the machine would not pass.
    pub fn would_fail(&self) -> impl Iterator<Item = &ImageReport> {
        self.images.iter().filter(|image| image.mode == Mode::DryRun && !image.matches())
    }

    pub(super) fn note_ak(&mut self, ak: &ResidentAk) {
        self.verified.push(Fact::AkInTpm { ak: ak.name(), ek: ak.ek().clone(), proven_at: ak.proven_at() });
        match ak.ek_proof() {
            EkProof::Certificate(certificate) => {
                let (issuer, sha256) = (certificate.issuer.clone(), certificate.sha256.clone());
                self.verified.push(Fact::EkCertified { issuer, sha256 });
                self.not_verified.push(Gap::EkRevocation);
            }
            EkProof::Pinned { label } => self.not_verified.push(Gap::EkMaker { label: label.clone() }),
        }
    }

    /// Whether the TPM answered the nonce: what else is in the report is of that machine then.
    pub fn is_quoted(&self) -> bool {
        self.verified.iter().any(|fact| matches!(fact, Fact::Quoted { .. }))
    }

    pub(super) fn note_quote(&mut self, quote: &VerifiedQuote) {
        let pcrs = quote.pcrs().mask();
        let reset_count = quote.clock_info().reset_count;
        self.verified.push(Fact::Quoted { bank: quote.pcrs().bank(), pcrs, reset_count });
        self.verified.extend(quote.bound_to().map(|certificate| Fact::BoundTo { certificate }));
    }

    pub(super) fn note_log(&mut self, quote: &VerifiedQuote, log: &VerifiedLog) {
        let pcrs = quote.pcrs().mask();
        self.verified.push(Fact::LogReplays { events: log.events().len() });
        let all = PcrMask::of(0..=crate::tpm::MAX_PCR);
        self.not_verified.push(Gap::NotQuoted { pcrs: all.without(pcrs), events: log.left_out() });
        let unproven = log.events().iter().filter(|event| !event.proven()).count();
        if unproven > 0 {
            self.not_verified.push(Gap::EventData { events: unproven });
        }
    }

    pub(super) fn note_secure_boot(&mut self, state: SecureBoot, enforced: bool) {
        self.secure_boot = Some(state);
        if enforced {
            self.verified.push(Fact::SecureBootEnforced);
        }
    }

    pub(super) fn note_images(&mut self, vouched: PcrMask, quoted: PcrMask) {
        if !vouched.is_empty() {
            self.verified.push(Fact::Vouched { pcrs: vouched });
        }
        let rest = quoted.without(vouched);
        if !rest.is_empty() {
            self.not_verified.push(Gap::NotVouched { pcrs: rest });
        }
    }
}
