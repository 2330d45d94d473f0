//! `ward controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ward_controller::{Config, RootKey};
use ward_types::{Code, Problem};

use super::shutdown;

/// Run a controller.
#[derive(Args)]
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
    /// Where the root key comes from, under which it seals what it keeps. Chosen at the first start.
    #[arg(long, value_enum, default_value_t)]
    root_key: RootKeyFrom,
    /// A file from which the passphrase is read at each start, for `--root-key passphrase`; `/dev/stdin` works too.
    #[arg(long, value_name = "FILE", required_if_eq("root_key", "passphrase"))]
    root_passphrase_file: Option<PathBuf>,
    /// How many seconds until it looks at the key providers again.
    #[arg(long, value_name = "SECONDS", default_value_t = Config::WATCH_PERIOD.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..))]
    watch_period: u64,
}

/// Where a root key comes from.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum RootKeyFrom {
    /// A file of mode 0600 in the state directory.
    #[default]
    File,
    /// The service manager's credential `ward-root-key`: 32 bytes.
    Credential,
    /// A random key, kept under a passphrase.
    Passphrase,
}

pub(crate) async fn run(arguments: Controller) -> Result<(), Problem> {
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
        root_key: match (arguments.root_key, arguments.root_passphrase_file) {
            (RootKeyFrom::File, _) => RootKey::File,
            (RootKeyFrom::Credential, _) => RootKey::Credential,
            (RootKeyFrom::Passphrase, file) => RootKey::Passphrase(file.unwrap_or_default()),
        },
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
