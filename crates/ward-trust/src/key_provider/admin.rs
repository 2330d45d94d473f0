//! What an administrator of the service does, on its own machine. A running service notices.

use std::collections::BTreeMap;
use std::path::Path;

use attest::label::Label;
use attest::token::TokenPublicKey;
use ward_types::{Problem, ProviderName};
use zeroize::Zeroizing;

use super::KIND;
use super::primary::PrimaryKey;
use super::rules::{self, Provider, TrustSettings};
use crate::Error;
use crate::audit::AuditEntry;
use crate::home::Home;

/// A client certificate for a key server, and its key, in PEM.
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: Zeroizing<String>,
}

/// Certificate and key at rest: the certificate's length, then both.
pub(super) fn seal_credentials(home: &Home, name: &ProviderName, credentials: &Credentials) -> Result<Vec<u8>, Error> {
    let len = u32::try_from(credentials.certificate.len()).map_err(|error| Error::invalid("a certificate", error))?;
    let mut plain = Zeroizing::new(len.to_be_bytes().to_vec());
    plain.reserve_exact(credentials.certificate.len() + credentials.key.len());
    plain.extend_from_slice(credentials.certificate.as_bytes());
    plain.extend_from_slice(credentials.key.as_bytes());
    home.seal(&format!("credentials/{name}"), &plain)
}

pub(super) async fn open_credentials(home: &Home, name: &ProviderName) -> Result<Credentials, Error> {
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT credentials FROM provider WHERE name = ?")
        .bind(name.as_str())
        .fetch_one(&home.pool)
        .await?;
    if sealed.is_empty() {
        let why = "the configuration was imported here, and its credentials at the key server were not given yet";
        return Err(Error::invalid("a provider", format!("{name}: {why}: `ward trust provider add`")));
    }
    let plain = home.unseal(&format!("credentials/{name}"), sealed)?;
    let split = || {
        let (len, rest) = plain.split_first_chunk::<4>()?;
        let (certificate, key) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        let key = Zeroizing::new(std::str::from_utf8(key).ok()?.to_owned());
        Some(Credentials { certificate: std::str::from_utf8(certificate).ok()?.to_owned(), key })
    };
    split().ok_or_else(|| Error::corrupt(format!("provider {name}"), "its credentials are no text"))
}

/// The key provider service's configuration, open for reading and changing.
pub struct Admin {
    home: Home,
}

impl Admin {
    /// Opens a state directory.
    ///
    /// # Errors
    /// If it was not set up, or can't be used.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self { home: Home::open(dir, &KIND).await? })
    }

    /// The certificate by which hosts know the service, in PEM.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn certificate(&self) -> Result<String, Error> {
        self.home.certificate_pem()
    }

    /// The settings.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn settings(&self) -> Result<TrustSettings, Error> {
        rules::load_settings(&self.home).await
    }

    /// Changes the settings.
    ///
    /// # Errors
    /// If the database can't be written.
    pub async fn set_settings(&self, settings: &TrustSettings) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        rules::put_settings(&mut change, settings).await?;
        change.commit().await
    }

    /// Accepts the tokens that an attestation service signs with that key. Its instances have one name, and a key each.
    ///
    /// # Errors
    /// If the database can't be written.
    pub async fn trust_issuer(&self, name: &Label, key: &TokenPublicKey) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        if rules::load_issuers(&self.home).await?.iter().any(|known| (&known.0, &known.1) == (name, key)) {
            return Ok(());
        }
        let public = serde_json::to_value(key).map_err(|error| Error::invalid("a token key", error))?;
        let query = "INSERT INTO issuer (key_id, name, public) VALUES (?, ?, ?) \
                     ON CONFLICT (key_id) DO UPDATE SET name = excluded.name";
        sqlx::query(query).bind(key.id()).bind(name.as_str()).bind(public.as_str()).execute(&mut *change).await?;
        change.commit().await
    }

    /// The attestation services that are trusted, and their keys.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn issuers(&self) -> Result<Vec<(Label, TokenPublicKey)>, Error> {
        rules::load_issuers(&self.home).await
    }

    /// Stops accepting the tokens that an attestation service signs with the key of that ID.
    ///
    /// # Errors
    /// If it is not trusted.
    pub async fn distrust_issuer(&self, key_id: &str) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let query = sqlx::query("DELETE FROM issuer WHERE key_id = ?").bind(key_id);
        let gone = query.execute(&mut *change).await?.rows_affected();
        change.commit_found(gone, "token key", key_id).await
    }

    /// Makes a provider, or changes one. Its primary key is tried once, as it is to be used.
    ///
    /// # Errors
    /// A problem with the key server or the key; an internal one if the database can't be written.
    pub async fn set_provider(
        &self,
        name: &ProviderName,
        provider: &Provider,
        credentials: &Credentials,
    ) -> Result<(), Problem> {
        let what = format!("key provider `{name}` can't be set");
        PrimaryKey::open(&what, name, provider, credentials).await?.check(&what).await?;
        self.store_provider(name, provider, credentials).await.map_err(|error| Problem::internal(what, error))
    }

    async fn store_provider(
        &self,
        name: &ProviderName,
        provider: &Provider,
        credentials: &Credentials,
    ) -> Result<(), Error> {
        let json = serde_json::to_string(provider).map_err(|error| Error::invalid("a provider", error))?;
        let mut change = self.home.change().await?;
        let same = rules::load_providers(&self.home).await?.get(name) == Some(provider);
        let query = "INSERT INTO provider (name, value, credentials) VALUES (?, ?, ?) \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value, credentials = excluded.credentials";
        sqlx::query(query)
            .bind(name.as_str())
            .bind(json)
            .bind(seal_credentials(&self.home, name, credentials)?)
            .execute(&mut *change)
            .await?;
        // Credentials are in no signed configuration.
        if same { change.commit_unshared().await } else { change.commit().await }
    }

    /// The providers.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn providers(&self) -> Result<BTreeMap<ProviderName, Provider>, Error> {
        rules::load_providers(&self.home).await
    }

    /// Removes a provider. What was wrapped under its primary key opens again once it is there again.
    ///
    /// # Errors
    /// If there is none such.
    pub async fn remove_provider(&self, name: &ProviderName) -> Result<(), Error> {
        let mut change = self.home.change().await?;
        let query = sqlx::query("DELETE FROM provider WHERE name = ?").bind(name.as_str());
        let gone = query.execute(&mut *change).await?.rows_affected();
        change.commit_found(gone, "provider", name.as_str()).await
    }

    /// The last `n` things that hosts asked for, oldest first.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn audit(&self, n: u32) -> Result<Vec<AuditEntry>, Error> {
        self.home.audit_tail(n).await
    }
}
