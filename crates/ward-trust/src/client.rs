//! A host's side of the line to either service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use attest::binding::CertThumbprint;
use http::header;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use ward_secret::{KEK_LEN, Kek};
use ward_types::{Code, Problem, ProviderName};
use zeroize::Zeroizing;

use crate::Error;
use crate::api::{Call, MakeKek, UnwrapKek};
use crate::key_provider::WrappedKek;

/// How long a service may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A TLS certificate that a host made for itself, and its key. To be made anew at each start: it need not be kept.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// A fresh one.
    ///
    /// # Errors
    /// If the library can't make one.
    pub fn generate() -> Result<Self, Error> {
        let failed = |error: rcgen::Error| Error::Certificate(error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Ward host");
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate: certificate.der().clone(), key: Zeroizing::new(key.serialize_der()) })
    }

    /// What quotes and tokens are bound to.
    #[must_use]
    pub fn thumbprint(&self) -> CertThumbprint {
        CertThumbprint::of(&self.certificate)
    }
}

/// A connection to one service; it reconnects by itself. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    service: String,
}

impl Client {
    /// A client of the service at `address`, which shows the very certificate `server` (PEM), made out to
    /// `server_name`.
    ///
    /// # Errors
    /// If a certificate can't be used.
    pub fn new(identity: &Identity, server: &str, server_name: &str, address: SocketAddr) -> Result<Self, Error> {
        let unusable = |error: &dyn ToString| Error::Certificate(error.to_string());
        let mut roots = RootCertStore::empty();
        let server = CertificateDer::from_pem_slice(server.as_bytes()).map_err(|error| unusable(&error))?;
        roots.add(server).map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.to_vec()));
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| unusable(&error))?
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![identity.certificate.clone()], key)
                .map_err(|error| unusable(&error))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve(server_name, address)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build()
            .map_err(|error| unusable(&error))?;
        let base = format!("https://{server_name}:{}", address.port());
        Ok(Self { http, base, service: format!("{server_name} at {address}") })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn call<C: Call>(&self, call: C) -> Result<C::Reply, Problem> {
        let response = self.post(C::PATH, None, &call).await?;
        response.json().await.map_err(|error| self.unreachable(&error))
    }

    /// A new KEK of a provider, in plain and wrapped.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn make_kek(&self, token: &str, provider: &ProviderName) -> Result<(Kek, WrappedKek), Problem> {
        let call = MakeKek { provider: provider.clone() };
        let body = self.key_bytes(MakeKek::PATH, token, &call).await?;
        let (mut key, wrapped) = split(body);
        let wrapped = std::str::from_utf8(&wrapped).ok().and_then(|text| text.parse().ok());
        match (Kek::take(&mut key), wrapped) {
            (Ok(kek), Some(wrapped)) => Ok((kek, wrapped)),
            _ => Err(Problem::internal(format!("{} gave no key", self.service), "its answer can't be read")),
        }
    }

    /// A wrapped KEK in plain.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn unwrap_kek(&self, token: &str, wrapped: &WrappedKek) -> Result<Kek, Problem> {
        let call = UnwrapKek { provider: wrapped.provider().clone(), wrapped: wrapped.clone() };
        self.unwrap_kek_of(token, &call).await
    }

    /// A wrapped KEK in plain, from the provider that the call names.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn unwrap_kek_of(&self, token: &str, call: &UnwrapKek) -> Result<Kek, Problem> {
        let mut body = self.key_bytes(UnwrapKek::PATH, token, call).await?;
        Kek::take(&mut body).map_err(|error| Problem::internal(format!("{} gave no key", self.service), error))
    }

    async fn key_bytes(&self, path: &str, token: &str, call: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let response = self.post(path, Some(token), call).await?;
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Ok(Zeroizing::new(body.into()))
    }

    /// Posts; gives the response if it is a good one.
    async fn post(&self, path: &str, token: Option<&str>, call: &impl Serialize) -> Result<reqwest::Response, Problem> {
        let mut request = self.http.post(format!("{}{path}", self.base)).json(call);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            Problem::internal(format!("{} refused a call", self.service), format!("HTTP status {status}"))
        }))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Problem {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        Problem::new(
            Code::TrustUnreachable,
            format!("the trust authority's service {} does not answer", self.service),
            why,
            "check that the service runs and that the network reaches it; other instances may answer",
        )
    }
}

/// The key, and what comes behind it.
fn split(mut body: Zeroizing<Vec<u8>>) -> (Zeroizing<Vec<u8>>, Vec<u8>) {
    let at = KEK_LEN.min(body.len());
    let rest = body.split_off(at);
    (body, rest)
}
