//! One connection, from handshake to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::{Handler, PeerIdentity, ServerConfig};
use crate::framing::{self, ReadError};
use crate::message::{RequestError, RequestMessage, ResponseItem, ResponseMessage};
use crate::names::ResultReason;
use crate::version::ProtocolVersion;

pub(super) async fn run<H: Handler>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    config: Arc<ServerConfig>,
    handler: Arc<H>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = tokio::select! {
        stream = within(config.transfer_timeout, acceptor.accept(stream)) => stream?,
        _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
    };
    let (_, session) = stream.get_ref();
    // The verifier lets nobody through without one.
    let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) else {
        return Err(io::Error::other("no client certificate"));
    };
    let peer = PeerIdentity::of(certificate, address);
    debug!(%address, common_name = peer.common_name, "connection made");

    let served = requests(&mut stream, &peer, &config, &*handler, &mut stopped).await;
    // Tells the peer that nothing was cut off; it may be gone already.
    let _ = timeout(config.transfer_timeout, stream.shutdown()).await;
    served
}

async fn requests<H: Handler>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    peer: &PeerIdentity,
    config: &ServerConfig,
    handler: &H,
    stopped: &mut watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        let header = tokio::select! {
            // A request that has come is answered even while shutting down.
            biased;
            header = timeout(config.idle_timeout, framing::read_header(stream)) => header,
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let header = match header {
            Err(_) | Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(header))) => header,
            Ok(Err(error)) => return Err(ended(error)),
        };
        let request = match timeout(config.transfer_timeout, framing::read_rest(stream, header, &config.limits)).await {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(Ok(message)) => RequestMessage::decode(&message, &config.limits),
            Ok(Err(ReadError::Malformed(source))) => Err(RequestError::Malformed { version: None, source }),
            Ok(Err(error)) => return Err(ended(error)),
        };
        let (response, keep_open) = match request {
            Ok(request) => (answer(handler, peer, request).await, true),
            Err(error) => {
                warn!(address = %peer.address, common_name = peer.common_name, %error, "no request");
                (refusal(&error)?, false)
            }
        };
        within(config.transfer_timeout, framing::write(stream, &response)).await?;
        if !keep_open {
            return Ok(());
        }
    }
}

async fn answer<H: Handler>(handler: &H, peer: &PeerIdentity, request: RequestMessage) -> Zeroizing<Vec<u8>> {
    let version = request.header.protocol_version;
    let maximum = request.header.maximum_response_size.and_then(|size| usize::try_from(size).ok());
    let response = handler.handle(peer, request).await;
    let error = match response.encode() {
        Ok(bytes) if maximum.is_none_or(|maximum| bytes.len() <= maximum) => return bytes,
        Ok(_) => (ResultReason::RESPONSE_TOO_LARGE, "the answer is larger than the request allows".to_owned()),
        Err(error) => {
            warn!(%error, "an answer could not be written");
            (ResultReason::GENERAL_FAILURE, error.to_string())
        }
    };
    let (reason, message) = error;
    // Every item of the batch is told; what was done stays done.
    let failed = ResponseMessage {
        header: response.header,
        items: response
            .items
            .into_iter()
            .map(|item| ResponseItem::failure(item.operation, item.unique_batch_item_id, reason, message.clone()))
            .collect(),
    };
    match failed.encode() {
        Ok(bytes) => bytes,
        // Nothing is left in it that could fail but the batch's own names.
        Err(_) => ResponseMessage::failure(version, now(), reason, message).encode().unwrap_or_default(),
    }
}

/// What is said to something that is no request, before the connection is closed.
fn refusal(error: &RequestError) -> io::Result<Zeroizing<Vec<u8>>> {
    let version = match error {
        RequestError::Malformed { version: Some(version), .. } => *version,
        RequestError::Malformed { version: None, .. } => ProtocolVersion::V1_0,
        // The newest we have that is not newer than what was asked, so that the peer can read it.
        RequestError::UnsupportedVersion(asked) => {
            ProtocolVersion::SUPPORTED.iter().copied().find(|version| version <= asked).unwrap_or(ProtocolVersion::V1_0)
        }
    };
    ResponseMessage::failure(version, now(), ResultReason::INVALID_MESSAGE, error.to_string())
        .encode()
        .map_err(io::Error::other)
}

fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn ended(error: ReadError) -> io::Error {
    match error {
        ReadError::Io(error) => error,
        ReadError::Malformed(error) => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
