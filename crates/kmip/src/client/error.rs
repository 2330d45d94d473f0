//! Why a request was not answered as hoped, sorted by what has to be done about it.

use std::io;
use std::time::Duration;

use crate::names::{Operation, ResultReason};
use crate::ttlv::{DecodeError, EncodeError};
use crate::version::ProtocolVersion;

use super::tls_fault::TlsFault;

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request can't be said in the server's version of the protocol.
    #[error("the request cannot be sent to {address}: {source}")]
    Encode {
        /// `host:port`.
        address: String,
        /// What can't be said.
        source: EncodeError,
    },
    /// The connection broke while an answer was awaited.
    #[error("{address} broke the connection during {operation}")]
    Interrupted {
        /// `host:port`.
        address: String,
        /// What was asked.
        operation: Operation,
        /// How it broke.
        source: io::Error,
    },
    /// The server speaks no version this client does.
    #[error(
        "{address} speaks none of the KMIP versions 1.1 to 2.1 that are allowed here (it offers {})",
        list(offered)
    )]
    NoCommonVersion {
        /// `host:port`.
        address: String,
        /// What it speaks.
        offered: Vec<ProtocolVersion>,
    },
    /// The server has the object, but it holds no key that could be used.
    #[error("object {id} at {address} is of no use as a key: {what}")]
    NotAKey {
        /// `host:port`.
        address: String,
        /// The object's identifier.
        id: String,
        /// What it is instead.
        what: &'static str,
    },
    /// The answer is no KMIP message.
    #[error("{address} answered {operation} with a malformed message: {source}")]
    Protocol {
        /// `host:port`.
        address: String,
        /// What was asked.
        operation: Operation,
        /// What is wrong with the answer.
        source: DecodeError,
    },
    /// The server understood and refused or failed.
    #[error("{address} refused {operation}: {reason}{}{message}", if message.is_empty() { "" } else { ": " })]
    Server {
        /// `host:port`.
        address: String,
        /// What was asked.
        operation: Operation,
        /// Why not.
        reason: ResultReason,
        /// The server's own words.
        message: String,
    },
    /// The server didn't answer in time.
    #[error("{address} did not finish {during} within {after:?}")]
    Timeout {
        /// `host:port`.
        address: String,
        /// What was going on.
        during: Phase,
        /// How long was waited.
        after: Duration,
    },
    /// The two ends could not agree to trust each other.
    #[error("TLS with {address} failed: {fault}")]
    Tls {
        /// `host:port`.
        address: String,
        /// Which field of whose certificate, if it is one.
        fault: TlsFault,
    },
    /// A well-formed answer to something else than was asked.
    #[error("{address} answered {operation} with something else: {what}")]
    UnexpectedAnswer {
        /// `host:port`.
        address: String,
        /// What was asked.
        operation: Operation,
        /// What was wrong with the answer.
        what: String,
    },
    /// No connection could be made.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// Why not.
        source: io::Error,
    },
}

/// What was going on when time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connecting, TLS included.
    Connecting,
    /// A request.
    Request(Operation),
    /// Waiting for others' requests over the same connection: nothing was sent yet.
    Waiting(Operation),
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Request(operation) => write!(f, "{operation}"),
            Self::Waiting(operation) => write!(f, "the requests before {operation}"),
        }
    }
}

impl ClientError {
    /// The server, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Encode { address, .. }
            | Self::Interrupted { address, .. }
            | Self::NoCommonVersion { address, .. }
            | Self::NotAKey { address, .. }
            | Self::Protocol { address, .. }
            | Self::Server { address, .. }
            | Self::Timeout { address, .. }
            | Self::Tls { address, .. }
            | Self::UnexpectedAnswer { address, .. }
            | Self::Unreachable { address, .. } => address,
        }
    }

    /// The server's reason, if it was the server who refused.
    #[must_use]
    pub fn result_reason(&self) -> Option<ResultReason> {
        match self {
            Self::Server { reason, .. } => Some(*reason),
            _ => None,
        }
    }

    /// Whether another server of the same keys, or the same one later, might answer: the fault lies with the way to this
    /// server and not with the request.
    #[must_use]
    pub fn is_server_unavailable(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::Timeout { .. } | Self::Tls { .. } | Self::Unreachable { .. })
    }

    /// Whether the server may have done what was asked although no answer came. Such a request must not simply be sent
    /// again: a Create would make a second key.
    #[must_use]
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::Interrupted { operation, .. }
            | Self::Protocol { operation, .. }
            | Self::UnexpectedAnswer { operation, .. }
            | Self::Timeout { during: Phase::Request(operation), .. } => !super::only_reads(*operation),
            _ => false,
        }
    }
}

fn list(versions: &[ProtocolVersion]) -> String {
    if versions.is_empty() {
        return "none".into();
    }
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
