//! The signed configuration, which several instances of the services share: each has its own copy, and goes by what the
//! trust administrators have signed. Secrets are not in it: root keys, token keys and credentials are each instance's own.

use std::path::Path;

use attest::ek::TpmCas;
use attest::image::BaseImage;
use attest::label::Label;
use attest::token::TokenPublicKey;
use attest::tpm::Name;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Sqlite, Transaction};
use ward_types::ProviderName;

use crate::Error;
use crate::api::Applied;
use crate::attestation::{self, PolicySettings, Settings};
use crate::home::{Home, Kind, put};
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
    /// Endorsement keys that are trusted by themselves.
    eks: Vec<(Name, Label)>,
    policies: Vec<(Label, PolicySettings)>,
    base_images: Vec<BaseImage>,
    /// The hosts that were let in: the Names of their endorsement keys.
    admitted: Vec<Name>,
    trust: TrustSettings,
    issuers: Vec<(Label, TokenPublicKey)>,
    providers: Vec<(ProviderName, Provider)>,
}

impl Content for Configuration {
    const PURPOSE: &'static str = "ward trust configuration v1";
}

impl Configuration {
    /// That a service can go by it.
    fn check(&self) -> Result<(), Error> {
        self.settings.check()?;
        self.policies.iter().try_for_each(|(_, settings)| settings.check())?;
        let mut cas = TpmCas::new();
        for (der, root) in &self.tpm_cas {
            let der = STANDARD.decode(der).map_err(|error| Error::invalid("a TPM CA", error))?;
            let added = if *root { cas.add_root(&der) } else { cas.add_intermediate(&der) };
            added.map_err(|error| Error::invalid("a TPM CA", error))?;
        }
        Ok(())
    }

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
    let eks: Vec<(String, String)> =
        sqlx::query_as("SELECT name, label FROM pinned_ek ORDER BY label").fetch_all(&services.pool).await?;
    let admitted: Vec<String> =
        sqlx::query_scalar("SELECT ek FROM admitted ORDER BY ek").fetch_all(&services.pool).await?;
    let ek = |name: &String| name.parse::<Name>().map_err(|error| Error::corrupt(format!("EK {name}"), error));
    let host = |label: &String| label.parse::<Label>().map_err(|error| Error::corrupt(format!("host {label}"), error));
    let configuration = Configuration {
        version: 1,
        serial: jiff::Timestamp::now().as_millisecond(),
        settings: attestation::load_settings(&services).await?,
        tpm_cas: tpm_cas.into_iter().map(|(der, root)| (STANDARD.encode(der), root)).collect(),
        eks: eks.iter().map(|(name, label)| Ok((ek(name)?, host(label)?))).collect::<Result<_, Error>>()?,
        policies: attestation::load_policy_settings(&services).await?,
        base_images: attestation::load_images(&services).await?,
        admitted: admitted.iter().map(ek).collect::<Result<_, Error>>()?,
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
    // Both are checked before either is changed.
    let services = Checked::of(attestation, &attestation::KIND, signed, signer.as_ref()).await?;
    let vault = Checked::of(keys, &key_provider::KIND, signed, signer.as_ref()).await?;
    if let Some(it) = services {
        let mut tx = it.home.pool.begin().await?;
        put_attestation(&mut tx, &it.configuration).await?;
        it.commit(tx, signed).await?;
    }
    if let Some(it) = vault {
        let mut tx = it.home.pool.begin().await?;
        put_keys(&mut tx, &it.configuration).await?;
        it.commit(tx, signed).await?;
    }
    Ok(())
}

/// A configuration that a service may go by.
struct Checked {
    home: Home,
    signer: TokenPublicKey,
    configuration: Configuration,
}

impl Checked {
    /// For the service with that directory, if it is there.
    async fn of(
        dir: &Path,
        kind: &Kind,
        signed: &Signed,
        given: Option<&TokenPublicKey>,
    ) -> Result<Option<Self>, Error> {
        if !dir.exists() {
            return Ok(None);
        }
        let home = Home::open(dir, kind).await?;
        let (signer, configuration) = check(&home, signed, given).await?;
        Ok(Some(Self { home, signer, configuration }))
    }

    async fn commit(&self, mut tx: Transaction<'_, Sqlite>, signed: &Signed) -> Result<(), Error> {
        put(&mut tx, SIGNER, self.signer.as_bytes()).await?;
        Home::note_configuration(&mut tx, &self.configuration.applied(signed)).await?;
        tx.commit().await?;
        self.home.read_anew().await
    }
}

/// What the service with that home is to go by, and who signed it.
async fn check(
    home: &Home,
    signed: &Signed,
    given: Option<&TokenPublicKey>,
) -> Result<(TokenPublicKey, Configuration), Error> {
    let refused = |why: String| Error::invalid("the configuration", why);
    let known = home.meta(SIGNER).await?.and_then(|bytes| TokenPublicKey::from_bytes(&bytes));
    let signer = match (&known, given) {
        (Some(known), Some(given)) if known != given => {
            return Err(refused(format!("the service goes by the administrators' key {}", known.id())));
        }
        (Some(known), _) => known.clone(),
        (None, Some(given)) => given.clone(),
        (None, None) => return Err(refused("the administrators' key is not known here: give it".to_owned())),
    };
    let configuration: Configuration = signed.open(&signer).map_err(|error| refused(error.to_string()))?;
    if configuration.version != 1 {
        return Err(refused(format!("it is of version {}, which is not known here", configuration.version)));
    }
    if home.configuration_serial().await?.is_some_and(|serial| configuration.serial < serial) {
        return Err(refused("it is older than the one that the service goes by".to_owned()));
    }
    configuration.check()?;
    Ok((signer, configuration))
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
        query.bind(name.to_string()).bind(label.as_str()).execute(&mut *db).await?;
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
        sqlx::query("INSERT INTO admitted (ek) VALUES (?)").bind(ek.to_string()).execute(&mut *db).await?;
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
