//! Starting and serving.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use ward_rpc::{Role, ServerKind, client_config, serve, server_config};

use crate::api::auth::Guard;
use crate::authz::Recent;
use crate::controller::{Controller, Shared};
use crate::hosts::Links;
use crate::keys::{self, Health, Pool};
use crate::store::Store;
use crate::tasks::Board;
use crate::turns::Turns;
use crate::{Config, Error, api, files, hosts, init, native, recryption, tasks, trusted};

/// How long open requests and tasks may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// A controller that listens.
pub struct Server {
    controller: Shared,
    api: TcpListener,
    hosts: TcpListener,
    api_tls: Arc<rustls::ServerConfig>,
    hosts_tls: Arc<rustls::ServerConfig>,
    api_address: SocketAddr,
    hosts_address: SocketAddr,
    _lock: File,
}

impl Server {
    /// Sets up what is not set up yet, opens the database and listens.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Self, Error> {
        ward_secret::harden_process().map_err(Error::Harden)?;
        files::private_dir(&config.state_dir)?;
        let lock = lock(&config.state_dir)?;
        let store = match &config.database {
            Some(url) => Store::open(url).await?,
            None => Store::open_file(&config.state_dir.join("controller.db")).await?,
        };
        let (identity, seal, root_key) = init::init(&config, &store).await?;
        let (api, api_address) = listen(config.listen_api).await?;
        let (hosts, hosts_address) = listen(config.listen_hosts).await?;
        let ca = identity.authority.certificate();
        let api_tls = server_config(ca, &identity.credentials, ServerKind::Open)?;
        let hosts_tls = server_config(ca, &identity.credentials, ServerKind::MutualOrNone)?;
        let own = identity.authority.issue(Role::Controller(identity.id), &[])?;
        let host_tls = client_config(ca, Some(&own))?;
        let controller = Arc::new(Controller {
            id: identity.id,
            store,
            seal,
            root_key,
            authority: identity.authority,
            vtpm: identity.vtpm,
            advertise_hosts: config.advertise_hosts.unwrap_or_else(|| hosts_address.to_string()),
            links: Links::new(host_tls),
            key_servers: Pool::default(),
            health: Health::default(),
            watch_period: config.watch_period,
            board: Board::default(),
            needed: keys::NeededKeys::default(),
            reserved: keys::ReservedKeys::default(),
            guard: Guard::default(),
            recent: Recent::default(),
            turns: Turns::default(),
            trusted: Default::default(),
            shutdown,
            background: TaskTracker::new(),
        });
        Ok(Self { controller, api, hosts, api_tls, hosts_tls, api_address, hosts_address, _lock: lock })
    }

    /// What answers.
    #[cfg(test)]
    pub(crate) fn controller(&self) -> Shared {
        Arc::clone(&self.controller)
    }

    /// Where it answers users.
    #[must_use]
    pub const fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// Where it answers hosts.
    #[must_use]
    pub const fn hosts_address(&self) -> SocketAddr {
        self.hosts_address
    }

    /// Serves until the shutdown that it was started with; then lets requests end. Tasks go on at the next start.
    pub async fn serve(self) {
        let Self { controller, api, hosts, api_tls, hosts_tls, api_address, hosts_address, _lock } = self;
        tracing::info!(%api_address, %hosts_address, root_key = %controller.root_key, "the controller answers");
        let shutdown = controller.shutdown.clone();
        for started in [hosts::start(&controller).await, tasks::resume_all(&controller).await] {
            if let Err(error) = started {
                tracing::error!(%error, "cannot go on with what was there before");
            }
        }
        if let Err(error) = recryption::resume_all(&controller).await {
            tracing::error!(%error, "cannot go on with recryptions");
        }
        controller.background.spawn(recryption::schedule(Arc::clone(&controller)));
        controller.background.spawn(native::remind(Arc::clone(&controller)));
        controller.background.spawn(keys::watch(Arc::clone(&controller)));
        controller.background.spawn(trusted::watch(Arc::clone(&controller)));
        let users = serve(api, api_tls, api::router(Arc::clone(&controller)), shutdown.clone());
        let agents = serve(hosts, hosts_tls, hosts::router(Arc::clone(&controller)), shutdown.clone());
        let both = async { tokio::join!(users, agents) };
        tokio::pin!(both);
        tokio::select! {
            _ = both.as_mut() => {}
            () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => {}
        }
        controller.background.close();
        // What does not end in time is gone on with at the next start, as after a crash.
        let _ = tokio::time::timeout(GRACE, controller.background.wait()).await;
        controller.store.close().await;
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Keeps a second controller off the state directory.
pub(crate) fn lock(state_dir: &Path) -> Result<File, Error> {
    let path = state_dir.join("lock");
    let file = File::create(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse { path: state_dir.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(Error::File { path, source }),
    }
}
