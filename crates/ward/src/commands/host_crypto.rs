//! `ward host encryption`, `ward host set`, `ward host support-bundle`, `ward host dump ls`.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ward_controller::api::types::{HostView, MakeBundle, SetClusterPersistence, SetEncryption, SetHostPersistence};
use ward_types::{Code, DumpInfo, Name, Problem};

use super::native::{Password, create};
use crate::client::Api;
use crate::output::{Output, fields, table};

/// What to do with a host's encryption mode.
#[derive(Subcommand)]
pub(crate) enum Encryption {
    /// Switch it on: the host gets a host key, and may have the keys of its cluster. The first cryptographic operation of
    /// somebody who may do this does it too.
    Enable {
        /// The host's name or ID.
        host: String,
    },
    /// Switch it off: the host gets no more keys, and has none once its agent has started anew. It must run no encrypted VM.
    /// The dumps that it keeps can then be opened only where its host key still is: take them in a support bundle first.
    Disable {
        /// The host's name or ID.
        host: String,
    },
    /// Give hosts new host keys, from the default key provider. Their dumps go under the new ones.
    Rekey {
        /// The hosts' names or IDs.
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Show it.
    Show {
        /// The host's name or ID.
        host: String,
    },
}

impl Encryption {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let hosts: Vec<HostView> = match self {
            Self::Enable { host } => vec![set(api, &host, true).await?],
            Self::Disable { host } => vec![set(api, &host, false).await?],
            Self::Rekey { hosts } => {
                let mut rekeyed = Vec::new();
                for host in hosts {
                    rekeyed.push(api.post(&format!("/hosts/{host}/encryption/rekey"), &()).await?);
                }
                rekeyed
            }
            Self::Show { host } => vec![api.get(&format!("/hosts/{host}")).await?],
        };
        let describe = |host: &HostView| {
            fields(&[
                ("host", host.name.to_string()),
                ("encryption mode", host.mode.to_string()),
                ("host key", host.host_key.as_ref().map_or_else(String::new, ToString::to_string)),
                ("keys", host.key_count.to_string()),
                ("key persistence", persistence(host).to_owned()),
                ("dumps", host.dumps.len().to_string()),
                ("dumps lost", host.lost_dumps.len().to_string()),
                ("what crashes", crashes(host).to_owned()),
            ])
        };
        match hosts.as_slice() {
            [host] => output.show(host, || describe(host)),
            hosts => output.show(&hosts, || hosts.iter().map(describe).collect::<Vec<_>>().join("\n")),
        }
    }
}

async fn set(api: &Api, host: &str, on: bool) -> Result<HostView, Problem> {
    api.put(&format!("/hosts/{host}/encryption"), &SetEncryption { on }).await
}

pub(super) const fn persistence(host: &HostView) -> &'static str {
    if host.key_persistence { "on: keys outlive a restart, sealed to its TPM" } else { "off" }
}

const fn crashes(host: &HostView) -> &'static str {
    if host.core_handler {
        "is dumped encrypted"
    } else {
        "is not dumped: on the host, `ward host core-handler --install`"
    }
}

/// On or off.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Switch {
    /// Keys outlive a restart, sealed to the host's TPM 2.0.
    On,
    /// Keys are in memory only.
    Off,
    /// As is said of the host's cluster.
    Default,
}

/// Change how a host is run.
#[derive(Args)]
pub(crate) struct Set {
    /// The host's name or ID.
    host: String,
    /// Whether it keeps the keys of standard providers over a restart, sealed to its TPM: then its VMs start although the
    /// controller and the key server are away.
    #[arg(long)]
    key_persistence: Switch,
}

impl Set {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let on = match self.key_persistence {
            Switch::On => Some(true),
            Switch::Off => Some(false),
            Switch::Default => None,
        };
        let path = format!("/hosts/{}/key-persistence", self.host);
        let host: HostView = api.put(&path, &SetHostPersistence { on }).await?;
        output.show(&host, || format!("host {}: set; `ward host encryption show {}` tells", host.name, host.name))
    }
}

/// Change how the hosts of a cluster are run.
#[derive(Args)]
pub(crate) struct SetCluster {
    /// The cluster's name or ID.
    cluster: Name,
    /// Whether hosts that have a TPM 2.0 keep the keys of standard providers over a restart, unless something else is said
    /// of one of them.
    #[arg(long)]
    key_persistence: OnOff,
}

/// On or off.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OnOff {
    /// Keys outlive a restart.
    On,
    /// Keys are in memory only.
    Off,
}

impl SetCluster {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let on = matches!(self.key_persistence, OnOff::On);
        let path = format!("/clusters/{}/key-persistence", self.cluster);
        let () = api.put(&path, &SetClusterPersistence { on }).await?;
        output.note(&format!("cluster {}: set", self.cluster))
    }
}

/// Make a support bundle of a host.
#[derive(Args)]
pub(crate) struct Bundle {
    /// The host's name or ID.
    host: String,
    /// The tar archive to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    password: Password,
}

impl Bundle {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let Self { host, out, password } = self;
        let what = format!("cannot make a support bundle of host `{host}`");
        let password = password.read(&what, true)?;
        let mut file = create(&what, &out)?;
        let body = MakeBundle { password: Some(password.to_string()).filter(|password| !password.is_empty()) };
        let written = async {
            let mut answer = api.download(&format!("/hosts/{host}/support-bundle"), &body).await?;
            while let Some(piece) = answer.piece().await? {
                file.write_all(piece.as_ref()).map_err(|error| storage(&what, &out, &error))?;
            }
            file.sync_all().map_err(|error| storage(&what, &out, &error))
        };
        let written: Result<(), Problem> = written.await;
        if let Err(problem) = written {
            // Half a bundle is none.
            let _ = std::fs::remove_file(&out);
            return Err(problem);
        }
        output.note(&format!("{}: open its dumps with `ward host dump decrypt`", out.display()))
    }
}

pub(crate) fn storage(what: &str, path: &std::path::Path, error: &std::io::Error) -> Problem {
    Problem::new(Code::StorageIo, what, format!("{}: {error}", path.display()), "choose another place for the file")
}

/// Lists the dumps that a host keeps.
pub(crate) async fn list_dumps(api: &Api, host: &str, output: Output) -> Result<(), Problem> {
    let host: HostView = api.get(&format!("/hosts/{host}")).await?;
    output.show(&host.dumps, || table(&["name", "taken", "of", "host key", "bytes"], host.dumps.iter().map(row)))
}

fn row(dump: &DumpInfo) -> Vec<String> {
    vec![
        dump.name.to_string(),
        dump.about.taken.to_string(),
        dump.about.subject.to_string(),
        dump.key.to_string(),
        dump.size.to_string(),
    ]
}
