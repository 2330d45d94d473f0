//! Says each day which native provider has no backup, until it has one.

use std::time::Duration;

use ward_types::{EventKind, EventSubject, ProviderName};

use crate::controller::Shared;
use crate::store::cells::now;
use crate::store::{StoreError, event, native, needed};

/// How often it is looked whether somebody is to be reminded.
const INTERVAL: Duration = Duration::from_secs(600);
/// How long a reminder is enough, in microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// Reminds until the controller ends.
pub(crate) async fn remind(controller: Shared) {
    loop {
        if let Err(error) = round(&controller, now()).await {
            tracing::error!(%error, "cannot look for providers without a backup");
        }
        tokio::select! {
            () = controller.shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

const fn is_due(reminded: Option<i64>, now: i64) -> bool {
    match reminded {
        None => true,
        Some(reminded) => now.saturating_sub(reminded) >= DAY,
    }
}

/// Reminds of what is due at a time, in microseconds since 1970.
pub(crate) async fn round(controller: &Shared, now: i64) -> Result<(), StoreError> {
    let mut tx = controller.store.write().await?;
    for row in native::list(&mut tx).await? {
        if row.backed_up.is_none() && is_due(row.reminded, now) {
            let name = &row.name;
            let message = format!(
                "the key of native provider `{name}` (version {}) is not backed up: if this controller is lost, so is \
                 all that was encrypted under it; it encrypts nothing new until then. Back it up with `ward provider \
                 export {name} --out FILE`, and keep the file elsewhere",
                row.current()
            );
            event::record(&mut tx, EventKind::ProviderNotBackedUp, &about(name), &message).await?;
            native::set_reminded(&mut tx, name, now).await?;
        }
    }
    for row in native::removed(&mut tx).await? {
        let mut users = needed::of_provider(&mut tx, &row.name).await?;
        users.retain(|(_, key)| key.kdk().is_some_and(|kdk| kdk.key_id == row.key_id));
        if users.is_empty() {
            native::forget_removed(&mut tx, &row.name).await?;
        } else if is_due(Some(row.reminded), now) {
            let name = &row.name;
            let message = format!(
                "native provider `{name}` (key {}) was removed although {} keys are wrapped under it: keep its \
                 backup, and bring the VMs back with `ward provider import {name} --in FILE`",
                row.key_id,
                users.len()
            );
            event::record(&mut tx, EventKind::ProviderNotBackedUp, &about(name), &message).await?;
            native::set_reminded(&mut tx, name, now).await?;
        }
    }
    tx.commit().await
}

fn about(name: &ProviderName) -> EventSubject {
    EventSubject { provider: Some(name.clone()), ..EventSubject::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_each_day() {
        assert!(is_due(None, 5));
        assert!(!is_due(Some(5), 5));
        assert!(!is_due(Some(5), DAY + 4));
        assert!(is_due(Some(5), DAY + 5));
    }
}
