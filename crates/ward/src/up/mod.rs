//! `ward up`: a key server, a controller and hosts on one machine, each a process of its own.
//!
//! ```text
//! layout      where everything lies, and which ports it has
//! setup       what the first start does: certificates, login, provider, datastore, enrolment
//! supervise   starting the processes, starting them again, ending them
//! control     the commands about a system that runs: status, stop, start
//! ```

mod control;
mod layout;
mod setup;
mod supervise;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_types::Problem;

use crate::output::Output;
use layout::Layout;

/// Start a key server, a controller and hosts on this machine.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Started again on the same state, everything goes on where it was. A process that dies is started again; \
                  one that was\nstopped with `ward up stop NAME` is not.\n\nExamples:\n  ward up --detach\n  ward up \
                  status\n  ward up stop host-1\n  ward up start host-1\n  ward up stop"
)]
pub(crate) struct Up {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    start: Start,
    /// Where everything lies.
    #[arg(long, global = true, value_name = "DIR", default_value = "ward-state")]
    state: PathBuf,
}

/// What to do with a system that runs.
#[derive(Subcommand)]
enum Action {
    /// Show which processes run, where the console is, and what to try next.
    Status,
    /// Stop all VMs and processes, or one process.
    Stop {
        /// The process: `keyserver`, `controller`, `host-1`, ...; all unless named.
        process: Option<String>,
    },
    /// Start a process again that was stopped.
    Start {
        /// The process.
        process: String,
    },
}

/// What to start.
#[derive(Args)]
struct Start {
    /// How many hosts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    hosts: u16,
    /// Go on in the background.
    #[arg(long)]
    detach: bool,
    /// Use the key server at HOST:PORT in place of an embedded one; at the first start.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["ca", "cert", "key"])]
    with_key_server: Option<String>,
    /// The certificates by which to know that key server, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The controller's certificate at that key server, PEM.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The private key of that certificate, PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(crate) async fn run(up: Up, output: Output) -> Result<(), Problem> {
    let layout = Layout::new(&up.state)?;
    match up.action {
        Some(Action::Status) => control::status(&layout, output).await,
        Some(Action::Stop { process: None }) => control::stop_all(&layout, output).await,
        Some(Action::Stop { process: Some(process) }) => control::stop_one(&layout, &process, output).await,
        Some(Action::Start { process }) => control::start_one(&layout, &process, output).await,
        None if up.start.detach => control::detach(&layout, output).await,
        None => supervise::run(&layout, &up.start).await,
    }
}
