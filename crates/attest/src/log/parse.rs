//! The bytes of a crypto-agile event log.

use super::{EventType, LogError};
use crate::hash::{Digest, HashAlg};
use crate::tpm::{AlgId, Endian, MAX_PCR, Malformed, Problem, Reader};

/// The longest log that is read, in bytes. Logs of real machines have some tens of thousands.
pub const MAX_LOG_LEN: usize = 1 << 20;

/// Banks of one log, at most.
const MAX_BANKS: u32 = 16;

/// signature of TCG_EfiSpecIDEvent.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";

/// An event as it stands in the log. Nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log; the Spec ID event has 0.
    pub number: usize,
    /// pcrIndex. Above [`MAX_PCR`] only for EV_NO_ACTION.
    pub pcr: u32,
    /// eventType
    pub event_type: EventType,
    /// digests, of the algorithms that [`HashAlg`] knows.
    pub digests: Vec<Digest>,
    /// event
    pub data: Vec<u8>,
}

impl Event {
    /// Its digest of that bank.
    pub fn digest(&self, bank: HashAlg) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.alg() == bank)
    }
}

/// A log that could be read. Nothing of it is proven: see [`EventLog::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    pub(super) banks: Vec<AlgId>,
    pub(super) events: Vec<Event>,
}

/// A bank as the Spec ID event announces it.
struct Bank {
    alg: AlgId,
    len: usize,
}

impl EventLog {
    /// Reads the bytes of a log, as the kernel gives it in `binary_bios_measurements`.
    ///
    /// # Errors
    /// [`LogError`]: the log is in the old format, is cut short, or is not well-formed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LogError> {
        if bytes.len() > MAX_LOG_LEN {
            return Err(LogError::TooLong { len: bytes.len() });
        }
        let in_event = |event| {
            move |problem: Malformed| {
                if problem.is_cut_short() {
                    LogError::CutShort { event, problem }
                } else {
                    LogError::Malformed { event, problem }
                }
            }
        };
        let mut reader = Reader::new("TCG_PCR_EVENT", Endian::Little, bytes);
        let header = read_header(&mut reader).map_err(in_event(0))?.ok_or(LogError::Legacy)?;
        let banks = read_spec_id(header).map_err(in_event(0))?;
        let mut reader = reader.for_structure("TCG_PCR_EVENT2");
        let mut events = Vec::new();
        while reader.left() > 0 {
            let number = events.len() + 1;
            events.push(read_event(&mut reader, &banks, number).map_err(in_event(number))?);
        }
        Ok(Self { banks: banks.into_iter().map(|bank| bank.alg).collect(), events })
    }

    /// The banks it has digests of, in its order.
    pub fn banks(&self) -> &[AlgId] {
        &self.banks
    }

    /// Its events but the Spec ID event, for showing. Nothing of them is proven.
    pub fn unverified_events(&self) -> &[Event] {
        &self.events
    }
}

/// TCG_PCClientPCREvent, section 10.2.1: gives the data of the Spec ID event, or `None` if the log begins otherwise.
fn read_header<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Malformed> {
    let pcr = reader.u32("pcrIndex")?;
    let event_type = EventType(reader.u32("eventType")?);
    let digest = reader.array::<20>("digest")?;
    let len = reader.u32("eventDataSize")?;
    let data = reader.bytes("event", usize_of(len))?;
    let is_spec_id = event_type == EventType::NO_ACTION && data.starts_with(SPEC_ID);
    if is_spec_id && (pcr, digest) != (0, [0; 20]) {
        return Err(reader.error("pcrIndex", Problem::Expected("0, and the digest zeros, in a Spec ID event")));
    }
    Ok(is_spec_id.then_some(data))
}

/// TCG_EfiSpecIDEvent, section 10.4.5.1.
fn read_spec_id(data: &[u8]) -> Result<Vec<Bank>, Malformed> {
    let mut reader = Reader::new("TCG_EfiSpecIDEvent", Endian::Little, data);
    reader.bytes("signature", SPEC_ID.len())?;
    let class = reader.u32("platformClass")?;
    if class > 1 {
        return Err(reader.error("platformClass", Problem::Value(class.to_string())));
    }
    let _minor = reader.u8("specVersionMinor")?;
    let major = reader.u8("specVersionMajor")?;
    if major != 2 {
        return Err(reader.error("specVersionMajor", Problem::Value(major.to_string())));
    }
    let _errata = reader.u8("specErrata")?;
    let _uintn = reader.u8("uintnSize")?;
    let count = reader.u32("numberOfAlgorithms")?;
    if !(1..=MAX_BANKS).contains(&count) {
        return Err(reader.error("numberOfAlgorithms", Problem::Value(count.to_string())));
    }
    let mut banks: Vec<Bank> = Vec::new();
    for _ in 0..count {
        let alg = reader.alg("digestSizes.algorithmId")?;
        let len = usize::from(reader.u16("digestSizes.digestSize")?);
        if banks.iter().any(|bank| bank.alg == alg) {
            return Err(reader.error("digestSizes.algorithmId", Problem::Value(format!("a second {alg}"))));
        }
        if HashAlg::from_id(alg).is_some_and(|known| known.len() != len) || !(1..=64).contains(&len) {
            return Err(reader.error("digestSizes.digestSize", Problem::Value(format!("{len} for {alg}"))));
        }
        banks.push(Bank { alg, len });
    }
    let vendor_info = reader.u8("vendorInfoSize")?;
    reader.bytes("vendorInfo", vendor_info.into())?;
    reader.finish("vendorInfo")?;
    Ok(banks)
}

/// TCG_PCR_EVENT2, section 10.2.2.
fn read_event(reader: &mut Reader<'_>, banks: &[Bank], number: usize) -> Result<Event, Malformed> {
    let pcr = reader.u32("pcrIndex")?;
    let event_type = EventType(reader.u32("eventType")?);
    if pcr > MAX_PCR.into() && event_type != EventType::NO_ACTION {
        return Err(reader.error("pcrIndex", Problem::TooLong { is: usize_of(pcr), max: MAX_PCR.into() }));
    }
    let count = reader.u32("digests.count")?;
    if usize_of(count) != banks.len() {
        let problem = Problem::Value(format!("{count}, where the Spec ID event has {}", banks.len()));
        return Err(reader.error("digests.count", problem));
    }
    let mut seen = Vec::with_capacity(banks.len());
    let mut digests = Vec::with_capacity(banks.len());
    for _ in banks {
        let alg = reader.alg("digests.hashAlg")?;
        let Some(bank) = banks.iter().find(|bank| bank.alg == alg) else {
            return Err(reader.error("digests.hashAlg", Problem::Algorithm(alg)));
        };
        if seen.contains(&alg) {
            return Err(reader.error("digests.hashAlg", Problem::Value(format!("a second {alg}"))));
        }
        seen.push(alg);
        let digest = reader.bytes("digests.digest", bank.len)?;
        digests.extend(HashAlg::from_id(alg).and_then(|alg| Digest::new(alg, digest)));
    }
    let len = reader.u32("eventSize")?;
    let data = reader.bytes("event", usize_of(len))?.to_vec();
    Ok(Event { number, pcr, event_type, digests, data })
}

/// What can't be so long on this machine is too long for any log.
fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
