//! The signed configuration, which several instances of the services share: each has its own copy, and goes by what the
//! trust administrators have signed. Secrets are not in it: root keys, token keys and credentials are each instance's own.

use std::path::Path;

use attest::image::BaseImage;
use attest::label::Label;
use attest::token::TokenPublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnection;
use ward_types::ProviderName;

use crate::Error;
use crate::api::Applied;
use crate::attestation::{self, PolicySettings, Settings};
use crate::home::{Home, put};
use crate::key_provider::{self, Provider, TrustSettings};
use crate::signed::{AdminKey, Content, Signed};

/// All that the services of a trust authority go by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The version of this form: 1.
    version: u32,
    /// Counts up: an older configuration does not replace a newer one.
    serial: i64,
    settings: Settings,
    /// In the order in which they are trusted: base64 of DER, and whether it is a root.
    tpm_cas: Vec<(String, bool)>,
    /// Endorsement keys that are trusted by themselves: Name and label.
    eks: Vec<(String, String)>,
    policies: Vec<(Label, PolicySettings)>,
    base_images: Vec<BaseImage>,
    /// The hosts that were let in: the Names of their endorsement keys.
    admitted: Vec<String>,
    trust: TrustSettings,
    issuers: Vec<(Label, TokenPublicKey)>,
    providers: Vec<(ProviderName, Provider)>,
}

impl Content for Configuration {
    const PURPOSE: &'static str = "ward trust configuration v1";
}

impl Configuration {
    fn applied(&self, signed: &Signed) -> Applied {
        Applied { digest: signed.digest(), serial: self.serial }
    }
}

const SIGNER: &str = "signer";

/// Says whose signatures a service goes by. It is said once: later only by who can write to the directory anyway.
///
/// # Errors
/// If the directory can't be used.
pub async fn set_signer(dir: &Path, key: &TokenPublicKey) -> Result<(), Error> {
    let home = open(dir).await?;
    home.set_meta(SIGNER, key.as_bytes()).await
}

async fn open(dir: &Path) -> Result<Home, Error> {
    if dir.join(attestation::KIND.database).exists() {
        Home::open(dir, &attestation::KIND).await
    } else {
        Home::open(dir, &key_provider::KIND).await
    }
}

/// Signs what the services with these directories go by. They go by it from then on.
///
/// # Errors
/// If a directory can't be used.
pub async fn export(attestation: &Path, keys: &Path, key: &AdminKey) -> Result<Signed, Error> {
    let (services, vault) =
        (Home::open(attestation, &attestation::KIND).await?, Home::open(keys, &key_provider::KIND).await?);
    let tpm_cas: Vec<(Vec<u8>, bool)> =
        sqlx::query_as("SELECT der, root FROM tpm_ca ORDER BY number").fetch_all(&services.pool).await?;
    let eks = sqlx::query_as("SELECT name, label FROM pinned_ek ORDER BY label").fetch_all(&services.pool).await?;
    let admitted = sqlx::query_scalar("SELECT ek FROM admitted ORDER BY ek").fetch_all(&services.pool).await?;
    let configuration = Configuration {
        version: 1,
        serial: jiff::Timestamp::now().as_millisecond(),
        settings: attestation::load_settings(&services).await?,
        tpm_cas: tpm_cas.into_iter().map(|(der, root)| (STANDARD.encode(der), root)).collect(),
        eks,
        policies: attestation::load_policy_settings(&services).await?,
        base_images: attestation::load_images(&services).await?,
        admitted,
        trust: key_provider::load_settings(&vault).await?,
        issuers: key_provider::load_issuers(&vault).await?,
        providers: key_provider::load_providers(&vault).await?.into_iter().collect(),
    };
    let signed = key.sign(&configuration)?;
    for home in [&services, &vault] {
        let mut tx = home.pool.begin().await?;
        Home::note_configuration(&mut tx, &configuration.applied(&signed)).await?;
        tx.commit().await?;
    }
    Ok(signed)
}

/// Has the services with these directories go by a signed configuration, in the place of what they went by. A directory that
/// is not there is left out: the services may run on different machines. `signer` is taken where none is known yet.
///
/// # Errors
/// If it is not signed by the administrators, is older than what is gone by, or a directory can't be used.
pub async fn import(
    attestation: &Path,
    keys: &Path,
    signed: &Signed,
    signer: Option<TokenPublicKey>,
) -> Result<(), Error> {
    if attestation.exists() {
        let home = Home::open(attestation, &attestation::KIND).await?;
        let configuration = check(&home, signed, signer.as_ref()).await?;
        let mut tx = home.pool.begin().await?;
        put_attestation(&mut tx, &configuration).await?;
        Home::note_configuration(&mut tx, &configuration.applied(signed)).await?;
        tx.commit().await?;
        home.read_anew().await?;
    }
    if keys.exists() {
        let home = Home::open(keys, &key_provider::KIND).await?;
        let configuration = check(&home, signed, signer.as_ref()).await?;
        let mut tx = home.pool.begin().await?;
        put_keys(&mut tx, &configuration).await?;
        Home::note_configuration(&mut tx, &configuration.applied(signed)).await?;
        tx.commit().await?;
        home.read_anew().await?;
    }
    Ok(())
}

async fn check(home: &Home, signed: &Signed, given: Option<&TokenPublicKey>) -> Result<Configuration, Error> {
    let refused = |why: String| Error::invalid("the configuration", why);
    let known = home.meta(SIGNER).await?.and_then(|bytes| TokenPublicKey::from_bytes(&bytes));
    let signer = match (&known, given) {
        (Some(known), Some(given)) if known != given => {
            return Err(refused(format!("the service goes by the administrators' key {}", known.id())));
        }
        (Some(known), _) => known,
        (None, Some(given)) => given,
        (None, None) => return Err(refused("the administrators' key is not known here: give it".to_owned())),
    };
    let configuration: Configuration = signed.open(signer).map_err(|error| refused(error.to_string()))?;
    if configuration.version != 1 {
        return Err(refused(format!("it is of version {}, which is not known here", configuration.version)));
    }
    if home.configuration_serial().await?.is_some_and(|serial| configuration.serial < serial) {
        return Err(refused("it is older than the one that the service goes by".to_owned()));
    }
    home.set_meta(SIGNER, signer.as_bytes()).await?;
    Ok(configuration)
}

fn json(what: &'static str, value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::invalid(what, error))
}

async fn put_attestation(db: &mut SqliteConnection, configuration: &Configuration) -> Result<(), Error> {
    put(db, "settings", json("the settings", &configuration.settings)?.as_bytes()).await?;
    for table in ["tpm_ca", "pinned_ek", "policy", "base_image", "admitted"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *db).await?;
    }
    for (der, root) in &configuration.tpm_cas {
        let der = STANDARD.decode(der).map_err(|error| Error::invalid("a TPM CA", error))?;
        let sha256 = hex::encode(attest::hash::HashAlg::Sha256.digest(&[&der]).bytes());
        let query = sqlx::query("INSERT INTO tpm_ca (sha256, root, der) VALUES (?, ?, ?)");
        query.bind(sha256).bind(root).bind(der).execute(&mut *db).await?;
    }
    for (name, label) in &configuration.eks {
        let query = sqlx::query("INSERT INTO pinned_ek (name, label) VALUES (?, ?)");
        query.bind(name).bind(label).execute(&mut *db).await?;
    }
    for (name, settings) in &configuration.policies {
        let query = sqlx::query("INSERT INTO policy (name, value) VALUES (?, ?)");
        query.bind(name.as_str()).bind(json("a policy", settings)?).execute(&mut *db).await?;
    }
    for image in &configuration.base_images {
        let query = sqlx::query("INSERT INTO base_image (name, version, value) VALUES (?, ?, ?)");
        let (name, version) = (image.id().name.as_str(), image.id().version.as_str());
        query.bind(name).bind(version).bind(json("a base image", image)?).execute(&mut *db).await?;
    }
    for ek in &configuration.admitted {
        sqlx::query("INSERT INTO admitted (ek) VALUES (?)").bind(ek).execute(&mut *db).await?;
    }
    Ok(())
}

async fn put_keys(db: &mut SqliteConnection, configuration: &Configuration) -> Result<(), Error> {
    put(db, "settings", json("the settings", &configuration.trust)?.as_bytes()).await?;
    sqlx::query("DELETE FROM issuer").execute(&mut *db).await?;
    for (name, key) in &configuration.issuers {
        let public = serde_json::to_value(key).map_err(|error| Error::invalid("a token key", error))?;
        let query = sqlx::query("INSERT INTO issuer (key_id, name, public) VALUES (?, ?, ?)");
        query.bind(key.id()).bind(name.as_str()).bind(public.as_str()).execute(&mut *db).await?;
    }
    let names: Vec<_> = configuration.providers.iter().map(|(name, _)| name.as_str()).collect();
    let there: Vec<String> = sqlx::query_scalar("SELECT name FROM provider").fetch_all(&mut *db).await?;
    for gone in there.iter().filter(|name| !names.contains(&name.as_str())) {
        sqlx::query("DELETE FROM provider WHERE name = ?").bind(gone).execute(&mut *db).await?;
    }
    for (name, provider) in &configuration.providers {
        // The credentials are this instance's own: where there are none yet, the provider waits for them.
        let query = "INSERT INTO provider (name, value, credentials) VALUES (?, ?, X'') \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(query).bind(name.as_str()).bind(json("a provider", provider)?).execute(&mut *db).await?;
    }
    Ok(())
}
