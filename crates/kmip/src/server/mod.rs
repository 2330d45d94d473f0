//! A server loop: mutual TLS, bounded connections, one request after the other on each.
//!
//! What requests *do* is a [`Handler`]'s affair. A peer without a certificate from the right authority never gets
//! so far as to send one.

mod config;
mod connection;
mod peer;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

pub use config::{ServerConfig, ServerConfigError};
pub use peer::PeerIdentity;

use crate::message::{RequestMessage, ResponseMessage};

/// What a server does with requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request. Its version is one that is spoken here; its items may be malformed or unknown.
    fn handle(&self, peer: &PeerIdentity, request: RequestMessage) -> impl Future<Output = ResponseMessage> + Send;
}

/// How long running requests may take to finish once the server shuts down.
const GRACE: Duration = Duration::from_secs(10);

/// Serves connections until `shutdown` is ready; then takes no new ones, lets every request that has come be answered, and
/// returns.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    config: ServerConfig,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let config = Arc::new(config);
    let acceptor = TlsAcceptor::from(Arc::clone(&config.tls));
    let slots = Arc::new(Semaphore::new(config.connections));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);

    loop {
        // Without a free slot none is accepted: the system's backlog holds the peer.
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: those in use must be closed before it gets better.
                warn!(%error, "no connection could be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = connection::run(
            stream,
            address,
            acceptor.clone(),
            Arc::clone(&config),
            Arc::clone(&handler),
            stopped.clone(),
        );
        connections.spawn(async move {
            let _slot = slot;
            if let Err(error) = connection.await {
                debug!(%address, %error, "connection ended");
            }
        });
    }

    drop(listener);
    // Nobody may be left to hear it.
    let _ = stop.send(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        warn!("requests were still running when the time for shutting down was over");
    }
}
