//! `ward provider`.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_controller::api::types::{
    AddProvider, CertificateView, NativeView, ProviderView, RemoveProvider, SetClusterProvider, SetRotation,
};
use ward_types::{Code, Problem, ProviderName, ServerAddress};

use super::provider_server::{self, Server};
use super::provider_trust::Trust;
use super::{native, parse_days, read_file, trust};
use crate::client::Api;
use crate::output::{Output, fields, table};

/// What to do with key providers.
#[derive(Subcommand)]
pub(crate) enum Provider {
    /// Add a key provider.
    #[command(subcommand)]
    Add(Add),
    /// List key providers, and how they stand.
    Ls,
    /// Show a key provider, and look at its key servers.
    Show {
        /// The provider's name.
        name: ProviderName,
    },
    /// Set up who trusts whom: show the key servers' certificates and accept them, give the controller one.
    Trust(Trust),
    /// Add, remove and list a provider's key servers.
    #[command(subcommand)]
    Server(Server),
    /// Make a key provider the one that keys come from unless another is named.
    #[command(
        after_help = "Examples:\n  ward provider default kms\n  ward provider default kms2 --cluster lab\n  ward \
                            provider default --none --cluster lab\n\nA cluster's own default counts before that of all."
    )]
    Default {
        /// The provider's name.
        #[arg(required_unless_present = "none", conflicts_with = "none")]
        name: Option<ProviderName>,
        /// For the VMs of this cluster only.
        #[arg(long)]
        cluster: Option<String>,
        /// None of the cluster's own: that of all counts again.
        #[arg(long, requires = "cluster")]
        none: bool,
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
    /// Remove a key provider that nothing needs. The keys of a standard one stay at its key servers; the key of a native one
    /// is deleted everywhere but in backups.
    #[command(
        after_help = "With --force it shows what needs the provider's keys, and asks; in scripts, say the name again: \
                            --force NAME.\nWhat needs them runs on only as long as its hosts have the keys."
    )]
    Rm {
        /// The provider's name.
        name: ProviderName,
        /// Remove it although VMs or hosts need its keys.
        #[arg(long, value_name = "NAME", num_args = 0..=1)]
        force: Option<Option<String>>,
    },
    #[command(flatten)]
    Native(native::Native),
}

/// The kinds of key provider.
#[derive(Subcommand)]
pub(crate) enum Add {
    /// A key server that speaks KMIP, over mutual TLS.
    #[command(
        after_help = "Examples:\n  ward provider add standard kms --server kms1.example.com --server kms2.example.com --ca \
                            kms-ca.pem --cert ward.pem --key ward.key\n  ward provider add standard kms --server \
                            kms.example.com:5696\n  ward provider trust kms\n\nThe provider's name is its identity: a \
                            rebuilt controller must use the same one. Several servers have the same keys,\nand are asked \
                            in order. Without --ca, --cert and --key, `ward provider trust` sets the trust up afterwards."
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
    /// A key server, HOST:PORT; give it once for each.
    #[arg(long = "server", value_name = "HOST:PORT", required = true)]
    servers: Vec<ServerAddress>,
    /// How many seconds of a request's time one server may take; 10 unless given.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The certificates by which to know the key servers, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The controller's certificate at the key servers, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The private key of that certificate, PEM. The controller keeps it sealed.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
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
                let read = |path: Option<PathBuf>| path.map(|path| read_file(&what, &path)).transpose();
                let body = AddProvider {
                    ca: read(standard.ca)?,
                    certificate: read(standard.cert)?,
                    key: read(standard.key)?,
                    name: standard.name,
                    servers: standard.servers,
                    timeout_s: standard.timeout,
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
            Self::Trust(trust) => trust.run(&api, output).await,
            Self::Server(server) => server.run(&api, output).await,
            Self::Ls => {
                let providers: Vec<ProviderView> = api.list("/providers").await?;
                output.show(&providers, || {
                    let rows = providers.iter().map(|provider| {
                        let servers = provider.servers.iter().map(|server| server.address.to_string());
                        vec![
                            provider.name.to_string(),
                            provider.kind.to_string(),
                            match &provider.native {
                                Some(native) => format!("{} ({})", provider.status, native.state),
                                None => provider.status.to_string(),
                            },
                            servers.collect::<Vec<_>>().join(", "),
                            default_of(provider),
                            provider.vms.len().to_string(),
                        ]
                    });
                    table(&["name", "kind", "status", "servers", "default", "vms"], rows)
                })
            }
            Self::Show { name } => {
                let provider: ProviderView = api.get(&format!("/providers/{name}")).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Default { name, cluster: Some(cluster), none: _ } => {
                let text = match &name {
                    Some(name) => format!("cluster {cluster}: keys come from {name}"),
                    None => format!("cluster {cluster}: keys come from the default provider of all"),
                };
                let body = SetClusterProvider { provider: name };
                let () = api.put(&format!("/clusters/{cluster}/provider"), &body).await?;
                output.note(&text)
            }
            Self::Default { name, cluster: None, none: _ } => {
                let name = name.map_or_else(String::new, |name| name.to_string());
                let provider: ProviderView = api.post(&format!("/providers/{name}/default"), &()).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Rotate { name, after, never: _ } => {
                let path = format!("/providers/{name}/rotation");
                let provider: ProviderView = api.put(&path, &SetRotation { days: after }).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Rm { name, force } => {
                remove(&api, &name, force, output).await?;
                output.note(&format!("key provider {name}: removed"))
            }
        }
    }
}

/// Removes a provider; by force only once what needs its keys was shown.
async fn remove(api: &Api, name: &ProviderName, force: Option<Option<String>>, output: Output) -> Result<(), Problem> {
    let path = format!("/providers/{name}");
    let refusal = match (api.delete::<()>(&path).await, &force) {
        (Err(problem), Some(_)) if problem.code == Code::InUse => problem,
        (done, _) => return done,
    };
    let force = match force.flatten() {
        Some(again) => {
            if output == Output::Table {
                eprintln!("{}", refusal.why);
            }
            again
        }
        None if std::io::stdin().is_terminal() => {
            eprint!("{}\nType the provider's name to remove it all the same: ", refusal.why);
            let mut answer = String::new();
            match std::io::stdin().read_line(&mut answer) {
                Ok(_) if answer.trim() == name.as_str() => answer.trim().to_owned(),
                _ => return Err(refusal),
            }
        }
        None => return Err(refusal),
    };
    api.delete_with(&path, &RemoveProvider { force: Some(force) }).await
}

fn default_of(provider: &ProviderView) -> String {
    let all = provider.default.then(|| "yes".to_owned());
    all.into_iter()
        .chain(provider.default_of.iter().map(|cluster| format!("cluster {cluster}")))
        .collect::<Vec<_>>()
        .join(", ")
}

fn describe_certificate(certificate: Option<&CertificateView>) -> String {
    certificate.map_or_else(String::new, |it| {
        format!("{}, {} days left\nSHA-256 {}", it.subject, it.days_left, it.fingerprint)
    })
}

pub(super) fn describe(provider: &ProviderView) -> String {
    let native = provider.native.as_ref();
    let said = |say: &dyn Fn(&NativeView) -> String| native.map_or_else(String::new, say);
    let standard = |text: String| if native.is_none() { text } else { String::new() };
    let pending = match &provider.pending {
        Some(pending) if pending.pem.is_none() => "a request that waits to be signed".to_owned(),
        Some(pending) => describe_certificate(pending.certificate.as_ref()),
        None => String::new(),
    };
    let keys = match (provider.keys_needed, provider.keys_unreachable) {
        (needed, 0) => format!("{needed} needed"),
        (needed, unreachable) => format!("{needed} needed, {unreachable} can't be had"),
    };
    let servers = if provider.servers.is_empty() { String::new() } else { provider_server::list(&provider.servers) };
    fields(&[
        ("name", provider.name.to_string()),
        ("kind", provider.kind.to_string()),
        ("status", native.map_or_else(|| provider.status.to_string(), native::describe_state)),
        ("servers", servers),
        ("server time-out", provider.timeout_s.map_or_else(String::new, |seconds| format!("{seconds} s"))),
        ("servers' CA", provider.ca.iter().map(|ca| describe_certificate(Some(ca))).collect::<Vec<_>>().join("\n")),
        ("our certificate", describe_certificate(provider.certificate.as_ref())),
        ("not in use yet", pending),
        ("key ID", said(&|native| native.key_id.to_string())),
        ("versions", said(&native::describe_versions)),
        ("backed up", said(&|native| native.backed_up.map_or_else(|| "no".to_owned(), |time| time.to_string()))),
        ("TPM required", said(&|native| if native.tpm_required { "yes" } else { "no" }.to_owned())),
        ("clusters", said(&native::describe_clusters)),
        ("sealed under", said(&|native| native.sealed_under.clone())),
        ("default", Some(default_of(provider)).filter(|text| !text.is_empty()).unwrap_or_else(|| "no".to_owned())),
        ("keys", standard(keys)),
        ("keys replaced", provider.rotate_days.map_or_else(String::new, |days| format!("after {days} days"))),
        ("VMs", provider.vms.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        ("host keys of", provider.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    ])
}
