//! `ward provider server`.

use clap::Subcommand;
use ward_controller::api::types::{AddServer, ProviderView, ServerView};
use ward_types::{Problem, ProviderName, ServerAddress};

use super::provider::describe;
use crate::client::Api;
use crate::output::{Output, table};

/// What to do with a provider's key servers.
#[derive(Subcommand)]
pub(crate) enum Server {
    /// Add a key server that has the same keys as the provider's others.
    #[command(
        after_help = "Example:\n  ward provider server add kms kms2.example.com:5696\n\nThe provider's servers are \
                            asked in order. One that fails is set aside, for longer each time, and asked\nonly if all \
                            others fail."
    )]
    Add {
        /// The provider's name.
        provider: ProviderName,
        /// The key server, HOST:PORT.
        server: ServerAddress,
        /// Ask it before the others.
        #[arg(long)]
        first: bool,
        /// Know it by the certificate with this SHA-256 fingerprint, and not by the provider's CA.
        #[arg(long)]
        fingerprint: Option<String>,
    },
    /// Take a key server from a provider.
    Rm {
        /// The provider's name.
        provider: ProviderName,
        /// The key server, HOST:PORT.
        server: ServerAddress,
    },
    /// List a provider's key servers, in the order in which they are asked, and how they stand.
    Ls {
        /// The provider's name.
        provider: ProviderName,
    },
}

impl Server {
    pub(crate) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        match self {
            Self::Add { provider, server, first, fingerprint } => {
                let body = AddServer { server, first, fingerprint };
                let provider: ProviderView = api.post(&format!("/providers/{provider}/servers"), &body).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Rm { provider, server } => {
                let provider: ProviderView = api.delete(&format!("/providers/{provider}/servers/{server}")).await?;
                output.show(&provider, || describe(&provider))
            }
            Self::Ls { provider } => {
                let provider: ProviderView = api.get(&format!("/providers/{provider}")).await?;
                output.show(&provider.servers, || list(&provider.servers))
            }
        }
    }
}

/// Servers as a table, with what is wrong with each below it.
pub(super) fn list(servers: &[ServerView]) -> String {
    let rows = servers.iter().map(|server| {
        let days = server.certificate.as_ref().map_or_else(String::new, |it| it.days_left.to_string());
        let answer = server.version.as_ref().zip(server.latency_ms);
        let answer = answer.map(|(version, latency)| {
            let vendor = server.vendor.as_ref().map_or_else(String::new, |vendor| format!(", {vendor}"));
            format!("KMIP {version}{vendor}, {latency} ms")
        });
        vec![
            server.address.to_string(),
            server.status.to_string(),
            server.known.to_string(),
            days,
            answer.unwrap_or_default(),
        ]
    });
    let mut text = table(&["server", "status", "known by", "certificate days", "answers"], rows);
    for server in servers {
        if let Some(problem) = server.problem() {
            text.push_str(&format!("\n{}: {}\n  next: {}", server.address, problem.why, problem.remedy));
        }
        if let Some(until) = server.set_aside_until {
            text.push_str(&format!("\n{}: set aside until {until:.0}, since it failed", server.address));
        }
    }
    text
}
