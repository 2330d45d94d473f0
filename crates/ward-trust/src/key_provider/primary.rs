//! Primary keys: fetched from the key server, and held in locked memory for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmip::client::{Client, ClientConfig, ClientError};
use kmip::names::{ResultReason, State};
use tokio::sync::Mutex;
use ward_secret::WrappingKey;
use ward_types::{Code, Problem, ProviderName};
use zeroize::Zeroizing;

use super::{Credentials, Provider};
use crate::Error;

/// How long a primary key is held before the key server is asked again whether it may still be used.
const HOLD: Duration = Duration::from_secs(300);

/// The primary keys that are held.
#[derive(Default)]
pub(super) struct PrimaryKeys(Mutex<HashMap<ProviderName, Arc<Mutex<Option<Held>>>>>);

struct Held {
    /// What the provider was when the key was fetched: a changed one gets another.
    provider: Provider,
    key: Arc<WrappingKey>,
    since: Instant,
}

impl PrimaryKeys {
    /// The primary key of a provider. While it is fetched, others who need it wait for that.
    pub(super) async fn get<F>(
        &self,
        name: &ProviderName,
        provider: &Provider,
        credentials: F,
    ) -> Result<Arc<WrappingKey>, Problem>
    where
        F: AsyncFnOnce() -> Result<Credentials, Error>,
    {
        let place = Arc::clone(self.0.lock().await.entry(name.clone()).or_default());
        let mut held = place.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.provider == *provider && held.since.elapsed() < HOLD) {
            return Ok(Arc::clone(&held.key));
        }
        // What may no longer be used is not used because the key server can't be asked.
        *held = None;
        let what = format!("key provider `{name}` can't use its primary key");
        let credentials = credentials().await.map_err(|error| crate::serve::internal(&what, &error))?;
        let key = Arc::new(fetch(&what, provider, &credentials).await?);
        *held = Some(Held { provider: provider.clone(), key: Arc::clone(&key), since: Instant::now() });
        Ok(key)
    }
}

/// The configuration of a client of the provider's key server.
pub(super) fn client_config(provider: &Provider, credentials: &Credentials) -> Result<ClientConfig, Error> {
    let ca = provider.ca.as_bytes();
    ClientConfig::new(&provider.host, provider.port, ca, credentials.certificate.as_bytes(), credentials.key.as_bytes())
        .map_err(|error| Error::invalid("the key server's configuration", error))
}

/// Asks for a primary key, if it is in a state in which it may be used.
pub(super) async fn fetch(what: &str, provider: &Provider, credentials: &Credentials) -> Result<WrappingKey, Problem> {
    let id = &provider.primary_key;
    let config = client_config(provider, credentials).map_err(|error| crate::serve::internal(what, &error))?;
    let client = Client::new(config);
    let state = client.state(id.as_str()).await.map_err(|error| meaning(what, provider, &error))?;
    let unusable = |why: String| {
        let remedy = format!("see to key {id} at the key server: it must be AES-256, and active");
        Problem::new(Code::KeyNotUsable, what, why, remedy)
    };
    if state != State::ACTIVE {
        return Err(unusable(format!("primary key {id} is in state {state}")));
    }
    let bytes = client.get_key(id.as_str()).await.map_err(|error| meaning(what, provider, &error))?;
    let mut bytes = Zeroizing::new(bytes.expose().to_vec());
    WrappingKey::take(&mut bytes).map_err(|error| unusable(format!("primary key {id}: {error}")))
}

fn meaning(what: &str, provider: &Provider, error: &ClientError) -> Problem {
    let id = &provider.primary_key;
    let (code, remedy) = match error {
        ClientError::Unreachable { .. } | ClientError::Timeout { .. } | ClientError::Interrupted { .. } => {
            (Code::KeyServerUnreachable, "check that the key server runs and that the network reaches it".to_owned())
        }
        ClientError::Tls { .. } => (
            Code::KeyServerTrust,
            "compare the certificates of key server and key provider service; set the provider anew with good ones"
                .to_owned(),
        ),
        ClientError::Server {
            reason: ResultReason::ITEM_NOT_FOUND | ResultReason::OBJECT_NOT_FOUND | ResultReason::OBJECT_DESTROYED,
            ..
        } => (
            Code::KeyMissing,
            format!("restore key {id} at the key server: what was wrapped under it opens with no other"),
        ),
        _ => (Code::KeyServerRefused, "see the key server's log for the reason".to_owned()),
    };
    Problem::new(code, what, error.to_string(), remedy)
}
