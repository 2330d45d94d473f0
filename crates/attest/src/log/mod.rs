//! The firmware's event log: what was measured into the PCRs, in the order in which it was.
//!
//! *TCG PC Client Platform Firmware Profile* 1.06, section 10 (the crypto-agile log).
//!
//! A log by itself proves nothing. [`EventLog::verify`] compares it with a quote; what comes out, [`VerifiedLog`], has
//! the events of the quoted PCRs only. Even then:
//!
//! - **Digests** of events are proven: the TPM holds what they were extended to.
//! - **Data** of an event is proven where the digest is of the data, and nowhere else ([`VerifiedEvent::proven`]).
//! - **Types** are in no digest. A log in which a type was changed replays all the same; so an unknown type is refused
//!   rather than passed over, each type must be in one of its PCRs and have the digest that it should have, and whoever
//!   relies on events compares whole sequences of them ([`crate::image`]).

mod content;
mod event_type;
mod parse;
mod verify;

pub(crate) use content::text;
pub use content::{Content, FirmwareImage, Tagged, UefiVariable};
pub use event_type::{Covers, EventType, EventTypeSyntax};
pub use parse::{Event, EventLog, MAX_LOG_LEN};
pub use verify::{VerifiedEvent, VerifiedLog};

use crate::hash::{Digest, HashAlg};
use crate::tpm::Malformed;

/// Why a log can't be read, or does not prove what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It is longer than any log is.
    #[error("the event log has {len} bytes; {MAX_LOG_LEN} at most are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// It is in the old format.
    #[error(
        "the event log does not begin with a Spec ID Event03: it is in the format of TPM 1.2, whose digests are SHA-1, \
             or no event log at all; firmware that logs in the crypto-agile format is needed"
    )]
    Legacy,
    /// It ends in the middle of an event.
    #[error("the event log is cut short in event {event}: {problem}")]
    CutShort {
        /// Which, from 0.
        event: usize,
        /// Where.
        problem: Malformed,
    },
    /// An event could not be read.
    #[error("event {event} of the log: {problem}")]
    Malformed {
        /// Which, from 0.
        event: usize,
        /// What is wrong with it.
        problem: Malformed,
    },
    /// It has no digests of the quoted bank.
    #[error("the event log has no digests of bank {wanted}; it has {has}")]
    NoBank {
        /// The quoted bank.
        wanted: HashAlg,
        /// Its banks.
        has: String,
    },
    /// Nobody knows what an event of that type means.
    #[error("event {event}, in PCR {pcr}, has the unknown type {event_type}: what it means can't be judged")]
    UnknownType {
        /// Which, from 0.
        event: usize,
        /// Its PCR.
        pcr: u8,
        /// Its type.
        event_type: EventType,
    },
    /// The type does not go into that PCR.
    #[error("event {event} is of type {event_type}, which does not go into PCR {pcr}: the log was relabelled")]
    Misplaced {
        /// Which, from 0.
        event: usize,
        /// Its PCR.
        pcr: u8,
        /// Its type.
        event_type: EventType,
    },
    /// The digest is not that of the data.
    #[error(
        "event {event}, {event_type} in PCR {pcr}: its data has the digest {found}, logged is {expected}: its data or \
             its type is not what was measured"
    )]
    OtherData {
        /// Which, from 0.
        event: usize,
        /// Its PCR.
        pcr: u8,
        /// Its type.
        event_type: EventType,
        /// The digest of its data.
        found: Digest,
        /// The digest in the log.
        expected: Digest,
    },
    /// An event that says that it was not measured has a digest.
    #[error("event {event} is EV_NO_ACTION, but has a digest: the log was relabelled")]
    MeasuredNoAction {
        /// Which, from 0.
        event: usize,
    },
    /// The locality of the TPM's start is not to be had.
    #[error("event {event} gives a startup locality that {reason}")]
    StartupLocality {
        /// Which, from 0.
        event: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A separator has neither of its two good values.
    #[error(
        "the separator of PCR {pcr}, event {event}, is {value}: the firmware failed to measure what comes before it"
    )]
    SeparatorValue {
        /// Which, from 0.
        event: usize,
        /// Its PCR.
        pcr: u8,
        /// Its data, in hexadecimal.
        value: String,
    },
    /// There are two separators in a PCR.
    #[error("PCR {pcr} has a second separator, event {event}")]
    SecondSeparator {
        /// Which, from 0.
        event: usize,
        /// Its PCR.
        pcr: u8,
    },
    /// A PCR has no separator.
    #[error("PCR {pcr} has no separator among its {events} events: the log is not whole")]
    NoSeparator {
        /// The PCR.
        pcr: u8,
        /// How many events it has.
        events: usize,
    },
    /// The log does not lead to the quoted value.
    #[error(
        "the log does not replay to PCR {pcr}: its {events} events give {found}, quoted is {expected}{}",
        surplus(.events, .after)
    )]
    Replay {
        /// The PCR.
        pcr: u8,
        /// How many events it has.
        events: usize,
        /// What they give.
        found: Digest,
        /// What the TPM holds.
        expected: Digest,
        /// After how many of the events the value would have been the quoted one.
        after: Option<usize>,
    },
}

fn surplus(events: &usize, after: &Option<usize>) -> String {
    match after {
        Some(after) => format!("; after {after} of the {events} it was right: the rest was never measured, or not yet"),
        None => "; an event is missing, was added, or was changed".to_owned(),
    }
}
