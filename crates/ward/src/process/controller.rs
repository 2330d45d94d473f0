//! `ward controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use ward_controller::{Config, RootKey, RootKeyChange, RootKeyWay, change_root_key, root_key_way};
use ward_types::{Code, Problem};

use super::shutdown;
use crate::output::Output;

/// Run a controller.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "The first start sets everything up. It makes the user `admin`, whose password it writes to \
                        `admin-password` in the\nstate directory, and the CA whose certificate is `ca.pem` there:\n  ward \
                        controller --state /var/lib/ward/controller\n  ward login https://localhost:8443 --ca \
                        /var/lib/ward/controller/ca.pem")]
pub(crate) struct Controller {
    /// Where it keeps its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ward/controller")]
    state: PathBuf,
    /// Where it answers users.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], Config::API_PORT)))]
    listen_api: SocketAddr,
    /// Where it answers hosts.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], Config::HOSTS_PORT)))]
    listen_hosts: SocketAddr,
    /// Where hosts reach it, HOST:PORT; goes into enrolment tokens.
    #[arg(long, value_name = "HOST:PORT")]
    advertise_hosts: Option<String>,
    /// A name or address under which users reach it; give it once for each.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// A file with the URL of a PostgreSQL database; SQLite in the state directory unless given.
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,
    /// A file with the password for the user `admin`, for the first start; one is made up unless given.
    #[arg(long, value_name = "FILE")]
    admin_password_file: Option<PathBuf>,
    /// How the root key is kept, under which it seals what it stores: from the first start on, in a file unless said
    /// otherwise. `ward controller root-key` changes it.
    #[arg(long, value_enum)]
    root_key: Option<Way>,
    /// How many seconds until it looks at the key providers again.
    #[arg(long, value_name = "SECONDS", default_value_t = Config::WATCH_PERIOD.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..))]
    watch_period: u64,
    #[command(flatten)]
    root: Root,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What the root key's way may need.
#[derive(Args)]
struct Root {
    /// The TPM that seals the root key.
    #[arg(long, value_name = "TCTI", default_value = RootKey::TCTI)]
    root_tpm: String,
    /// The PCRs that must be as they were for the TPM to give the root key out, where it is sealed now.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "7")]
    root_tpm_pcrs: Vec<u8>,
    /// A file with the passphrase of the root key, or a descriptor: `/dev/fd/3`. It is asked for on the terminal unless
    /// given.
    #[arg(long, value_name = "FILE")]
    root_passphrase_file: Option<PathBuf>,
}

impl Root {
    fn of(self, way: Option<Way>) -> RootKey {
        let Self { root_tpm: tcti, root_tpm_pcrs: pcrs, root_passphrase_file: passphrase_file } = self;
        RootKey { way: way.map(Into::into), tcti, pcrs, passphrase_file }
    }
}

/// Ways of keeping a root key.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Way {
    /// In a file of mode 0600 in the state directory.
    File,
    /// Sealed to the machine's TPM 2.0.
    Tpm,
    /// Under the service manager's credential `ward-root-key`: 32 bytes.
    Credential,
    /// Under a passphrase.
    Passphrase,
}

impl From<Way> for RootKeyWay {
    fn from(way: Way) -> Self {
        match way {
            Way::File => Self::File,
            Way::Tpm => Self::Tpm,
            Way::Credential => Self::Credential,
            Way::Passphrase => Self::Passphrase,
        }
    }
}

/// What can be done with a controller that does not run.
#[derive(Subcommand)]
enum Command {
    /// Show how the root key is kept, or change that.
    #[command(
        after_help = "The key stays the same, only how it is kept changes; whoever has an old copy of its file still has \
                      the key. The\ncontroller must not run meanwhile.\n\nExamples:\n  ward controller root-key\n  ward \
                      controller root-key --to tpm --new-tpm-pcrs 7,11\n  ward controller root-key --to passphrase \
                      --copy /safe/root.key    before a TPM is trusted alone\nUnder a credential of systemd:\n  head -c \
                      32 /dev/urandom | systemd-creds encrypt --name=ward-root-key - /etc/ward/root-key.cred\n  \
                      systemd-run --pipe -p LoadCredentialEncrypted=ward-root-key:/etc/ward/root-key.cred ward controller \
                      root-key --to credential"
    )]
    RootKey(ChangeRootKey),
}

/// `ward controller root-key`.
#[derive(Args)]
struct ChangeRootKey {
    /// Where the controller keeps its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ward/controller")]
    state: PathBuf,
    /// How it is to be kept.
    #[arg(long, value_enum)]
    to: Option<Way>,
    #[command(flatten)]
    now: Root,
    /// The TPM that is to seal it.
    #[arg(long, value_name = "TCTI", default_value = RootKey::TCTI)]
    new_tpm: String,
    /// The PCRs to which it is to be bound.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "7")]
    new_tpm_pcrs: Vec<u8>,
    /// A file with the new passphrase, or a descriptor. It is asked for on the terminal unless given.
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Write it to this file instead, which must not exist, and leave it as it is: a copy for the day on which the TPM, say,
    /// is gone.
    #[arg(long, value_name = "FILE", requires = "to")]
    copy: Option<PathBuf>,
}

impl ChangeRootKey {
    fn run(self, output: Output) -> Result<(), Problem> {
        let what = "cannot tell how the root key is kept";
        let Some(to) = self.to else {
            let way = root_key_way(&self.state).map_err(|error| problem(what, &error))?;
            return output.show(&way.as_str(), || format!("the root key is kept {way}"));
        };
        let (tcti, pcrs, passphrase_file) = (self.new_tpm, self.new_tpm_pcrs, self.new_passphrase_file);
        let way = RootKeyWay::from(to);
        let to = RootKey { way: Some(way), tcti, pcrs, passphrase_file };
        let change = RootKeyChange { now: self.now.of(None), to, copy: self.copy };
        let before = change_root_key(&self.state, &change)
            .map_err(|error| problem("cannot change how the root key is kept", &error))?;
        output.show(&way.as_str(), || match change.copy {
            Some(copy) => format!("{} has the root key, kept {way}; it is still kept {before} itself", copy.display()),
            None => format!("the root key was kept {before}, and is kept {way} now"),
        })
    }
}

fn problem(what: &str, error: &ward_controller::Error) -> Problem {
    Problem::new(Code::RequestInvalid, what, chain(error), "mend that and try again")
}

pub(crate) async fn run(arguments: Controller, output: Output) -> Result<(), Problem> {
    if let Some(Command::RootKey(change)) = arguments.command {
        return change.run(output);
    }
    let what = "cannot run a controller";
    // In a file, since the URL holds the database's password.
    let database = arguments.database_file.as_deref().map(|path| crate::commands::read_file(what, path)).transpose()?;
    let config = Config {
        state_dir: arguments.state,
        database: database.map(|url| url.trim().to_owned()),
        listen_api: arguments.listen_api,
        listen_hosts: arguments.listen_hosts,
        advertise_hosts: arguments.advertise_hosts,
        public_names: arguments.names,
        admin_password_file: arguments.admin_password_file,
        root_key: arguments.root.of(arguments.root_key),
        watch_period: Duration::from_secs(arguments.watch_period),
    };
    ward_controller::run(config, shutdown()?)
        .await
        .map_err(|error| Problem::new(Code::RequestInvalid, what, chain(&error), "mend that and start it again"))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
