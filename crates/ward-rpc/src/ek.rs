//! The CA of vTPMs: certificates of their endorsement keys, by the TCG's EK Credential Profile for TPM Family 2.0.

use std::ops::Deref;

use attest::tpm::{EccCurve, KeyParameters, Public};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, SerialNumber, SignatureAlgorithm,
    SigningKey, date_time_ymd,
};
use uuid::Uuid;
use ward_types::{EkCertificate, Name, TpmMake, VmId};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use yasna::Tag;
use yasna::models::ObjectIdentifier;

use crate::api::host::EkRequest;
use crate::pki::{Ca, PkiError, common_name};

/// For how long the CA is good; the certificates that it makes are as long.
const YEARS: i16 = 30;
/// No certificate is longer: swtpm has 64 KiB for all that is in NV memory.
const MAX_CERTIFICATE: usize = 8 << 10;
/// What a TPM that is a program has for its model.
const MODEL: &str = "swtpm";
/// A guest's clock may be slow.
const BEFORE: i64 = 1;

/// Object identifiers: X.520, RFC 5280, TCG EK Credential Profile sections 3.1 and 3.2.
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];
const SUBJECT_DIRECTORY_ATTRIBUTES: &[u64] = &[2, 5, 29, 9];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const TPM_MANUFACTURER: &[u64] = &[2, 23, 133, 2, 1];
const TPM_MODEL: &[u64] = &[2, 23, 133, 2, 2];
const TPM_VERSION: &[u64] = &[2, 23, 133, 2, 3];
const TPM_SPECIFICATION: &[u64] = &[2, 23, 133, 2, 16];
const EK_CERTIFICATE: &[u64] = &[2, 23, 133, 8, 1];
/// id-alg-noSignature, RFC 5272, appendix C.1.
const NO_SIGNATURE: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 6, 2];

/// Why there is no certificate of an endorsement key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EkError {
    /// Making or reading a certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The key is none.
    #[error("the endorsement key makes no sense: {0}")]
    Key(String),
    /// What is said of the vTPM is nothing that one says.
    #[error("its manufacturer, model or version is none of a vTPM")]
    Make,
    /// The certificate is none, or another key's.
    #[error(transparent)]
    Certificate(attest::ek::EkError),
    /// A file that has none.
    #[error("{0}")]
    File(&'static str),
}

impl From<rcgen::Error> for EkError {
    fn from(error: rcgen::Error) -> Self {
        Self::Pki(error.into())
    }
}

/// The CA.
pub struct EkAuthority(Ca);

impl From<Ca> for EkAuthority {
    fn from(ca: Ca) -> Self {
        Self(ca)
    }
}

impl Deref for EkAuthority {
    type Target = Ca;

    fn deref(&self) -> &Ca {
        &self.0
    }
}

impl EkAuthority {
    /// A new CA, ECDSA P-384.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn generate() -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
        let (first, last) = (today.saturating_sub(BEFORE.days()), today.saturating_add(YEARS.years()));
        let midnight = |day: jiff::civil::Date| {
            date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
        };
        (params.not_before, params.not_after) = (midnight(first), midnight(last));
        Ca::generate("Ward vTPM CA", &KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?, params).map(Self)
    }

    /// Certificates of a vTPM's keys: of the RSA key and of the ECC key.
    ///
    /// # Errors
    /// [`EkError`] where a key is none, or none of its kind, or what is said of the vTPM is nothing that one says.
    pub fn certify(
        &self,
        request: &EkRequest,
        vm: VmId,
        name: &Name,
    ) -> Result<(EkCertificate, EkCertificate), EkError> {
        check_make(&request.make)?;
        let one = |public, algorithm: &'static SignatureAlgorithm| {
            if EkKey::read(public)?.algorithm != algorithm {
                return Err(EkError::Key("it is of another kind than it should be".into()));
            }
            self.certify_one(public, &request.make, vm, name)
        };
        Ok((one(&request.rsa, &PKCS_RSA_SHA256)?, one(&request.ecc, &PKCS_ECDSA_P256_SHA256)?))
    }

    /// A certificate of one of a vTPM's keys.
    ///
    /// # Errors
    /// [`EkError`] where it is none.
    pub fn certify_one(&self, public: &str, make: &TpmMake, vm: VmId, name: &Name) -> Result<EkCertificate, EkError> {
        let key = EkKey::read(public)?;
        let der = pem::parse(self.certificate()).map_err(|error| EkError::Key(error.to_string()))?;
        let (_, own) = X509Certificate::from_der(der.contents()).map_err(|error| EkError::Key(error.to_string()))?;
        let mut params = profile(&key, make, vm, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        // As it would be of the key alone, two of one key would have the same.
        params.serial_number = Some(SerialNumber::from_slice(Uuid::new_v4().as_bytes()));
        params.not_before = own.validity().not_before.to_datetime();
        params.not_after = own.validity().not_after.to_datetime();
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        Ok(EkCertificate(STANDARD.encode(certificate.der())))
    }
}

/// Makes sure that a vTPM says of itself what one says: a program's model, and numbers where numbers belong.
fn check_make(TpmMake { manufacturer, model, version, .. }: &TpmMake) -> Result<(), EkError> {
    let is_id = |text: &str| {
        let digits = text.strip_prefix("id:").unwrap_or_default();
        digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    if model == MODEL && is_id(manufacturer) && is_id(version) {
        return Ok(());
    }
    Err(EkError::Make)
}

/// What its certificate says of a key.
fn profile(key: &EkKey, make: &TpmMake, vm: VmId, name: &Name) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name.as_str());
    params.distinguished_name.push(DnType::from_oid(SERIAL_NUMBER), vm.to_string());
    params.key_usages = vec![key.usage];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_CERTIFICATE.to_vec())];
    params.custom_extensions = vec![
        CustomExtension::from_oid_content(SUBJECT_ALT_NAME, alternative_name(make)),
        CustomExtension::from_oid_content(SUBJECT_DIRECTORY_ATTRIBUTES, specification(make)),
    ];
    params
}

/// GeneralNames with one directoryName. Section 3.2.9.
fn alternative_name(make: &TpmMake) -> Vec<u8> {
    let attributes = [(TPM_MANUFACTURER, &make.manufacturer), (TPM_MODEL, &make.model), (TPM_VERSION, &make.version)];
    yasna::construct_der(|names| {
        names.write_sequence(|names| {
            names.next().write_tagged(Tag::context(4), |name| {
                name.write_sequence(|name| {
                    for (oid, value) in attributes {
                        name.next().write_set(|set| {
                            set.next().write_sequence(|attribute| {
                                attribute.next().write_oid(&ObjectIdentifier::from_slice(oid));
                                attribute.next().write_utf8_string(value);
                            });
                        });
                    }
                });
            });
        });
    })
}

/// SubjectDirectoryAttributes with tPMSpecification. Section 3.2.10.
fn specification(make: &TpmMake) -> Vec<u8> {
    yasna::construct_der(|attributes| {
        attributes.write_sequence(|attributes| {
            attributes.next().write_sequence(|attribute| {
                attribute.next().write_oid(&ObjectIdentifier::from_slice(TPM_SPECIFICATION));
                attribute.next().write_set(|values| {
                    values.next().write_sequence(|specification| {
                        specification.next().write_utf8_string("2.0");
                        specification.next().write_u32(0);
                        specification.next().write_u32(make.revision);
                    });
                });
            });
        });
    })
}

/// A request for a certificate of an endorsement key, for another CA: PKCS#10 in PEM, without a signature.
///
/// An endorsement key decrypts only what the TPM itself was sent; it signs nothing, a request neither. So this one says
/// that it is not signed, by id-alg-noSignature with the digest of what it says, as RFC 5272, appendix C.1, has it for keys
/// that can't. That the key is in that vTPM its CA takes from the controller, or has the TPM prove (TPM2_MakeCredential).
///
/// # Errors
/// [`EkError`] where the key is none.
pub fn request_pem(public: &str, make: &TpmMake, vm: VmId, name: &Name) -> Result<String, EkError> {
    let key = EkKey::read(public)?;
    let unsigned = profile(&key, make, vm, name).serialize_request(&key)?;
    // The first part of the request is what would be signed.
    let content = yasna::parse_der(unsigned.der(), |reader| {
        reader.read_sequence(|parts| {
            let content = parts.next().read_der()?;
            parts.next().read_der()?;
            parts.next().read_bitvec_bytes()?;
            Ok(content)
        })
    });
    let content = content.map_err(|error| EkError::Key(error.to_string()))?;
    let value = yasna::construct_der(|writer| writer.write_bytes(digest(&SHA256, &content).as_ref()));
    let request = yasna::construct_der(|request| {
        request.write_sequence(|request| {
            request.next().write_der(&content);
            request.next().write_sequence(|algorithm| {
                algorithm.next().write_oid(&ObjectIdentifier::from_slice(NO_SIGNATURE));
                algorithm.next().write_null();
            });
            request.next().write_bitvec_bytes(&value, value.len() * 8);
        });
    });
    Ok(to_pem("CERTIFICATE REQUEST", request))
}

/// Makes sure that a certificate is of an endorsement key, whoever issued it.
///
/// # Errors
/// [`EkError`] where it is not.
pub fn check_ek_certificate(public: &str, certificate: &EkCertificate) -> Result<(), EkError> {
    let unreadable = |_| EkError::File("it is no base64 text");
    let public = STANDARD.decode(public).map_err(unreadable)?;
    let der = STANDARD.decode(&certificate.0).map_err(unreadable)?;
    if der.len() > MAX_CERTIFICATE {
        return Err(EkError::File("it is longer than 8 KiB, which is as much as a vTPM takes"));
    }
    let key = Public::from_tpm2b(&public).map_err(|error| EkError::Key(error.to_string()))?;
    attest::ek::describe_certificate(&der, &key).map(drop).map_err(EkError::Certificate)
}

/// A certificate as PEM.
///
/// # Errors
/// [`EkError`] where it is no base64 text.
pub fn certificate_pem(certificate: &EkCertificate) -> Result<String, EkError> {
    let der = STANDARD.decode(&certificate.0).map_err(|error| EkError::Key(error.to_string()))?;
    Ok(to_pem("CERTIFICATE", der))
}

/// The one certificate that a file has, as PEM or DER.
///
/// # Errors
/// [`EkError`] where it has none, or several.
pub fn certificate_from_file(content: &[u8]) -> Result<EkCertificate, EkError> {
    let der = match pem::parse_many(content) {
        Ok(found) if !found.is_empty() => match found.as_slice() {
            [one] if one.tag() == "CERTIFICATE" => one.contents().to_vec(),
            _ => return Err(EkError::File("it has more, or other, than one certificate")),
        },
        _ => content.to_vec(),
    };
    match X509Certificate::from_der(&der) {
        Ok(([], _)) => Ok(EkCertificate(STANDARD.encode(der))),
        _ => Err(EkError::File("it has no certificate, neither as PEM nor as DER")),
    }
}

fn to_pem(tag: &str, der: Vec<u8>) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

/// An endorsement key as certificates have it.
struct EkKey {
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
    usage: KeyUsagePurpose,
}

impl EkKey {
    fn read(public: &str) -> Result<Self, EkError> {
        let bytes = STANDARD.decode(public).map_err(|error| EkError::Key(error.to_string()))?;
        let public = Public::from_tpm2b(&bytes).map_err(|error| EkError::Key(error.to_string()))?;
        attest::ek::check_ek(&public).map_err(|error| EkError::Key(error.to_string()))?;
        match &public.key {
            KeyParameters::Rsa(key) => {
                let public = yasna::construct_der(|writer| {
                    writer.write_sequence(|numbers| {
                        numbers.next().write_bigint_bytes(&key.modulus, true);
                        numbers.next().write_bigint_bytes(&key.exponent_bytes(), true);
                    });
                });
                // The name of the key's algorithm in certificates is that of all RSA.
                Ok(Self { algorithm: &PKCS_RSA_SHA256, public, usage: KeyUsagePurpose::KeyEncipherment })
            }
            KeyParameters::Ecc(key) if key.curve == EccCurve::NIST_P256 => Ok(Self {
                algorithm: &PKCS_ECDSA_P256_SHA256,
                public: key.uncompressed_point(),
                usage: KeyUsagePurpose::KeyAgreement,
            }),
            KeyParameters::Ecc(key) => Err(EkError::Key(format!("it is on {}, not on P-256", key.curve))),
        }
    }
}

impl PublicKeyData for EkKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// For the form of a request only: whoever makes one takes the empty signature off again.
impl SigningKey for EkKey {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_no_vtpm_says_of_itself_is_not_certified() {
        let good = TpmMake {
            manufacturer: "id:49424D00".into(),
            model: "swtpm".into(),
            version: "id:20191023".into(),
            revision: 164,
        };
        check_make(&good).unwrap();
        for make in [
            TpmMake { model: "SLB9670".into(), ..good.clone() },
            TpmMake { manufacturer: "IBM".into(), ..good.clone() },
            TpmMake { manufacturer: "id:49424D0".into(), ..good.clone() },
            TpmMake { version: "id:20191023 and more".into(), ..good.clone() },
            TpmMake { version: "id:2019102G".into(), ..good.clone() },
        ] {
            assert!(matches!(check_make(&make), Err(EkError::Make)), "{make:?}");
        }
    }
}
