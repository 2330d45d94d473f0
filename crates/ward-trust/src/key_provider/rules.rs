//! Who may have a KEK of which provider.

use std::collections::BTreeMap;

use attest::binding::CertThumbprint;
use attest::label::Label;
use attest::token::{TokenPublicKey, TokenVerifier, VerifiedToken};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use ward_types::{Code, KeyId, Problem, ProviderName};

use super::WrappedKek;
use crate::Error;
use crate::home::{Home, Load, put};

/// A trusted key provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The key server's host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its CA, in PEM.
    pub ca: String,
    /// The primary key's ID there: AES-256, active, made beforehand.
    pub primary_key: KeyId,
    /// Where the primary key is when it is used.
    pub primary_use: PrimaryUse,
    /// The attestation policies whose hosts may use the provider.
    pub policies: Vec<Label>,
}

/// Where a primary key is when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrimaryUse {
    /// At the key server, which encrypts and decrypts KEKs: it never leaves it.
    AtServer,
    /// In this service's memory: it was fetched.
    Fetched,
}

/// Which tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustSettings {
    /// Who tokens must be for.
    pub audience: Label,
    /// Tokens that were issued before then are refused, whatever they say.
    pub refuse_issued_before: Option<Timestamp>,
}

/// All that an answer depends on besides the request, as it was at one moment.
pub(super) struct Config {
    pub(super) verifier: TokenVerifier,
    pub(super) providers: BTreeMap<ProviderName, Provider>,
}

/// A use of a provider that is allowed: proof that [`Config::authorize`] said so.
pub(super) struct Authorized<'a> {
    token: &'a VerifiedToken,
    name: &'a ProviderName,
    provider: &'a Provider,
}

impl Authorized<'_> {
    pub(super) fn host(&self) -> &Label {
        self.token.host()
    }

    pub(super) fn name(&self) -> &ProviderName {
        self.name
    }

    pub(super) fn provider(&self) -> &Provider {
        self.provider
    }

    /// Whether a wrapped KEK is said to be of this provider.
    pub(super) fn check_wrapped(&self, wrapped: &WrappedKek) -> Result<(), Problem> {
        if wrapped.provider() == self.name {
            return Ok(());
        }
        Err(Problem::new(
            Code::KeyWrong,
            format!("key provider `{}` can't unwrap the key", self.name),
            format!("it was wrapped by key provider `{}`", wrapped.provider()),
            format!("ask key provider `{}`", wrapped.provider()),
        ))
    }
}

impl Load for Config {
    async fn load(home: &Home) -> Result<Self, Error> {
        let settings = load_settings(home).await?;
        let mut verifier = TokenVerifier::new(settings.audience).refusing_issued_before(settings.refuse_issued_before);
        for (name, key) in load_issuers(home).await? {
            verifier = verifier.trusting(name, key);
        }
        Ok(Self { verifier, providers: load_providers(home).await? })
    }
}

impl Config {
    /// Checks the token that a host shows in this session.
    pub(super) fn token(
        &self,
        token: Option<&str>,
        shown: CertThumbprint,
        now: Timestamp,
    ) -> Result<VerifiedToken, Problem> {
        let refused = |why: String| {
            let remedy = "let the host be attested anew: its agent does so when it is refused";
            Problem::new(Code::TokenRefused, "the host gets no key", why, remedy)
        };
        let token = token.ok_or_else(|| refused("it shows no attestation token".to_owned()))?;
        self.verifier.verify(token, shown, now).map_err(|error| refused(format!("[{}] {error}", error.code())))
    }

    /// Whether the host of a token may use a provider.
    pub(super) fn authorize<'a>(
        &'a self,
        token: &'a VerifiedToken,
        name: &'a ProviderName,
    ) -> Result<Authorized<'a>, Problem> {
        let what = || format!("host `{}` gets no key of provider `{name}`", token.host());
        let provider = self.providers.get(name).ok_or_else(|| {
            let remedy = "see which providers there are: `ward trust provider ls` at the key provider service";
            Problem::new(Code::NotFound, what(), "there is no such provider here", remedy)
        })?;
        if provider.policies.iter().any(|policy| token.policies().contains(policy)) {
            return Ok(Authorized { token, name, provider });
        }
        let met = token.policies().iter().map(Label::as_str).collect::<Vec<_>>().join(", ");
        Err(Problem::new(
            Code::ProviderNotAllowed,
            what(),
            format!("it was attested under policy {met}, which the provider does not serve"),
            "use a provider that serves the host's cluster, or let this one serve its policy",
        ))
    }
}

pub(crate) async fn load_settings(home: &Home) -> Result<TrustSettings, Error> {
    let json = home.meta("settings").await?.ok_or_else(|| Error::corrupt("settings", "they are missing"))?;
    serde_json::from_slice(&json).map_err(|error| Error::corrupt("settings", error))
}

pub(crate) async fn put_settings(db: &mut SqliteConnection, settings: &TrustSettings) -> Result<(), Error> {
    let json = serde_json::to_vec(settings).map_err(|error| Error::invalid("the settings", error))?;
    put(db, "settings", &json).await
}

pub(crate) async fn load_issuers(home: &Home) -> Result<Vec<(Label, TokenPublicKey)>, Error> {
    let rows = sqlx::query("SELECT name, public FROM issuer ORDER BY name, key_id").fetch_all(&home.pool).await?;
    rows.iter()
        .map(|row| {
            let (name, public): (String, String) = (row.try_get("name")?, row.try_get("public")?);
            let corrupt = |why: String| Error::corrupt(format!("attestation service {name}"), why);
            let label = name.parse().map_err(|error| corrupt(format!("{error}")))?;
            let key = serde_json::from_value(public.into()).map_err(|error| corrupt(error.to_string()))?;
            Ok((label, key))
        })
        .collect()
}

pub(crate) async fn load_providers(home: &Home) -> Result<BTreeMap<ProviderName, Provider>, Error> {
    let rows = sqlx::query("SELECT name, value FROM provider").fetch_all(&home.pool).await?;
    rows.iter()
        .map(|row| {
            let (name, json): (String, String) = (row.try_get("name")?, row.try_get("value")?);
            let corrupt = |why: String| Error::corrupt(format!("provider {name}"), why);
            let value = serde_json::from_str(&json).map_err(|error| corrupt(error.to_string()))?;
            Ok((name.parse().map_err(|error| corrupt(format!("{error}")))?, value))
        })
        .collect()
}
