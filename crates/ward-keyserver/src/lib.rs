//! A durable KMIP server with sealed keys.
//!
//! Everything it has lies in one directory: its certificate authority and certificates, the master key, and the
//! database, whose keys are sealed under the master key. A change is on disk before it is answered.

mod core;
mod error;
mod master;
mod pki;
mod service;
mod store;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use std::sync::Arc;

pub use error::Error;
use kmip::server::ServerConfig;
use tokio::net::TcpListener;
use tracing::info;
use zeroize::Zeroizing;

use master::MasterKey;
use pki::Paths;
use service::{Service, Writer};

/// Where to listen and where everything lies.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The state directory, set up by [`init`].
    pub state_dir: PathBuf,
}

impl Config {
    /// KMIP's own port on every address.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self { listen: (Ipv6Addr::UNSPECIFIED, kmip::client::DEFAULT_PORT).into(), state_dir }
    }
}

/// The files a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authority by which to know the server (PEM).
    pub ca: PathBuf,
    /// The client's certificate (PEM).
    pub certificate: PathBuf,
    /// The client's private key (PEM, mode 0600).
    pub key: PathBuf,
}

/// One operation that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AuditEntry {
    /// Counts up, without gaps.
    pub sequence: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Whose certificate: the common name.
    pub peer: String,
    /// The operation's KMIP name.
    pub operation: String,
    /// The object, if one was named or made.
    pub object: Option<String>,
    /// `Success`, or the KMIP result reason.
    pub result: String,
}

/// How often an operation was asked for.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OperationCount {
    /// The operation's KMIP name.
    pub operation: String,
    /// How often it was asked for, since the state directory was set up.
    pub count: i64,
}

/// Sets a state directory up: the authority, the server's certificate (for `localhost`, `127.0.0.1`, `::1` and
/// `server_names`), the master key and the database. What is already there stays as it is.
///
/// # Errors
/// If something can't be made, or what is there can't be used.
pub async fn init(state_dir: &Path, server_names: &[String]) -> Result<(), Error> {
    whole_file::private_directory(state_dir)?;
    pki::init(&Paths::new(state_dir), server_names)?;
    // A new master key would make the keys of an existing database worthless: then its loss must be told, not papered over.
    if !MasterKey::path(state_dir).exists() && !state_dir.join("keys.db").exists() {
        MasterKey::generate(state_dir)?;
    }
    store::init(state_dir, &MasterKey::load(state_dir)?).await
}

/// Makes a certificate for a client, in `<state_dir>/clients/<common_name>`. One that is already there is told again.
///
/// The common name is whose the keys are that the client makes: it sees those of its own name and no others.
///
/// # Errors
/// If the name won't do or the directory was not set up.
pub fn issue_client(state_dir: &Path, common_name: &str) -> Result<ClientFiles, Error> {
    check_initialized(state_dir)?;
    pki::issue_client(&Paths::new(state_dir), common_name)
}

/// A server that listens, and whose database is open.
pub struct Server {
    config: ServerConfig,
    listener: TcpListener,
    local_addr: SocketAddr,
    service: Service,
    writing: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Server {
    /// Opens the database and listens.
    ///
    /// # Errors
    /// If the state directory can't be used or the address can't be listened on.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let state_dir = &config.state_dir;
        check_initialized(state_dir)?;
        let master = Arc::new(MasterKey::load(state_dir)?);
        store::init(state_dir, &master).await?;

        let paths = Paths::new(state_dir);
        let ca = whole_file::read(&paths.ca)?;
        let key = Zeroizing::new(whole_file::read(&paths.server_key)?);
        let tls = ServerConfig::new(&whole_file::read(&paths.server)?, &key, &ca)
            .map_err(|error| Error::Certificate { what: "server.pem".into(), reason: error.to_string() })?;

        let unusable = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(unusable)?;
        let local_addr = listener.local_addr().map_err(unusable)?;
        let (writer, writing) = Writer::start(store::writer(state_dir).await?, Arc::clone(&master));
        let service = Service::new(master, store::readers(state_dir).await?, writer);
        info!(%local_addr, state_dir = %state_dir.display(), "the key server listens");
        Ok(Self { config: tls, listener, local_addr, service, writing })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown` is ready, then lets running requests finish and closes the database.
    ///
    /// # Errors
    /// If the database fails while closing.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let service = Arc::new(self.service);
        kmip::server::serve(self.listener, self.config, Arc::clone(&service), shutdown).await;
        service.close().await;
        // With the last sender gone the writer ends when everything is written.
        drop(service);
        match self.writing.await {
            Ok(closed) => closed,
            Err(_) => Err(Error::Store(sqlx::Error::WorkerCrashed)),
        }
    }
}

/// [`Server::start`] and [`Server::serve`] in one.
///
/// # Errors
/// As those.
pub async fn run(config: Config, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    Server::start(config).await?.serve(shutdown).await
}

/// The last `n` operations, oldest first. May be asked while the server runs; what only read is recorded with a delay of
/// up to 50 ms.
///
/// # Errors
/// If the database can't be read.
pub async fn audit_tail(state_dir: &Path, n: u32) -> Result<Vec<AuditEntry>, Error> {
    store::tail(&mut store::reader(state_dir).await?, n).await
}

/// How often each operation was asked for. May be asked while the server runs, with the same delay.
///
/// # Errors
/// If the database can't be read.
pub async fn operation_counts(state_dir: &Path) -> Result<Vec<OperationCount>, Error> {
    store::counts(&mut store::reader(state_dir).await?).await
}

fn check_initialized(state_dir: &Path) -> Result<(), Error> {
    if state_dir.join("keys.db").exists() {
        return Ok(());
    }
    Err(Error::NotInitialized { path: state_dir.to_owned() })
}
