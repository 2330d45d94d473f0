//! Primary keys: used at the key server, or fetched from it and held in locked memory for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmip::SecretBytes;
use kmip::attribute::Attribute;
use kmip::client::{Client, ClientConfig, ClientError};
use kmip::names::{BlockCipherMode, CryptographicAlgorithm, ResultReason, State};
use kmip::operation::{CryptographicParameters, DecryptRequest, EncryptRequest};
use tokio::sync::Mutex;
use ward_secret::{Kek, WrappedKey, WrappingKey};
use ward_types::{Code, KeyId, Problem, ProviderName};
use zeroize::Zeroizing;

use super::rules::PrimaryUse;
use super::wrapped::{Method, WrappedKek};
use super::{Credentials, Provider};
use crate::Error;

/// How long a primary key is held before the key server is asked again whether it may still be used.
const HOLD: Duration = Duration::from_secs(300);

/// Lengths of IV and tag of AES-GCM, in bytes.
const IV_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// The primary keys that are held.
#[derive(Default)]
pub(super) struct PrimaryKeys(Mutex<HashMap<ProviderName, Arc<Mutex<Option<Held>>>>>);

struct Held {
    /// What the provider was when the key was taken into use: a changed one gets another.
    provider: Provider,
    key: Arc<PrimaryKey>,
    since: Instant,
}

impl PrimaryKeys {
    /// The primary key of a provider. While it is asked for, others who need it wait for that.
    pub(super) async fn get<F>(
        &self,
        name: &ProviderName,
        provider: &Provider,
        credentials: F,
    ) -> Result<Arc<PrimaryKey>, Problem>
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
        let key = Arc::new(PrimaryKey::open(&what, name, provider, &credentials).await?);
        *held = Some(Held { provider: provider.clone(), key: Arc::clone(&key), since: Instant::now() });
        Ok(key)
    }
}

/// A primary key that can be used.
pub(super) struct PrimaryKey {
    name: ProviderName,
    provider: Provider,
    place: Place,
}

/// Where it is.
enum Place {
    Here(WrappingKey),
    Server(Client),
}

impl PrimaryKey {
    /// Takes a primary key into use, if it is in a state in which it may be used.
    pub(super) async fn open(
        what: &str,
        name: &ProviderName,
        provider: &Provider,
        credentials: &Credentials,
    ) -> Result<Self, Problem> {
        let id = &provider.primary_key;
        let config = client_config(provider, credentials).map_err(|error| crate::serve::internal(what, &error))?;
        let client = Client::new(config);
        let state = client.state(id.as_str()).await.map_err(|error| meaning(what, provider, &error))?;
        if state != State::ACTIVE {
            return Err(unusable(what, provider, format!("primary key {id} is in state {state}")));
        }
        let place = match provider.primary_use {
            PrimaryUse::AtServer => Place::Server(client),
            PrimaryUse::Fetched => {
                let bytes = client.get_key(id.as_str()).await.map_err(|error| meaning(what, provider, &error))?;
                let mut bytes = Zeroizing::new(bytes.expose().to_vec());
                let key = WrappingKey::take(&mut bytes);
                Place::Here(key.map_err(|error| unusable(what, provider, format!("primary key {id}: {error}")))?)
            }
        };
        Ok(Self { name: name.clone(), provider: provider.clone(), place })
    }

    /// Tries whether a KEK goes in and comes out again.
    pub(super) async fn check(&self, what: &str) -> Result<(), Problem> {
        let kek = Kek::generate().map_err(|error| Problem::internal(what, error))?;
        let opened = self.unwrap(what, &self.wrap(what, &kek).await?).await?;
        if opened.same(&kek) {
            return Ok(());
        }
        let why = format!("primary key {} does not decrypt to what it encrypted", self.provider.primary_key);
        Err(unusable(what, &self.provider, why))
    }

    /// Wraps a KEK.
    pub(super) async fn wrap(&self, what: &str, kek: &Kek) -> Result<WrappedKek, Problem> {
        let (method, ciphertext) = match &self.place {
            Place::Here(key) => {
                let wrapped = key.wrap_kek(kek).map_err(|error| Problem::internal(what, error))?;
                (Method::KeyWrap, wrapped.as_bytes().to_vec())
            }
            Place::Server(client) => (Method::Gcm, self.encrypt(what, client, kek).await?),
        };
        Ok(WrappedKek::new(method, self.name.clone(), ciphertext))
    }

    /// Opens a KEK that was wrapped under this key.
    pub(super) async fn unwrap(&self, what: &str, wrapped: &WrappedKek) -> Result<Kek, Problem> {
        match (&self.place, wrapped.method()) {
            (Place::Here(key), Method::KeyWrap) => key
                .unwrap_kek(&WrappedKey::from_bytes(wrapped.ciphertext().to_vec()))
                .map_err(|_| self.does_not_open(what, "")),
            (Place::Server(client), Method::Gcm) => self.decrypt(what, client, wrapped.ciphertext()).await,
            (Place::Here(_), Method::Gcm) => Err(self.does_not_open(what, "by the key server, ")),
            (Place::Server(_), Method::KeyWrap) => Err(self.does_not_open(what, "outside of the key server, ")),
        }
    }

    async fn encrypt(&self, what: &str, client: &Client, kek: &Kek) -> Result<Vec<u8>, Problem> {
        let mut iv = [0; IV_LEN];
        aws_lc_rs::rand::fill(&mut iv).map_err(|_| Problem::internal(what, "the random number generator failed"))?;
        let request = EncryptRequest {
            unique_identifier: Some(self.provider.primary_key.to_string()),
            parameters: Some(gcm()),
            data: Some(SecretBytes::copy_of(kek.expose())),
            iv_counter_nonce: Some(iv.to_vec()),
            additional_data: Some(WrappedKek::additional_data(&self.name)),
            ..EncryptRequest::default()
        };
        let answer = client.encrypt(request).await.map_err(|error| meaning(what, &self.provider, &error))?;
        let tag = answer.authentication_tag.filter(|tag| tag.len() == TAG_LEN);
        match (tag, answer.data.filter(|data| data.len() == kek.expose().len())) {
            (Some(tag), Some(data)) => Ok([&iv, tag.as_slice(), data.expose()].concat()),
            _ => Err(unusable(what, &self.provider, "the key server encrypts without authentication".to_owned())),
        }
    }

    async fn decrypt(&self, what: &str, client: &Client, ciphertext: &[u8]) -> Result<Kek, Problem> {
        let split =
            ciphertext.split_at_checked(IV_LEN).and_then(|(iv, rest)| Some((iv, rest.split_at_checked(TAG_LEN)?)));
        let (iv, (tag, data)) = split.ok_or_else(|| self.does_not_open(what, ""))?;
        let request = DecryptRequest {
            unique_identifier: Some(self.provider.primary_key.to_string()),
            parameters: Some(gcm()),
            data: Some(SecretBytes::copy_of(data)),
            iv_counter_nonce: Some(iv.to_vec()),
            authentication_tag: Some(tag.to_vec()),
            additional_data: Some(WrappedKek::additional_data(&self.name)),
            ..DecryptRequest::default()
        };
        let answer = client.decrypt(request).await.map_err(|error| match error.result_reason() {
            // Servers don't agree on how to say that a tag is wrong.
            Some(
                ResultReason::CRYPTOGRAPHIC_FAILURE
                | ResultReason::INVALID_FIELD
                | ResultReason::INVALID_MESSAGE
                | ResultReason::GENERAL_FAILURE,
            ) => self.does_not_open(what, ""),
            _ => meaning(what, &self.provider, &error),
        })?;
        let mut bytes = Zeroizing::new(answer.data.map(|data| data.expose().to_vec()).unwrap_or_default());
        Kek::take(&mut bytes).map_err(|_| self.does_not_open(what, ""))
    }

    fn does_not_open(&self, what: &str, how: &str) -> Problem {
        let id = &self.provider.primary_key;
        Problem::new(
            Code::KeyWrong,
            what,
            format!("it was wrapped {how}under another key than primary key {id}, or was altered"),
            "if the provider's primary key or its use was changed, set what it was before",
        )
    }
}

/// Has a key server make a primary key, and puts it to use.
///
/// # Errors
/// If the key server refuses, or can't be asked.
pub async fn make_primary_key(
    what: &str,
    name: &ProviderName,
    (host, port): (&str, u16),
    ca: &str,
    credentials: &Credentials,
) -> Result<KeyId, Problem> {
    let invalid = |why: &dyn ToString| {
        Problem::new(Code::RequestInvalid, what, why.to_string(), "check the key server's address and certificates")
    };
    let (certificate, key) = (credentials.certificate.as_bytes(), credentials.key.as_bytes());
    let config = ClientConfig::new(host, port, ca.as_bytes(), certificate, key).map_err(|error| invalid(&error))?;
    let client = Client::new(config);
    let attribute = Attribute::name(&format!("ward-primary-key-{name}-{}", uuid::Uuid::now_v7()));
    let refused = |error: ClientError| {
        Problem::new(Code::KeyServerRefused, what, error.to_string(), "see the key server's log for the reason")
    };
    let id = client.create_aes256(&[attribute]).await.map_err(refused)?.id;
    if let Err(error) = client.activate(&id).await {
        // Nothing was wrapped under it, and nobody knows of it.
        if let Err(error) = client.destroy(&id).await {
            tracing::warn!(%id, %error, "a primary key that can't be used is left at the key server");
        }
        return Err(refused(error));
    }
    KeyId::try_from(id).map_err(|error| invalid(&error))
}

fn gcm() -> CryptographicParameters {
    CryptographicParameters {
        block_cipher_mode: Some(BlockCipherMode::GCM),
        cryptographic_algorithm: Some(CryptographicAlgorithm::AES),
        tag_length: i32::try_from(TAG_LEN).ok(),
        ..CryptographicParameters::default()
    }
}

fn unusable(what: &str, provider: &Provider, why: String) -> Problem {
    let remedy = format!("see to key {} at the key server: it must be AES-256, and active", provider.primary_key);
    Problem::new(Code::KeyNotUsable, what, why, remedy)
}

/// The configuration of a client of the provider's key server.
fn client_config(provider: &Provider, credentials: &Credentials) -> Result<ClientConfig, Error> {
    let ca = provider.ca.as_bytes();
    ClientConfig::new(&provider.host, provider.port, ca, credentials.certificate.as_bytes(), credentials.key.as_bytes())
        .map_err(|error| Error::invalid("the key server's configuration", error))
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
