//! `ward provider`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_controller::api::types::{AddProvider, Live, ProviderView, SetRotation};
use ward_types::{Problem, ProviderName};

use super::{parse_days, read_file};
use crate::client::Api;
use crate::output::{Output, fields, table};

/// What to do with key providers.
#[derive(Subcommand)]
pub(crate) enum Provider {
    /// Add a key provider.
    #[command(subcommand)]
    Add(Add),
    /// List key providers.
    Ls,
    /// Show a key provider, and whether its key server answers.
    Show {
        /// The provider's name.
        name: ProviderName,
    },
    /// Make a key provider the one that keys come from unless another is named.
    Default {
        /// The provider's name.
        name: ProviderName,
    },
    /// Have a key provider's keys replaced when they have been in use for some time, without anybody asking each time.
    #[command(
        after_help = "Example:\n  ward provider rotate kms --after 90d\n\nA storage policy can say another age for what \
                            is under it. `ward recrypt ls` lists the runs."
    )]
    Rotate {
        /// The provider's name.
        name: ProviderName,
        /// After so many days, such as 90d.
        #[arg(long, value_name = "DAYS", value_parser = parse_days, required_unless_present = "never")]
        after: Option<u32>,
        /// Not at all.
        #[arg(long, conflicts_with = "after")]
        never: bool,
    },
    /// Remove a key provider that no VM needs. Its keys stay at its key server.
    Rm {
        /// The provider's name.
        name: ProviderName,
    },
}

/// The kinds of key provider.
#[derive(Subcommand)]
pub(crate) enum Add {
    /// A key server that speaks KMIP, over mutual TLS.
    #[command(
        after_help = "Example:\n  ward provider add standard kms --server kms.example.com:5696 --ca kms-ca.pem --cert \
                            ward.pem --key ward.key\n\nThe provider's name is its identity: a rebuilt controller must use \
                            the same one."
    )]
    Standard(Standard),
}

/// `ward provider add standard`.
#[derive(Args)]
pub(crate) struct Standard {
    /// The provider's name, which is its identity.
    name: ProviderName,
    /// The key server, HOST:PORT.
    #[arg(long)]
    server: String,
    /// The certificates by which to know the key server, PEM.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The controller's certificate at the key server, PEM.
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The private key of that certificate, PEM. The controller keeps it sealed.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Make it the default provider; the first one is anyway.
    #[arg(long)]
    default: bool,
}

impl Provider {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Add(Add::Standard(standard)) => {
                let what = format!("cannot add key provider `{}`", standard.name);
                let body = AddProvider {
                    ca: read_file(&what, &standard.ca)?,
                    certificate: read_file(&what, &standard.cert)?,
                    key: read_file(&what, &standard.key)?,
                    name: standard.name,
                    server: standard.server,
                    default: standard.default,
                };
                let provider: ProviderView = api.post("/providers", &body).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Ls => {
                let providers: Vec<ProviderView> = api.list("/providers").await?;
                output.show(&providers, || {
                    let rows = providers.iter().map(|provider| {
                        vec![
                            provider.name.to_string(),
                            provider.kind.to_string(),
                            provider.server.clone(),
                            if provider.default { "yes" } else { "" }.to_owned(),
                            provider.vms.len().to_string(),
                        ]
                    });
                    table(&["name", "kind", "server", "default", "vms"], rows)
                })
            }
            Self::Show { name } => {
                let provider: ProviderView = api.get(&format!("/providers/{name}")).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Default { name } => {
                let provider: ProviderView = api.post(&format!("/providers/{name}/default"), &()).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Rotate { name, after, never: _ } => {
                let path = format!("/providers/{name}/rotation");
                let provider: ProviderView = api.put(&path, &SetRotation { days: after }).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Rm { name } => {
                let () = api.delete(&format!("/providers/{name}")).await?;
                output.note(&format!("key provider {name}: removed; its keys stay at its key server"))
            }
        }
    }
}

fn describe(provider: &ProviderView) -> String {
    let live = match &provider.live {
        None => String::new(),
        Some(Live::Up { version, vendor }) => {
            let vendor = vendor.as_ref().map_or_else(String::new, |vendor| format!(", {vendor}"));
            format!("answers (KMIP {version}{vendor})")
        }
        Some(Live::Down { problem }) => {
            format!("can't be used: {}\n{} [{}]", problem.why, problem.remedy, problem.code)
        }
    };
    fields(&[
        ("name", provider.name.to_string()),
        ("kind", provider.kind.to_string()),
        ("server", provider.server.clone()),
        ("status", live),
        ("default", if provider.default { "yes" } else { "no" }.to_owned()),
        ("keys replaced", provider.rotate_days.map_or_else(String::new, |days| format!("after {days} days"))),
        ("VMs", provider.vms.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    ])
}
