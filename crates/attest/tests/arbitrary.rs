//! Whatever comes from outside: nothing panics, and nothing that is not whole is let in.

#![allow(clippy::unwrap_used)]

#[path = "common/mod.rs"]
mod common;

use attest::ak::RestrictedAk;
use attest::appraisal::Evidence;
use attest::binding::CertThumbprint;
use attest::ek::{PinnedEks, TpmCas, verify_certificate, without_nv_padding};
use attest::hash::Digest;
use attest::image::BaseImage;
use attest::label::Label;
use attest::log::EventLog;
use attest::quote::QuoteEvidence;
use attest::token::{TokenError, TokenVerifier};
use attest::tpm::{Name, PcrSelection, Public, Quoted, Signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{BOOTS, Log, quote, read, recorded};
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Real bytes with some of them changed, and some cut off or added: gets further into a parser than noise does.
fn like(real: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..6);
    (Just(real), changes, 0usize..16, vec(any::<u8>(), 0..4)).prop_map(|(mut bytes, changes, cut, added)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        bytes.extend(added);
        bytes
    })
}

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
