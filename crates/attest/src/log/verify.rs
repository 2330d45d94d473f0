//! A log against a quote.

use std::collections::BTreeMap;

use super::{Content, Covers, Event, EventLog, EventType, LogError};
use crate::hash::{Digest, HashAlg};
use crate::quote::{PcrValues, VerifiedQuote};
use crate::tpm::PcrMask;

/// The PCRs of the firmware, each of which gets a separator before the operating system's loader starts.
const FIRMWARE_PCRS: std::ops::RangeInclusive<u8> = 0..=7;

/// The beginning of TCG_EfiStartupLocalityEvent. Section 10.4.5.3.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// An event whose digest the TPM holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedEvent {
    number: usize,
    pcr: u8,
    event_type: EventType,
    digest: Digest,
    data: Vec<u8>,
    content: Content,
    proven: bool,
}

impl VerifiedEvent {
    /// Its place in the log.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its PCR.
    pub fn pcr(&self) -> u8 {
        self.pcr
    }

    /// Its type: known, and one that goes with this PCR and this digest; yet another such type may have stood there.
    pub fn event_type(&self) -> EventType {
        self.event_type
    }

    /// Its digest in the quoted bank. This is proven.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its data; see [`VerifiedEvent::proven`].
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// What its data says; see [`VerifiedEvent::proven`].
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Whether the digest is of all the data, so that the data is proven. If not, the data, or the name of a variable
    /// in it, is whatever somebody wrote.
    pub fn proven(&self) -> bool {
        self.proven
    }
}

/// The events that led to the quoted values: proof that [`EventLog::verify`] accepted the log.
///
/// It has the events of the quoted PCRs and no others.
///
/// **What this does not prove:** that what was measured is good; nor anything of events whose PCR was not quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLog {
    values: PcrValues,
    events: Vec<VerifiedEvent>,
    left_out: usize,
}

impl VerifiedLog {
    /// The quoted PCRs and their values.
    pub fn values(&self) -> &PcrValues {
        &self.values
    }

    /// The events, in the order of the log.
    pub fn events(&self) -> &[VerifiedEvent] {
        &self.events
    }

    /// The events of one PCR.
    pub fn of_pcr(&self, pcr: u8) -> impl Iterator<Item = &VerifiedEvent> {
        self.events.iter().filter(move |event| event.pcr == pcr)
    }

    /// How many measured events were left out, since their PCRs were not quoted.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

impl EventLog {
    /// Checks that this log leads to the quoted values, and that each event of a quoted PCR is of a known type, which
    /// goes into that PCR and has the digest that it should have.
    ///
    /// # Errors
    /// [`LogError`] says what failed.
    pub fn verify(&self, quote: &VerifiedQuote) -> Result<VerifiedLog, LogError> {
        let (bank, pcrs) = (quote.pcrs().bank(), quote.pcrs().mask());
        if !self.banks.contains(&bank.id()) {
            let has = self.banks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(LogError::NoBank { wanted: bank, has });
        }
        let mut events = Vec::new();
        let mut left_out = 0;
        for event in &self.events {
            if event.event_type == EventType::NO_ACTION {
                if event.digests.iter().any(|digest| digest.bytes().iter().any(|&byte| byte != 0)) {
                    return Err(LogError::MeasuredNoAction { event: event.number });
                }
                continue;
            }
            match u8::try_from(event.pcr) {
                Ok(pcr) if pcrs.contains(pcr) => events.push(check(event, pcr, bank)?),
                _ => left_out += 1,
            }
        }
        check_separators(&events, pcrs)?;
        let locality = self.startup_locality()?;
        for (pcr, expected) in quote.pcrs().iter() {
            replay(pcr, start(bank, pcr, locality), events.iter().filter(|event| event.pcr == pcr), expected)?;
        }
        Ok(VerifiedLog { values: quote.pcrs().clone(), events, left_out })
    }

    /// The locality from which the TPM was started: what PCR 0 starts from. TPM 2.0 Library part 3, 9.3 (TPM2_Startup).
    fn startup_locality(&self) -> Result<u8, LogError> {
        let mut found = None;
        let mut pcr0_measured = false;
        for event in &self.events {
            let locality =
                (event.event_type == EventType::NO_ACTION).then(|| event.data.strip_prefix(STARTUP_LOCALITY)).flatten();
            let fail = |reason| Err(LogError::StartupLocality { event: event.number, reason });
            match locality {
                None => pcr0_measured |= event.pcr == 0 && event.event_type != EventType::NO_ACTION,
                Some(_) if found.is_some() => return fail("was given before"),
                Some(_) if pcr0_measured => return fail("comes after what was measured into PCR 0"),
                Some(&[locality @ (0 | 3 | 4)]) => found = Some(locality),
                Some(_) => return fail("is none of 0, 3 and 4"),
            }
        }
        Ok(found.unwrap_or(0))
    }
}

/// What a PCR holds after a reset. *PC Client Platform TPM Profile*, section 4.6.
fn start(bank: HashAlg, pcr: u8, locality: u8) -> Digest {
    match pcr {
        0 => {
            let mut value = vec![0; bank.len()];
            value[bank.len() - 1] = locality;
            Digest::new(bank, &value).unwrap_or_else(|| Digest::filled(bank, 0))
        }
        17..=22 => Digest::filled(bank, 0xff),
        _ => Digest::filled(bank, 0),
    }
}

fn replay<'a>(
    pcr: u8,
    start: Digest,
    events: impl Iterator<Item = &'a VerifiedEvent>,
    expected: &Digest,
) -> Result<(), LogError> {
    let mut after = (start == *expected).then_some(0);
    let (mut found, mut count) = (start, 0);
    for event in events {
        found = found.extend(event.digest.bytes());
        count += 1;
        if found == *expected {
            after = Some(count);
        }
    }
    if after == Some(count) {
        Ok(())
    } else {
        Err(LogError::Replay { pcr, events: count, found, expected: expected.clone(), after })
    }
}

fn check(event: &Event, pcr: u8, bank: HashAlg) -> Result<VerifiedEvent, LogError> {
    let Event { number, event_type, ref data, .. } = *event;
    let rule = event_type.rule().ok_or(LogError::UnknownType { event: number, pcr, event_type })?;
    if !rule.pcrs.contains(&pcr) {
        return Err(LogError::Misplaced { event: number, pcr, event_type });
    }
    let malformed = |problem| LogError::Malformed { event: number, problem };
    let content = Content::read(event_type, data).map_err(malformed)?;
    // Every event has a digest of every bank that the Spec ID event announces.
    let digest = event.digest(bank).cloned().unwrap_or_else(|| Digest::filled(bank, 0));
    let whole = bank.digest(&[data]);
    let proven = rule.covers != Covers::Elsewhere && whole == digest;
    let agrees = match (rule.covers, &content) {
        (Covers::Elsewhere, _) => true,
        // Here the name is not proven, only the variable's data.
        (Covers::Variable, Content::Variable(variable)) => proven || bank.digest(&[&variable.data]) == digest,
        _ => proven,
    };
    if !agrees {
        return Err(LogError::OtherData { event: number, pcr, event_type, found: whole, expected: digest });
    }
    Ok(VerifiedEvent { number, pcr, event_type, digest, data: data.clone(), content, proven })
}

/// Section 3.3.2.2: each of the firmware's PCRs has one separator, whose value says whether all went well.
fn check_separators(events: &[VerifiedEvent], pcrs: PcrMask) -> Result<(), LogError> {
    let mut found = BTreeMap::new();
    for event in events.iter().filter(|event| event.event_type == EventType::SEPARATOR) {
        if !matches!(event.data.as_slice(), [0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff]) {
            let value = hex::encode(event.data.iter().take(32).copied().collect::<Vec<_>>());
            return Err(LogError::SeparatorValue { event: event.number, pcr: event.pcr, value });
        }
        if found.insert(event.pcr, event.number).is_some() {
            return Err(LogError::SecondSeparator { event: event.number, pcr: event.pcr });
        }
    }
    match pcrs.iter().find(|pcr| FIRMWARE_PCRS.contains(pcr) && !found.contains_key(pcr)) {
        Some(pcr) => {
            let events = events.iter().filter(|event| event.pcr == pcr).count();
            Err(LogError::NoSeparator { pcr, events })
        }
        None => Ok(()),
    }
}
