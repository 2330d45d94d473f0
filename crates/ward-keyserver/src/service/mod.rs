//! Requests in, answers out.
//!
//! A request that only reads goes to one of several reading connections. One that may change something goes to the writer,
//! which works through all that have come as one transaction and answers them when it's on disk.

mod batch;
mod caller;
mod keys;
mod operations;
mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kmip::message::{RequestMessage, ResponseMessage};
use kmip::names::ResultReason;
use kmip::server::{Handler, PeerIdentity};
use sqlx::sqlite::SqlitePool;
use tracing::error;

use crate::master::MasterKey;
use crate::store::AuditRow;
use caller::Caller;
pub(crate) use writer::Writer;

pub(crate) struct Service {
    master: Arc<MasterKey>,
    readers: SqlitePool,
    writer: Writer,
}

impl Service {
    pub(crate) fn new(master: Arc<MasterKey>, readers: SqlitePool, writer: Writer) -> Self {
        Self { master, readers, writer }
    }

    /// Closes the reading connections.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

impl Handler for Service {
    async fn handle(&self, peer: &PeerIdentity, request: RequestMessage) -> ResponseMessage {
        let caller = Caller::of(peer);
        let version = request.header.protocol_version;
        if !batch::only_reads(&request) {
            return self.writer.write(caller, request).await;
        }
        let mut connection = match self.readers.acquire().await {
            Ok(connection) => connection,
            Err(error) => {
                error!(%error, "no connection to the database");
                return failed(version);
            }
        };
        let (response, rows) = batch::run(&self.master, &caller, &mut connection, request).await;
        drop(connection);
        self.writer.note(rows).await;
        response
    }
}

/// What a client is told when the fault is the server's own. The log says more.
const OWN_FAULT: &str = "the key server failed; its log says why";

fn failed(version: kmip::ProtocolVersion) -> ResponseMessage {
    ResponseMessage::failure(version, now(), ResultReason::GENERAL_FAILURE, OWN_FAULT.into())
}

/// Seconds since 1970.
fn now() -> i64 {
    now_ms() / 1000
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
