//! New keys of trusted providers: asked for by the host that will do the work.

use ward_rpc::CallError;
use ward_rpc::api::host::MakeTrustedKey;
use ward_types::{Code, HostId, KeyRef, ProviderName};

use super::super::job::placed;
use super::super::run::{Run, Step};
use crate::keys::{self, KeyFault};
use crate::store::trusted;
use crate::trusted::bring_up_to_date;

/// How long a host may take: it may have to be attested first.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A new key, and the host that has it; none where the provider is no trusted one. It exists in its reference only: one of
/// which nobody heard is gone.
pub(super) async fn new_key(run: &mut Run, provider: &ProviderName) -> Step<Option<(KeyRef, HostId)>> {
    if trusted::get(&mut *run.controller.store.read().await?, provider).await?.is_none() {
        return Ok(None);
    }
    let link = placed(run, Some(&[]), true).await?;
    run.say(&format!("has host {} ask the trust authority for a key", link.name));
    let call = || MakeTrustedKey { provider: provider.clone() };
    let mut made = link.call_within(call(), PATIENCE).await;
    // Its agent has just been enrolled, or was not told of a change.
    if matches!(&made, Err(CallError::Refused(problem)) if problem.code == Code::ProviderNone) {
        made = match bring_up_to_date(&run.controller, &link, false).await {
            Ok(_) => link.call_within(call(), PATIENCE).await,
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
