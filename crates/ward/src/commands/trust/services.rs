//! The two services: set up, run, described.

use std::net::SocketAddr;
use std::path::PathBuf;

use attest::label::Label;
use clap::{Args, Subcommand};
use serde::Serialize;
use ward_trust::attestation::PolicySettings;
use ward_trust::services::{ServiceAddress, Services};
use ward_trust::signed::{AdminKey, Signed};
use ward_trust::{AuditEntry, attestation, configuration, key_provider};
use ward_types::{Code, Problem};

use super::issuers::{public_key, show_key};
use super::{At, problem};
use crate::output::{Output, fields, table};
use crate::process::shutdown;

/// The guided sequence.
pub(super) const SEQUENCE: &str = "In this order:
  ward trust init                                            # keys, two services, the policy `default`
  ward trust attestation & ward trust key-provider &         # run them; better on machines of their own
  ward trust tpm-ca import tpm-maker-root.pem                # or: ward trust ek import host.ekpub --name h1
  ward trust provider add vault --server kms:5696 --ca ca.pem --cert c.pem --key c.key --primary-key ID
  ward trust describe --out services.json                    # what the controller imports
  ward provider add trusted vault --description services.json
  ward host run --tpm device:/dev/tpmrm0 ...                 # on each host; it enrols itself
  ward trust host ls; ward trust host admit NAME             # let it in
  ward trust base-image capture NAME --image standard --version 1   # what a good host has booted
  ward trust config export --out configuration-1             # sign it; further instances import it
  ward trust status                                          # healthy: its VMs can be encrypted";

/// `ward trust init`.
#[derive(Args)]
pub(crate) struct Init {
    /// The trust authority's name.
    #[arg(long, default_value = "trust")]
    name: Label,
    /// A name or address under which hosts reach the services, besides those of loopback; for their certificates.
    #[arg(long = "server-name", value_name = "NAME")]
    server_names: Vec<String>,
    /// Attest hosts whose firmware has no Secure Boot too.
    #[arg(long)]
    without_secure_boot: bool,
    /// Let hosts in whose TPM has no certificate, once its key was imported.
    #[arg(long)]
    bare_eks: bool,
    /// The trust administrators' key, as `ward trust admin-key` tells it on the machine that has theirs: this machine's
    /// services are further instances, and go by what was signed there. The name must be the one given there.
    #[arg(long, value_name = "FILE")]
    admin_key: Option<PathBuf>,
}

#[derive(Serialize)]
struct SetUp {
    name: Label,
    directory: PathBuf,
    admin_key: String,
}

impl Init {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        let what = "cannot set a trust authority up";
        let failed = |error: ward_trust::Error| problem(what, &error);
        let Self { name, server_names, without_secure_boot, bare_eks, admin_key } = self;
        let given = admin_key.map(|path| public_key(what, &path, "admin-key")).transpose()?;
        attestation::init(&at.attestation(), &name, &server_names).await.map_err(failed)?;
        key_provider::init(&at.key_provider(), &name, &server_names).await.map_err(failed)?;
        let path = at.admin_key();
        let signer = match given {
            Some(given) => given,
            None if path.exists() => AdminKey::load(&path).map_err(failed)?.public().clone(),
            None => AdminKey::create(&path).map_err(failed)?.public().clone(),
        };
        let (admin, keys) = (at.open_attestation(what).await?, at.open_key_provider(what).await?);
        for home in [at.attestation(), at.key_provider()] {
            configuration::set_signer(&home, &signer).await.map_err(failed)?;
        }
        let description = admin.description().await.map_err(failed)?;
        keys.trust_issuer(&description.issuer, &description.token_key).await.map_err(failed)?;
        let default: Label = "default".parse().map_err(|error| Problem::internal(what, error))?;
        let policies = admin.policies().await.map_err(failed)?;
        if !policies.iter().any(|(name, _)| *name == default) {
            let settings = PolicySettings {
                secure_boot: !without_secure_boot,
                ek_certificate: !bare_eks,
                ..PolicySettings::default()
            };
            admin.set_policy(&default, &settings).await.map_err(failed)?;
        }
        let done = SetUp { name, directory: at.directory.clone(), admin_key: signer.id() };
        output.show(&done, || {
            fields(&[
                ("name", done.name.to_string()),
                ("directory", done.directory.display().to_string()),
                ("administrators' key", done.admin_key.clone()),
                ("next", "`ward trust init --help` tells the sequence".to_owned()),
            ])
        })
    }
}

/// `ward trust attestation`, `ward trust key-provider`.
#[derive(Args)]
pub(crate) struct Run {
    /// Where it listens: port 8460 is usual for attestation, 8461 for keys.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// The usual ports.
const ATTESTATION_PORT: u16 = 8460;
const KEY_PROVIDER_PORT: u16 = 8461;

impl Run {
    pub(super) async fn attestation(self, at: &At) -> Result<(), Problem> {
        let what = "cannot run the attestation service";
        ward_secret::harden_process().map_err(|error| Problem::internal(what, error))?;
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], ATTESTATION_PORT)));
        let server = attestation::Service::start(&at.attestation(), listen).await;
        serve("attestation", server.map_err(|error| problem(what, &error))?).await
    }

    pub(super) async fn key_provider(self, at: &At) -> Result<(), Problem> {
        let what = "cannot run the key provider service";
        ward_secret::harden_process().map_err(|error| Problem::internal(what, error))?;
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], KEY_PROVIDER_PORT)));
        let server = key_provider::Service::start(&at.key_provider(), listen).await;
        serve("key provider", server.map_err(|error| problem(what, &error))?).await
    }
}

async fn serve(name: &str, server: ward_trust::Server) -> Result<(), Problem> {
    tracing::info!(address = %server.local_addr(), "the {name} service answers");
    server.serve(shutdown()?).await;
    Ok(())
}

/// `ward trust describe`.
#[derive(Args)]
pub(crate) struct Describe {
    /// The policy that the hosts are to meet.
    #[arg(long, default_value = "default")]
    policy: Label,
    /// Where hosts reach an instance of the attestation service, HOST:PORT; that of this machine unless given. An
    /// instance elsewhere is given with its certificate: HOST:PORT=CERTIFICATE-FILE.
    #[arg(long = "attestation", value_name = "HOST:PORT")]
    attestation: Vec<String>,
    /// Where hosts reach an instance of the key provider service, in the same way.
    #[arg(long = "key-provider", value_name = "HOST:PORT")]
    key_providers: Vec<String>,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Describe {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        let what = "cannot describe the services";
        let failed = |error: ward_trust::Error| problem(what, &error);
        let (admin, keys) = (at.open_attestation(what).await?, at.open_key_provider(what).await?);
        let key = AdminKey::load(&at.admin_key()).map_err(failed)?;
        if !admin.policies().await.map_err(failed)?.iter().any(|(name, _)| *name == self.policy) {
            let why = format!("there is no policy `{}`", self.policy);
            return Err(Problem::new(Code::NotFound, what, why, "`ward trust policy ls` lists them"));
        }
        let description = admin.description().await.map_err(failed)?;
        let local = |port| vec![format!("localhost:{port}")];
        let or_local = |given: Vec<String>, port| if given.is_empty() { local(port) } else { given };
        let services = Services {
            version: 1,
            serial: admin.next_description().await.map_err(failed)?,
            name: description.issuer,
            policy: self.policy,
            attestation: addresses(what, or_local(self.attestation, ATTESTATION_PORT), &description.certificate)?,
            key_providers: addresses(
                what,
                or_local(self.key_providers, KEY_PROVIDER_PORT),
                &keys.certificate().map_err(failed)?,
            )?,
            providers: keys.providers().await.map_err(failed)?.into_keys().collect(),
        };
        let signed = key.sign(&services).map_err(failed)?;
        signed.save(&self.out).map_err(failed)?;
        output.show(&services, || {
            let list = |services: &[ServiceAddress]| {
                services.iter().map(|service| service.address.as_str()).collect::<Vec<_>>().join("\n")
            };
            fields(&[
                ("file", self.out.display().to_string()),
                ("digest", signed.digest()),
                ("policy", services.policy.to_string()),
                ("attestation", list(&services.attestation)),
                ("key provider", list(&services.key_providers)),
                ("providers", services.providers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            ])
        })
    }
}

fn addresses(what: &str, given: Vec<String>, own: &str) -> Result<Vec<ServiceAddress>, Problem> {
    let address = |text: String| {
        let (address, certificate) = match text.split_once('=') {
            None => (text, own.to_owned()),
            Some((address, file)) => (address.to_owned(), crate::commands::read_file(what, file.as_ref())?),
        };
        let good = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if good {
            return Ok(ServiceAddress { address, certificate });
        }
        let why = format!("`{address}` is no HOST:PORT");
        Err(Problem::new(Code::RequestInvalid, what, why, "give it as HOST:PORT"))
    };
    given.into_iter().map(address).collect()
}

pub(super) fn admin_key(at: &At, output: Output) -> Result<(), Problem> {
    let what = "cannot tell the administrators' key";
    let key = AdminKey::load(&at.admin_key()).map_err(|error| problem(what, &error))?;
    show_key(what, key.public(), output)
}

/// What to do with the signed configuration.
#[derive(Subcommand)]
pub(crate) enum Config {
    /// Sign what both services of this machine go by, and write it to a file. Holds no secret: the credentials at key
    /// servers, and the keys that sign tokens, are each instance's own.
    Export {
        /// The file to write; it must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Go by a signed configuration, in the place of what the services of this machine went by. Running services notice.
    Import {
        /// The file.
        #[arg(long = "in", value_name = "FILE")]
        file: PathBuf,
        /// The administrators' key, as `ward trust admin-key` tells it, on a machine that does not know it yet.
        #[arg(long, value_name = "FILE")]
        admin_key: Option<PathBuf>,
    },
}

impl Config {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Export { out } => {
                let what = "cannot export the configuration";
                let failed = |error: ward_trust::Error| problem(what, &error);
                let key = AdminKey::load(&at.admin_key()).map_err(failed)?;
                let signed =
                    configuration::export(&at.attestation(), &at.key_provider(), &key).await.map_err(failed)?;
                signed.save(&out).map_err(failed)?;
                output.show(&signed.digest(), || format!("{}: digest {}", out.display(), signed.digest()))
            }
            Self::Import { file, admin_key } => {
                let what = "cannot import the configuration";
                let failed = |error: ward_trust::Error| problem(what, &error);
                let signed = Signed::load(&file).map_err(failed)?;
                let given = admin_key.map(|path| public_key(what, &path, "admin-key")).transpose()?;
                configuration::import(&at.attestation(), &at.key_provider(), &signed, given).await.map_err(failed)?;
                output.show(&signed.digest(), || format!("this machine's services go by {}", signed.digest()))
            }
        }
    }
}

/// `ward trust audit`.
#[derive(Args)]
pub(crate) struct Audit {
    /// What the key provider service was asked; else the attestation service.
    #[arg(long)]
    keys: bool,
    /// The last so many requests.
    #[arg(long, default_value_t = 50)]
    last: u32,
}

impl Audit {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        let what = "cannot list requests";
        let failed = |error: ward_trust::Error| problem(what, &error);
        let entries: Vec<AuditEntry> = if self.keys {
            at.open_key_provider(what).await?.audit(self.last).await.map_err(failed)?
        } else {
            at.open_attestation(what).await?.audit(self.last).await.map_err(failed)?
        };
        output.show(&entries, || {
            let rows = entries.iter().map(|entry| {
                let time = jiff::Timestamp::from_millisecond(entry.at_ms);
                vec![
                    entry.sequence.to_string(),
                    time.map_or_else(|_| String::new(), |time| time.to_string()),
                    entry.host.clone(),
                    entry.operation.clone(),
                    entry.object.clone(),
                    entry.result.clone(),
                ]
            });
            table(&["no", "time", "host", "operation", "object", "result"], rows)
        })
    }
}
