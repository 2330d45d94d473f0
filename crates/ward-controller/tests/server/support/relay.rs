//! A way to a server that can be cut: several of them make one server look like several with the same keys.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A way to a server.
pub struct Relay {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Relay {
    /// One on loopback.
    pub async fn to(server: SocketAddr) -> Self {
        Self::listening([127, 0, 0, 1].into(), Some(server)).await
    }

    /// One at that address; where it leads nowhere, whoever connects waits for an answer.
    pub async fn listening(at: IpAddr, server: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let serving = tokio::spawn(async move {
            let mut links = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                links.spawn(async move {
                    let Some(server) = server else { return std::future::pending().await };
                    if let Ok(mut far) = TcpStream::connect(server).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { address, connections, serving }
    }

    /// How many have connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Cuts it, in the middle of whatever passes.
    pub async fn cut(self) {
        self.serving.abort();
        // Once it has ended, nobody listens and all connections are closed.
        assert!(self.serving.await.unwrap_err().is_cancelled());
    }
}
