//! Who a client is to its servers: a certificate and its private key, made here or brought along.
//!
//! A private key is made once and given out to nobody but its keeper. A new identity is a new value: nothing replaces the
//! one in use before somebody has tried the new one and puts it in its place.

use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::trust::certificates;
use crate::certificate::{CertificateInfo, for_people};

/// What a certificate is made out to: the fields that key servers ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name: to many key servers the client's name.
    pub common_name: String,
    /// Organization.
    pub organization: Option<String>,
    /// Part of the organization.
    pub organizational_unit: Option<String>,
    /// Town.
    pub locality: Option<String>,
    /// State or province.
    pub state: Option<String>,
    /// Country, in two letters.
    pub country: Option<String>,
}

impl Subject {
    /// Nothing but a common name.
    #[must_use]
    pub fn named(common_name: &str) -> Self {
        Self { common_name: common_name.to_owned(), ..Self::default() }
    }

    fn to_params(&self) -> CertificateParams {
        let mut name = DistinguishedName::new();
        let fields = [
            (DnType::CountryName, self.country.as_ref()),
            (DnType::StateOrProvinceName, self.state.as_ref()),
            (DnType::LocalityName, self.locality.as_ref()),
            (DnType::OrganizationName, self.organization.as_ref()),
            (DnType::OrganizationalUnitName, self.organizational_unit.as_ref()),
            (DnType::CommonName, Some(&self.common_name)),
        ];
        for (kind, value) in fields {
            if let Some(value) = value {
                name.push(kind, value.as_str());
            }
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    }
}

/// Why an identity can't be made or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The certificate can't be read.
    #[error("the client certificate cannot be used: {0}")]
    Certificate(String),
    /// The certificate is for another key: of an earlier request, or somebody else's.
    #[error("the certificate is not for this private key: it was issued for another (perhaps an earlier) request")]
    ForAnotherKey,
    /// The private key can't be read.
    #[error("the private key cannot be used: {0}")]
    Key(&'static str),
    /// It could not be made.
    #[error("no identity could be made: {0}")]
    Making(String),
    /// The certificate isn't valid by its dates.
    #[error(
        "the client certificate is valid from {} to {}, so not now",
        for_people(*not_before),
        for_people(*not_after)
    )]
    NotCurrent {
        /// Seconds since 1970.
        not_before: i64,
        /// Seconds since 1970.
        not_after: i64,
    },
    /// The certificate isn't meant for clients.
    #[error("the client certificate is not meant for clients: extended key usage has {} and lacks clientAuth", has.join(", "))]
    Purpose {
        /// What it is meant for.
        has: Vec<String>,
    },
}

/// A certificate (chain) and the private key that belongs to it: checked to fit each other, to be valid now and to be
/// meant for clients.
pub struct ClientIdentity {
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    info: CertificateInfo,
}

impl ClientIdentity {
    /// A certificate (chain) and a private key that were brought along (PEM).
    ///
    /// # Errors
    /// Says which part can't be used, and why.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::Key("there is no PEM private key in it"))?;
        // What reads the key here is what will use it in TLS.
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der)
            .map_err(|_| IdentityError::Key("it is of no kind that TLS can use here"))?;
        let public = key.public_key().ok_or(IdentityError::Key("its public half cannot be told"))?;
        Self::checked(certificate_pem, Zeroizing::new(key_pem.to_owned()), &public)
    }

    fn checked(certificate_pem: &str, key_pem: Zeroizing<String>, public_key: &[u8]) -> Result<Self, IdentityError> {
        let chain = certificates(certificate_pem.as_bytes()).map_err(IdentityError::Certificate)?;
        let leaf: &CertificateDer<'_> =
            chain.first().ok_or_else(|| IdentityError::Certificate("there is none in it".into()))?;
        let info = CertificateInfo::from_der(leaf).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        if parsed.public_key().raw != public_key {
            return Err(IdentityError::ForAnotherKey);
        }
        if !info.is_current(SystemTime::now()) {
            return Err(IdentityError::NotCurrent { not_before: info.not_before, not_after: info.not_after });
        }
        if !info.is_for("clientAuth") {
            return Err(IdentityError::Purpose { has: info.purposes });
        }
        Ok(Self { certificate_pem: certificate_pem.to_owned(), key_pem, info })
    }

    /// The certificate (chain), for servers to trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What the certificate says.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The private key. The caller answers for every copy.
    #[must_use]
    pub fn expose_key_pem(&self) -> &str {
        &self.key_pem
    }
}

/// A private key that has no certificate yet.
pub struct PendingIdentity {
    key: KeyPair,
    subject: Subject,
}

impl PendingIdentity {
    /// A new key (ECDSA P-256, which every TLS 1.2 peer with a modern cipher suite takes) for this subject.
    ///
    /// # Errors
    /// If none can be made.
    pub fn generate(subject: Subject) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(making)?;
        Ok(Self { key, subject })
    }

    /// One that was kept: the key that [`PendingIdentity::expose_key_pem`] gave.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn from_key_pem(key_pem: &str, subject: Subject) -> Result<Self, IdentityError> {
        // The parser's error could quote what it read.
        let key = KeyPair::from_pem(key_pem).map_err(|_| IdentityError::Key("there is no PEM private key in it"))?;
        Ok(Self { key, subject })
    }

    /// The private key, to keep until the certificate comes. The caller answers for every copy.
    #[must_use]
    pub fn expose_key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// A request for a certificate (PKCS #10, PEM), for the key server's authority to sign.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn request_pem(&self) -> Result<String, IdentityError> {
        self.subject.to_params().serialize_request(&self.key).and_then(|request| request.pem()).map_err(making)
    }

    /// A certificate signed by the key itself, valid until the end of `last_year`, for the key server to trust as it is.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn self_signed(&self, last_year: i32) -> Result<ClientIdentity, IdentityError> {
        let mut params = self.subject.to_params();
        // The key server's clock may be behind ours.
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(last_year, 12, 31);
        let certificate = params.self_signed(&self.key).map_err(making)?;
        self.complete(&certificate.pem())
    }

    /// The identity, once the certificate (chain, PEM) has come: it must be for this very key.
    ///
    /// # Errors
    /// If it's for another key (of an earlier request), not valid now, or not meant for clients.
    pub fn complete(&self, certificate_pem: &str) -> Result<ClientIdentity, IdentityError> {
        ClientIdentity::checked(certificate_pem, self.expose_key_pem(), &self.key.subject_public_key_info())
    }
}

fn making(error: rcgen::Error) -> IdentityError {
    IdentityError::Making(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer};

    use super::*;

    /// What an authority does with a request.
    fn sign(request_pem: &str, adjust: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(ca, key);
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).unwrap();
        adjust(&mut request.params);
        request.signed_by(&issuer).unwrap().pem()
    }

    fn subject() -> Subject {
        Subject { organization: Some("Example".into()), country: Some("CH".into()), ..Subject::named("ward") }
    }

    #[test]
    fn by_request() {
        let pending = PendingIdentity::generate(subject()).unwrap();
        let request = pending.request_pem().unwrap();
        // Kept and taken up again, as between two calls of a user.
        let pending = PendingIdentity::from_key_pem(&pending.expose_key_pem(), subject()).unwrap();
        let identity = pending.complete(&sign(&request, |_| {})).unwrap();
        for field in ["CN=ward", "O=Example", "C=CH"] {
            assert!(identity.info().subject.contains(field), "{}", identity.info().subject);
        }
        assert_eq!(identity.info().purposes, ["clientAuth"]);
        // The pair as files, as who uploads one would have it.
        let again = ClientIdentity::from_pem(identity.certificate_pem(), identity.expose_key_pem()).unwrap();
        assert_eq!(again.info(), identity.info());
    }

    #[test]
    fn a_certificate_has_to_be_for_the_latest_request() {
        let first = PendingIdentity::generate(subject()).unwrap();
        let second = PendingIdentity::generate(subject()).unwrap();
        let certificate = sign(&first.request_pem().unwrap(), |_| {});
        assert!(first.complete(&certificate).is_ok());
        assert_eq!(second.complete(&certificate).err(), Some(IdentityError::ForAnotherKey));
        let uploaded = ClientIdentity::from_pem(&certificate, &second.expose_key_pem());
        assert_eq!(uploaded.err(), Some(IdentityError::ForAnotherKey));
    }

    #[test]
    fn what_a_certificate_must_say() {
        let pending = PendingIdentity::generate(subject()).unwrap();
        let request = pending.request_pem().unwrap();
        let expired = sign(&request, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        assert_eq!(
            pending.complete(&expired).err(),
            Some(IdentityError::NotCurrent { not_before: 1_577_836_800, not_after: 1_609_459_200 })
        );
        let for_servers =
            sign(&request, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert_eq!(
            pending.complete(&for_servers).err(),
            Some(IdentityError::Purpose { has: vec!["serverAuth".into()] })
        );
        assert!(matches!(pending.complete("none").err(), Some(IdentityError::Certificate(_))));
        assert!(matches!(ClientIdentity::from_pem(&expired, &expired).err(), Some(IdentityError::Key(_))));
    }

    #[test]
    fn signed_by_itself() {
        let pending = PendingIdentity::generate(subject()).unwrap();
        let identity = pending.self_signed(2049).unwrap();
        assert!(identity.info().is_self_issued);
        assert!(identity.info().is_for("clientAuth") && !identity.info().is_for("serverAuth"));
    }
}
