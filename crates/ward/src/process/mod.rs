//! The processes of the system. The disk process is `ward_disk::process` itself.

pub(crate) mod controller;
pub(crate) mod dump;
pub(crate) mod host;
pub(crate) mod keyserver;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use ward_types::Problem;

/// Cancelled when the process is asked to end.
pub(crate) fn shutdown() -> Result<CancellationToken, Problem> {
    let failed = |error| Problem::internal("cannot listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}
