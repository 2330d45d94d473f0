//! Looking at a key server: whether it can be reached, whether each side trusts the other. Always over new connections,
//! since an old one may outlive the trust that it was made in.

use std::time::Instant;

use futures_util::future::join_all;
use jiff::Timestamp;
use kmip::certificate::CertificateInfo;
use kmip::client::{Client, ClientError, ServerTrust, check_server, show_server_certificates};
use ward_types::{Code, Problem, ProviderName, ServerAddress};

use super::KeyFault;
use super::server::Identity;
use crate::api::types::Check;
use crate::store::provider::{Access, ServerRow};

/// What a server was found to be.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) address: ServerAddress,
    pub(crate) at: Timestamp,
    pub(crate) connection: Check,
    pub(crate) server_trusted: Check,
    pub(crate) client_trusted: Check,
    /// The certificates that it shows, its own first.
    pub(crate) shown: Vec<CertificateInfo>,
    pub(crate) answer: Option<Answer>,
}

/// What a server says of itself, and how fast.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) vendor: Option<String>,
    pub(crate) latency_ms: u64,
}

impl Look {
    fn new(address: &ServerAddress) -> Self {
        Self {
            address: address.clone(),
            at: Timestamp::now(),
            connection: Check::Unknown,
            server_trusted: Check::Unknown,
            client_trusted: Check::Unknown,
            shown: Vec::new(),
            answer: None,
        }
    }

    /// What is wrong, if anything is.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        self.connection.problem().or(self.trust_problem())
    }

    /// What is wrong with the trust between both sides, if anything is.
    pub(crate) fn trust_problem(&self) -> Option<&Problem> {
        self.server_trusted.problem().or(self.client_trusted.problem())
    }

    /// Whether it answers, over a connection that both sides trust.
    pub(crate) const fn is_usable(&self) -> bool {
        self.answer.is_some()
    }
}

/// Looks at all servers of a provider, at once, as who has that identity, if any.
pub(crate) async fn look(name: &ProviderName, access: &Access, identity: Option<&Identity>) -> Vec<Look> {
    join_all(access.servers.iter().map(|server| look_at(name, access, identity, server))).await
}

/// Looks at one.
pub(crate) async fn look_at(
    name: &ProviderName,
    access: &Access,
    identity: Option<&Identity>,
    server: &ServerRow,
) -> Look {
    let address = &server.address;
    let what = format!("cannot use key server {address}");
    let mut look = Look::new(address);
    let bad = |error: &ClientError| Check::Bad { problem: *KeyFault::of_one(&what, name, None, error).problem };
    let trust = access.trust_in(server);
    let (shown, trusted) = match show(access, address, trust.as_ref()).await {
        Ok(shown) => shown,
        Err(error) => {
            look.connection = bad(&error);
            return look;
        }
    };
    look.connection = Check::Good;
    look.shown = shown;
    let trust = match (trust, trusted) {
        (Some(trust), Ok(())) => trust,
        (_, Err(fault)) => {
            look.server_trusted = bad(&ClientError::Tls { address: address.to_string(), fault });
            return look;
        }
        (None, Ok(())) => {
            look.server_trusted = Check::Bad { problem: nobody_accepted(&what, name, address) };
            return look;
        }
    };
    look.server_trusted = Check::Good;
    let Some(identity) = identity else {
        look.client_trusted = Check::Bad { problem: no_identity(&what, name) };
        return look;
    };
    let client = match access.config(&what, address, &trust, identity) {
        Ok(config) => Client::new(config).until(Instant::now() + access.timeout),
        Err(problem) => {
            look.client_trusted = Check::Bad { problem };
            return look;
        }
    };
    match ask(&client).await {
        Ok(answer) => {
            look.client_trusted = Check::Good;
            look.answer = Some(answer);
        }
        Err(error @ (ClientError::Unreachable { .. } | ClientError::Timeout { .. })) => look.connection = bad(&error),
        Err(error) => look.client_trusted = bad(&error),
    }
    look
}

type Shown = (Vec<CertificateInfo>, Result<(), kmip::client::TlsFault>);

async fn show(access: &Access, address: &ServerAddress, trust: Option<&ServerTrust>) -> Result<Shown, ClientError> {
    let (host, port, limit) = (address.host(), address.port(), access.timeout);
    let (shown, trusted) = match trust {
        Some(trust) => {
            let checked = check_server(host, port, trust, limit).await?;
            (checked.shown, checked.trusted)
        }
        None => (show_server_certificates(host, port, limit).await?, Ok(())),
    };
    Ok((shown.into_iter().map(|shown| shown.info).collect(), trusted))
}

async fn ask(client: &Client) -> Result<Answer, ClientError> {
    let start = Instant::now();
    let version = client.version().await?.to_string();
    let vendor = client.query().await?.vendor;
    Ok(Answer { version, vendor, latency_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX) })
}

fn nobody_accepted(what: &str, name: &ProviderName, address: &ServerAddress) -> Problem {
    let why = format!("key provider `{name}`: nobody has accepted the certificate of {address} yet");
    let remedy = format!(
        "`ward provider trust {name}` shows it, for you to accept it by its fingerprint; `--ca FILE` gives the CA that \
         issued it"
    );
    Problem::new(Code::KeyServerTrust, what, why, remedy)
}

fn no_identity(what: &str, name: &ProviderName) -> Problem {
    let why = format!("key provider `{name}`: the controller has no certificate to show to its servers");
    let remedy = format!(
        "`ward provider trust {name} --csr` makes a request for one; `--self-signed` and `--cert FILE --key FILE` are the \
         other ways"
    );
    Problem::new(Code::KeyServerTrust, what, why, remedy)
}
