//! The one question: is this machine, at this moment, what the policy asks for? [`appraise`] answers it, and says as
//! well what it has *not* looked at.

mod report;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use report::{Fact, FailureText, Gap, ImageReport, Report, Standing};

use crate::binding::CertThumbprint;
use crate::boot::BootChain;
use crate::credential::ResidentAk;
use crate::ek::EkProof;
use crate::hash::HashAlg;
use crate::image::{BaseImage, ImageId};
use crate::label::Label;
use crate::log::{EventLog, LogError, VerifiedLog};
use crate::quote::{Nonce, QuoteError, QuoteEvidence, QuoteRequest, VerifiedQuote};
use crate::secure_boot::{SECURE_BOOT_PCR, SecureBoot, SecureBootError};
use crate::tpm::{Name, PcrMask};

/// What a host sends to be attested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The quote.
    pub quote: QuoteEvidence,
    /// The firmware's event log, as the kernel gives it.
    #[serde(with = "crate::text::base64")]
    pub event_log: Vec<u8>,
}

/// What the host was asked, as the asker remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The nonce that it was sent. To use one nonce once is for the asker to see to.
    pub nonce: Nonce,
    /// When.
    pub at: Timestamp,
    /// The certificate that the host showed in its TLS session.
    pub certificate: CertThumbprint,
}

/// What a machine must be to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name, for tokens and reports.
    pub name: Label,
    /// The bank to be quoted.
    pub bank: HashAlg,
    /// The PCRs that base images must vouch for. More may be quoted than these.
    pub required: PcrMask,
    /// Secure Boot must be on, with keys, and have checked what was booted.
    pub secure_boot: bool,
    /// The EK must have a certificate of a trusted CA; a key that was imported by itself is not enough.
    pub ek_certificate: bool,
    /// How long a nonce may take to come back.
    pub nonce_lifetime: Duration,
    /// The base images. A machine is good if those in force that match cover all required PCRs.
    pub images: Vec<BaseImage>,
}

impl Policy {
    /// What a host is asked for: a quote of all that is required and that any image covers, for this session.
    ///
    /// # Errors
    /// [`QuoteError::WeakBank`] and [`QuoteError::NoPcrs`]: the policy proves nothing.
    pub fn request(&self, nonce: Nonce, certificate: CertThumbprint) -> Result<QuoteRequest, QuoteError> {
        let secure_boot = PcrMask::of(self.secure_boot.then_some(SECURE_BOOT_PCR));
        let covered = self.images.iter().filter(|image| image.bank() == self.bank).map(BaseImage::covers);
        let pcrs = covered.fold(self.required.with(secure_boot), PcrMask::with);
        if self.required.is_empty() {
            return Err(QuoteError::NoPcrs);
        }
        Ok(QuoteRequest::new(nonce, self.bank, pcrs)?.bound_to(certificate))
    }
}

/// Why a machine is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The answer took too long.
    #[error("the nonce was sent at {sent} and was good for {lifetime:?}; it is {now} now: ask for a new one")]
    StaleNonce {
        /// When it was sent.
        sent: Timestamp,
        /// How long it was good for.
        lifetime: Duration,
        /// When the answer was looked at.
        now: Timestamp,
    },
    /// The nonce was sent later than now.
    #[error("the nonce was sent at {sent}, and it is only {now} now: the clock was set back")]
    NonceFromFuture {
        /// When it was sent.
        sent: Timestamp,
        /// When the answer was looked at.
        now: Timestamp,
    },
    /// The quote proves nothing.
    #[error("{0}")]
    Quote(#[from] QuoteError),
    /// The log can't be relied upon.
    #[error("{0}")]
    Log(#[from] LogError),
    /// Secure Boot is not as it must be.
    #[error("{0}")]
    SecureBoot(#[from] SecureBootError),
    /// The EK was imported by itself.
    #[error("the EK with the Name {0} was imported without a certificate, which the policy does not allow")]
    EkWithoutCertificate(Name),
    /// The EK's certificate has run out since it was checked.
    #[error("the certificate of the EK with the Name {ek} was valid until {until}; it is {now} now")]
    EkCertificateExpired {
        /// The EK's Name.
        ek: Name,
        /// The end of the certificate's validity.
        until: Timestamp,
        /// When it was looked at.
        now: Timestamp,
    },
    /// No image that matches covers a PCR.
    #[error("PCRs {pcrs} match no base image that is in force{}", tell(.reasons))]
    Unmatched {
        /// The required PCRs that nothing vouches for.
        pcrs: PcrMask,
        /// Of each image that covers one of them: why it does not count.
        reasons: Vec<String>,
    },
}

fn tell(reasons: &[String]) -> String {
    if reasons.is_empty() { "; there is none that covers them".to_owned() } else { format!(": {}", reasons.join("; ")) }
}

impl Failure {
    /// A stable name for the kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::StaleNonce { .. } | Self::NonceFromFuture { .. } => "nonce-stale",
            Self::Quote(QuoteError::Nonce { .. } | QuoteError::NonceLength(_)) => "nonce-wrong",
            Self::Quote(QuoteError::WeakBank(_)) => "bank-weak",
            Self::Quote(QuoteError::Signature(_) | QuoteError::Scheme { .. }) => "quote-signature",
            Self::Quote(_) => "quote-invalid",
            Self::Log(LogError::Replay { .. }) => "log-does-not-replay",
            Self::Log(LogError::CutShort { .. } | LogError::NoSeparator { .. }) => "log-truncated",
            Self::Log(LogError::Misplaced { .. } | LogError::OtherData { .. } | LogError::MeasuredNoAction { .. }) => {
                "log-relabelled"
            }
            Self::Log(LogError::UnknownType { .. }) => "log-unknown-event",
            Self::Log(_) => "log-invalid",
            Self::SecureBoot(_) => "secure-boot",
            Self::EkWithoutCertificate(_) => "ek-without-certificate",
            Self::EkCertificateExpired { .. } => "ek-certificate-expired",
            Self::Unmatched { .. } => "base-image-unmatched",
        }
    }
}

/// A machine that is what the policy asks for: proof that [`appraise`] said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    ak: Name,
    ek: Name,
    ek_certified: bool,
    certificate: CertThumbprint,
    nonce: Nonce,
    at: Timestamp,
    policy: Label,
    images: Vec<ImageId>,
    vouched: PcrMask,
    reset_count: u32,
}

impl Attested {
    /// The Name of its AK.
    pub fn ak(&self) -> &Name {
        &self.ak
    }

    /// The Name of its TPM's EK.
    pub fn ek(&self) -> &Name {
        &self.ek
    }

    /// Whether a trusted CA certified the EK.
    pub fn ek_certified(&self) -> bool {
        self.ek_certified
    }

    /// The certificate of the TLS session for which it was attested.
    pub fn certificate(&self) -> CertThumbprint {
        self.certificate
    }

    /// The nonce that its quote answers.
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// When it was appraised.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The policy.
    pub fn policy(&self) -> &Label {
        &self.policy
    }

    /// The images in force that match.
    pub fn images(&self) -> &[ImageId] {
        &self.images
    }

    /// The PCRs that they vouch for.
    pub fn vouched(&self) -> PcrMask {
        self.vouched
    }

    /// The number of boots that the TPM counts.
    pub fn reset_count(&self) -> u32 {
        self.reset_count
    }
}

/// What [`appraise`] found.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The proof, or all that was found wrong: at least one failure.
    pub outcome: Result<Attested, Vec<Failure>>,
    /// What was looked at, and what was not.
    pub report: Report,
}

/// Appraises a machine: the quote against what was asked, the log against the quote, and what it says against the
/// policy.
///
/// It has no side effects, reads no clock, and does not stop at the first thing that is wrong where it can go on.
///
/// The caller must have taken `ak` from the enrolment of the very host that it speaks with, and must use each nonce
/// once.
pub fn appraise(ak: &ResidentAk, asked: &Asked, evidence: &Evidence, policy: &Policy, now: Timestamp) -> Verdict {
    let mut failures = check_nonce(asked, policy, now).err().into_iter().collect::<Vec<_>>();
    failures.extend(check_ek(ak, policy, now).err());
    let mut report = Report::new(now);
    report.note_ak(ak);
    let (quote, log) = match prove(ak, asked, evidence, policy, &mut report) {
        Ok(proven) => proven,
        Err(failure) => {
            failures.push(failure);
            return Verdict::fail(failures, report);
        }
    };

    match SecureBoot::of(&log) {
        Ok(state) => {
            let enforced = state.enforced();
            report.note_secure_boot(state, enforced.is_ok());
            failures.extend(enforced.err().filter(|_| policy.secure_boot).map(Failure::from));
        }
        Err(error) if policy.secure_boot => failures.push(error.into()),
        Err(_) => report.not_verified.push(Gap::SecureBoot),
    }
    report.boot = Some(BootChain::of(&log));
    report.images = policy.images.iter().map(|image| ImageReport::of(image, &log, now)).collect();

    let matching = || report.images.iter().filter(|image| image.counts());
    let vouched = matching().map(|image| image.covers).fold(PcrMask::default(), PcrMask::with);
    let images: Vec<_> = matching().map(|image| image.id.clone()).collect();
    let unmatched = policy.required.without(vouched);
    if !unmatched.is_empty() {
        let concerned = report.images.iter().filter(|image| image.covers.without(unmatched) != image.covers);
        failures.push(Failure::Unmatched { pcrs: unmatched, reasons: concerned.map(ToString::to_string).collect() });
    }
    report.note_images(vouched, quote.pcrs().mask());

    if !failures.is_empty() {
        return Verdict::fail(failures, report);
    }
    let attested = Attested {
        ak: quote.ak().clone(),
        ek: quote.ek().clone(),
        ek_certified: matches!(ak.ek_proof(), EkProof::Certificate(_)),
        certificate: asked.certificate,
        nonce: asked.nonce.clone(),
        at: now,
        policy: policy.name.clone(),
        images,
        vouched,
        reset_count: quote.clock_info().reset_count,
    };
    Verdict { outcome: Ok(attested), report }
}

impl Verdict {
    fn fail(failures: Vec<Failure>, mut report: Report) -> Self {
        report.failures =
            failures.iter().map(|failure| (failure.code().to_owned(), failure.to_string()).into()).collect();
        Self { outcome: Err(failures), report }
    }
}

fn check_nonce(asked: &Asked, policy: &Policy, now: Timestamp) -> Result<(), Failure> {
    if asked.at > now {
        return Err(Failure::NonceFromFuture { sent: asked.at, now });
    }
    if now.duration_since(asked.at).unsigned_abs() > policy.nonce_lifetime {
        return Err(Failure::StaleNonce { sent: asked.at, lifetime: policy.nonce_lifetime, now });
    }
    Ok(())
}

fn check_ek(ak: &ResidentAk, policy: &Policy, now: Timestamp) -> Result<(), Failure> {
    match ak.ek_proof() {
        EkProof::Pinned { .. } if policy.ek_certificate => Err(Failure::EkWithoutCertificate(ak.ek().clone())),
        EkProof::Certificate(certificate) if certificate.not_after < now => {
            Err(Failure::EkCertificateExpired { ek: ak.ek().clone(), until: certificate.not_after, now })
        }
        _ => Ok(()),
    }
}

fn prove(
    ak: &ResidentAk,
    asked: &Asked,
    evidence: &Evidence,
    policy: &Policy,
    report: &mut Report,
) -> Result<(VerifiedQuote, VerifiedLog), Failure> {
    let request = policy.request(asked.nonce.clone(), asked.certificate)?;
    let quote = request.verify(ak, &evidence.quote)?;
    report.note_quote(&quote);
    let log = EventLog::from_bytes(&evidence.event_log)?.verify(&quote)?;
    report.note_log(&quote, &log);
    Ok((quote, log))
}
