//! A provider's key server.

use std::time::Duration;

use kmip::client::{Client, ClientConfig};
use ward_types::{Code, Problem, ProviderName};

use super::KeyFault;
use crate::api::types::Live;
use crate::controller::Controller;
use crate::root;
use crate::store::provider::{self, ProviderRow};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// For what a provider's private key is sealed.
pub(crate) fn seal_purpose(name: &ProviderName) -> String {
    format!("provider-key/{name}")
}

/// A client from a provider's parts.
pub(crate) fn client(
    what: &str,
    (host, port): (&str, u16),
    ca: &str,
    certificate: &str,
    key: &[u8],
) -> Result<Client, Problem> {
    let config = ClientConfig::new(host, port, ca.as_bytes(), certificate.as_bytes(), key).map_err(|error| {
        Problem::new(
            Code::RequestInvalid,
            what,
            error.to_string(),
            "give PEM files: the key server's CA, the client's certificate, and the private key that belongs to it",
        )
    })?;
    Ok(Client::new(config.with_connect_timeout(CONNECT_TIMEOUT).with_request_timeout(REQUEST_TIMEOUT)))
}

/// A client of a provider that is known.
pub(crate) async fn connect(controller: &Controller, what: &str, name: &ProviderName) -> Result<Client, Problem> {
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

pub(crate) fn client_of(controller: &Controller, what: &str, row: &ProviderRow) -> Result<Client, Problem> {
    let key = root::open(&controller.seal, &seal_purpose(&row.name), &row.sealed_key).map_err(|error| {
        Problem::new(
            Code::KeyServerTrust,
            what,
            format!("the private key of key provider `{}` can't be unsealed: {error}", row.name),
            format!("remove key provider `{}` and add it again", row.name),
        )
    })?;
    client(what, (&row.server_host, row.server_port), &row.ca, &row.certificate, &key)
}

/// Asks a server who it is. Answered only over a connection that both sides trust.
pub(crate) async fn probe(what: &str, name: &ProviderName, client: &Client) -> Result<Live, KeyFault> {
    let fault = |error| KeyFault::of(what, name, None, &error);
    let version = client.version().await.map_err(fault)?;
    let information = client.query().await.map_err(fault)?;
    Ok(Live::Up { version: version.to_string(), vendor: information.vendor })
}
