//! `ward host`.

use clap::Subcommand;
use ward_controller::api::types::{AddHost, HostToken, HostView, RemoveHost};
use ward_types::{Isolation, Problem};

use super::done;
use super::host_crypto::{Bundle, Encryption, Set, persistence};
use crate::client::Api;
use crate::output::{Output, fields, print_text, table};
use crate::process::dump::{CoreHandler, Dump, Receive};
use crate::process::host::{Enrol, Run, Start};

/// What to do with hosts.
#[derive(Subcommand)]
pub(crate) enum Host {
    #[command(flatten)]
    Client(HostClient),
    /// Join a cluster: make this machine a host of it. Done once.
    #[command(
        after_help = "Get a token with `ward host add` on a machine that is logged in to the controller; then here:\n  \
                            ward host enrol --token-file token --address THIS-HOST:8450\n  ward host run"
    )]
    Enrol(Enrol),
    /// Run the agent that makes this machine a host.
    Run(Run),
    /// Have this machine's agent start the VM in a home: without the controller.
    #[command(
        after_help = "Example:\n  ward host start /datastores/a/web-1\n\nIt works as long as the agent has what opens \
                            the VM: since the controller gave it, or sealed in this machine's TPM."
    )]
    Start(Start),
    /// Dumps of memory: list them, decrypt one.
    #[command(subcommand)]
    Dump(Dump),
    /// Keep a dump that comes on standard input, encrypted: what the kernel is told to run (`ward host core-handler`).
    DumpReceive(Receive),
    /// Show how the kernel is told to have dumps of this machine encrypted, or tell it.
    #[command(
        after_help = "For good, put the line into a file in /etc/sysctl.d. Processes that hold keys never dump. Where the \
                            host has no host key, nothing is kept: a dump is never plain on the disk."
    )]
    CoreHandler(CoreHandler),
}

/// What the controller is asked about hosts.
#[derive(Subcommand)]
pub(crate) enum HostClient {
    /// Make a token with which one host can join a cluster. It is good once.
    Add {
        /// The cluster; `default` unless named.
        #[arg(long)]
        cluster: Option<String>,
        /// For how many minutes the token is good.
        #[arg(long)]
        minutes: Option<u32>,
    },
    /// List hosts.
    Ls,
    /// Host encryption mode: whether a host may have keys.
    #[command(subcommand)]
    Encryption(Encryption),
    /// Change how a host is run: whether its keys outlive a restart.
    Set(Set),
    /// Make a support bundle of a host: a tar archive of its state, its logs and its dumps, these under a password. Never a
    /// key.
    SupportBundle(Bundle),
    /// Remove a host, which loses its keys. Nothing may run there.
    Rm {
        /// The host's name or ID.
        host: String,
        /// Although it does not answer, and may hold keys until it starts anew, or keeps dumps.
        #[arg(long)]
        force: bool,
    },
    /// Show a host: whether it answers, what it runs, which keys it holds.
    Show {
        /// The host's name or ID.
        host: String,
    },
}

impl HostClient {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Add { cluster, minutes } => {
                let token: HostToken = api.post("/hosts", &AddHost { cluster, minutes }).await?;
                match output {
                    // Alone on its line, so that it can be piped to a file.
                    Output::Table => print_text(&token.token),
                    Output::Json => output.show(&token, String::new),
                }
            }
            Self::Ls => {
                let hosts: Vec<HostView> = api.list("/hosts").await?;
                output.show(&hosts, || {
                    let rows = hosts.iter().map(|host| {
                        vec![
                            host.name.to_string(),
                            host.cluster.to_string(),
                            host.state.to_string(),
                            host.address.clone(),
                            host.vms.len().to_string(),
                            host.mode.to_string(),
                            host.key_count.to_string(),
                            accelerator(host).to_owned(),
                        ]
                    });
                    table(&["name", "cluster", "state", "address", "vms", "encryption", "keys", "accelerator"], rows)
                })
            }
            Self::Encryption(encryption) => encryption.run(&api, output).await,
            Self::Set(set) => set.run(&api, output).await,
            Self::SupportBundle(bundle) => bundle.run(&api, output).await,
            Self::Rm { host, force } => {
                let () = api.delete_with(&format!("/hosts/{host}"), &RemoveHost { force }).await?;
                done(output, &format!("host {host}: removed"))
            }
            Self::Show { host } => {
                let host: HostView = api.get(&format!("/hosts/{host}")).await?;
                output.show(&host, || describe(&host))
            }
        }
    }
}

const fn accelerator(host: &HostView) -> &'static str {
    match (&host.qemu, host.kvm) {
        (None, _) => "no QEMU",
        (Some(_), true) => "KVM",
        (Some(_), false) => "TCG (emulated)",
    }
}

/// What it has for VMs beside QEMU, and what not.
fn parts(host: &HostView) -> String {
    let part = |is: bool, name: &str, package: &str| match is {
        true => name.to_owned(),
        false => format!("no {name} (Debian's package `{package}`)"),
    };
    let parts = [(host.uefi, "UEFI", "ovmf"), (host.secure_boot, "Secure Boot", "ovmf"), (host.swtpm, "vTPM", "swtpm")];
    parts.map(|(is, name, package)| part(is, name, package)).join(", ")
}

fn isolation(it: &Isolation) -> String {
    let users = it.users.as_ref().map(|users| format!("each VM is a user of its own ({users})"));
    let network = it.own_network.then(|| "no network".to_owned());
    let files = it.landlock.map(|version| format!("nothing but its own files (Landlock {version})"));
    [users, network, files].into_iter().flatten().collect::<Vec<_>>().join("\n")
}

fn describe(host: &HostView) -> String {
    let lines = |items: Vec<String>| items.join("\n");
    fields(&[
        ("name", host.name.to_string()),
        ("id", host.id.to_string()),
        ("cluster", host.cluster.to_string()),
        ("address", host.address.clone()),
        ("state", host.state.to_string()),
        ("last seen", host.last_seen.map_or_else(String::new, |time| time.to_string())),
        ("version", host.version.clone().unwrap_or_default()),
        ("QEMU", host.qemu.clone().unwrap_or_default()),
        ("accelerator", accelerator(host).to_owned()),
        ("for VMs", parts(host)),
        ("isolation", isolation(&host.isolation)),
        ("isolation lacks", lines(host.isolation.lacks.clone())),
        ("unfit", host.unfit.as_ref().map_or_else(String::new, ToString::to_string)),
        ("TPM", if host.tpm { "yes: keys of native providers are sealed to it".to_owned() } else { String::new() }),
        ("TPM trouble", host.tpm_trouble.as_ref().map_or_else(String::new, |it| format!("{it}\n{}", it.remedy))),
        ("native keys", lines(host.native_keys.iter().map(ToString::to_string).collect())),
        ("encryption mode", host.mode.to_string()),
        ("host key", host.host_key.as_ref().map_or_else(String::new, ToString::to_string)),
        ("key persistence", persistence(host).to_owned()),
        ("dumps", lines(host.dumps.iter().map(|dump| dump.name.to_string()).collect())),
        ("keys", lines(host.keys.iter().map(ToString::to_string).collect())),
        ("VMs", lines(host.vms.iter().map(ToString::to_string).collect())),
    ])
}
