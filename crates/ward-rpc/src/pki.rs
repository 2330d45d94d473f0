//! The controller's own CA: who is who inside Ward.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;
use ward_secret::Zeroizing;
use ward_types::HostId;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// Making or parsing a certificate, request or key.
    #[error("cannot make or read a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// PEM that is none.
    #[error("not a PEM file of a certificate or private key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// What rustls does not accept.
    #[error("unusable for TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The part that a certificate's owner plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A controller.
    Controller(Uuid),
    /// A host's agent.
    Host(HostId),
}

impl Role {
    /// The DNS name in the certificate, under which clients check it. It need not resolve.
    #[must_use]
    pub fn server_name(self) -> String {
        match self {
            Self::Controller(id) => format!("{id}.controller.ward.internal"),
            Self::Host(id) => format!("{id}.host.ward.internal"),
        }
    }

    fn uri(self) -> String {
        match self {
            Self::Controller(id) => format!("ward:controller:{id}"),
            Self::Host(id) => format!("ward:host:{id}"),
        }
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(uri: &str) -> Result<Self, ()> {
        if let Some(id) = uri.strip_prefix("ward:controller:") {
            Uuid::parse_str(id).map(Self::Controller).map_err(|_| ())
        } else if let Some(id) = uri.strip_prefix("ward:host:") {
            id.parse().map(Self::Host).map_err(|_| ())
        } else {
            Err(())
        }
    }
}

/// Who is at the other end of a connection. Made by the TLS layer only, from a certificate that it has verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(Option<Role>);

impl Peer {
    /// The peer whose verified certificate this is; none or one without a role means nobody.
    pub(crate) fn from_certificate(certificate: Option<&CertificateDer<'_>>) -> Self {
        Self(certificate.and_then(role_of))
    }

    /// The controller, if that is who it is.
    #[must_use]
    pub const fn controller(self) -> Option<Uuid> {
        match self.0 {
            Some(Role::Controller(id)) => Some(id),
            _ => None,
        }
    }

    /// The host, if it is one.
    #[must_use]
    pub const fn host(self) -> Option<HostId> {
        match self.0 {
            Some(Role::Host(id)) => Some(id),
            _ => None,
        }
    }
}

fn role_of(certificate: &CertificateDer<'_>) -> Option<Role> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.parse().ok(),
        _ => None,
    })
}

/// A certificate with its private key.
pub struct Credentials {
    certificate: String,
    key: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Credentials from their PEM texts.
    #[must_use]
    pub const fn new(certificate: String, key: Zeroizing<String>) -> Self {
        Self { certificate, key }
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key, PEM (PKCS#8). To be written to a file of mode 0600 or sealed.
    #[must_use]
    pub fn expose_key(&self) -> &str {
        &self.key
    }

    pub(crate) fn der(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }
}

/// A key pair that waits for its certificate.
pub struct Request {
    key: KeyPair,
}

impl Request {
    /// A new key pair, ECDSA P-256.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn new() -> Result<Self, PkiError> {
        Ok(Self { key: KeyPair::generate()? })
    }

    /// The certificate signing request, PEM.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn csr(&self) -> Result<String, PkiError> {
        Ok(CertificateParams::default().serialize_request(&self.key)?.pem()?)
    }

    /// The credentials, with the certificate that was issued.
    #[must_use]
    pub fn complete(self, certificate: String) -> Credentials {
        Credentials::new(certificate, Zeroizing::new(self.key.serialize_pem()))
    }
}

/// A CA: its certificate and its key.
pub struct Ca {
    credentials: Credentials,
}

impl Ca {
    /// A new one, whose certificate signs itself.
    pub(crate) fn generate(name: &str, key: &KeyPair, mut params: CertificateParams) -> Result<Self, PkiError> {
        params.distinguished_name = common_name(&format!("{name} {}", Uuid::new_v4()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key)?.pem();
        Ok(Self { credentials: Credentials::new(certificate, Zeroizing::new(key.serialize_pem())) })
    }

    /// One that was kept.
    #[must_use]
    pub const fn load(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// Its certificate and key.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        self.credentials.certificate()
    }

    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = KeyPair::from_pem(self.credentials.expose_key())?;
        Ok(Issuer::from_ca_cert_pem(self.certificate(), key)?)
    }
}

/// The controller's CA.
pub struct Authority(Ca);

impl From<Ca> for Authority {
    fn from(ca: Ca) -> Self {
        Self(ca)
    }
}

impl Deref for Authority {
    type Target = Ca;

    fn deref(&self) -> &Ca {
        &self.0
    }
}

impl Authority {
    /// A new CA, ECDSA P-256.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn generate() -> Result<Self, PkiError> {
        Ca::generate("Ward CA", &KeyPair::generate()?, CertificateParams::default()).map(Self)
    }

    /// Signs a request for `role`. Of the request only the public key is used.
    ///
    /// # Errors
    /// [`PkiError`] where the request is none or its signature is wrong.
    pub fn sign(&self, csr: &str, role: Role) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        request.params = leaf(role, &[])?;
        Ok(request.signed_by(&self.issuer()?)?.pem())
    }

    /// Issues credentials for `role`, good for the given host names and addresses too.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue(&self, role: Role, names: &[String]) -> Result<Credentials, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = leaf(role, names)?.signed_by(&key, &self.issuer()?)?.pem();
        Ok(Credentials::new(certificate, Zeroizing::new(key.serialize_pem())))
    }
}

fn leaf(role: Role, names: &[String]) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&role.server_name());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![
        SanType::DnsName(Ia5String::try_from(role.server_name())?),
        SanType::URI(Ia5String::try_from(role.uri())?),
    ];
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
        });
    }
    Ok(params)
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}
