//! `ward host dump-receive`, `ward host core-handler`, `ward host dump decrypt`: what is done on the host itself.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_host::{OpenWith, core_pattern, open_dump, receive_dump};
use ward_secret::Zeroizing;
use ward_types::{Code, DumpSubject, Problem};

use super::host::STATE;
use crate::client::Api;
use crate::commands::{host_crypto, read_file};
use crate::output::Output;

/// Where the kernel says what becomes of core dumps, and how long that may be.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";
const MAX_PATTERN: usize = 127;

/// What to do with dumps.
#[derive(Subcommand)]
pub(crate) enum Dump {
    /// List the dumps that a host keeps.
    Ls {
        /// The host's name or ID.
        host: String,
    },
    /// Decrypt a dump, on the host that keeps it, as root; or one of a support bundle, anywhere, by the bundle's password.
    #[command(
        after_help = "Examples:\n  ward host dump decrypt /var/lib/ward/host/dumps/20261125T040000.123Z-qemu-17.dump --out core\n  \
                            tar xf bundle.tar && ward host dump decrypt dumps/20261125T040000.123Z-qemu-17.dump \
                            --ask-password --out core"
    )]
    Decrypt(Decrypt),
}

impl Dump {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        match self {
            Self::Ls { host } => host_crypto::list_dumps(&Api::open()?, &host, output).await,
            Self::Decrypt(decrypt) => decrypt.run(output).await,
        }
    }
}

/// Decrypt a dump.
#[derive(Args)]
pub(crate) struct Decrypt {
    /// The dump.
    file: PathBuf,
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where the agent that has the host key keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE, conflicts_with_all = ["password_file", "ask_password"])]
    state: PathBuf,
    /// A file with the support bundle's password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Ask for the support bundle's password.
    #[arg(long, conflicts_with = "password_file")]
    ask_password: bool,
}

impl Decrypt {
    async fn run(self, output: Output) -> Result<(), Problem> {
        let what = format!("cannot decrypt {}", self.file.display());
        let password = self.password(&what)?;
        let with = password.as_ref().map_or(OpenWith::Agent(&self.state), |password| OpenWith::Password(password));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.out).map_err(|error| {
                let why = format!("{}: {error}", self.out.display());
                Problem::new(
                    Code::RequestInvalid,
                    &what,
                    why,
                    "name a file that does not exist, in a directory that does",
                )
            })?;
        let opened = open_dump(&self.file, with, &mut file).await;
        let opened = opened.and_then(|about| {
            file.sync_all().map_err(|error| host_crypto::storage(&what, &self.out, &error)).map(|()| about)
        });
        match opened {
            Ok(about) => output.show(&about, || format!("{}: {}", self.out.display(), about.subject)),
            Err(problem) => {
                // Part of a dump is none.
                let _ = fs::remove_file(&self.out);
                Err(problem)
            }
        }
    }

    fn password(&self, what: &str) -> Result<Option<Zeroizing<String>>, Problem> {
        if let Some(path) = &self.password_file {
            let text = Zeroizing::new(read_file(what, path)?);
            return Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())));
        }
        if !self.ask_password {
            return Ok(None);
        }
        if !std::io::stdin().is_terminal() {
            let why = "there is nobody to ask for the password";
            return Err(Problem::new(Code::RequestInvalid, what, why, "give it with `--password-file`"));
        }
        let asked = rpassword::prompt_password("password of the bundle: ").map(Zeroizing::new);
        asked.map(Some).map_err(|error| Problem::internal(what, error))
    }
}

/// What the kernel gives the dump of a process to, on standard input.
#[derive(Args)]
pub(crate) struct Receive {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// The ID of the process that dumps (`%P`).
    #[arg(long)]
    pid: u32,
    /// The signal that ended it (`%s`).
    #[arg(long)]
    signal: u32,
    /// Its name (`%e`), in whatever bytes.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    command: OsString,
}

pub(crate) async fn receive(arguments: Receive, output: Output) -> Result<(), Problem> {
    let Receive { state, pid, signal, command } = arguments;
    let command = command.to_string_lossy().into_owned();
    let kept = receive_dump(&state, DumpSubject::Process { pid, command, signal }, std::io::stdin()).await?;
    output.show(&kept, || format!("kept as {}", kept.name))
}

/// Show how the kernel is told to have dumps encrypted, or tell it.
#[derive(Args)]
pub(crate) struct CoreHandler {
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Tell the kernel now; it is told until the machine starts anew.
    #[arg(long)]
    install: bool,
}

pub(crate) fn core_handler(arguments: &CoreHandler, output: Output) -> Result<(), Problem> {
    let what = "cannot set the handler of core dumps";
    let exe = std::env::current_exe().map_err(|error| Problem::internal(what, error))?;
    let pattern = core_pattern(&exe, &arguments.state);
    if pattern.len() > MAX_PATTERN || pattern[1..].split(' ').count() != PARTS {
        let why = format!("`{pattern}` is longer than {MAX_PATTERN} bytes, or a path in it has a space");
        let remedy = "put the `ward` binary and the agent's state where their paths are shorter";
        return Err(Problem::new(Code::RequestInvalid, what, why, remedy));
    }
    if arguments.install {
        let write =
            OpenOptions::new().write(true).open(CORE_PATTERN).and_then(|mut file| file.write_all(pattern.as_bytes()));
        write.map_err(|error| {
            let why = format!("{CORE_PATTERN}: {error}");
            Problem::new(Code::HostUnfit, what, why, "do it as root, on the machine itself and not in a container")
        })?;
    }
    output.show(&pattern, || format!("kernel.core_pattern = {pattern}"))
}

/// How many words a pattern has.
const PARTS: usize = 11;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_kernel_takes_the_usual_pattern() {
        let pattern = core_pattern(Path::new("/usr/bin/ward"), Path::new(STATE));
        assert!(pattern.len() <= MAX_PATTERN, "{pattern}");
        assert_eq!(pattern[1..].split(' ').count(), PARTS);
    }
}
