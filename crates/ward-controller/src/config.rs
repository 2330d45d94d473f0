//! What a controller is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the root key comes from, under which the controller seals what it keeps. Chosen at the first start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RootKey {
    /// `root.key` in the state directory, which only its owner may read; made where there is none.
    #[default]
    File,
    /// The credential `ward-root-key` (32 bytes) of the service manager, in `$CREDENTIALS_DIRECTORY`.
    Credential,
    /// A random key that lies in `root.sealed` in the state directory, under a passphrase (argon2id) that is read from
    /// this file at each start.
    Passphrase(PathBuf),
}

impl fmt::Display for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "`root.key` in the controller's state directory",
            Self::Credential => "a credential of the service manager",
            Self::Passphrase(_) => "a passphrase given at start",
        })
    }
}

/// What a controller is told when it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it keeps its state; made where there is none.
    pub state_dir: PathBuf,
    /// The database: none means an SQLite file in the state directory, else a `postgres://` URL.
    pub database: Option<String>,
    /// Where it answers users; port 0 lets the system choose.
    pub listen_api: SocketAddr,
    /// Where it answers hosts.
    pub listen_hosts: SocketAddr,
    /// Where hosts reach it, `HOST:PORT`: goes into enrolment tokens. None means the address it listens on.
    pub advertise_hosts: Option<String>,
    /// Names and addresses besides `localhost`, `127.0.0.1` and `::1` that users reach it under.
    pub public_names: Vec<String>,
    /// A file with the first user's password; none means one is made up and written to `admin-password` in the state
    /// directory.
    pub admin_password_file: Option<PathBuf>,
    /// Where the root key comes from.
    pub root_key: RootKey,
    /// How long until key providers are looked at again.
    pub watch_period: Duration,
}

impl Config {
    /// The usual ports on loopback, state in `state_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            database: None,
            listen_api: ([127, 0, 0, 1], Self::API_PORT).into(),
            listen_hosts: ([127, 0, 0, 1], Self::HOSTS_PORT).into(),
            advertise_hosts: None,
            public_names: Vec::new(),
            admin_password_file: None,
            root_key: RootKey::File,
            watch_period: Self::WATCH_PERIOD,
        }
    }

    /// How long until key providers are looked at again, unless set.
    pub const WATCH_PERIOD: Duration = Duration::from_secs(60);
    /// The port for users.
    pub const API_PORT: u16 = 8443;
    /// The port for hosts.
    pub const HOSTS_PORT: u16 = 8444;
}
