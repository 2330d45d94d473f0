//! Whatever comes from outside: nothing panics, and nothing that is not whole is let in.

#![allow(clippy::unwrap_used)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/arbitrary.rs"]
mod likely;

use attest::ak::RestrictedAk;
use attest::appraisal::{Evidence, Fact, Gap, ImageReport, Report, Standing};
use attest::binding::CertThumbprint;
use attest::boot::BootChain;
use attest::credential::{AkRecord, CredentialBlob, ResidentAk};
use attest::ek::{EkProof, PinnedEks, TpmCas, verify_certificate, without_nv_padding};
use attest::hash::{Digest, HashAlg};
use attest::image::{BaseImage, Mode, Validity};
use attest::label::Label;
use attest::log::EventLog;
use attest::quote::QuoteEvidence;
use attest::secure_boot::SecureBoot;
use attest::token::{TokenError, TokenVerifier};
use attest::tpm::{Attributes, Name, PcrMask, PcrSelection, Public, Quoted, Signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{BOOTS, Log, quote, read, recorded};
use jiff::Timestamp;
use likely::{like, like_json};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

fn noise(file: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..400), (0..BOOTS.len()).prop_flat_map(move |boot| like(read(BOOTS[boot], file)))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn structures_are_read_back_as_they_were(bytes in noise("ak.pub")) {
        if let Ok(public) = Public::from_tpm2b(&bytes) {
            prop_assert_eq!(public.to_tpm2b(), bytes.clone());
            let _ = PinnedEks::default().verify(public.clone());
            let _ = verify_certificate(&TpmCas::new(), &bytes, public, Timestamp::UNIX_EPOCH);
        }
        let _ = RestrictedAk::from_tpm2b(&bytes);
        if let Ok(list) = PcrSelection::list_from_bytes(&bytes) {
            prop_assert_eq!(PcrSelection::list_from_bytes(&PcrSelection::list_to_bytes(&list)).unwrap(), list);
        }
        if let Some(name) = Name::from_bytes(&bytes) {
            prop_assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        }
        let _ = without_nv_padding(&bytes);
        let _ = (TpmCas::new().add_root(&bytes), TpmCas::new().add_intermediate(&bytes));
    }

    #[test]
    fn signatures_are_read_back_as_they_were(bytes in noise("quote.sig")) {
        if let Ok(signature) = Signature::from_bytes(&bytes) {
            prop_assert_eq!(signature.to_bytes(), bytes);
        }
    }

    #[test]
    fn only_the_quote_that_was_made_verifies(message in noise("quote.msg"), signature in noise("quote.sig")) {
        let _ = Quoted::from_bytes(&message);
        let (ak, request, good) = recorded("ovmf");
        let evidence = QuoteEvidence { message, signature, pcrs: good.pcrs.clone() };
        let same = evidence.message == good.message && evidence.signature == good.signature;
        prop_assert_eq!(request.verify(&ak, &evidence).is_ok(), same);
    }

    /// Whatever else an attestation key may do: it must be one that signs what its TPM made, and that can't leave it.
    #[test]
    fn keys_are_attestation_keys_by_their_attributes(flipped in vec(0u32..32, 0..5), all in any::<u32>(), any_of in 0u8..4) {
        let real = read("ovmf", "ak.pub");
        let (before, rest) = real.split_at(6);
        let (attributes, after) = rest.split_first_chunk().unwrap();
        let real_ones = u32::from_be_bytes(*attributes);
        let attributes = if any_of == 0 { all } else { flipped.iter().fold(real_ones, |set, bit| set ^ (1 << bit)) };
        let bytes = [before, &attributes.to_be_bytes(), after].concat();
        let has = |which: &[Attributes]| which.iter().map(|it| attributes & it.0 != 0).collect::<Vec<_>>();
        let needed = has(&[
            Attributes::RESTRICTED,
            Attributes::SIGN,
            Attributes::FIXED_TPM,
            Attributes::FIXED_PARENT,
            Attributes::SENSITIVE_DATA_ORIGIN,
        ]);
        let forbidden = has(&[Attributes::DECRYPT, Attributes::ENCRYPTED_DUPLICATION, Attributes::X509_SIGN]);
        let good = needed.iter().all(|it| *it) && !forbidden.iter().any(|it| *it);
        let checked = RestrictedAk::from_tpm2b(&bytes);
        prop_assert_eq!(checked.is_ok(), good, "{:#010x}", attributes);
        if let Ok(ak) = checked {
            // With other attributes it is another key: no credential for the real one opens with it.
            let same = ak.name() == Public::from_tpm2b(&real).unwrap().name();
            prop_assert_eq!(same, attributes == real_ones);
        }
    }

    #[test]
    fn texts_are_read_back_as_they_were(text in "\\PC{0,80}") {
        if let Ok(label) = text.parse::<Label>() {
            prop_assert_eq!(label.as_str(), &text);
        }
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text.to_lowercase());
        }
        if let Ok(thumbprint) = text.parse::<CertThumbprint>() {
            prop_assert_eq!(thumbprint.to_string(), text.clone());
        }
        let _ = (serde_json::from_str::<BaseImage>(&text), serde_json::from_str::<Evidence>(&text));
    }

    #[test]
    fn no_text_is_a_token(header in "\\PC{0,60}", claims in "\\PC{0,60}", junk in "\\PC{0,200}") {
        let verifier = TokenVerifier::new("keys".parse().unwrap());
        let shown = CertThumbprint::of(b"a certificate");
        let encoded = format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        for token in [encoded, junk] {
            let error = verifier.verify(&token, shown, Timestamp::UNIX_EPOCH).unwrap_err();
            let malformed = matches!(error, TokenError::Malformed { .. });
            prop_assert!(malformed, "{}", error);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn logs_are_read_or_refused(bytes in noise("log"), boot in 0..BOOTS.len()) {
        if let Ok(log) = EventLog::from_bytes(&bytes) {
            let _ = log.verify(&quote(BOOTS[boot]));
        }
    }

    /// Events in any order, of any type, in any PCR: only what has the very digests replays.
    #[test]
    fn rearranged_logs_do_not_replay(
        boot in 0..BOOTS.len(),
        moves in vec((any::<Index>(), any::<Index>(), 0u32..24), 1..8),
    ) {
        let quote = quote(BOOTS[boot]);
        let original = Log::of(BOOTS[boot]);
        let mut log = original.clone();
        for (from, to, pcr) in moves {
            let event = log.events.remove(from.index(log.events.len()));
            let to = to.index(log.events.len() + 1);
            log.events.insert(to, event);
            log.events[to].pcr = if pcr < 16 { log.events[to].pcr } else { pcr - 16 };
        }
        let digests = |log: &Log, pcr| -> Vec<_> {
            log.events.iter().filter(|event| event.pcr == pcr).map(|event| event.digests.clone()).collect()
        };
        let same = (0..10).all(|pcr| digests(&log, pcr) == digests(&original, pcr));
        let verified = log.parse().verify(&quote);
        prop_assert_eq!(verified.is_ok(), same);
    }
}

/// What was captured of a recorded boot, and its log, verified.
fn captured(boot: &str) -> (BaseImage, attest::log::VerifiedLog) {
    let log = Log::of(boot).parse().verify(&quote(boot)).unwrap();
    let id = serde_json::from_str(r#"{"name":"recorded","version":"1"}"#).unwrap();
    let validity = Validity { from: Timestamp::UNIX_EPOCH, until: None };
    (BaseImage::capture(&log, id, PcrMask::of(0..=9), validity, Mode::Enforce).unwrap(), log)
}

fn any_image() -> impl Strategy<Value = (usize, serde_json::Value)> {
    (0..BOOTS.len()).prop_flat_map(|boot| {
        let image = serde_json::to_value(captured(BOOTS[boot]).0).unwrap();
        (Just(boot), like_json(image))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A file of a base image is taken in or refused. What is taken in matches the boot only if it expects its very
    /// events and values.
    #[test]
    fn base_images_are_taken_in_or_refused((boot, file) in any_image()) {
        let Ok(image) = serde_json::from_value::<BaseImage>(file) else { return Ok(()) };
        let again: BaseImage = serde_json::from_str(&serde_json::to_string(&image).unwrap()).unwrap();
        prop_assert_eq!(&again, &image);
        let (original, log) = captured(BOOTS[boot]);
        let differences = image.differences(&log);
        let _ = differences.iter().map(ToString::to_string).collect::<String>();
        let expects = |image: &BaseImage| -> Vec<_> {
            let pcrs = image.pcrs().iter().map(|(pcr, it)| {
                let events = it.events.iter().map(|event| (event.event_type, event.digest.clone()));
                (*pcr, it.value.clone(), events.collect::<Vec<_>>())
            });
            pcrs.collect()
        };
        let (expected, real) = (expects(&image), expects(&original));
        let all_real = image.bank() == original.bank() && expected.iter().all(|it| real.contains(it));
        prop_assert_eq!(differences.is_empty(), all_real);
    }

    /// What a service has written of a host, and what it gets of one.
    #[test]
    fn evidence_records_and_reports_are_read_back_as_they_were(change in like_json(documents())) {
        fn back<T: serde::Serialize + serde::de::DeserializeOwned>(value: &serde_json::Value) -> Option<T> {
            let read: T = serde_json::from_value(value.clone()).ok()?;
            let again = serde_json::to_value(&read).unwrap();
            assert_eq!(serde_json::to_value(serde_json::from_value::<T>(again.clone()).unwrap()).unwrap(), again);
            Some(read)
        }
        let _ = (back::<Report>(&change["report"]), back::<CredentialBlob>(&change["credential"]));
        if let Some(record) = back::<AkRecord>(&change["record"]) {
            let _ = ResidentAk::from_own_record(record);
        }
        if let Some(evidence) = back::<Evidence>(&change["evidence"]) {
            let (ak, request, good) = recorded("ovmf");
            prop_assert_eq!(request.verify(&ak, &evidence.quote).is_ok(), evidence.quote == good);
        }
    }
}

#[test]
fn the_documents_are_what_is_read() {
    let all = documents();
    let report: Report = serde_json::from_value(all["report"].clone()).unwrap();
    assert!(!report.images[0].differences.is_empty() && report.secure_boot.is_some() && report.boot.is_some());
    serde_json::from_value::<CredentialBlob>(all["credential"].clone()).unwrap();
    serde_json::from_value::<AkRecord>(all["record"].clone()).unwrap();
    serde_json::from_value::<Evidence>(all["evidence"].clone()).unwrap();
}

fn documents() -> serde_json::Value {
    let (ak, _, quote) = recorded("ovmf");
    let proof = EkProof::Pinned { label: "recorded".to_owned() };
    let record = AkRecord { ek_proof: proof, ..ak.record() };
    let evidence = Evidence { quote, event_log: vec![1, 2, 3] };
    let credential = CredentialBlob { id_object: (0..70).collect(), encrypted_secret: (0..70).collect() };
    serde_json::json!({ "evidence": evidence, "record": record, "report": report(), "credential": credential })
}

/// One with something in each of its lists.
fn report() -> Report {
    let at = Timestamp::UNIX_EPOCH;
    let (ak, pcrs) = (recorded("secureboot").0, PcrMask::of([0, 7]));
    let (image, _) = captured("ovmf");
    let (_, log) = captured("secureboot");
    let image = ImageReport {
        id: image.id().clone(),
        mode: image.mode(),
        validity: image.validity(),
        standing: Standing::InForce,
        covers: image.covers(),
        differences: image.differences(&log),
    };
    Report {
        at,
        verified: vec![
            Fact::AkInTpm { ak: ak.name(), ek: ak.ek().clone(), proven_at: at },
            Fact::EkCertified { issuer: "CN=a maker".to_owned(), sha256: "00".repeat(32) },
            Fact::Quoted { bank: HashAlg::Sha256, pcrs, reset_count: 3 },
            Fact::BoundTo { certificate: CertThumbprint::of(b"a certificate") },
            Fact::LogReplays { events: 7 },
            Fact::SecureBootEnforced,
            Fact::Vouched { pcrs },
        ],
        not_verified: vec![
            Gap::EkRevocation,
            Gap::EkMaker { label: "recorded".to_owned() },
            Gap::NotVouched { pcrs },
            Gap::NotQuoted { pcrs, events: 2 },
            Gap::EventData { events: 1 },
            Gap::SecureBoot,
            Gap::SinceBoot,
        ],
        failures: vec![("secure-boot".to_owned(), "it is off".to_owned()).into()],
        images: vec![image],
        secure_boot: SecureBoot::of(&log).ok(),
        boot: Some(BootChain::of(&log)),
    }
}
