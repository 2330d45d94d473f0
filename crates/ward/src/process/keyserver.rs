//! `ward keyserver`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use ward_keyserver::Config;
use ward_types::{Code, Problem};

use super::controller::chain;
use super::shutdown;
use crate::output::{Output, fields, table};

/// What to do with Ward's own key server.
#[derive(Subcommand)]
pub(crate) enum Keyserver {
    /// Set a key server up, where none is, and run it.
    Run(Run),
    /// Make a certificate with which a client can use the key server. A client sees the keys of its own name only.
    #[command(
        after_help = "Example:\n  ward keyserver issue-client ward-controller --out /root/kms-client\n  ward provider \
                            add standard kms --server kms:5696 --ca ca.pem --cert client.pem --key client.key"
    )]
    IssueClient(IssueClient),
    /// Show what the key server was asked, by whom. Holds no key.
    Audit(Audit),
}

/// `ward keyserver run`.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    state: State,
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:5696")]
    listen: SocketAddr,
    /// A name or address under which clients reach it, besides those of loopback; for its certificate.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
}

/// `ward keyserver issue-client`.
#[derive(Args)]
pub(crate) struct IssueClient {
    /// The client's name.
    name: String,
    #[command(flatten)]
    state: State,
    /// A directory to copy `ca.pem`, `client.pem` and `client.key` to.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// `ward keyserver audit`.
#[derive(Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    state: State,
    /// Only count, by operation.
    #[arg(long)]
    counts: bool,
    /// The last so many requests.
    #[arg(long, default_value_t = 50, conflicts_with = "counts")]
    last: u32,
}

#[derive(Args)]
struct State {
    /// Where the key server keeps its state.
    #[arg(long = "state", value_name = "DIR", default_value = "/var/lib/ward/keyserver")]
    directory: PathBuf,
}

#[derive(Serialize)]
struct Issued {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Keyserver {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Run(Run { state: State { directory }, listen, names }) => {
                let what = "cannot run a key server";
                ward_secret::harden_process().map_err(|error| Problem::internal(what, error))?;
                ward_keyserver::init(&directory, &names).await.map_err(|error| problem(what, &error))?;
                let stop = shutdown()?;
                let config = Config { listen, state_dir: directory };
                ward_keyserver::run(config, async move { stop.cancelled().await })
                    .await
                    .map_err(|error| problem(what, &error))
            }
            Self::IssueClient(IssueClient { name, state, out }) => {
                let what = format!("cannot make a certificate for client `{name}`");
                let files =
                    ward_keyserver::issue_client(&state.directory, &name).map_err(|error| problem(&what, &error))?;
                let mut issued = Issued { ca: files.ca, certificate: files.certificate, key: files.key };
                if let Some(out) = out {
                    issued = copy(&issued, &out).map_err(|error| problem(&what, &error))?;
                }
                output.show(&issued, || {
                    let path = |path: &Path| path.display().to_string();
                    fields(&[
                        ("ca", path(&issued.ca)),
                        ("certificate", path(&issued.certificate)),
                        ("key", path(&issued.key)),
                    ])
                })
            }
            Self::Audit(Audit { state, counts: true, .. }) => {
                let counts = ward_keyserver::operation_counts(&state.directory)
                    .await
                    .map_err(|error| problem("cannot count requests", &error))?;
                output.show(&counts, || {
                    let rows = counts.iter().map(|count| vec![count.operation.clone(), count.count.to_string()]);
                    table(&["operation", "requests"], rows)
                })
            }
            Self::Audit(Audit { state, last, .. }) => {
                let entries = ward_keyserver::audit_tail(&state.directory, last)
                    .await
                    .map_err(|error| problem("cannot list requests", &error))?;
                output.show(&entries, || {
                    let rows = entries.iter().map(|entry| {
                        let time = jiff::Timestamp::from_millisecond(entry.at_ms);
                        vec![
                            entry.sequence.to_string(),
                            time.map_or_else(|_| String::new(), |time| time.to_string()),
                            entry.peer.clone(),
                            entry.operation.clone(),
                            entry.object.clone().unwrap_or_default(),
                            entry.result.clone(),
                        ]
                    });
                    table(&["no", "time", "client", "operation", "object", "result"], rows)
                })
            }
        }
    }
}

fn copy(issued: &Issued, out: &Path) -> std::io::Result<Issued> {
    std::fs::create_dir_all(out)?;
    let to = |from: &Path, name: &str| -> std::io::Result<PathBuf> {
        let target = out.join(name);
        // The mode goes along.
        std::fs::copy(from, &target)?;
        Ok(target)
    };
    Ok(Issued {
        ca: to(&issued.ca, "ca.pem")?,
        certificate: to(&issued.certificate, "client.pem")?,
        key: to(&issued.key, "client.key")?,
    })
}

fn problem(what: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::StorageIo, what, chain(error), "mend that and try again")
}
