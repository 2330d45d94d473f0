//! New keys of native providers: made by the host that will do the work.

use ward_rpc::CallError;
use ward_rpc::api::host::MakeKey;
use ward_types::{HostId, KdkRef, KeyRef, ProviderName};

use super::super::job::placed;
use super::super::run::{Run, Step};
use crate::keys::{self, KeyFault};
use crate::native::{bring_up_to_date, not_backed_up};
use crate::store::native;

/// A new key for the task's VM, and the host that made it; none where the provider is no native one. It exists in its
/// reference only: one of which nobody heard is gone.
pub(super) async fn new_key(run: &mut Run, provider: &ProviderName) -> Step<Option<(KeyRef, HostId)>> {
    let row = native::get(&mut *run.controller.store.read().await?, provider).await?;
    let Some(row) = row else { return Ok(None) };
    // An update of the key may have come since the task was accepted.
    if row.backed_up.is_none() {
        return Err(not_backed_up(run.what(), provider).into());
    }
    let kdk = KdkRef { provider: row.name.clone(), key_id: row.key_id, version: row.current() };
    let link = placed(run, Some(&[]), row.tpm_required).await?;
    run.say(&format!("has host {} make a key", link.name));
    let call = || MakeKey { kdk: kdk.clone(), vm: run.info.vm };
    let mut made = link.call(call()).await;
    // Its agent has just started, or did not hear of a change.
    if matches!(&made, Err(CallError::Refused(problem)) if keys::event_of_host(problem.code).is_some()) {
        made = match bring_up_to_date(&run.controller, &link).await {
            Ok(_) => link.call(call()).await,
            Err(problem) => Err(CallError::Refused(Box::new(problem))),
        };
    }
    match made {
        Ok(key) => Ok(Some((key, link.id))),
        Err(error) => {
            let fault = KeyFault::new(provider, None, error.into_problem(&run.what()));
            Err(keys::report(&run.controller, &run.subject(), fault).await.into())
        }
    }
}
