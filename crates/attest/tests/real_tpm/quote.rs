use attest::hash::{Digest, HashAlg};
use attest::quote::{Nonce, PcrValues, QuoteError, QuoteRequest};
use attest::tpm::PcrMask;

use crate::tpm::Tpm;

fn request(bank: HashAlg, pcrs: &[u8]) -> QuoteRequest {
    QuoteRequest::new(Nonce::generate().unwrap(), bank, PcrMask::of(pcrs.iter().copied())).unwrap()
}

#[test]
fn quotes_by_every_kind_of_ak() {
    let tpm = Tpm::new();
    tpm.extend(7, &[&HashAlg::Sha256.digest(&[b"something"]), &HashAlg::Sha384.digest(&[b"something"])]);
    for kind in [
        ["ecc", "sha256", "ecdsa"],
        ["ecc384", "sha384", "ecdsa"],
        ["rsa", "sha256", "rsassa"],
        ["rsa", "sha256", "rsapss"],
        ["rsa", "sha384", "rsassa"],
    ] {
        let ak = tpm.resident_ak("ak", kind);
        for bank in [HashAlg::Sha256, HashAlg::Sha384] {
            let request = request(bank, &[0, 7, 16, 23]);
            let quote = request.verify(&ak, &tpm.quote("ak", &request)).unwrap();
            assert_eq!(quote.pcrs().mask(), request.pcrs(), "{kind:?}");
            assert_ne!(quote.pcrs().get(7), Some(&Digest::filled(bank, 0)));
            assert_eq!(quote.pcrs().get(0), Some(&Digest::filled(bank, 0)));
            assert_eq!((quote.ak(), quote.ek()), (&ak.name(), ak.ek()));
            assert!(quote.clock_info().safe);
        }
    }
}

#[test]
fn every_changed_byte_of_a_quote_is_refused() {
    let tpm = Tpm::new();
    for kind in [["ecc", "sha256", "ecdsa"], ["rsa", "sha256", "rsapss"]] {
        let ak = tpm.resident_ak("ak", kind);
        let request = request(HashAlg::Sha256, &[0, 1, 2, 7]);
        let good = tpm.quote("ak", &request);
        request.verify(&ak, &good).unwrap();
        for at in 0..good.message.len() {
            let mut changed = good.clone();
            changed.message[at] ^= 1;
            assert_eq!(request.verify(&ak, &changed), Err(QuoteError::Signature(ak.name())), "message, byte {at}");
            changed.message.truncate(at);
            assert_eq!(request.verify(&ak, &changed), Err(QuoteError::Signature(ak.name())), "message cut at {at}");
        }
        for at in 0..good.signature.len() {
            let mut changed = good.clone();
            changed.signature[at] ^= 1;
            request.verify(&ak, &changed).expect_err("a changed signature");
            changed.signature.truncate(at);
            request.verify(&ak, &changed).expect_err("a signature cut short");
        }
        for index in good.pcrs.mask().iter() {
            let mut values: std::collections::BTreeMap<_, _> = good.pcrs.clone().into();
            let mut value = values[&index].bytes().to_vec();
            value[31] ^= 1;
            values.insert(index, Digest::new(HashAlg::Sha256, &value).unwrap());
            let mut changed = good.clone();
            changed.pcrs = PcrValues::new(values).unwrap();
            let error = request.verify(&ak, &changed).unwrap_err();
            assert!(matches!(error, QuoteError::PcrDigest { .. }), "{error}");
        }
    }
}

#[test]
fn replayed_stale_and_empty_nonces_are_refused() {
    let tpm = Tpm::new();
    let ak = tpm.resident_ak("ak", ["ecc", "sha256", "ecdsa"]);
    let first = request(HashAlg::Sha256, &[0]);
    let old = tpm.quote("ak", &first);
    let second = request(HashAlg::Sha256, &[0]);
    assert!(matches!(second.verify(&ak, &old).unwrap_err(), QuoteError::Nonce { .. }));
    let empty = tpm.quote_of("ak", "sha256:0", "", &second);
    assert!(matches!(second.verify(&ak, &empty).unwrap_err(), QuoteError::Nonce { .. }));
    let beginning = hex::encode(&second.nonce().as_bytes()[..31]);
    let short = tpm.quote_of("ak", "sha256:0", &beginning, &second);
    assert!(matches!(second.verify(&ak, &short).unwrap_err(), QuoteError::Nonce { .. }));
    for len in [0, 1, 15, 33, 64] {
        assert_eq!(Nonce::new(&vec![7; len]), Err(QuoteError::NonceLength(len)));
    }
}

#[test]
fn another_tpm_another_ak_and_another_scheme_are_refused() {
    let (tpm, stranger) = (Tpm::new(), Tpm::new());
    let ak = tpm.resident_ak("ak", ["ecc", "sha256", "ecdsa"]);
    let request = request(HashAlg::Sha256, &[0, 7]);
    stranger.resident_ak("ak", ["ecc", "sha256", "ecdsa"]);
    let error = request.verify(&ak, &stranger.quote("ak", &request)).unwrap_err();
    assert_eq!(error, QuoteError::Signature(ak.name()));
    tpm.resident_ak("rsa", ["rsa", "sha256", "rsassa"]);
    let error = request.verify(&ak, &tpm.quote("rsa", &request)).unwrap_err();
    assert!(matches!(error, QuoteError::Scheme { .. }), "{error}");
}

#[test]
fn other_banks_and_other_pcrs_than_asked_for_are_refused() {
    let tpm = Tpm::new();
    let ak = tpm.resident_ak("ak", ["ecc", "sha256", "ecdsa"]);
    let nonce = || Nonce::generate().unwrap();
    assert_eq!(QuoteRequest::new(nonce(), HashAlg::Sha1, PcrMask::of([0])), Err(QuoteError::WeakBank(HashAlg::Sha1)));
    assert_eq!(QuoteRequest::new(nonce(), HashAlg::Sha256, PcrMask::of([])), Err(QuoteError::NoPcrs));

    let request = request(HashAlg::Sha256, &[0, 7]);
    let nonce = hex::encode(request.nonce().as_bytes());
    for selection in ["sha1:0,7", "sha384:0,7", "sha256:0", "sha256:0,7,8", "sha256:0,7+sha1:0,7"] {
        let evidence = tpm.quote_of("ak", selection, &nonce, &request);
        let error = request.verify(&ak, &evidence).unwrap_err();
        assert!(matches!(error, QuoteError::Selection { .. }), "{selection}: {error}");
    }
    let mut evidence = tpm.quote("ak", &request);
    evidence.pcrs = PcrValues::new(tpm.pcrs(HashAlg::Sha256, [0, 7, 8].into_iter())).unwrap();
    let error = request.verify(&ak, &evidence).unwrap_err();
    assert!(matches!(error, QuoteError::Values { .. }), "a value that was not quoted: {error}");
}

#[test]
fn a_certification_is_no_quote() {
    let tpm = Tpm::new();
    let ak = tpm.resident_ak("ak", ["ecc", "sha256", "ecdsa"]);
    let request = request(HashAlg::Sha256, &[0]);
    let nonce = hex::encode(request.nonce().as_bytes());
    let mut evidence = tpm.quote("ak", &request);
    tpm.run("tpm2_gettime", &["-c", "ak.ctx", "-q", &nonce, "-o", "signature", "--attestation", "message"]);
    evidence.message = tpm.read("message");
    evidence.signature = tpm.read("signature");
    let error = request.verify(&ak, &evidence).unwrap_err();
    assert!(error.to_string().contains("TPM_ST_ATTEST_QUOTE"), "{error}");
}
