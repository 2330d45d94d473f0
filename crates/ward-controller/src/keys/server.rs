//! A provider's key servers, as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kmip::client::{ClientConfig, Replicas, ServerStatus, ServerTrust};
use ward_secret::Zeroizing;
use ward_types::{Code, Problem, ProviderKind, ProviderName, ServerAddress};

use crate::controller::Controller;
use crate::root;
use crate::store::provider::{self, Access, ProviderRow, SealedIdentity, ServerRow};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A provider's key servers, as one: they are asked in turn until one answers.
pub(crate) type KeyServers = Arc<Replicas>;

/// The servers of each provider, with their connections and how they did so far.
#[derive(Default)]
pub(crate) struct Pool(Mutex<HashMap<ProviderName, (Access, KeyServers)>>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProviderName, (Access, KeyServers)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers as they were used before, unless something about them has changed.
    fn get(&self, row: &ProviderRow) -> Option<KeyServers> {
        let pool = self.lock();
        pool.get(&row.name).filter(|(access, _)| *access == row.access).map(|(_, servers)| Arc::clone(servers))
    }

    /// How the servers of a provider did so far, as far as they were asked.
    pub(crate) fn status(&self, row: &ProviderRow) -> Vec<ServerStatus> {
        self.get(row).map_or_else(Vec::new, |servers| servers.status())
    }

    /// Forgets a provider that is gone, and its private key with it.
    pub(crate) fn forget(&self, name: &ProviderName) {
        self.lock().remove(name);
    }
}

/// For what a provider's private key is sealed.
pub(crate) fn seal_purpose(name: &ProviderName) -> String {
    format!("provider-key/{name}")
}

/// Who we are to a provider's servers, opened.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// Opens what is kept.
    ///
    /// # Errors
    /// If it was sealed under another root key.
    pub(crate) fn open(
        controller: &Controller,
        what: &str,
        name: &ProviderName,
        SealedIdentity { certificate, sealed_key }: &SealedIdentity,
    ) -> Result<Self, Problem> {
        let key = root::open(&controller.seal, &seal_purpose(name), sealed_key).map_err(|error| {
            Problem::new(
                Code::KeyServerTrust,
                what,
                format!("the private key of key provider `{name}` can't be unsealed: {error}"),
                format!("give it a new one: `ward provider trust {name} --csr`"),
            )
        })?;
        Ok(Self { certificate: certificate.clone(), key })
    }
}

impl Access {
    /// By what a server is known, if by anything yet.
    pub(crate) fn trust_in(&self, server: &ServerRow) -> Option<ServerTrust> {
        let ca = || self.ca.as_ref().map(|ca| ServerTrust::Authorities(ca.clone().into_bytes()));
        server.pinned.map(ServerTrust::Pinned).or_else(ca)
    }

    /// How to reach a server that is known by that.
    ///
    /// # Errors
    /// Says which part of it can't be used.
    pub(crate) fn config(
        &self,
        what: &str,
        server: &ServerAddress,
        trust: &ServerTrust,
        identity: &Identity,
    ) -> Result<ClientConfig, Problem> {
        let certificate = identity.certificate.as_bytes();
        let config = ClientConfig::with_trust(server.host(), server.port(), trust, certificate, &identity.key);
        let config = config.map_err(|error| {
            let remedy =
                "give PEM files: the key server's CA, the client's certificate, and the private key that belongs to it";
            Problem::new(Code::RequestInvalid, what, error.to_string(), remedy)
        })?;
        let connect = CONNECT_TIMEOUT.min(self.timeout);
        Ok(config.with_connect_timeout(connect).with_request_timeout(self.timeout))
    }
}

/// The servers of the provider of that name.
pub(crate) async fn connect(controller: &Controller, what: &str, name: &ProviderName) -> Result<KeyServers, Problem> {
    let row = provider::get(&mut *controller.store.read().await?, name).await?;
    let row = row.ok_or_else(|| {
        Problem::new(
            Code::ProviderNone,
            what,
            format!("there is no key provider `{name}`"),
            format!("add it again under the name `{name}`, with a server that has its keys"),
        )
    })?;
    client_of(controller, what, &row)
}

/// The servers of a provider. Those that nobody has accepted yet are left out.
pub(crate) fn client_of(controller: &Controller, what: &str, row: &ProviderRow) -> Result<KeyServers, Problem> {
    if let Some(servers) = controller.key_servers.get(row) {
        return Ok(servers);
    }
    let (name, access) = (&row.name, &row.access);
    if row.kind != ProviderKind::Standard {
        let why = format!("key provider `{name}` is a {} one, without key servers", row.kind);
        return Err(Problem::new(Code::RequestInvalid, what, why, "name a standard one"));
    }
    let untrusted = |why: String, remedy: String| Problem::new(Code::KeyServerTrust, what, why, remedy);
    if access.servers.is_empty() {
        let why = format!("key provider `{name}` has no key server");
        let remedy = format!("add one with `ward provider server add {name} HOST:PORT`");
        return Err(Problem::new(Code::KeyServerUnreachable, what, why, remedy));
    }
    let known: Vec<_> =
        access.servers.iter().filter_map(|server| Some((&server.address, access.trust_in(server)?))).collect();
    if known.is_empty() {
        let why = format!("the certificate of no server of key provider `{name}` was accepted yet");
        let remedy =
            format!("`ward provider trust {name}` shows them, for you to accept; or give their CA with `--ca`");
        return Err(untrusted(why, remedy));
    }
    let identity = access.identity.as_ref().ok_or_else(|| {
        let why = format!("the controller has no certificate to show to the servers of key provider `{name}`");
        let remedy = format!(
            "`ward provider trust {name} --csr` makes a request for one; `--self-signed` and `--cert FILE --key FILE` \
             are the other ways"
        );
        untrusted(why, remedy)
    })?;
    let identity = Identity::open(controller, what, name, identity)?;
    let config = |(server, trust): &(&ServerAddress, ServerTrust)| access.config(what, server, trust, &identity);
    let configs = known.iter().map(config).collect::<Result<Vec<_>, _>>()?;
    let replicas = Replicas::new(configs).ok_or_else(|| Problem::internal(what, "there are no servers after all"))?;
    let servers = Arc::new(replicas.with_timeout(access.timeout));
    controller.key_servers.lock().insert(name.clone(), (access.clone(), Arc::clone(&servers)));
    Ok(servers)
}
