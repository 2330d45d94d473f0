//! The clock by which keys are replaced that are older than their policy or their provider allows.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ward_types::{Problem, VmId};

use crate::api::auth::Caller;
use crate::api::types::{RecryptionRequest, RecryptionState};
use crate::authz::{Note, grant_to_schedule};
use crate::controller::Shared;
use crate::store::recryption;

/// How often ages are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long to wait before VMs are tried again of which some failed.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// Looks at the age of keys until the controller ends.
pub(crate) async fn schedule(controller: Shared) {
    loop {
        if let Err(problem) = look(&controller, Timestamp::now()).await {
            tracing::error!(%problem, "cannot look at the age of keys");
        }
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Begins what is due at `now`.
pub(crate) async fn look(controller: &Shared, now: Timestamp) -> Result<(), Problem> {
    let request = RecryptionRequest { due: true, ..RecryptionRequest::default() };
    let taken = taken(controller, now).await?;
    let planned = super::due(controller, &request, now, &taken).await?;
    if planned.vms.is_empty() {
        return Ok(());
    }
    let granted = grant_to_schedule(controller, planned.fleet, Note::default()).await?;
    let id = super::begin(controller, granted, request, planned.vms, now).await?;
    tracing::info!(recryption = %id, "keys that are too old are replaced");
    Ok(())
}

/// The VMs that another recryption has in hand, or had a while ago: they are its affair, and keep no other VM waiting.
async fn taken(controller: &Shared, now: Timestamp) -> Result<BTreeSet<VmId>, Problem> {
    let recent = now.checked_sub(AGAIN_AFTER).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut db = controller.store.read().await?;
    let mut taken = BTreeSet::new();
    for row in recryption::open_or_after(&mut db, recent).await? {
        let has = match (row.state, row.request.due) {
            // What somebody began and paused keeps nothing from being done; what the clock began and somebody paused does.
            (RecryptionState::Paused, _) => Caller::is_scheduler(&row.user),
            (state, due) => !state.is_final() || due && row.created > recent,
        };
        if has {
            taken.extend(recryption::vms(&mut db, row.id).await?.into_iter().map(|item| item.vm));
        }
    }
    Ok(taken)
}
