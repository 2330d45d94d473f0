//! What the service goes by, and the rules that follow from it alone.

use std::collections::BTreeMap;
use std::time::Duration;

use attest::appraisal::Policy;
use attest::ek::{EkProof, PinnedEks, TpmCas, TrustedEk, verify_certificate};
use attest::hash::HashAlg;
use attest::image::BaseImage;
use attest::label::Label;
use attest::token::{Issuer, TokenKey, VerifierId};
use attest::tpm::{Name, PcrMask, Public};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use ward_types::{Code, Problem};

use crate::Error;
use crate::home::{Home, Load, put};

/// How the service behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The service's name: who issues its tokens.
    pub name: Label,
    /// Who its tokens are for.
    pub audience: Label,
    /// Whether an administrator must let in each host that is enrolled by certificate. If not, every TPM of a trusted
    /// CA is let in, whoever owns the machine.
    pub admit_by_hand: bool,
    /// Whether endorsement keys that were imported by themselves are trusted.
    pub bare_eks: bool,
    /// How long a token is good for, in seconds.
    pub token_seconds: u64,
}

impl Settings {
    pub(super) fn new(name: Label) -> Self {
        let audience = name.clone();
        Self { name, audience, admit_by_hand: true, bare_eks: true, token_seconds: 600 }
    }

    /// That tokens may live so long.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if (1..=attest::token::MAX_LIFETIME.as_secs()).contains(&self.token_seconds) {
            return Ok(());
        }
        Err(Error::invalid("a token's lifetime", "a second at least and a day at most are allowed"))
    }
}

/// What a cluster's hosts must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// The bank to be quoted.
    pub bank: HashAlg,
    /// The PCRs that base images must vouch for.
    pub required: PcrMask,
    /// Secure Boot must be on and have checked what was booted.
    pub secure_boot: bool,
    /// The TPM must have a certificate of a trusted CA.
    pub ek_certificate: bool,
    /// How long a host may take to answer, in seconds.
    pub nonce_seconds: u64,
}

impl PolicySettings {
    /// That it proves something.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.bank.is_strong() && !self.required.is_empty() && self.nonce_seconds > 0 {
            return Ok(());
        }
        Err(Error::invalid("a policy", "it needs a bank other than sha1, a PCR at least, and time for an answer"))
    }
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            bank: HashAlg::Sha256,
            required: PcrMask::of(BaseImage::USUAL_PCRS),
            secure_boot: true,
            ek_certificate: true,
            nonce_seconds: 60,
        }
    }
}

/// All that an answer depends on besides the request, as it was at one moment.
pub(super) struct Config {
    pub(super) settings: Settings,
    pub(super) issuer: Issuer,
    pub(super) policies: BTreeMap<Label, Policy>,
    cas: TpmCas,
    pinned: PinnedEks,
}

impl Load for Config {
    async fn load(home: &Home) -> Result<Self, Error> {
        let settings = load_settings(home).await?;
        let sealed = home.meta("token_key").await?.ok_or_else(|| Error::corrupt("token_key", "it is missing"))?;
        let key = TokenKey::from_pkcs8(&home.unseal("token_key", sealed)?)
            .map_err(|error| Error::corrupt("token_key", error))?;
        let software = VerifierId { developer: "ward".to_owned(), build: env!("CARGO_PKG_VERSION").to_owned() };
        let lifetime = Duration::from_secs(settings.token_seconds);
        let issuer = Issuer::new(settings.name.clone(), software, key, lifetime)
            .map_err(|error| Error::corrupt("settings", error))?;
        let images = load_images(home).await?;
        Ok(Self {
            issuer,
            policies: load_policies(home, &images).await?,
            cas: load_cas(home).await?,
            pinned: load_pinned(home).await?,
            settings,
        })
    }
}

impl Config {
    /// Whether an endorsement key is trusted. A certificate is looked at first, but a key that was imported needs none.
    pub(super) fn trusted_ek(
        &self,
        public: Public,
        certificate: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<TrustedEk, Problem> {
        let by_certificate =
            certificate.map(|certificate| verify_certificate(&self.cas, certificate, public.clone(), now));
        let trusted = match (by_certificate, self.settings.bare_eks.then(|| self.pinned.verify(public))) {
            (Some(Ok(trusted)), _) | (_, Some(Ok(trusted))) => Ok(trusted),
            (Some(Err(error)), _) | (None, Some(Err(error))) => Err(error.to_string()),
            (None, None) => Err("its TPM has no certificate, and keys without one are not accepted here".to_owned()),
        };
        trusted.map_err(|why| {
            Problem::new(
                Code::EnrolmentRefused,
                "the host's TPM is not trusted",
                why,
                "at the attestation service, import the CA of the TPM's maker (`ward trust tpm-ca import`) or the key \
                 itself (`ward trust ek import`)",
            )
        })
    }

    /// What a host with that key is called, and whether it is let in at once. Nothing that the host says goes into it.
    pub(super) fn admission(&self, ek: &TrustedEk) -> Result<(Label, bool), Problem> {
        let (label, admitted) = match ek.proof() {
            EkProof::Pinned { label } => (label.clone(), true),
            EkProof::Certificate(_) => {
                let digits = ek.name().to_string();
                (format!("ek-{}", digits.get(4..36).unwrap_or(&digits)), !self.settings.admit_by_hand)
            }
        };
        let label = label.parse().map_err(|error| Problem::internal("cannot enrol a host", error))?;
        Ok((label, admitted))
    }

    pub(super) fn policy(&self, name: &Label) -> Result<&Policy, Problem> {
        self.policies.get(name).ok_or_else(|| {
            Problem::new(
                Code::NotFound,
                "the host can't be attested",
                format!("there is no attestation policy `{name}`"),
                "ask for the policy of the host's cluster, or make this one at the attestation service",
            )
        })
    }
}

pub(crate) async fn load_settings(home: &Home) -> Result<Settings, Error> {
    let json = home.meta("settings").await?.ok_or_else(|| Error::corrupt("settings", "they are missing"))?;
    serde_json::from_slice(&json).map_err(|error| Error::corrupt("settings", error))
}

pub(crate) async fn put_settings(db: &mut SqliteConnection, settings: &Settings) -> Result<(), Error> {
    let json = serde_json::to_vec(settings).map_err(|error| Error::invalid("the settings", error))?;
    put(db, "settings", &json).await
}

/// Trusts an endorsement key by itself. Another host that had its name is forgotten: a mainboard was replaced.
pub(crate) async fn pin(db: &mut SqliteConnection, ek: &Name, label: &Label) -> Result<(), Error> {
    let query = sqlx::query("DELETE FROM host WHERE label = ? AND ek <> ?");
    query.bind(label.as_str()).bind(ek.to_string()).execute(&mut *db).await?;
    let query = "INSERT INTO pinned_ek (name, label) VALUES (?, ?) \
                 ON CONFLICT (name) DO UPDATE SET label = excluded.label";
    sqlx::query(query).bind(ek.to_string()).bind(label.as_str()).execute(db).await?;
    Ok(())
}

pub(super) async fn load_cas(home: &Home) -> Result<TpmCas, Error> {
    let mut cas = TpmCas::new();
    for row in sqlx::query("SELECT root, der, sha256 FROM tpm_ca ORDER BY number").fetch_all(&home.pool).await? {
        let der: Vec<u8> = row.try_get("der")?;
        let added = if row.try_get("root")? { cas.add_root(&der) } else { cas.add_intermediate(&der) };
        added.map_err(|error| Error::corrupt(format!("TPM CA {}", row.get::<String, _>("sha256")), error))?;
    }
    Ok(cas)
}

pub(super) async fn load_pinned(home: &Home) -> Result<PinnedEks, Error> {
    let mut pinned = PinnedEks::default();
    for row in sqlx::query("SELECT name, label FROM pinned_ek").fetch_all(&home.pool).await? {
        let name: String = row.try_get("name")?;
        let parsed: Name = name.parse().map_err(|error| Error::corrupt(format!("EK {name}"), error))?;
        pinned.insert(parsed, row.try_get("label")?);
    }
    Ok(pinned)
}

pub(crate) async fn load_images(home: &Home) -> Result<Vec<BaseImage>, Error> {
    let rows = sqlx::query("SELECT name, version, value FROM base_image ORDER BY name, version");
    let rows = rows.fetch_all(&home.pool).await?;
    rows.iter()
        .map(|row| {
            let json: String = row.try_get("value")?;
            serde_json::from_str(&json)
                .map_err(|error| Error::corrupt(format!("base image {}", row.get::<String, _>("name")), error))
        })
        .collect()
}

pub(crate) async fn load_policy_settings(home: &Home) -> Result<Vec<(Label, PolicySettings)>, Error> {
    let rows = sqlx::query("SELECT name, value FROM policy ORDER BY name").fetch_all(&home.pool).await?;
    rows.iter()
        .map(|row| {
            let (name, json): (String, String) = (row.try_get("name")?, row.try_get("value")?);
            let corrupt = |why: String| Error::corrupt(format!("policy {name}"), why);
            let label: Label = name.parse().map_err(|error| corrupt(format!("{error}")))?;
            Ok((label, serde_json::from_str(&json).map_err(|error| corrupt(error.to_string()))?))
        })
        .collect()
}

async fn load_policies(home: &Home, images: &[BaseImage]) -> Result<BTreeMap<Label, Policy>, Error> {
    let all = load_policy_settings(home).await?;
    Ok(all.into_iter().map(|(label, settings)| (label.clone(), policy(label, &settings, images))).collect())
}

pub(super) fn policy(name: Label, settings: &PolicySettings, images: &[BaseImage]) -> Policy {
    Policy {
        name,
        bank: settings.bank,
        required: settings.required,
        secure_boot: settings.secure_boot,
        ek_certificate: settings.ek_certificate,
        nonce_lifetime: Duration::from_secs(settings.nonce_seconds),
        images: images.iter().filter(|image| image.bank() == settings.bank).cloned().collect(),
    }
}
