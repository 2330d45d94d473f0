use attest::ak::{AkError, RestrictedAk};
use attest::credential::{AkRecord, Challenge, CredentialError, ResidentAk};

use crate::tpm::{Tpm, now};

const AK: [&str; 3] = ["ecc", "sha256", "ecdsa"];

#[test]
fn a_tpm_activates_credentials_for_its_own_keys() {
    let tpm = Tpm::new();
    for ek in ["rsa", "ecc", "ecc384"] {
        let trusted = tpm.pinned(ek);
        let public = tpm.ak(ek, "ak", AK);
        let ak = RestrictedAk::from_tpm2b(&public).unwrap();
        let (challenge, blob) = Challenge::new(trusted.clone(), ak.clone()).unwrap();
        let secret = tpm.activate(ek, "ak", &blob).unwrap();
        let resident = challenge.confirm(&secret, now()).unwrap();
        assert_eq!(resident.name(), ak.name(), "{ek}");
        assert_eq!(resident.ek(), &trusted.name());

        let json = serde_json::to_string(&resident.record()).unwrap();
        let record: AkRecord = serde_json::from_str(&json).unwrap();
        assert_eq!(ResidentAk::from_own_record(record).unwrap(), resident);

        let (challenge, _) = Challenge::new(trusted, ak).unwrap();
        let error = challenge.confirm(&secret, now()).unwrap_err();
        assert!(matches!(error, CredentialError::WrongSecret { .. }), "the secret of an earlier challenge");
    }
}

#[test]
fn a_credential_for_another_ak_or_another_tpm_is_not_activated() {
    let (tpm, stranger) = (Tpm::new(), Tpm::new());
    for ek in ["rsa", "ecc"] {
        let trusted = tpm.pinned(ek);
        stranger.ek(ek);
        tpm.ak(ek, "ak", AK);
        let elsewhere = RestrictedAk::from_tpm2b(&stranger.ak(ek, "ak", AK)).unwrap();
        let (challenge, blob) = Challenge::new(trusted, elsewhere).unwrap();
        let error = tpm.activate(ek, "ak", &blob).unwrap_err();
        assert!(error.contains("integrity"), "the TPM of the EK, for an AK it has not got: {error}");
        let error = stranger.activate(ek, "ak", &blob).unwrap_err();
        assert!(error.contains("0x"), "the TPM of the AK, which has not got the EK: {error}");
        assert!(matches!(challenge.confirm(&[0; 32], now()), Err(CredentialError::WrongSecret { .. })));
    }
}

#[test]
fn every_changed_byte_of_a_credential_is_refused_by_the_tpm() {
    let tpm = Tpm::new();
    let ek = tpm.pinned("ecc");
    let ak = RestrictedAk::from_tpm2b(&tpm.ak("ecc", "ak", AK)).unwrap();
    let (_, blob) = Challenge::new(ek, ak).unwrap();
    assert!(tpm.activate("ecc", "ak", &blob).is_ok());
    for at in 0..blob.id_object.len() {
        let mut changed = blob.clone();
        changed.id_object[at] ^= 1;
        assert!(tpm.activate("ecc", "ak", &changed).is_err(), "byte {at}");
    }
    for at in 0..blob.encrypted_secret.len() {
        let mut changed = blob.clone();
        changed.encrypted_secret[at] ^= 1;
        assert!(tpm.activate("ecc", "ak", &changed).is_err(), "byte {at} of the encrypted secret");
    }
}

#[test]
fn the_secret_must_be_whole() {
    let tpm = Tpm::new();
    let (ek, public) = (tpm.pinned("rsa"), tpm.ak("rsa", "ak", AK));
    let answer = |change: fn(&mut Vec<u8>)| {
        let (challenge, blob) = Challenge::new(ek.clone(), RestrictedAk::from_tpm2b(&public).unwrap()).unwrap();
        let mut secret = tpm.activate("rsa", "ak", &blob).unwrap();
        change(&mut secret);
        challenge.confirm(&secret, now())
    };
    answer(|_| {}).unwrap();
    answer(|secret| secret.clear()).unwrap_err();
    answer(|secret| secret.truncate(31)).unwrap_err();
    answer(|secret| secret.push(0)).unwrap_err();
    answer(|secret| secret[31] ^= 0x80).unwrap_err();
}

#[test]
fn keys_that_could_lie_are_no_attestation_keys() {
    let tpm = Tpm::new();
    tpm.run("tpm2_createprimary", &["-C", "o", "-c", "primary.ctx"]);
    let key = |algorithm: &str, attributes: &str| {
        tpm.run(
            "tpm2_create",
            &["-C", "primary.ctx", "-G", algorithm, "-a", attributes, "-u", "key.pub", "-r", "key.priv"],
        );
        RestrictedAk::from_tpm2b(&tpm.read("key.pub"))
    };
    const GOOD: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
    key("ecc256:ecdsa-sha256:null", GOOD).unwrap();
    key("ecc384:ecdsa-sha384:null", GOOD).unwrap();
    key("rsa2048:rsassa-sha256:null", GOOD).unwrap();
    key("rsa2048:rsapss-sha384:null", GOOD).unwrap();

    let lacks = |result: Result<RestrictedAk, AkError>, attribute: &str| match result.unwrap_err() {
        AkError::AttributeMissing { missing, .. } => assert_eq!(missing, attribute),
        other => panic!("{other}"),
    };
    lacks(key("ecc256:ecdsa-sha256:null", &GOOD.replace("|restricted", "")), "restricted");
    lacks(key("ecc256:ecdsa-sha256:null", &GOOD.replace("fixedtpm|fixedparent|", "")), "fixedTPM");
    lacks(RestrictedAk::from_tpm2b(&tpm.ek("rsa").to_tpm2b()), "sign");
    let scheme = key("ecc384:ecdsa-sha256:null", GOOD).unwrap_err();
    assert!(matches!(scheme, AkError::Scheme { .. }), "{scheme}");
    let unbound = key("ecc256:null:null", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign").unwrap_err();
    assert!(matches!(unbound, AkError::AttributeMissing { missing: "restricted", .. }), "{unbound}");

    // Each attribute bit by itself, on a key that is good otherwise.
    key("ecc256:ecdsa-sha256:null", GOOD).unwrap();
    let good = tpm.read("key.pub");
    const AT: usize = 2 + 2 + 2;
    for (bit, good_still) in [(1, false), (4, false), (5, false), (6, true), (11, false), (16, false), (17, false)] {
        let mut changed = good.clone();
        let bits = u32::from_be_bytes(changed[AT..AT + 4].try_into().unwrap()) ^ 1 << bit;
        changed[AT..AT + 4].copy_from_slice(&bits.to_be_bytes());
        assert_eq!(RestrictedAk::from_tpm2b(&changed).is_ok(), good_still, "bit {bit}");
    }
}
