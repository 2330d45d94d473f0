//! The recorded boots of `tests/data`, and logs that can be taken apart and put together again.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use attest::credential::{AkRecord, ResidentAk};
use attest::ek::EkProof;
use attest::hash::{Digest, HashAlg};
use attest::log::{Event, EventLog, EventType};
use attest::quote::{Nonce, PcrValues, QuoteEvidence, QuoteRequest, VerifiedQuote};
use attest::tpm::{PcrMask, Public};
use jiff::Timestamp;

/// The boots, and whether they are by UEFI.
pub(crate) const BOOTS: [&str; 4] = ["seabios", "ovmf", "unsigned", "secureboot"];

/// The length of the Spec ID event of each recorded log: 32 bytes before its data, and 41 bytes of it.
const HEADER: usize = 32 + 41;

/// A log with its events apart.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) header: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

impl Log {
    pub(crate) fn of(boot: &str) -> Self {
        let bytes = read(boot, "log");
        let events = EventLog::from_bytes(&bytes).unwrap().unverified_events().to_vec();
        let log = Self { header: bytes[..HEADER].to_vec(), events };
        assert_eq!(log.to_bytes(), bytes, "what is taken apart is the same when put together again");
        log
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.header.clone();
        for event in &self.events {
            out.extend(event.pcr.to_le_bytes());
            out.extend(event.event_type.0.to_le_bytes());
            out.extend(u32::try_from(event.digests.len()).unwrap().to_le_bytes());
            for digest in &event.digests {
                out.extend(digest.alg().id().0.to_le_bytes());
                out.extend(digest.bytes());
            }
            out.extend(u32::try_from(event.data.len()).unwrap().to_le_bytes());
            out.extend(&event.data);
        }
        out
    }

    pub(crate) fn parse(&self) -> EventLog {
        EventLog::from_bytes(&self.to_bytes()).unwrap()
    }

    /// An event whose digests are of `measured`.
    pub(crate) fn event(pcr: u32, event_type: EventType, data: &[u8], measured: &[u8]) -> Event {
        let digests = [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384].map(|alg| alg.digest(&[measured])).to_vec();
        Event { number: 0, pcr, event_type, digests, data: data.to_vec() }
    }

    /// An event that was not measured.
    pub(crate) fn no_action(data: &[u8]) -> Event {
        let digests = [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384].map(|alg| Digest::filled(alg, 0)).to_vec();
        Event { number: 0, pcr: 0, event_type: EventType::NO_ACTION, digests, data: data.to_vec() }
    }

    /// Where the first event is that fits.
    pub(crate) fn position(&self, fits: impl FnMut(&Event) -> bool) -> usize {
        self.events.iter().position(fits).unwrap()
    }
}

pub(crate) fn read(boot: &str, file: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../attest/tests/data").join(boot).join(file)).unwrap()
}

/// What the guest itself read of its PCRs after it had booted.
pub(crate) fn pcrs(boot: &str, bank: HashAlg) -> BTreeMap<u8, Digest> {
    let text = String::from_utf8(read(boot, "pcrs")).unwrap();
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|words| words[0] == bank.name())
        .map(|words| (words[1].parse().unwrap(), format!("{bank}:{}", words[2]).parse().unwrap()))
        .collect()
}

/// The recorded quote, verified: of bank sha256, PCRs 0 to 9.
pub(crate) fn quote(boot: &str) -> VerifiedQuote {
    let (ak, request, evidence) = recorded(boot);
    request.verify(&ak, &evidence).unwrap()
}

pub(crate) fn recorded(boot: &str) -> (ResidentAk, QuoteRequest, QuoteEvidence) {
    // The guest's EK was not recorded; that the AK is in its TPM is taken for granted here.
    let ak = read(boot, "ak.pub");
    let ek = Public::from_tpm2b(&ak).unwrap().name();
    let ek_proof = EkProof::Pinned { label: "recorded".to_owned() };
    let ak = ResidentAk::from_own_record(AkRecord { ak, ek, ek_proof, proven_at: Timestamp::UNIX_EPOCH }).unwrap();
    let nonce = Nonce::new(&(0..16).collect::<Vec<_>>()).unwrap();
    let request = QuoteRequest::new(nonce, HashAlg::Sha256, PcrMask::of(0..=9)).unwrap();
    let values = pcrs(boot, HashAlg::Sha256).into_iter().filter(|(pcr, _)| *pcr <= 9).collect();
    let evidence = QuoteEvidence {
        message: read(boot, "quote.msg"),
        signature: read(boot, "quote.sig"),
        pcrs: PcrValues::new(values).unwrap(),
    };
    (ak, request, evidence)
}
