//! Trusted key providers, and which tokens are accepted.

use std::path::PathBuf;

use attest::label::Label;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use ward_secret::Zeroizing;
use ward_trust::key_provider::{Credentials, PrimaryUse, Provider as Settings, make_primary_key};
use ward_types::{Code, KeyId, Problem, ProviderName};

use super::{At, problem};
use crate::commands::read_file;
use crate::output::{Output, table};

/// `ward trust deny-before`.
#[derive(Args)]
pub(crate) struct DenyBefore {
    /// The moment, such as 2026-01-31T12:00:00Z, or `now`; `never` takes it back.
    #[arg(value_name = "TIME", value_parser = moment)]
    time: Moment,
}

#[derive(Clone, Copy)]
struct Moment(Option<Timestamp>);

fn moment(text: &str) -> Result<Moment, String> {
    match text {
        "never" => Ok(Moment(None)),
        // Tokens have whole seconds: what was issued in this one is denied too.
        "now" => {
            Timestamp::from_second(Timestamp::now().as_second() + 1).map(Some).map(Moment).map_err(|e| e.to_string())
        }
        text => text.parse().map(Some).map(Moment).map_err(|error: jiff::Error| error.to_string()),
    }
}

impl DenyBefore {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        let what = "cannot deny old tokens";
        let admin = at.open_key_provider(what).await?;
        let mut settings = admin.settings().await.map_err(|error| problem(what, &error))?;
        settings.refuse_issued_before = self.time.0;
        admin.set_settings(&settings).await.map_err(|error| problem(what, &error))?;
        output.show(&settings, || match self.time.0 {
            Some(time) => format!("tokens from before {time}: denied"),
            None => "tokens are not denied for when they were issued".to_owned(),
        })
    }
}

/// What to do with trusted key providers.
#[derive(Subcommand)]
pub(crate) enum Provider {
    /// Add a trusted key provider, or change one: a primary key (AES-256, active) at a key server, made beforehand.
    #[command(
        after_help = "Where the key server can encrypt (KMIP Encrypt), the primary key never leaves it. Make one with any KMIP \
                            client, or have `--make` make it."
    )]
    Add(Add),
    /// List the trusted key providers.
    Ls,
    /// Remove a trusted key provider. What was wrapped under its primary key opens again once it is there again.
    Rm {
        /// Its name.
        provider: ProviderName,
    },
}

/// `ward trust provider add`.
#[derive(Args)]
pub(crate) struct Add {
    /// Its name, which is its identity.
    name: ProviderName,
    /// The key server, HOST:PORT.
    #[arg(long)]
    server: String,
    /// The certificates by which to know the key server, PEM.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The key provider service's certificate at the key server, PEM.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The private key of that certificate, PEM. Kept sealed.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The ID of the primary key at the key server.
    #[arg(long, value_name = "ID", required_unless_present = "make")]
    primary_key: Option<String>,
    /// Have the key server make a primary key, for a provider that is not there yet.
    #[arg(long, conflicts_with = "primary_key")]
    make: bool,
    /// The attestation policies whose hosts may use it.
    #[arg(long = "policy", value_name = "NAME", default_value = "default")]
    policies: Vec<Label>,
    /// Fetch the primary key and hold it in memory, even where the key server could encrypt.
    #[arg(long)]
    fetch: bool,
}

impl Provider {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Add(add) => add.run(at, output).await,
            Self::Ls => {
                let what = "cannot list trusted key providers";
                let providers =
                    at.open_key_provider(what).await?.providers().await.map_err(|error| problem(what, &error))?;
                output.show(&providers, || {
                    let rows = providers.iter().map(|(name, it)| {
                        let policies: Vec<_> = it.policies.iter().map(ToString::to_string).collect();
                        vec![
                            name.to_string(),
                            format!("{}:{}", it.host, it.port),
                            it.primary_key.to_string(),
                            used(it.primary_use).to_owned(),
                            policies.join(", "),
                        ]
                    });
                    table(&["provider", "key server", "primary key", "used", "policies"], rows)
                })
            }
            Self::Rm { provider } => {
                let what = format!("cannot remove trusted key provider `{provider}`");
                at.open_key_provider(&what)
                    .await?
                    .remove_provider(&provider)
                    .await
                    .map_err(|error| problem(&what, &error))?;
                output.note(&format!("trusted key provider {provider}: removed"))
            }
        }
    }
}

const fn used(primary_use: PrimaryUse) -> &'static str {
    match primary_use {
        PrimaryUse::AtServer => "at the key server",
        PrimaryUse::Fetched => "in memory here",
    }
}

impl Add {
    async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        let Self { name, server, ca, cert, key, primary_key, make, policies, fetch } = self;
        let what = format!("cannot set trusted key provider `{name}`");
        let invalid = |why: String| Problem::new(Code::RequestInvalid, &what, why, "correct that and try again");
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) => {
                (host.to_owned(), port.parse().map_err(|_| invalid(format!("`{server}` is no server")))?)
            }
            None => (server.clone(), 5696),
        };
        let admin = at.open_key_provider(&what).await?;
        let credentials =
            Credentials { certificate: read_file(&what, &cert)?, key: Zeroizing::new(read_file(&what, &key)?) };
        let ca = read_file(&what, &ca)?;
        let primary_key = match primary_key {
            Some(id) => KeyId::try_from(id).map_err(|error| invalid(error.to_string()))?,
            None => {
                let known = admin.providers().await.map_err(|error| problem(&what, &error))?;
                if let Some(known) = known.get(&name) {
                    let why = format!(
                        "it is there, with primary key {}; under another one nothing would open that was wrapped under that",
                        known.primary_key
                    );
                    let remedy = "name its key with `--primary-key`, or choose another name";
                    return Err(Problem::new(Code::Exists, &what, why, remedy));
                }
                make_primary_key(&what, &name, (&host, port), &ca, &credentials).await?
            }
        };
        let mut provider = Settings { host, port, ca, primary_key, primary_use: PrimaryUse::AtServer, policies };
        if fetch {
            provider.primary_use = PrimaryUse::Fetched;
        }
        let mut set = admin.set_provider(&name, &provider, &credentials).await;
        // A key server that does not encrypt, or may not with that key.
        if set.as_ref().is_err_and(|problem| matches!(problem.code, Code::KeyServerRefused | Code::KeyNotUsable))
            && !fetch
        {
            provider.primary_use = PrimaryUse::Fetched;
            set = admin.set_provider(&name, &provider, &credentials).await;
        }
        set.map_err(|mut problem| {
            if make {
                problem.remedy +=
                    &format!("; the primary key was made: go on with `--primary-key {}`", provider.primary_key);
            }
            problem
        })?;
        output.show(&provider, || {
            format!(
                "trusted key provider {name}: primary key {}, used {}",
                provider.primary_key,
                used(provider.primary_use)
            )
        })
    }
}
