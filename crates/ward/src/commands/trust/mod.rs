//! `ward trust`.
//!
//! ```text
//! services    the two services, and setting them up
//! tpms        TPM makers and endorsement keys that are trusted
//! images      base images
//! policies    what hosts must be, and how the attestation service behaves
//! hosts       hosts that have enrolled
//! issuers     the attestation services whose tokens are accepted
//! keys        trusted key providers, and tokens that are too old
//! fleet       what a controller says of hosts and services
//! ```

mod fleet;
mod hosts;
mod images;
mod issuers;
mod keys;
mod policies;
mod services;
mod tpms;

pub(crate) use fleet::{AddArguments, add};

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_types::{Code, Problem};

use crate::output::Output;

/// `ward trust`. All but `status`, `remediate` and `import-description` is done on the services' own machine, by the trust
/// administrators: whoever may read the services' directory.
#[derive(Args)]
pub(crate) struct Trust {
    #[command(flatten)]
    at: At,
    #[command(subcommand)]
    what: What,
}

/// What to do with the trust authority.
#[derive(Subcommand)]
enum What {
    /// Set a trust authority up on this machine: the administrators' key, an attestation service, a key provider service.
    #[command(after_help = services::SEQUENCE)]
    Init(services::Init),
    /// Run the attestation service.
    Attestation(services::Run),
    /// Run the key provider service.
    KeyProvider(services::Run),
    /// Sign the description of the services: what a controller imports, and its hosts go by.
    Describe(services::Describe),
    /// Print the trust administrators' public key, for `ward host run --trust-key`.
    AdminKey,
    /// The signed configuration: for further instances of the services.
    #[command(subcommand)]
    Config(services::Config),
    /// The CAs of TPM makers that are trusted.
    #[command(subcommand)]
    TpmCa(tpms::TpmCa),
    /// Endorsement keys that are trusted by themselves.
    #[command(subcommand)]
    Ek(tpms::Ek),
    /// Base images: what hosts may have booted.
    #[command(subcommand)]
    BaseImage(images::BaseImage),
    /// Attestation policies: what the hosts of a cluster must be.
    #[command(subcommand)]
    Policy(policies::Policy),
    /// Hosts that have enrolled.
    #[command(subcommand)]
    Host(hosts::Host),
    /// Change how the attestation service behaves.
    Settings(policies::ChangeSettings),
    /// Print the public key with which this instance of the attestation service signs tokens, for `issuer add`.
    TokenKey,
    /// The attestation services whose tokens are accepted: one key for each instance.
    #[command(subcommand)]
    Issuer(issuers::Issuer),
    /// Refuse all attestation tokens that were issued before some moment.
    DenyBefore(keys::DenyBefore),
    /// Trusted key providers: each has a primary key at a key server.
    #[command(subcommand)]
    Provider(keys::Provider),
    /// Show what hosts asked the services for.
    Audit(services::Audit),
    /// Show how hosts and services are, as the controller sees it: what each is to go by, and goes by.
    Status,
    /// Have a host told anew what it is to go by, and attested at once; all hosts unless one is named.
    Remediate {
        /// The host.
        host: Option<String>,
    },
    /// Give the controller a newer description of a trusted provider's services.
    ImportDescription(fleet::ImportDescription),
}

/// Where the trust authority keeps its state on this machine.
#[derive(Args)]
pub(crate) struct At {
    /// The directory of the trust authority.
    #[arg(
        long = "dir",
        value_name = "DIR",
        default_value = "/var/lib/ward/trust",
        env = "WARD_TRUST_DIR",
        global = true
    )]
    directory: PathBuf,
}

impl At {
    fn attestation(&self) -> PathBuf {
        self.directory.join("attestation")
    }

    fn key_provider(&self) -> PathBuf {
        self.directory.join("key-provider")
    }

    fn admin_key(&self) -> PathBuf {
        self.directory.join("admin.key")
    }

    async fn open_attestation(&self, what: &str) -> Result<ward_trust::attestation::Admin, Problem> {
        ward_trust::attestation::Admin::open(&self.attestation()).await.map_err(|error| problem(what, &error))
    }

    async fn open_key_provider(&self, what: &str) -> Result<ward_trust::key_provider::Admin, Problem> {
        ward_trust::key_provider::Admin::open(&self.key_provider()).await.map_err(|error| problem(what, &error))
    }
}

impl Trust {
    /// Whether it is a process that serves.
    pub(crate) const fn is_service(&self) -> bool {
        matches!(self.what, What::Attestation(_) | What::KeyProvider(_))
    }

    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let Self { at, what } = self;
        match what {
            What::Init(init) => init.run(&at, output).await,
            What::Attestation(run) => run.attestation(&at).await,
            What::KeyProvider(run) => run.key_provider(&at).await,
            What::Describe(describe) => describe.run(&at, output).await,
            What::AdminKey => services::admin_key(&at, output),
            What::Config(config) => config.run(&at, output).await,
            What::TpmCa(tpm_ca) => tpm_ca.run(&at, output).await,
            What::Ek(ek) => ek.run(&at, output).await,
            What::BaseImage(image) => image.run(&at, output).await,
            What::Policy(policy) => policy.run(&at, output).await,
            What::Host(host) => host.run(&at, output).await,
            What::Settings(settings) => settings.run(&at, output).await,
            What::TokenKey => issuers::token_key(&at, output).await,
            What::Issuer(issuer) => issuer.run(&at, output).await,
            What::DenyBefore(deny) => deny.run(&at, output).await,
            What::Provider(provider) => provider.run(&at, output).await,
            What::Audit(audit) => audit.run(&at, output).await,
            What::Status => fleet::status(output).await,
            What::Remediate { host } => fleet::remediate(host, output).await,
            What::ImportDescription(import) => import.run(output).await,
        }
    }
}

fn problem(what: &str, error: &ward_trust::Error) -> Problem {
    let (code, remedy) = match error {
        ward_trust::Error::NotFound { .. } => (Code::NotFound, "see which there are"),
        ward_trust::Error::Exists { .. } => (Code::Exists, "choose another name"),
        ward_trust::Error::InUse { .. } => (Code::InUse, "remove what needs it first"),
        ward_trust::Error::NotInitialized { .. } => (Code::NotFound, "set it up with `ward trust init`"),
        ward_trust::Error::Invalid { .. } => (Code::RequestInvalid, "correct that and try again"),
        _ => (Code::StorageIo, "mend that and try again"),
    };
    Problem::new(code, what, error.to_string(), remedy)
}
