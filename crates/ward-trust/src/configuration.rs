//! The signed configuration, which several instances of the services share: each has its own copy, and goes by what the
//! trust administrators have signed. Secrets are not in it: root keys, token keys and credentials are each instance's own.

use std::fmt::Display;
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
use ward_types::ProviderName;

use crate::Error;
use crate::api::Applied;
use crate::attestation::{self, PolicySettings, Settings};
use crate::home::{Change, Home, Kind, next_serial, put};
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
    /// The hosts that were let in, and those that were removed: Names of endorsement keys.
    decisions: Vec<(Name, bool)>,
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
        once("TPM CA", self.tpm_cas.iter().map(|(der, _)| der))?;
        once("EK", self.eks.iter().map(|(name, _)| name.to_string()))?;
        once("host", self.eks.iter().map(|(_, label)| label))?;
        once("policy", self.policies.iter().map(|(name, _)| name))?;
        once("base image", self.base_images.iter().map(|image| image.id().to_string()))?;
        once("host's EK", self.decisions.iter().map(|(name, _)| name.to_string()))?;
        once("token key", self.issuers.iter().map(|(_, key)| key.id()))?;
        once("provider", self.providers.iter().map(|(name, _)| name))
    }

    fn applied(&self, signed: &Signed) -> Applied {
        Applied { digest: signed.digest(), serial: self.serial }
    }
}

/// That nothing is named twice.
fn once<T: Ord + Display>(what: &str, names: impl Iterator<Item = T>) -> Result<(), Error> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(Error::invalid("the configuration", format!("it names {what} {} twice", pair[0]))),
    }
}

const SIGNER: &str = "signer";

/// Says whose signatures a service goes by. It is said once: later only by who can write to the directory anyway.
///
/// # Errors
/// If the directory can't be used.
pub async fn set_signer(dir: &Path, key: &TokenPublicKey) -> Result<(), Error> {
    let home = open(dir).await?;
    let mut change = home.change().await?;
    put(&mut change, SIGNER, key.as_bytes()).await?;
    change.commit_unshared().await
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
    // Nothing is changed until what is signed is what is gone by.
    let (changing, changing_keys) = (services.change().await?, vault.change().await?);
    let last =
        [services.signed().await?, vault.signed().await?].into_iter().flatten().map(|signed| signed.serial).max();
    let tpm_cas: Vec<(Vec<u8>, bool)> =
        sqlx::query_as("SELECT der, root FROM tpm_ca ORDER BY number").fetch_all(&services.pool).await?;
    let eks: Vec<(String, String)> =
        sqlx::query_as("SELECT name, label FROM pinned_ek ORDER BY label").fetch_all(&services.pool).await?;
    let decisions: Vec<(String, bool)> =
        sqlx::query_as("SELECT ek, admitted FROM decision ORDER BY ek").fetch_all(&services.pool).await?;
    let ek = |name: &String| name.parse::<Name>().map_err(|error| Error::corrupt(format!("EK {name}"), error));
    let host = |label: &String| label.parse::<Label>().map_err(|error| Error::corrupt(format!("host {label}"), error));
    let configuration = Configuration {
        version: 1,
        serial: next_serial(last),
        settings: attestation::load_settings(&services).await?,
        tpm_cas: tpm_cas.into_iter().map(|(der, root)| (STANDARD.encode(der), root)).collect(),
        eks: eks.iter().map(|(name, label)| Ok((ek(name)?, host(label)?))).collect::<Result<_, Error>>()?,
        policies: attestation::load_policy_settings(&services).await?,
        base_images: attestation::load_images(&services).await?,
        decisions: decisions.iter().map(|(name, admitted)| Ok((ek(name)?, *admitted))).collect::<Result<_, Error>>()?,
        trust: key_provider::load_settings(&vault).await?,
        issuers: key_provider::load_issuers(&vault).await?,
        providers: key_provider::load_providers(&vault).await?.into_iter().collect(),
    };
    let signed = key.sign(&configuration)?;
    for change in [changing, changing_keys] {
        change.commit_signed(&configuration.applied(&signed)).await?;
    }
    Ok(signed)
}

/// Has the services with these directories go by a signed configuration, in the place of what they went by. A directory
/// that is not there is left out: the services may run on different machines. `signer` is taken where none is known yet.
///
/// All is written before any of it counts. Where the machine stops just between one service and the other, the first goes
/// by it alone, which shows, and doing it again mends it.
///
/// # Errors
/// If there is neither, or it is not signed by the administrators, is older than what is gone by, or can't be gone by.
pub async fn import(
    attestation: &Path,
    keys: &Path,
    signed: &Signed,
    signer: Option<TokenPublicKey>,
) -> Result<(), Error> {
    let services = Checked::of(attestation, &attestation::KIND, signed, signer.as_ref()).await?;
    let vault = Checked::of(keys, &key_provider::KIND, signed, signer.as_ref()).await?;
    let mut written = Vec::new();
    if let Some(it) = services {
        let mut change = it.change().await?;
        put_attestation(&mut change, &it.configuration).await?;
        written.push((change, it.configuration.applied(signed)));
    }
    if let Some(it) = vault {
        let mut change = it.change().await?;
        put_keys(&mut change, &it.configuration).await?;
        written.push((change, it.configuration.applied(signed)));
    }
    if written.is_empty() {
        return Err(Error::NotInitialized { path: attestation.parent().unwrap_or(attestation).to_owned() });
    }
    for (change, applied) in written {
        change.commit_signed(&applied).await?;
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

    async fn change(&self) -> Result<Change, Error> {
        let mut change = self.home.change().await?;
        put(&mut change, SIGNER, self.signer.as_bytes()).await?;
        Ok(change)
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
    let applied = configuration.applied(signed);
    match home.signed().await? {
        Some(known) if applied.serial < known.serial => {
            return Err(refused("it is older than the one that the service goes by".to_owned()));
        }
        Some(known) if applied.serial == known.serial && applied.digest != known.digest => {
            return Err(refused("it has the serial of the one that the service goes by, and is another".to_owned()));
        }
        _ => {}
    }
    configuration.check()?;
    Ok((signer, configuration))
}

fn json(what: &'static str, value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::invalid(what, error))
}

async fn put_attestation(db: &mut SqliteConnection, configuration: &Configuration) -> Result<(), Error> {
    attestation::put_settings(db, &configuration.settings).await?;
    for table in ["tpm_ca", "pinned_ek", "policy", "base_image", "decision"] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *db).await?;
    }
    for (der, root) in &configuration.tpm_cas {
        let der = STANDARD.decode(der).map_err(|error| Error::invalid("a TPM CA", error))?;
        let sha256 = hex::encode(attest::hash::HashAlg::Sha256.digest(&[&der]).bytes());
        let query = sqlx::query("INSERT INTO tpm_ca (sha256, root, der) VALUES (?, ?, ?)");
        query.bind(sha256).bind(root).bind(der).execute(&mut *db).await?;
    }
    for (name, label) in &configuration.eks {
        attestation::pin(db, name, label).await?;
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
    for (ek, admitted) in &configuration.decisions {
        let query = sqlx::query("INSERT INTO decision (ek, admitted) VALUES (?, ?)");
        query.bind(ek.to_string()).bind(admitted).execute(&mut *db).await?;
    }
    Ok(())
}

async fn put_keys(db: &mut SqliteConnection, configuration: &Configuration) -> Result<(), Error> {
    key_provider::put_settings(db, &configuration.trust).await?;
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
