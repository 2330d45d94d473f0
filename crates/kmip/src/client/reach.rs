//! A TCP connection to a host, whichever of its addresses answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long an address is waited for before the next is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to `host`, a name or an address of either family.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    connect_any(tokio::net::lookup_host((host, port)).await?.collect()).await
}

/// The first connection that is made to any of these addresses, which are tried in order: the next one as soon as one
/// fails, or has been silent for [`STAGGER`].
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut untried = addresses.into_iter();
    let mut connecting = JoinSet::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match untried.next() {
            Some(address) => drop(connecting.spawn(TcpStream::connect(address))),
            None if connecting.is_empty() => return Err(last_error),
            None => {}
        }
        let ended = if untried.len() == 0 {
            connecting.join_next().await
        } else {
            match timeout(STAGGER, connecting.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last_error = error,
            Some(Err(error)) => last_error = io::Error::other(error),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::TcpListener;

    use super::*;

    /// An address where nobody listens.
    async fn nobody() -> SocketAddr {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn the_address_that_answers_is_found_among_those_that_do_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let somebody = listener.local_addr().unwrap();
        // 192.0.2.0/24 is kept for documentation: packets to it are lost or refused, never answered.
        let silent = SocketAddr::from(([192, 0, 2, 1], 5696));
        let addresses = vec![silent, nobody().await, somebody];
        let stream = timeout(Duration::from_secs(20), connect_any(addresses)).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), somebody);
    }

    #[tokio::test]
    async fn both_families() {
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
            let listener = TcpListener::bind(address).await.unwrap();
            let local = listener.local_addr().unwrap();
            let stream = connect(&local.ip().to_string(), local.port()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), local);
        }
    }

    #[tokio::test]
    async fn where_nobody_listens() {
        let error = connect_any(vec![nobody().await, nobody().await]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(vec![]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
