//! What all parts of a running controller share.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use ward_rpc::{Authority, EkAuthority};
use ward_secret::SealKey;
use ward_types::{EventKind, EventSubject, Problem, UserId};

use crate::RootKeyWay;
use crate::api::auth::Guard;
use crate::authz::Recent;
use crate::hosts::Links;
use crate::keys::{self, Health, Pool};
use crate::store::{self, Store};
use crate::tasks::Board;
use crate::trusted::ServiceStates;
use crate::turns::Turns;

/// What all parts of a running controller share.
pub(crate) struct Controller {
    pub(crate) id: Uuid,
    pub(crate) store: Store,
    /// Opens the sealed columns of the store.
    pub(crate) seal: SealKey,
    /// How that key is kept.
    pub(crate) root_key: RootKeyWay,
    pub(crate) authority: Authority,
    /// The CA of vTPMs.
    pub(crate) vtpm: EkAuthority,
    /// Where hosts reach the controller, `HOST:PORT`.
    pub(crate) advertise_hosts: String,
    pub(crate) links: Links,
    pub(crate) key_servers: Pool,
    pub(crate) health: Health,
    /// How long until providers are looked at again.
    pub(crate) watch_period: Duration,
    pub(crate) board: Board,
    /// The keys that each cluster needs.
    pub(crate) needed: keys::NeededKeys,
    /// Keys that are about to be needed.
    pub(crate) reserved: keys::ReservedKeys,
    pub(crate) guard: Guard,
    pub(crate) recent: Recent,
    /// The requests with a key that are being done.
    pub(crate) turns: Turns<(UserId, String)>,
    /// How the services of trust authorities are.
    pub(crate) trusted: ServiceStates,
    pub(crate) shutdown: CancellationToken,
    /// All that runs beside requests.
    pub(crate) background: TaskTracker,
}

/// What the parts hold.
pub(crate) type Shared = Arc<Controller>;

impl Controller {
    /// Records an event that comes with no other change. That the log can't be written stops nothing: it is told in
    /// the process's own log.
    pub(crate) async fn record(&self, kind: EventKind, subject: &EventSubject, message: &str) {
        let record = async {
            let mut tx = self.store.write().await?;
            store::event::record(&mut tx, kind, subject, message).await?;
            tx.commit().await
        };
        if let Err(error) = record.await {
            tracing::error!(%error, kind = kind.as_str(), message, "cannot record an event");
        }
    }

    /// As [`Controller::record`], of a problem.
    pub(crate) async fn record_problem(&self, kind: EventKind, subject: &EventSubject, problem: &Problem) {
        let record = async {
            let mut tx = self.store.write().await?;
            store::event::record_problem(&mut tx, kind, subject, problem).await?;
            tx.commit().await
        };
        if let Err(error) = record.await {
            tracing::error!(%error, kind = kind.as_str(), %problem, "cannot record an event");
        }
    }
}
