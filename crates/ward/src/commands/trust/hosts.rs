//! Hosts that have enrolled.

use attest::appraisal::Report;
use attest::label::Label;
use clap::Subcommand;
use ward_trust::attestation::HostInfo;
use ward_types::{Code, Problem};

use super::{At, problem};
use crate::output::{Output, fields, table};

/// What to do with enrolled hosts.
#[derive(Subcommand)]
pub(crate) enum Host {
    /// List the hosts that have enrolled.
    Ls,
    /// Show the last verdict on a host: what was looked at, what was not, and how it compares with each base image.
    Show {
        /// The host.
        host: Label,
    },
    /// Let a host in.
    Admit {
        /// The host.
        host: Label,
    },
    /// Forget a host, and keep it out: its TPM's key is no longer trusted by itself, and where a CA vouches for it the host
    /// waits to be let in again. Tokens that it holds are good until they end: see `ward trust deny-before`.
    Rm {
        /// The host.
        host: Label,
    },
}

impl Host {
    pub(super) async fn run(self, at: &At, output: Output) -> Result<(), Problem> {
        match self {
            Self::Ls => {
                let what = "cannot list hosts";
                let hosts = at.open_attestation(what).await?.hosts().await.map_err(|error| problem(what, &error))?;
                output.show(&hosts, || {
                    let rows = hosts.iter().map(|host| {
                        let verdict = match &host.report {
                            None => "not asked for",
                            Some(report) if report.failures.is_empty() => "good",
                            Some(_) => "refused",
                        };
                        vec![
                            host.label.to_string(),
                            if host.admitted { "yes" } else { "no" }.to_owned(),
                            verdict.to_owned(),
                            host.attested.map_or_else(String::new, |at| at.to_string()),
                        ]
                    });
                    table(&["host", "let in", "last verdict", "attested"], rows)
                })
            }
            Self::Show { host } => {
                let what = format!("cannot show host `{host}`");
                let hosts = at.open_attestation(&what).await?.hosts().await.map_err(|error| problem(&what, &error))?;
                let found = hosts.into_iter().find(|info| info.label == host).ok_or_else(|| {
                    let why = "no host of that name has enrolled";
                    Problem::new(Code::NotFound, &what, why, "`ward trust host ls` lists them")
                })?;
                output.show(&found, || describe(&found))
            }
            Self::Admit { host } => {
                let what = format!("cannot let host `{host}` in");
                at.open_attestation(&what).await?.admit_host(&host).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("host {host}: let in"))
            }
            Self::Rm { host } => {
                let what = format!("cannot forget host `{host}`");
                at.open_attestation(&what).await?.remove_host(&host).await.map_err(|error| problem(&what, &error))?;
                output.note(&format!("host {host}: forgotten, and kept out"))
            }
        }
    }
}

fn describe(host: &HostInfo) -> String {
    let said = |say: &dyn Fn(&Report) -> Vec<String>| {
        host.report.as_ref().map_or_else(String::new, |report| say(report).join("\n"))
    };
    fields(&[
        ("host", host.label.to_string()),
        ("EK", host.ek.clone()),
        ("let in", if host.admitted { "yes" } else { "no" }.to_owned()),
        ("enrolled", host.enrolled.to_string()),
        ("attested", host.attested.map_or_else(|| "never".to_owned(), |at| at.to_string())),
        ("last asked", said(&|report| vec![report.at.to_string()])),
        ("refused", said(&|report| report.failures.iter().map(|it| format!("[{}] {}", it.code, it.message)).collect())),
        ("verified", said(&|report| report.verified.iter().map(ToString::to_string).collect())),
        ("not verified", said(&|report| report.not_verified.iter().map(ToString::to_string).collect())),
        ("base images", said(&|report| report.images.iter().map(ToString::to_string).collect())),
    ])
}
