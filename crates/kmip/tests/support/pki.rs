//! Certificates made for one test.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// A certificate and its key, PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// An authority.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params
}

impl Authority {
    pub fn new(common_name: &str) -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params(common_name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    pub fn server(&self) -> Identity {
        self.issue(params("server", &["localhost", "127.0.0.1"]), ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn server_named(&self, name: &str) -> Identity {
        self.issue(params("server", &[name]), ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn expired_server(&self) -> Identity {
        let mut params = params("server", &["localhost", "127.0.0.1"]);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.issue(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn future_server(&self) -> Identity {
        let mut params = params("server", &["localhost", "127.0.0.1"]);
        params.not_before = date_time_ymd(2048, 1, 1);
        self.issue(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A server's certificate that is only good for clients.
    pub fn server_for_clients(&self) -> Identity {
        self.issue(params("server", &["localhost", "127.0.0.1"]), ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub fn client(&self, common_name: &str) -> Identity {
        self.issue(params(common_name, &[]), ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub fn expired_client(&self, common_name: &str) -> Identity {
        let mut params = params(common_name, &[]);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}
