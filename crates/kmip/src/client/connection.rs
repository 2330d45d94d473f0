//! One connection to a server, its version agreed on.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ClientConfig, ClientError, Phase, TlsFault, reach};
use crate::certificate::CertificateInfo;
use crate::framing::{self, ReadError};
use crate::message::{RequestMessage, ResponseMessage};
use crate::names::{Operation, ResultReason, ResultStatus};
use crate::operation::{DiscoverVersionsRequest, RequestPayload, ResponsePayload};
use crate::version::ProtocolVersion;

pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    pub(super) version: ProtocolVersion,
    pub(super) last_used: Instant,
    /// When it last brought a key.
    pub(super) key_at: Option<Instant>,
    /// When the first of the server's certificates expires.
    trusted_until: Option<SystemTime>,
}

/// The time that is left: what the configuration allows, and no more than until the deadline.
fn left(allowed: Duration, deadline: Option<Instant>) -> Duration {
    match deadline {
        Some(deadline) => allowed.min(deadline.saturating_duration_since(Instant::now())),
        None => allowed,
    }
}

impl Connection {
    pub(super) async fn open(config: &ClientConfig, deadline: Option<Instant>) -> Result<Self, ClientError> {
        let address = config.address();
        let after = left(config.connect_timeout, deadline);
        let stream = match timeout(after, handshake(config)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(ClientError::Timeout { address, during: Phase::Connecting, after }),
        };
        let (_, session) = stream.get_ref();
        let trusted_until = session.peer_certificates().and_then(expiry);
        // Discover Versions came with 1.1, so that is how to ask.
        let version = ProtocolVersion::V1_1;
        let mut connection = Self { stream, version, last_used: Instant::now(), key_at: None, trusted_until };
        connection.version = connection.negotiate(config, deadline).await?;
        Ok(connection)
    }

    /// The highest version that both ends speak.
    async fn negotiate(
        &mut self,
        config: &ClientConfig,
        deadline: Option<Instant>,
    ) -> Result<ProtocolVersion, ClientError> {
        let ours = config.versions();
        let payload = RequestPayload::DiscoverVersions(DiscoverVersionsRequest { versions: ours.clone() });
        let request = RequestMessage::single(ProtocolVersion::V1_1, payload);
        let bytes = request.encode().map_err(|source| ClientError::Encode { address: config.address(), source })?;
        let mut response = self.exchange(config, &bytes, Operation::DISCOVER_VERSIONS, deadline).await?;

        let offered = match response.items.pop() {
            Some(item) if item.result_status == ResultStatus::SUCCESS => match item.payload {
                Some(ResponsePayload::DiscoverVersions(discovered)) => discovered.versions,
                _ => vec![],
            },
            // A server that answers in a version we speak, but doesn't know the question, speaks that version: 1.1 is what
            // it was asked in.
            Some(item)
                if response.header.protocol_version == ProtocolVersion::V1_1
                    && item.result_reason != Some(ResultReason::AUTHENTICATION_NOT_SUCCESSFUL) =>
            {
                vec![ProtocolVersion::V1_1]
            }
            _ => vec![response.header.protocol_version],
        };
        match ours.iter().find(|version| offered.contains(version)) {
            Some(version) => Ok(*version),
            None => Err(ClientError::NoCommonVersion { address: config.address(), offered }),
        }
    }

    /// Whether the server has hung up, as far as we have heard, or the connection was unused for so long that something
    /// on the way may have forgotten it, or the server's certificate would no longer be accepted.
    pub(super) async fn is_stale(&mut self, config: &ClientConfig) -> bool {
        let expired = self.trusted_until.is_some_and(|until| until <= SystemTime::now());
        if expired || self.last_used.elapsed() > config.idle_reuse {
            return true;
        }
        // Nothing is due from the server: whatever comes is the end. The kernel is asked directly, as the runtime may not
        // have heard yet.
        let (socket, _) = self.stream.get_ref();
        let mut byte = [0];
        let peeked = rustix::net::recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        if peeked != Err(Errno::AGAIN) {
            return true;
        }
        // It may have come together with the last answer.
        let mut buffer = ReadBuf::new(&mut byte);
        std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut self.stream).poll_read(context, &mut buffer).is_ready())
        })
        .await
    }

    /// Sends a request and reads its answer. After an error the connection is of no more use.
    pub(super) async fn exchange(
        &mut self,
        config: &ClientConfig,
        request: &[u8],
        operation: Operation,
        deadline: Option<Instant>,
    ) -> Result<ResponseMessage, ClientError> {
        let address = || config.address();
        let after = left(config.request_timeout, deadline);
        let exchanged = timeout(after, self.send_and_read(config, request)).await;
        let bytes = match exchanged {
            Err(_) => {
                let during = Phase::Request(operation);
                return Err(ClientError::Timeout { address: address(), during, after });
            }
            Ok(Err(ReadError::Malformed(source))) => {
                return Err(ClientError::Protocol { address: address(), operation, source });
            }
            // In TLS 1.3 the server judges our certificate after our handshake is done: its alert comes here.
            Ok(Err(ReadError::Io(source))) => {
                return Err(match TlsFault::within(&source) {
                    Some(fault) => ClientError::Tls { address: address(), fault },
                    None => ClientError::Interrupted { address: address(), operation, source },
                });
            }
            Ok(Ok(bytes)) => bytes,
        };
        self.last_used = Instant::now();
        ResponseMessage::decode(&bytes, &config.limits).map_err(|source| ClientError::Protocol {
            address: address(),
            operation,
            source,
        })
    }

    async fn send_and_read(
        &mut self,
        config: &ClientConfig,
        request: &[u8],
    ) -> Result<zeroize::Zeroizing<Vec<u8>>, ReadError> {
        let sent = framing::write(&mut self.stream, request).await;
        // When sending failed, the server may have said why before it hung up.
        let header = match (framing::read_header(&mut self.stream).await, sent) {
            (Ok(Some(header)), _) => header,
            (Ok(None), Err(error)) => return Err(error.into()),
            (Ok(None), Ok(())) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            (Err(error), _) => return Err(error),
        };
        framing::read_rest(&mut self.stream, header, &config.limits).await
    }
}

/// When the first of these certificates expires.
fn expiry(certificates: &[CertificateDer<'_>]) -> Option<SystemTime> {
    certificates.iter().filter_map(|certificate| CertificateInfo::from_der(certificate).ok()?.expires()).min()
}

async fn handshake(config: &ClientConfig) -> Result<TlsStream<TcpStream>, ClientError> {
    let unreachable = |source| ClientError::Unreachable { address: config.address(), source };
    let stream = reach::connect(&config.host, config.port).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let connector = TlsConnector::from(std::sync::Arc::clone(&config.tls));
    connector.connect(config.server_name.clone(), stream).await.map_err(|error| {
        let fault = TlsFault::within(&error)
            .unwrap_or_else(|| TlsFault::Other(format!("the server broke the handshake off ({error})")));
        ClientError::Tls { address: config.address(), fault }
    })
}
