//! A host's side of the line to either service.

use std::net::SocketAddr;
use std::sync::Arc;

use attest::binding::CertThumbprint;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use tokio::net::lookup_host;
use ward_rpc::{Call, CallError};
use ward_secret::{KEK_LEN, Kek};
use ward_types::{Code, Problem, ProviderName};
use zeroize::Zeroizing;

use crate::Error;
use crate::api::{MakeKek, ShowToken, UnwrapKek};
use crate::key_provider::WrappedKek;
use crate::services::ServiceAddress;

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
pub struct Client(ward_rpc::Client);

impl Client {
    /// A client of the service at `address`, which shows the very certificate `server` (PEM), made out to
    /// `server_name`.
    ///
    /// # Errors
    /// If a certificate can't be used.
    pub fn new(identity: &Identity, server: &str, server_name: &str, address: SocketAddr) -> Result<Self, Error> {
        Self::at_one_of(identity, server, server_name, address.port(), &[address])
    }

    /// A client of an instance, at whichever of its addresses it answers.
    ///
    /// # Errors
    /// [`Code::TrustUnreachable`] where its name has no address; an internal one if a certificate can't be used.
    pub async fn of(identity: &Identity, service: &ServiceAddress) -> Result<Self, Problem> {
        let what = format!("the trust authority's service at {} can't be asked", service.address);
        let unreachable = |why: String| {
            let remedy = "check that the service runs, and this machine's name service";
            Problem::new(Code::TrustUnreachable, &what, why, remedy)
        };
        let addresses: Vec<_> =
            lookup_host(&service.address).await.map_err(|error| unreachable(error.to_string()))?.collect();
        let port = addresses.first().ok_or_else(|| unreachable("its name has no address".to_owned()))?.port();
        let name = service.address.rsplit_once(':').map_or(service.address.as_str(), |(host, _)| host);
        Self::at_one_of(identity, &service.certificate, name, port, &addresses)
            .map_err(|error| Problem::internal(&what, error))
    }

    fn at_one_of(
        identity: &Identity,
        server: &str,
        server_name: &str,
        port: u16,
        addresses: &[SocketAddr],
    ) -> Result<Self, Error> {
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
        let client = ward_rpc::Client::at_one_of(Arc::new(tls), server_name, port, addresses);
        Ok(Self(client.map_err(|error| unusable(&error))?))
    }

    /// The connection itself, for what has no method here.
    #[must_use]
    pub fn line(&self) -> &ward_rpc::Client {
        &self.0
    }

    /// Makes a call.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn call<C: Call>(&self, call: C) -> Result<C::Reply, Problem> {
        self.0.call(call).await.map_err(problem)
    }

    /// A new KEK of a provider, in plain and wrapped.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn make_kek(&self, token: &str, provider: &ProviderName) -> Result<(Kek, WrappedKek), Problem> {
        let call = MakeKek { provider: provider.clone() };
        let body = self.fetch(MakeKek::PATH, token, &call).await?;
        let (mut key, wrapped) = split(body);
        let wrapped = std::str::from_utf8(&wrapped).ok().and_then(|text| text.parse().ok());
        match (Kek::take(&mut key), wrapped) {
            (Ok(kek), Some(wrapped)) => Ok((kek, wrapped)),
            _ => Err(Problem::internal(NO_KEY, "its answer can't be read")),
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
        let mut body = self.fetch(UnwrapKek::PATH, token, call).await?;
        Kek::take(&mut body).map_err(|error| Problem::internal(NO_KEY, error))
    }

    /// Shows a token, and asks for nothing: whether keys would be given for it.
    ///
    /// # Errors
    /// The service's refusal, or that it does not answer.
    pub async fn show_token(&self, token: &str) -> Result<(), Problem> {
        self.fetch(ShowToken::PATH, token, &ShowToken {}).await.map(drop)
    }

    async fn fetch(
        &self,
        path: &str,
        token: &str,
        call: &(impl Serialize + Sync),
    ) -> Result<Zeroizing<Vec<u8>>, Problem> {
        let body = self.0.ask_bytes(path, Some(token), call).await.map_err(problem)?;
        Ok(Zeroizing::new(body.into()))
    }
}

const NO_KEY: &str = "the key provider service gave no key";

fn problem(error: CallError) -> Problem {
    match error {
        CallError::Refused(problem) => *problem,
        CallError::Unreachable { peer, why } => Problem::new(
            Code::TrustUnreachable,
            format!("the trust authority's service {peer} does not answer"),
            why,
            "check that the service runs and that the network reaches it; other instances may answer",
        ),
    }
}

/// The key, and what comes behind it.
fn split(mut body: Zeroizing<Vec<u8>>) -> (Zeroizing<Vec<u8>>, Vec<u8>) {
    let at = KEK_LEN.min(body.len());
    let rest = body.split_off(at);
    (body, rest)
}
