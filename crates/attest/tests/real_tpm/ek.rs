use attest::ek::{CaError, EkError, EkProof, PinnedEks, TpmCas, verify_certificate, without_nv_padding};
use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use x509_parser::prelude::FromDer;

use crate::tpm::{Ca, Tpm, now};

fn trusting(ca: &Ca) -> TpmCas {
    let mut cas = TpmCas::new();
    cas.add_root(&ca.root()).unwrap();
    cas.add_intermediate(&ca.intermediate()).unwrap();
    cas
}

#[test]
fn certificates_of_swtpm_lead_to_its_root() {
    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let cas = trusting(&ca);
    assert_eq!(cas.list().iter().map(|ca| ca.root).collect::<Vec<_>>(), [true, false]);
    for kind in ["rsa", "ecc384"] {
        let ek = tpm.ek(kind);
        let trusted = verify_certificate(&cas, &tpm.ek_certificate(kind), ek.clone(), now()).unwrap();
        assert_eq!(trusted.name(), ek.name());
        let EkProof::Certificate(says) = trusted.proof() else { panic!("not by certificate") };
        assert_eq!(says.manufacturer.as_deref(), Some("id:00001014"), "IBM's, as swtpm has it");
        assert_eq!(says.model.as_deref(), Some("swtpm"));
        assert!(says.version.as_ref().is_some_and(|version| version.starts_with("id:")));
        assert_eq!(says.specification.as_ref().unwrap().family, "2.0");
        assert!(says.specification.as_ref().unwrap().revision >= 100);
        let json = serde_json::to_string(trusted.proof()).unwrap();
        assert_eq!(&serde_json::from_str::<EkProof>(&json).unwrap(), trusted.proof());
    }
}

#[test]
fn the_name_is_the_tpms_own() {
    let tpm = Tpm::new();
    for kind in ["rsa", "ecc", "ecc384"] {
        let ek = tpm.ek(kind);
        tpm.run("tpm2_readpublic", &["-c", &format!("ek-{kind}.ctx"), "-n", "name"]);
        assert_eq!(ek.name().as_bytes(), tpm.read("name"));
        assert_eq!(ek.to_tpm2b(), tpm.read(&format!("ek-{kind}.pub")));
    }
}

#[test]
fn other_cas_other_keys_and_other_times_are_refused() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (tpm, stranger) = (Tpm::certified_by(&ca), Tpm::certified_by(&other));
    let cas = trusting(&ca);
    let (ek, certificate) = (tpm.ek("rsa"), tpm.ek_certificate("rsa"));
    let verify =
        |cas: &TpmCas, certificate: &[u8], at| verify_certificate(cas, certificate, ek.clone(), at).unwrap_err();

    assert!(matches!(verify(&TpmCas::new(), &certificate, now()), EkError::Chain { .. }));
    assert!(matches!(verify(&trusting(&other), &certificate, now()), EkError::Chain { .. }), "a root of that name");
    let mut no_intermediate = TpmCas::new();
    no_intermediate.add_root(&ca.root()).unwrap();
    assert!(matches!(verify(&no_intermediate, &certificate, now()), EkError::Chain { .. }));

    let error = verify_certificate(&cas, &certificate, stranger.ek("rsa"), now()).unwrap_err();
    assert!(matches!(error, EkError::OtherKey { .. }), "{error}");
    let error = verify_certificate(&cas, &certificate, tpm.ek("ecc384"), now()).unwrap_err();
    assert!(matches!(error, EkError::Certificate { field: "keyUsage", .. }), "{error}");
    assert!(matches!(verify(&cas, &stranger.ek_certificate("rsa"), now()), EkError::Chain { .. }));

    let before = now() - 48.hours();
    assert!(matches!(verify(&cas, &certificate, before), EkError::Time { .. }));
    assert!(matches!(verify(&cas, &certificate, Timestamp::from_second(-1).unwrap()), EkError::Certificate { .. }));
}

#[test]
fn every_changed_byte_of_a_certificate_is_refused() {
    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let cas = trusting(&ca);
    let (ek, certificate) = (tpm.ek("rsa"), tpm.ek_certificate("rsa"));
    for at in 0..certificate.len() {
        let mut changed = certificate.clone();
        changed[at] ^= 1;
        assert!(verify_certificate(&cas, &changed, ek.clone(), now()).is_err(), "byte {at}");
        assert!(verify_certificate(&cas, &certificate[..at], ek.clone(), now()).is_err(), "cut at {at}");
    }
}

#[test]
fn padding_of_nv_memory_comes_off_and_nothing_else() {
    let tpm = Tpm::new();
    let certificate = tpm.ek_certificate("rsa");
    let with = |tail: &[u8]| [&certificate[..], tail].concat();
    assert_eq!(without_nv_padding(&certificate), certificate);
    assert_eq!(without_nv_padding(&with(&[0; 40])), certificate);
    assert_eq!(without_nv_padding(&with(&[0xff; 7])), certificate);
    assert_eq!(without_nv_padding(&with(b"\0\xff")), with(b"\0\xff"));
    assert_eq!(without_nv_padding(b""), b"");
}

#[test]
fn a_bare_key_is_trusted_only_if_pinned() {
    let (tpm, stranger) = (Tpm::new(), Tpm::new());
    let ek = tpm.ek("ecc");
    let mut pins = PinnedEks::default();
    pins.insert(ek.name(), "rack 1".to_owned());
    let pins: PinnedEks = serde_json::from_str(&serde_json::to_string(&pins).unwrap()).unwrap();
    assert_eq!(pins.verify(ek.clone()).unwrap().proof(), &EkProof::Pinned { label: "rack 1".to_owned() });
    let other = stranger.ek("ecc");
    assert_eq!(pins.verify(other.clone()), Err(EkError::NotPinned(other.name())));

    let ak = attest::tpm::Public::from_tpm2b(&tpm.ak("ecc", "ak", ["ecc", "sha256", "ecdsa"])).unwrap();
    assert!(matches!(pins.verify(ak).unwrap_err(), EkError::Attribute { attribute: "decrypt", .. }));
}

/// A maker of TPMs whose certificates can be made to measure.
struct Maker {
    issuer: Issuer<'static, KeyPair>,
    root: Vec<u8>,
}

impl Maker {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Maker");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        change(&mut params);
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A certificate for the key in another certificate.
    fn certify(&self, other: &[u8], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let (_, other) = x509_parser::certificate::X509Certificate::from_der(other).unwrap();
        let key = SubjectPublicKeyInfo::from_der(other.public_key().raw).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = named("EK");
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.custom_extensions = vec![makers_names(&[1, 2, 3]), specification("2.0")];
        change(&mut params);
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

/// subjectAltName with a directoryName of these attributes: 1 is tPMManufacturer, 2 tPMModel, 3 tPMVersion.
fn makers_names(which: &[u8]) -> CustomExtension {
    let attribute = |number: &u8| {
        let oid = [0x06, 0x05, 0x67, 0x81, 0x05, 0x02, *number];
        tlv(0x31, &tlv(0x30, &[&oid[..], &tlv(0x0c, b"id:1")].concat()))
    };
    let names = tlv(0x30, &which.iter().flat_map(attribute).collect::<Vec<_>>());
    CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(0x30, &tlv(0xa4, &names)))
}

/// subjectDirectoryAttributes with the tPMSpecification of a family.
fn specification(family: &str) -> CustomExtension {
    let oid = [0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x10];
    let value = tlv(0x30, &[tlv(0x0c, family.as_bytes()), vec![2, 1, 0], vec![2, 1, 116]].concat());
    let attribute = tlv(0x30, &[&oid[..], &tlv(0x31, &value)].concat());
    CustomExtension::from_oid_content(&[2, 5, 29, 9], tlv(0x30, &attribute))
}

#[test]
fn only_the_certificate_of_an_ek_will_do() {
    let tpm = Tpm::new();
    let (ek, real) = (tpm.ek("rsa"), tpm.ek_certificate("rsa"));
    let maker = Maker::new(|_| {});
    let mut cas = TpmCas::new();
    cas.add_root(&maker.root).unwrap();
    let verify = |certificate: &[u8]| verify_certificate(&cas, certificate, ek.clone(), now());

    verify(&maker.certify(&real, |_| {})).unwrap();

    type Change = fn(&mut CertificateParams);
    let cases: [(&str, Change, &str); 13] = [
        ("of no specification", |params| drop(params.custom_extensions.remove(1)), "lacks tPMSpecification"),
        ("of nobody", |params| drop(params.custom_extensions.remove(0)), "lacks tPMManufacturer"),
        ("of no maker", |params| params.custom_extensions[0] = makers_names(&[2, 3]), "lacks tPMManufacturer"),
        ("of no model", |params| params.custom_extensions[0] = makers_names(&[1, 3]), "lacks tPMModel"),
        ("of no version", |params| params.custom_extensions[0] = makers_names(&[1, 2]), "lacks tPMVersion"),
        ("of nothing at all", |params| params.custom_extensions.clear(), "subjectAltName"),
        ("no usage", |params| params.extended_key_usages.clear(), "lacks 2.23.133.8.1"),
        (
            "a TLS server's",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "does not lead to a trusted TPM CA",
        ),
        ("a signing key's", |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature], "keyUsage"),
        ("a CA's", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "does not lead"),
        ("expired", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1), "is not valid at"),
        ("not yet valid", |params| params.not_before = rcgen::date_time_ymd(2900, 1, 1), "is not valid at"),
        ("of a TPM 1.2", |params| params.custom_extensions[1] = specification("1.2"), "is not TPM 2.0"),
    ];
    for (what, change, says) in cases {
        let error = verify(&maker.certify(&real, change)).unwrap_err().to_string();
        assert!(error.contains(says), "{what}: {error}");
    }
    let mut critical = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    critical.set_criticality(true);
    let error = verify(&maker.certify(&real, |params| params.custom_extensions.push(critical))).unwrap_err();
    assert!(matches!(error, EkError::Certificate { .. }), "{error}");

    let expired = Maker::new(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let mut cas = TpmCas::new();
    cas.add_root(&expired.root).unwrap();
    let error = verify_certificate(&cas, &expired.certify(&real, |_| {}), ek.clone(), now()).unwrap_err();
    assert!(error.to_string().contains("1 of the 1 roots are not valid"), "{error}");
}

#[test]
fn the_root_comes_first() {
    let ca = Ca::new();
    let _tpm = Tpm::certified_by(&ca);
    let mut cas = TpmCas::new();
    assert!(matches!(cas.add_intermediate(&ca.intermediate()).unwrap_err(), CaError::UnknownIssuer { .. }));
    assert!(matches!(cas.add_root(&ca.intermediate()).unwrap_err(), CaError::NotSelfIssued { .. }));
    assert!(matches!(cas.add_root(b"no certificate").unwrap_err(), CaError::Malformed(_)));
    let mut forged = ca.root();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(cas.add_root(&forged).unwrap_err(), CaError::Signature(_)));
    cas.add_root(&ca.root()).unwrap();
    cas.add_root(&ca.root()).unwrap();
    let mut forged = ca.intermediate();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(cas.add_intermediate(&forged).unwrap_err(), CaError::Signature(_)));
    assert_eq!(cas.list().len(), 1);

    let leaf = Maker::new(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert!(matches!(cas.add_root(&leaf.root).unwrap_err(), CaError::NotCa(_)));
}
