//! The client's nouns and verbs, one file each.

pub(crate) mod audit;
pub(crate) mod cluster;
pub(crate) mod completion;
pub(crate) mod datastore;
pub(crate) mod event;
pub(crate) mod host;
pub(crate) mod host_crypto;
pub(crate) mod key;
pub(crate) mod login;
pub(crate) mod native;
pub(crate) mod policy;
pub(crate) mod provider;
mod provider_server;
mod provider_trust;
pub(crate) mod recrypt;
pub(crate) mod role;
pub(crate) mod session;
pub(crate) mod task;
pub(crate) mod trust;
pub(crate) mod user;
pub(crate) mod vm;

use std::future::Future;
use std::path::Path;

use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;
use ward_types::{Code, Problem};

use crate::cli::Command;
use crate::output::{Output, print_text};
use crate::{process, up};

/// Does what was asked.
pub(crate) fn run(command: Command, output: Output) -> Result<(), Problem> {
    match command {
        Command::Vm(vm) => client(vm.run(output)),
        Command::Host(host) => match host {
            host::Host::Run(arguments) => server(process::host::run(arguments)),
            host::Host::Enrol(arguments) => server(process::host::enrol(arguments, output)),
            host::Host::Start(arguments) => client(process::host::start(arguments, output)),
            host::Host::Dump(dump) => client(dump.run(output)),
            host::Host::DumpReceive(arguments) => client(process::dump::receive(arguments, output)),
            host::Host::CoreHandler(arguments) => process::dump::core_handler(&arguments, output),
            host::Host::Client(host) => client(host.run(output)),
        },
        Command::Cluster(cluster) => client(cluster.run(output)),
        Command::Datastore(datastore) => client(datastore.run(output)),
        Command::Provider(provider) => client(provider.run(output)),
        Command::Key(key) => client(key.run(output)),
        Command::Policy(policy) => client(policy.run(output)),
        Command::Recrypt(recrypt) => client(recrypt.run(output)),
        Command::Task(task) => client(task.run(output)),
        Command::Event(event) => client(event.run(output)),
        Command::User(user) => client(user.run(output)),
        Command::Group(group) => client(group.run(output)),
        Command::Role(role) => client(role.run(output)),
        Command::Permission(permission) => client(permission.run(output)),
        Command::Audit(audit) => client(audit.run(output)),
        Command::Session(session) => client(session.run(output)),
        Command::Password(password) => client(password.run(output)),
        Command::Login(login) => client(login.run(output)),
        Command::Logout => client(login::log_out(output)),
        Command::Trust(trust) => {
            if trust.is_service() {
                server(trust.run(output))
            } else {
                client(trust.run(output))
            }
        }
        Command::Up(up) => server(up::run(up, output)),
        Command::Controller(arguments) => server(process::controller::run(*arguments, output)),
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

/// Says that something is done that has no result.
pub(crate) fn done(output: Output, text: &str) -> Result<(), Problem> {
    match output {
        Output::Table => print_text(text),
        Output::Json => output.show(&(), String::new),
    }
}

/// Reads a file that the user names.
pub(crate) fn read_file(what: &str, path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| unread(what, path, &error))
}

/// The same, of a file that is no text.
pub(crate) fn read_bytes(what: &str, path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|error| unread(what, path, &error))
}

fn unread(what: &str, path: &Path, error: &std::io::Error) -> Problem {
    let why = format!("{}: {error}", path.display());
    Problem::new(Code::RequestInvalid, what, why, "name a file that is there and can be read")
}

/// Writes a file that everybody may read, in the place of one that is there.
pub(crate) fn write_file(what: &str, path: &Path, content: &[u8]) -> Result<(), Problem> {
    whole_file::replace(path, content, whole_file::Readers::Everyone)
        .map_err(|error| Problem::new(Code::StorageIo, what, error.to_string(), "name a file that can be written"))
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

/// A number of days, such as `90d` or `90`.
pub(crate) fn parse_days(text: &str) -> Result<u32, String> {
    let days = text.strip_suffix('d').unwrap_or(text).parse().ok().filter(|days| *days > 0);
    days.ok_or_else(|| format!("`{text}` is no number of days; give one such as 90d"))
}

#[cfg(test)]
mod tests {
    use super::parse_days;

    #[test]
    fn days() {
        assert_eq!((parse_days("90d"), parse_days("1")), (Ok(90), Ok(1)));
        for text in ["", "d", "0d", "-1d", "90h", "1.5d"] {
            assert!(parse_days(text).is_err(), "{text}");
        }
    }
}
