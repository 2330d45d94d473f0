//! `ward provider`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_controller::api::types::{AddProvider, Live, NativeView, ProviderView, RemoveProvider, SetRotation};
use ward_types::{Problem, ProviderName};

use super::{native, parse_days, read_file, trust};
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
    /// Remove a key provider that no VM needs. The keys of a standard one stay at its key server; the key of a native one
    /// is deleted everywhere but in backups.
    Rm {
        /// The provider's name.
        name: ProviderName,
        /// Remove a native provider although VMs need it: say its name again. Only its backup brings the VMs back.
        #[arg(long, value_name = "NAME")]
        force: Option<String>,
    },
    #[command(flatten)]
    Native(native::Native),
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
    /// A key that the controller makes and gives to the hosts: no key server is needed.
    #[command(
        after_help = "Example:\n  ward provider add native n1\n  ward provider export n1 --out n1.p12\n\nIt encrypts nothing \
                            before it is backed up. Keep the backup elsewhere: with the controller lost, only the backup \
                            opens the VMs."
    )]
    Native(native::AddArguments),
    /// A trust authority, which hands keys only to hosts that it has attested; `ward trust` sets one up.
    #[command(
        after_help = "Example:\n  ward trust describe --out services.json    # by the trust administrators\n  ward provider add \
                            trusted vault --description services.json\n\nThe hosts need a TPM 2.0 (`ward host run --tpm`)."
    )]
    Trusted(trust::AddArguments),
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
            Self::Add(Add::Native(arguments)) => {
                let provider = native::add(&api, arguments).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Add(Add::Trusted(arguments)) => {
                let provider = trust::add(&api, arguments).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Native(native) => native.run(&api, output).await,
            Self::Ls => {
                let providers: Vec<ProviderView> = api.list("/providers").await?;
                output.show(&providers, || {
                    let rows = providers.iter().map(|provider| {
                        vec![
                            provider.name.to_string(),
                            provider.kind.to_string(),
                            match &provider.native {
                                Some(native) => native.state.to_string(),
                                None => provider.server.clone(),
                            },
                            if provider.default { "yes" } else { "" }.to_owned(),
                            provider.vms.len().to_string(),
                        ]
                    });
                    table(&["name", "kind", "server or status", "default", "vms"], rows)
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
            Self::Rm { name, force } => {
                let path = format!("/providers/{name}");
                let () = match force {
                    None => api.delete(&path).await?,
                    force => api.delete_with(&path, &RemoveProvider { force }).await?,
                };
                output.note(&format!("key provider {name}: removed"))
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
    let native = provider.native.as_ref();
    let said = |say: &dyn Fn(&NativeView) -> String| native.map_or_else(String::new, say);
    fields(&[
        ("name", provider.name.to_string()),
        ("kind", provider.kind.to_string()),
        ("server", provider.server.clone()),
        ("status", native.map_or(live, native::describe_state)),
        ("key ID", said(&|native| native.key_id.to_string())),
        ("versions", said(&native::describe_versions)),
        ("backed up", said(&|native| native.backed_up.map_or_else(|| "no".to_owned(), |time| time.to_string()))),
        ("TPM required", said(&|native| if native.tpm_required { "yes" } else { "no" }.to_owned())),
        ("clusters", said(&native::describe_clusters)),
        ("sealed under", said(&|native| native.sealed_under.clone())),
        ("default", if provider.default { "yes" } else { "no" }.to_owned()),
        ("keys replaced", provider.rotate_days.map_or_else(String::new, |days| format!("after {days} days"))),
        ("VMs", provider.vms.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    ])
}
