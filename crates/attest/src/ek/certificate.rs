//! The EK certificate: its path to a root, and what it says about the TPM.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, FromDer as _, Oid, Sequence, Set};
use x509_parser::der_parser::oid;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Name;

use super::{EkError, TpmCas, display_name, timestamp};
use crate::hash::HashAlg;
use crate::tpm::{EccCurve, KeyParameters, Public};

/// tcg-kp-EKCertificate, 2.23.133.8.1, as webpki wants it: the content of the OID.
const EK_CERTIFICATE_USAGE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// tPMSpecification as the certificate's subject directory attributes give it. TCG EK Credential Profile 3.1.3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmSpecification {
    /// family, such as "2.0".
    pub family: String,
    /// level
    pub level: u64,
    /// revision, such as 138 for 1.38.
    pub revision: u64,
}

/// What a verified EK certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EkCertificate {
    /// SHA-256 of the DER, in hexadecimal.
    pub sha256: String,
    /// Its subject; often empty.
    pub subject: String,
    /// The CA that issued it.
    pub issuer: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
    /// tPMManufacturer, such as "id:494E5443".
    pub manufacturer: Option<String>,
    /// tPMModel
    pub model: Option<String>,
    /// tPMVersion: the firmware's, such as "id:00010003".
    pub version: Option<String>,
    /// tPMSpecification
    pub specification: Option<TpmSpecification>,
}

/// The certificate without the bytes behind it with which TPMs fill up the NV index it lies in: zeros, or 0xff.
/// Anything else that stands there is left, and then refused.
pub fn without_nv_padding(nv: &[u8]) -> &[u8] {
    match Any::from_der(nv) {
        Ok((rest, _)) if rest.iter().all(|&byte| byte == 0) || rest.iter().all(|&byte| byte == 0xff) => {
            &nv[..nv.len() - rest.len()]
        }
        _ => nv,
    }
}

pub(super) fn verify(cas: &TpmCas, der: &[u8], ek: &Public, now: Timestamp) -> Result<EkCertificate, EkError> {
    let certificate = parse(der)?;
    verify_path(cas, der, &certificate, now)?;
    let says = says(der, &certificate, ek)?;
    // TCG EK Credential Profile 3.2.9 and 3.2.10: they must be there.
    let names = [("tPMManufacturer", &says.manufacturer), ("tPMModel", &says.model), ("tPMVersion", &says.version)];
    if let Some((missing, _)) = names.iter().find(|(_, value)| value.is_none()) {
        return Err(bad("subjectAltName", format!("lacks {missing}")));
    }
    match &says.specification {
        None => Err(bad("subjectDirectoryAttributes", "lacks tPMSpecification: nothing says that it is a TPM 2.0")),
        Some(_) => Ok(says),
    }
}

/// What it says, where it is the EK's.
pub(super) fn describe_of(der: &[u8], ek: &Public) -> Result<EkCertificate, EkError> {
    says(der, &parse(der)?, ek)
}

fn says(der: &[u8], certificate: &X509Certificate<'_>, ek: &Public) -> Result<EkCertificate, EkError> {
    check_usage(certificate, ek)?;
    if !is_of_key(certificate, ek) {
        return Err(EkError::OtherKey { subject: display_name(certificate.subject()), ek: ek.name() });
    }
    let says = describe(der, certificate)?;
    match &says.specification {
        Some(specification) if specification.family != "2.0" => {
            Err(bad("tPMSpecification", format!("family {:?} is not TPM 2.0", specification.family)))
        }
        _ => Ok(says),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, EkError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| bad("certificate", format!("not X.509 in DER: {error}")))?;
    if !rest.is_empty() {
        return Err(bad("certificate", format!("{} bytes are left over behind it", rest.len())));
    }
    Ok(certificate)
}

fn bad(field: &'static str, reason: impl Into<String>) -> EkError {
    EkError::Certificate { field, reason: reason.into() }
}

fn verify_path(cas: &TpmCas, der: &[u8], certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), EkError> {
    let seconds = u64::try_from(now.as_second()).map_err(|_| bad("validity", "looked at before 1970"))?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let chain = |reason: String| EkError::Chain {
        subject: display_name(certificate.subject()),
        issuer: display_name(certificate.issuer()),
        reason,
    };

    let roots: Vec<_> = cas.roots_valid_at(now).map(CertificateDer::from).collect();
    let anchors: Vec<TrustAnchor<'_>> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let intermediates: Vec<_> = cas.intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let leaf_der = CertificateDer::from(der);
    let leaf = EndEntityCert::try_from(&leaf_der).map_err(|error| bad("certificate", error.to_string()))?;
    // The usage is looked at on the whole path, but many makers' CAs have none: so it may be absent here, and
    // `check_usage` insists on it for the EK's own certificate.
    let usage = KeyUsage::required_if_present(EK_CERTIFICATE_USAGE);
    leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &intermediates, time, usage, None, None).map_err(
        |error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => EkError::Time {
                subject: display_name(certificate.subject()),
                at: now,
                not_before: timestamp(certificate.validity().not_before),
                not_after: timestamp(certificate.validity().not_after),
                reason: error.to_string(),
            },
            webpki::Error::UnknownIssuer if anchors.len() < cas.roots.len() => chain(format!(
                "{error} ({} of the {} roots are not valid at {now})",
                cas.roots.len() - anchors.len(),
                cas.roots.len()
            )),
            error => chain(error.to_string()),
        },
    )?;
    Ok(())
}

/// TCG EK Credential Profile 3.2.15 (key usage) and 3.2.16 (extended key usage).
fn check_usage(certificate: &X509Certificate<'_>, ek: &Public) -> Result<(), EkError> {
    let extended = certificate.extended_key_usage().map_err(|error| bad("extKeyUsage", error.to_string()))?;
    let ek_certificate: Oid<'_> = oid!(2.23.133.8.1);
    if !extended.is_some_and(|usage| usage.value.other.contains(&ek_certificate)) {
        return Err(bad("extKeyUsage", "lacks 2.23.133.8.1 (tcg-kp-EKCertificate): it is not an EK's certificate"));
    }
    let usage = certificate.key_usage().map_err(|error| bad("keyUsage", error.to_string()))?;
    let fits = usage.is_none_or(|usage| match ek.key {
        KeyParameters::Rsa(_) => usage.value.key_encipherment(),
        KeyParameters::Ecc(_) => usage.value.key_agreement(),
    });
    if !fits {
        return Err(bad("keyUsage", "has neither keyEncipherment for an RSA key nor keyAgreement for an ECC key"));
    }
    Ok(())
}

fn is_of_key(certificate: &X509Certificate<'_>, ek: &Public) -> bool {
    let info = certificate.public_key();
    match (info.parsed(), &ek.key) {
        (Ok(PublicKey::RSA(theirs)), KeyParameters::Rsa(ours)) => {
            let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|&byte| byte == 0).collect::<Vec<_>>();
            number(theirs.modulus) == ours.modulus && number(theirs.exponent) == ours.exponent_bytes()
        }
        (Ok(PublicKey::EC(theirs)), KeyParameters::Ecc(ours)) => {
            let curve: Oid<'_> = match ours.curve {
                EccCurve::NIST_P256 => oid!(1.2.840.10045.3.1.7),
                EccCurve::NIST_P384 => oid!(1.3.132.0.34),
                EccCurve::NIST_P521 => oid!(1.3.132.0.35),
                _ => return false,
            };
            let named = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            named == Some(curve) && theirs.data() == ours.uncompressed_point()
        }
        _ => false,
    }
}

fn describe(der: &[u8], certificate: &X509Certificate<'_>) -> Result<EkCertificate, EkError> {
    let directory_name = directory_name(certificate)?;
    let attribute = |oid: Oid<'_>| {
        let name = directory_name?;
        let value = name.iter_attributes().find(|attribute| *attribute.attr_type() == oid)?;
        value.as_str().ok().map(str::to_owned)
    };
    Ok(EkCertificate {
        sha256: hex::encode(HashAlg::Sha256.digest(&[der]).bytes()),
        subject: display_name(certificate.subject()),
        issuer: display_name(certificate.issuer()),
        serial: hex::encode(certificate.raw_serial()),
        not_before: timestamp(certificate.validity().not_before),
        not_after: timestamp(certificate.validity().not_after),
        manufacturer: attribute(oid!(2.23.133.2.1)),
        model: attribute(oid!(2.23.133.2.2)),
        version: attribute(oid!(2.23.133.2.3)),
        specification: specification(certificate)?,
    })
}

/// TCG EK Credential Profile 3.2.9: the TPM's maker, model and version are in a directoryName of subjectAltName.
fn directory_name<'a>(certificate: &'a X509Certificate<'_>) -> Result<Option<&'a X509Name<'a>>, EkError> {
    let names = certificate.subject_alternative_name().map_err(|error| bad("subjectAltName", error.to_string()))?;
    Ok(names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DirectoryName(name) => Some(name),
            _ => None,
        })
    }))
}

/// TCG EK Credential Profile 3.2.10: subjectDirectoryAttributes, a list of types with sets of values.
fn specification(certificate: &X509Certificate<'_>) -> Result<Option<TpmSpecification>, EkError> {
    let subject_directory_attributes: Oid<'_> = oid!(2.5.29.9);
    let mut found = certificate.extensions().iter().filter(|extension| extension.oid == subject_directory_attributes);
    let Some(extension) = found.next() else { return Ok(None) };
    debug_assert!(matches!(extension.parsed_extension(), ParsedExtension::UnsupportedExtension { .. }));
    parse_specification(extension.value).ok_or_else(|| {
        bad("subjectDirectoryAttributes", "not a SEQUENCE of Attribute with a well-formed tPMSpecification")
    })
}

/// The outer option is about form, the inner about presence.
#[allow(clippy::option_option)]
fn parse_specification(der: &[u8]) -> Option<Option<TpmSpecification>> {
    let tpm_specification: Oid<'_> = oid!(2.23.133.2.16);
    let (_, attributes) = Sequence::from_der(der).ok()?;
    let mut rest: &[u8] = &attributes.content;
    while !rest.is_empty() {
        let (next, attribute) = Sequence::from_der(rest).ok()?;
        rest = next;
        let (values, kind) = Oid::from_der(&attribute.content).ok()?;
        if kind != tpm_specification {
            continue;
        }
        let (_, values) = Set::from_der(values).ok()?;
        let (_, value) = Sequence::from_der(&values.content).ok()?;
        let (fields, family) = Any::from_der(&value.content).ok()?;
        let (fields, level) = u64::from_der(fields).ok()?;
        let (_, revision) = u64::from_der(fields).ok()?;
        let family = family.as_any_str().ok()?.to_owned();
        return Some(Some(TpmSpecification { family, level, revision }));
    }
    Some(None)
}
