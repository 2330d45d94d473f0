//! What a controller is told when it starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How the root key is kept, under which the controller seals what it stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootKeyWay {
    /// As it is in a file that only its owner may read.
    #[default]
    File,
    /// Sealed to the machine's TPM 2.0.
    Tpm,
    /// Under the credential `ward-root-key` (32 bytes) of the service manager, in `$CREDENTIALS_DIRECTORY`.
    Credential,
    /// Under a passphrase (argon2id) that is given at each start.
    Passphrase,
}

impl RootKeyWay {
    /// Its name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Tpm => "tpm",
            Self::Credential => "credential",
            Self::Passphrase => "passphrase",
        }
    }
}

impl fmt::Display for RootKeyWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "in a file of mode 0600",
            Self::Tpm => "sealed to the controller's TPM",
            Self::Credential => "under a credential of the service manager",
            Self::Passphrase => "under a passphrase given at start",
        })
    }
}

/// What the controller needs to get at its root key. The key's file, `root.key` in the state directory, says how it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey {
    /// How it is kept from the first start on; later, how it must be. None means a file, and later whatever it is.
    pub way: Option<RootKeyWay>,
    /// The TPM, as a TCTI: `device:/dev/tpmrm0`, or `swtpm:host=HOST,port=PORT`.
    pub tcti: String,
    /// The PCRs of its SHA-256 bank to which the key is sealed; opened it is by those it was sealed to.
    pub pcrs: Vec<u8>,
    /// Where the passphrase is read from: a file, or a descriptor as `/dev/fd/N`. None means that it is asked for on the
    /// terminal.
    pub passphrase_file: Option<PathBuf>,
}

impl RootKey {
    /// The usual TPM.
    pub const TCTI: &str = "device:/dev/tpmrm0";
}

impl Default for RootKey {
    fn default() -> Self {
        Self { way: None, tcti: Self::TCTI.to_owned(), pcrs: vec![7], passphrase_file: None }
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
    /// How to get at the root key.
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
            root_key: RootKey::default(),
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
