//! The clock by which keys are replaced that are older than their policy or their provider allows.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ward_types::Problem;

use crate::api::types::RecryptionRequest;
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
    let planned = super::due(controller, &request, now).await?;
    if planned.vms.is_empty() {
        return Ok(());
    }
    let rows = recryption::list(&mut *controller.store.read().await?).await?;
    let recent = |created: Timestamp| now.duration_since(created) < AGAIN_AFTER;
    let mine = rows.iter().filter(|row| row.request.due);
    if mine.into_iter().any(|row| !row.state.is_final() || recent(row.created)) {
        return Ok(());
    }
    let granted = grant_to_schedule(controller, planned.fleet, Note::default()).await?;
    let id = super::begin(controller, granted, request, planned.vms, now).await?;
    tracing::info!(recryption = %id, "keys that are too old are replaced");
    Ok(())
}
