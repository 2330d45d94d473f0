//! What was made by real TPMs and real CAs, with anything done to it: only what was made is let in.

use attest::appraisal::{Evidence, appraise};
use attest::ek::{TpmCas, check_ek, verify_certificate};
use attest::hash::{Digest, HashAlg};
use attest::log::EventLog;
use attest::quote::PcrValues;
use attest::tpm::{Attributes, Public};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::appraisal::{Host, policy};
use crate::common::Log;
use crate::likely::{cases, like};
use crate::token::Scene;
use crate::tpm::{Ca, Tpm, now};

#[test]
fn certificates_that_are_like_a_real_one() {
    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let (root, intermediate, certificate) = (ca.root(), ca.intermediate(), tpm.ek_certificate("rsa"));
    let ek = tpm.ek("rsa");
    let chain = |root: &[u8], intermediate: &[u8], certificate: &[u8]| {
        let mut cas = TpmCas::new();
        let added = cas.add_root(root).is_ok() && cas.add_intermediate(intermediate).is_ok();
        let verified = verify_certificate(&cas, certificate, ek.clone(), now());
        added && verified.is_ok()
    };
    assert!(chain(&root, &intermediate, &certificate));
    let parts = (like(root.clone()), like(intermediate.clone()), like(certificate.clone()), 0..3);
    cases(2000, &parts, |(other_root, other_intermediate, other, which)| {
        let (passed, same) = match which {
            0 => (chain(&other_root, &intermediate, &certificate), other_root == root),
            1 => (chain(&root, &other_intermediate, &certificate), other_intermediate == intermediate),
            _ => (chain(&root, &intermediate, &other), other == certificate),
        };
        prop_assert_eq!(passed, same);
        Ok(())
    });
}

#[test]
fn endorsement_keys_that_are_like_a_real_one() {
    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let mut cas = TpmCas::new();
    cas.add_root(&ca.root()).unwrap();
    cas.add_intermediate(&ca.intermediate()).unwrap();
    for kind in ["rsa", "ecc384"] {
        let (real, certificate) = (tpm.ek(kind), tpm.ek_certificate(kind));
        // Each byte of the public area by itself, and then any of them.
        let bytes = real.to_tpm2b();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let Ok(ek) = Public::from_tpm2b(&flipped) else { continue };
                assert_ne!(ek.name(), real.name(), "byte {at}");
                // A certificate is of the key alone: what else the area says decides which key the TPM uses.
                let Ok(trusted) = verify_certificate(&cas, &certificate, ek.clone(), now()) else { continue };
                assert_eq!(trusted.public().key, real.key, "byte {at}");
                check_ek(&ek).unwrap();
            }
        }
        cases(500, &(like(bytes.clone()), any::<u32>()), |(mut other, attributes)| {
            let _ = Public::from_tpm2b(&other).map(|ek| verify_certificate(&cas, &certificate, ek, now()).is_ok());
            other.clone_from(&bytes);
            other[6..10].copy_from_slice(&attributes.to_be_bytes());
            let ek = Public::from_tpm2b(&other).unwrap();
            let has = |it: Attributes| attributes & it.0 != 0;
            let good = has(Attributes::RESTRICTED)
                && has(Attributes::DECRYPT)
                && has(Attributes::FIXED_TPM)
                && has(Attributes::FIXED_PARENT)
                && has(Attributes::SENSITIVE_DATA_ORIGIN)
                && !has(Attributes::SIGN);
            prop_assert_eq!(check_ek(&ek).is_ok(), good);
            Ok(())
        });
    }
}

#[test]
fn tokens_that_are_like_a_real_one() {
    let scene = Scene::new();
    let token = scene.token();
    cases(2000, &like(token.clone().into_bytes()), |bytes| {
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        prop_assert_eq!(scene.verify(&text).is_ok(), text == token);
        Ok(())
    });
    // Any claims, signed by the service's own key: read or refused.
    let claims = crate::likely::like_json(scene.claims());
    cases(2000, &claims, |claims| {
        let token = scene.signed(&claims);
        if let Ok(verified) = scene.verify(&token) {
            prop_assert_eq!(verified.certificate(), scene.attested.certificate());
            prop_assert!(verified.issued() <= verified.expires());
        }
        Ok(())
    });
}

#[test]
fn evidence_that_is_like_a_real_one() {
    const PCRS: &[u8] = &[0, 2, 4, 7];
    let host = Host::booted(Log::of("secureboot"));
    let policy = policy(PCRS, vec![host.image("all", PCRS)]);
    let asked = host.asked();
    let good = host.evidence(&asked, &policy);
    let judge = |evidence: &Evidence| appraise(&host.ak, &asked, evidence, &policy, now()).outcome.is_ok();
    assert!(judge(&good));
    let value = vec(any::<u8>(), 32).prop_map(|bytes| Digest::new(HashAlg::Sha256, &bytes).unwrap());
    let parts = (like(good.quote.message.clone()), like(good.quote.signature.clone()), like(good.event_log.clone()));
    cases(
        2000,
        &(parts, value, any::<prop::sample::Index>(), 0..4),
        |((message, signature, log), value, at, which)| {
            let mut evidence = good.clone();
            match which {
                0 => evidence.quote.message = message,
                1 => evidence.quote.signature = signature,
                2 => {
                    let mut values: std::collections::BTreeMap<_, _> = good.quote.pcrs.clone().into();
                    let pcr = *values.keys().nth(at.index(values.len())).unwrap();
                    values.insert(pcr, value);
                    evidence.quote.pcrs = PcrValues::new(values).unwrap();
                }
                _ => evidence.event_log = log,
            }
            if judge(&evidence) {
                prop_assert_eq!(&evidence.quote, &good.quote);
                // In the log only that may be another which no digest covers, or which nobody asks for.
                let told = |log: &[u8]| -> Vec<_> {
                    let log = EventLog::from_bytes(log).unwrap();
                    let events = log.unverified_events().iter();
                    let events = events.filter(|event| PCRS.iter().any(|pcr| u32::from(*pcr) == event.pcr));
                    events.map(|event| (event.pcr, event.event_type, event.digest(HashAlg::Sha256).cloned())).collect()
                };
                prop_assert_eq!(told(&evidence.event_log), told(&good.event_log));
            }
            Ok(())
        },
    );
}
