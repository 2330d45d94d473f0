//! Base images: named sets of accepted measurements, taken from a machine that is known to be good.
//!
//! An image need not cover all PCRs. One may be of a machine's firmware (PCRs 0, 2 and 7), another of an operating
//! system (4, 9, 11 and 12); a machine is good if images that match cover together what the policy asks for. So each
//! update of one brings one image, not one for every pair.

mod compare;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use compare::{Difference, EventDifference};

use crate::hash::{Digest, HashAlg};
use crate::label::Label;
use crate::log::{EventType, VerifiedEvent, VerifiedLog};
use crate::tpm::{MAX_PCR, PcrMask};

/// The version of the format that is written.
const FORMAT: u32 = 1;

/// Why an image can't be made or taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It is of another format.
    #[error("the base image is of format {0}; format {FORMAT} is known")]
    Format(u32),
    /// It covers nothing.
    #[error("a base image that covers no PCR matches everything")]
    Empty,
    /// It covers what no TPM has.
    #[error("the base image covers PCR {0}; there are 0 to {MAX_PCR}")]
    Pcr(u8),
    /// Its bank is SHA-1's.
    #[error("a base image of bank {0} proves nothing; use sha256 or sha384")]
    WeakBank(HashAlg),
    /// A digest in it is of another bank.
    #[error("PCR {pcr} of the base image has {digest}, which is not of its bank {bank}")]
    OtherBank {
        /// The PCR.
        pcr: u8,
        /// The digest.
        digest: Digest,
        /// The image's bank.
        bank: HashAlg,
    },
    /// It is to cover a PCR that was not quoted.
    #[error("PCRs {missing} can't be captured: the quote is of {quoted} only")]
    NotQuoted {
        /// What was asked for and not quoted.
        missing: PcrMask,
        /// What was quoted.
        quoted: PcrMask,
    },
    /// It is never valid.
    #[error("the base image is valid from {from} until {until}, which is never")]
    NeverValid {
        /// Its beginning.
        from: Timestamp,
        /// Its end.
        until: Timestamp,
    },
}

/// What an image is called. Written `NAME/VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageId {
    /// Its name, such as `debian-12-kernel`.
    pub name: Label,
    /// Its version, such as `6.1.0-28`.
    pub version: Label,
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.version)
    }
}

/// When an image is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// From then on.
    pub from: Timestamp,
    /// Until before then; `None`: until it is removed.
    pub until: Option<Timestamp>,
}

/// What an image does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Machines that match it are good.
    Enforce,
    /// It is compared and reported, and has no say: shows beforehand which machines would match.
    DryRun,
}

/// An event that is expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceEvent {
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Its digest.
    pub digest: Digest,
    /// What it says, for people. It is not compared.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub says: String,
}

impl From<&VerifiedEvent> for ReferenceEvent {
    fn from(event: &VerifiedEvent) -> Self {
        let says = event.content().to_string();
        Self { event_type: event.event_type(), digest: event.digest().clone(), says }
    }
}

impl fmt::Display for ReferenceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.event_type, self.digest)?;
        if self.says.is_empty() { Ok(()) } else { write!(f, " ({})", self.says) }
    }
}

/// What is expected of a PCR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferencePcr {
    /// Its value.
    pub value: Digest,
    /// The events that lead to it.
    pub events: Vec<ReferenceEvent>,
}

/// A named set of accepted measurements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
pub struct BaseImage {
    id: ImageId,
    bank: HashAlg,
    validity: Validity,
    mode: Mode,
    pcrs: BTreeMap<u8, ReferencePcr>,
}

/// An image as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    format: u32,
    id: ImageId,
    bank: HashAlg,
    validity: Validity,
    mode: Mode,
    pcrs: BTreeMap<u8, ReferencePcr>,
}

impl BaseImage {
    /// The PCRs that most images cover: code, Secure Boot, and what loaders measure. Left out are settings, which
    /// differ from machine to machine (1, 3, 5), what makers like (6), and what the running system goes on to extend
    /// (10, 15 and above).
    pub const USUAL_PCRS: [u8; 9] = [0, 2, 4, 7, 8, 9, 11, 12, 14];

    /// Takes what a machine measured as what is accepted. It is for the caller to know that the machine is good.
    ///
    /// # Errors
    /// [`ImageError`], if a PCR was not quoted, say.
    pub fn capture(
        log: &VerifiedLog,
        id: ImageId,
        pcrs: PcrMask,
        validity: Validity,
        mode: Mode,
    ) -> Result<Self, ImageError> {
        let mut image = Self { id, bank: log.values().bank(), validity, mode, pcrs: BTreeMap::new() };
        for pcr in pcrs.iter() {
            let Some(value) = log.values().get(pcr) else {
                let quoted = log.values().mask();
                return Err(ImageError::NotQuoted { missing: pcrs.without(quoted), quoted });
            };
            let events = log.of_pcr(pcr).map(ReferenceEvent::from).collect();
            image.pcrs.insert(pcr, ReferencePcr { value: value.clone(), events });
        }
        image.check()
    }

    fn check(self) -> Result<Self, ImageError> {
        if !self.bank.is_strong() {
            return Err(ImageError::WeakBank(self.bank));
        }
        if self.pcrs.is_empty() {
            return Err(ImageError::Empty);
        }
        if let Some(until) = self.validity.until.filter(|&until| until <= self.validity.from) {
            return Err(ImageError::NeverValid { from: self.validity.from, until });
        }
        for (&pcr, reference) in &self.pcrs {
            if pcr > MAX_PCR {
                return Err(ImageError::Pcr(pcr));
            }
            let mut digests = reference.events.iter().map(|event| &event.digest).chain([&reference.value]);
            if let Some(digest) = digests.find(|digest| digest.alg() != self.bank) {
                return Err(ImageError::OtherBank { pcr, digest: digest.clone(), bank: self.bank });
            }
        }
        Ok(self)
    }

    /// What it is called.
    pub fn id(&self) -> &ImageId {
        &self.id
    }

    /// Its bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// When it is in force.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// What it does.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The same image in another mode.
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// The same image with another validity.
    ///
    /// # Errors
    /// [`ImageError::NeverValid`]
    pub fn with_validity(self, validity: Validity) -> Result<Self, ImageError> {
        Self { validity, ..self }.check()
    }

    /// Which PCRs it covers.
    pub fn covers(&self) -> PcrMask {
        PcrMask::of(self.pcrs.keys().copied())
    }

    /// What is expected of each.
    pub fn pcrs(&self) -> &BTreeMap<u8, ReferencePcr> {
        &self.pcrs
    }
}

impl TryFrom<Raw> for BaseImage {
    type Error = ImageError;

    fn try_from(raw: Raw) -> Result<Self, ImageError> {
        if raw.format != FORMAT {
            return Err(ImageError::Format(raw.format));
        }
        let Raw { id, bank, validity, mode, pcrs, .. } = raw;
        Self { id, bank, validity, mode, pcrs }.check()
    }
}

impl From<BaseImage> for Raw {
    fn from(image: BaseImage) -> Self {
        let BaseImage { id, bank, validity, mode, pcrs } = image;
        Self { format: FORMAT, id, bank, validity, mode, pcrs }
    }
}
