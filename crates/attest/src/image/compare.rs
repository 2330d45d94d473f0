//! What a machine measured against what an image expects, and where they part.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BaseImage, ReferenceEvent, ReferencePcr};
use crate::hash::{Digest, HashAlg};
use crate::log::{VerifiedEvent, VerifiedLog};

/// Why a machine does not match an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// They are of different banks.
    Bank {
        /// The image's.
        expected: HashAlg,
        /// The quoted one.
        found: HashAlg,
    },
    /// The image covers a PCR that was not quoted.
    NotQuoted {
        /// The PCR.
        pcr: u8,
    },
    /// A PCR has another value than expected, or has it by other events.
    Pcr {
        /// The PCR.
        pcr: u8,
        /// The value that is expected.
        expected: Digest,
        /// The quoted one.
        found: Digest,
        /// Which events make the difference. Empty if the TPM was started from another locality: only the value
        /// differs.
        events: Vec<EventDifference>,
    },
}

/// An event that makes a difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventDifference {
    /// Another event stands in its place.
    Changed {
        /// Its place in the log.
        event: usize,
        /// What the image expects.
        expected: ReferenceEvent,
        /// What is in the log.
        found: ReferenceEvent,
    },
    /// The image expects an event that did not take place.
    Missing {
        /// What the image expects.
        expected: ReferenceEvent,
    },
    /// An event took place that the image does not expect.
    Unexpected {
        /// Its place in the log.
        event: usize,
        /// What is in the log.
        found: ReferenceEvent,
    },
}

impl fmt::Display for EventDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { event, expected, found } => write!(f, "event {event}: expected {expected}, found {found}"),
            Self::Missing { expected } => write!(f, "missing: {expected}"),
            Self::Unexpected { event, found } => write!(f, "event {event} is not expected: {found}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bank { expected, found } => write!(f, "the image is of bank {expected}, quoted is {found}"),
            Self::NotQuoted { pcr } => write!(f, "PCR {pcr} was not quoted"),
            Self::Pcr { pcr, expected, found, events } => {
                write!(f, "PCR {pcr}: expected {expected}, found {found}")?;
                if events.is_empty() {
                    return write!(f, ", by the same events: the TPM was started from another locality");
                }
                events.iter().try_for_each(|event| write!(f, "; {event}"))
            }
        }
    }
}

impl BaseImage {
    /// Where the machine differs from this image; nowhere, if it matches. Neither validity nor mode is looked at.
    pub fn differences(&self, log: &VerifiedLog) -> Vec<Difference> {
        let found = log.values().bank();
        if found != self.bank {
            return vec![Difference::Bank { expected: self.bank, found }];
        }
        self.pcrs.iter().filter_map(|(&pcr, reference)| compare(pcr, reference, log)).collect()
    }
}

fn compare(pcr: u8, reference: &ReferencePcr, log: &VerifiedLog) -> Option<Difference> {
    let Some(found) = log.values().get(pcr) else { return Some(Difference::NotQuoted { pcr }) };
    let events = compare_events(&reference.events, &log.of_pcr(pcr).collect::<Vec<_>>());
    (*found != reference.value || !events.is_empty()).then(|| Difference::Pcr {
        pcr,
        expected: reference.value.clone(),
        found: found.clone(),
        events,
    })
}

/// What both have at the beginning and at the end is left off; what remains is paired off in order.
fn compare_events(expected: &[ReferenceEvent], found: &[&VerifiedEvent]) -> Vec<EventDifference> {
    let same = |(expected, found): &(&ReferenceEvent, &&VerifiedEvent)| {
        expected.event_type == found.event_type() && expected.digest == *found.digest()
    };
    let head = expected.iter().zip(found).take_while(same).count();
    let (expected, found) = (&expected[head..], &found[head..]);
    let tail = expected.iter().rev().zip(found.iter().rev()).take_while(same).count();
    let (expected, found) = (&expected[..expected.len() - tail], &found[..found.len() - tail]);

    let both = expected.len().min(found.len());
    let changed = expected.iter().zip(found).filter(|pair| !same(pair)).map(|(expected, found)| {
        let found_event = ReferenceEvent::from(*found);
        EventDifference::Changed { event: found.number(), expected: expected.clone(), found: found_event }
    });
    let missing = expected[both..].iter().map(|expected| EventDifference::Missing { expected: expected.clone() });
    let unexpected = found[both..].iter().map(|found| {
        let found_event = ReferenceEvent::from(*found);
        EventDifference::Unexpected { event: found.number(), found: found_event }
    });
    changed.chain(missing).chain(unexpected).collect()
}
