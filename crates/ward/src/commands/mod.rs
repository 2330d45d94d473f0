//! The client's nouns and verbs, one file each.

pub(crate) mod cluster;
pub(crate) mod completion;
pub(crate) mod datastore;
pub(crate) mod event;
pub(crate) mod host;
pub(crate) mod login;
pub(crate) mod native;
pub(crate) mod provider;
pub(crate) mod task;
pub(crate) mod vm;

use std::future::Future;
use std::path::Path;

use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;
use ward_types::{Code, Problem};

use crate::cli::Command;
use crate::output::Output;
use crate::{process, up};

/// Does what was asked.
pub(crate) fn run(command: Command, output: Output) -> Result<(), Problem> {
    match command {
        Command::Vm(vm) => client(vm.run(output)),
        Command::Host(host) => match host {
            host::Host::Run(arguments) => server(process::host::run(arguments)),
            host::Host::Enrol(arguments) => server(process::host::enrol(arguments, output)),
            host::Host::Start(arguments) => client(process::host::start(arguments, output)),
            host::Host::Client(host) => client(host.run(output)),
        },
        Command::Cluster(cluster) => client(cluster.run(output)),
        Command::Datastore(datastore) => client(datastore.run(output)),
        Command::Provider(provider) => client(provider.run(output)),
        Command::Task(task) => client(task.run(output)),
        Command::Event(event) => client(event.run(output)),
        Command::Login(login) => client(login.run(output)),
        Command::Logout => client(login::log_out()),
        Command::Up(up) => server(up::run(up, output)),
        Command::Controller(arguments) => server(process::controller::run(arguments)),
        Command::Keyserver(keyserver) => server(keyserver.run(output)),
        Command::Disk => Err(Problem::internal("cannot start a disk process", "it was asked for too late")),
        Command::Bench(bench) => crate::bench::run(&bench, output).map_err(|error| {
            Problem::new(Code::RequestInvalid, "cannot measure", error.to_string(), "mend that and measure again")
        }),
        Command::Completion(completion) => completion.run(),
    }
}

fn client(work: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    log("warn");
    runtime(Builder::new_current_thread())?.block_on(work)
}

fn server(work: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    log("info");
    runtime(Builder::new_multi_thread())?.block_on(work)
}

fn runtime(mut builder: Builder) -> Result<tokio::runtime::Runtime, Problem> {
    builder.enable_all().build().map_err(|error| Problem::internal("cannot start", error))
}

/// Logs to standard error; `WARD_LOG` says how much, as `tracing` filters do.
fn log(default: &str) {
    let filter = EnvFilter::try_from_env("WARD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // Set once; the one process that runs two of these says so twice at most.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).try_init();
}

/// Reads a file that the user names.
pub(crate) fn read_file(what: &str, path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| {
        let why = format!("{}: {error}", path.display());
        Problem::new(Code::RequestInvalid, what, why, "name a file that is there and can be read")
    })
}

/// An absolute path, since the controller and the hosts have working directories of their own.
pub(crate) fn absolute(path: &Path) -> Result<std::path::PathBuf, Problem> {
    std::path::absolute(path).map_err(|error| {
        Problem::new(
            Code::RequestInvalid,
            "cannot name a file",
            format!("{}: {error}", path.display()),
            "give its full path",
        )
    })
}
