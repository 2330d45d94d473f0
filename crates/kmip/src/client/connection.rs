//! One connection to a server, its version agreed on.

use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ClientConfig, ClientError, Phase, TlsFault};
use crate::framing::{self, ReadError};
use crate::message::{RequestMessage, ResponseMessage};
use crate::names::{Operation, ResultReason, ResultStatus};
use crate::operation::{DiscoverVersionsRequest, RequestPayload, ResponsePayload};
use crate::version::ProtocolVersion;

pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    pub(super) version: ProtocolVersion,
    last_used: Instant,
}

impl Connection {
    pub(super) async fn open(config: &ClientConfig) -> Result<Self, ClientError> {
        let address = config.address();
        let connecting = timeout(config.connect_timeout, handshake(config));
        let stream = match connecting.await {
            Ok(stream) => stream?,
            Err(_) => {
                let after = config.connect_timeout;
                return Err(ClientError::Timeout { address, during: Phase::Connecting, after });
            }
        };
        // Discover Versions came with 1.1, so that is how to ask.
        let mut connection = Self { stream, version: ProtocolVersion::V1_1, last_used: Instant::now() };
        connection.version = connection.negotiate(config).await?;
        Ok(connection)
    }

    /// The highest version that both ends speak.
    async fn negotiate(&mut self, config: &ClientConfig) -> Result<ProtocolVersion, ClientError> {
        let ours = config.versions();
        let payload = RequestPayload::DiscoverVersions(DiscoverVersionsRequest { versions: ours.clone() });
        let request = RequestMessage::single(ProtocolVersion::V1_1, payload);
        let bytes = request.encode().map_err(|source| ClientError::Encode { address: config.address(), source })?;
        let mut response = self.exchange(config, &bytes, Operation::DISCOVER_VERSIONS).await?;

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
    /// on the way may have forgotten it.
    pub(super) async fn is_stale(&mut self, config: &ClientConfig) -> bool {
        if self.last_used.elapsed() > config.idle_reuse {
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
    ) -> Result<ResponseMessage, ClientError> {
        let address = || config.address();
        let exchanged = timeout(config.request_timeout, self.send_and_read(config, request)).await;
        let bytes = match exchanged {
            Err(_) => {
                let (during, after) = (Phase::Request(operation), config.request_timeout);
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

async fn handshake(config: &ClientConfig) -> Result<TlsStream<TcpStream>, ClientError> {
    let unreachable = |source| ClientError::Unreachable { address: config.address(), source };
    let stream = TcpStream::connect((config.host.as_str(), config.port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let connector = TlsConnector::from(std::sync::Arc::clone(&config.tls));
    connector.connect(config.server_name.clone(), stream).await.map_err(|error| {
        let fault = TlsFault::within(&error)
            .unwrap_or_else(|| TlsFault::Other(format!("the server broke the handshake off ({error})")));
        ClientError::Tls { address: config.address(), fault }
    })
}
