//! Telling hosts of trusted providers, and having them get keys: always all that a host is to have, and nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::AnyConnection;
use ward_rpc::api::host::{DescribedProvider, ObtainKeys, TakeTrust};
use ward_trust::signed::Signed;
use ward_types::{ClusterId, Code, EventKind, EventSubject, KeyRef, Problem, ProviderName, TrustStatus};

use crate::controller::Controller;
use crate::hosts::Link;
use crate::keys::{self, Supply};
use crate::plan::{self, KeyChoice};
use crate::store::trusted::{self, TrustedRow};
use crate::store::{StoreError, event};

/// How long a host may take: its TPM is slow, and it may have to be enrolled and attested first.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What a host of a cluster is to go by: providers, and digests of descriptions.
pub(crate) fn desired(rows: &[TrustedRow], cluster: ClusterId) -> BTreeMap<ProviderName, String> {
    let serving = rows.iter().filter(|row| row.serves(cluster));
    let digest = |row: &TrustedRow| Signed::parse(&row.description).map(|signed| signed.digest()).unwrap_or_default();
    serving.map(|row| (row.name.clone(), digest(row))).collect()
}

/// Tells a host of all trusted providers that it is to have; with `anew`, has it attested whatever it holds.
pub(crate) async fn bring_up_to_date(
    controller: &Controller,
    link: &Link,
    anew: bool,
) -> Result<Vec<TrustStatus>, Problem> {
    let what = format!("cannot tell host `{}` of trusted key providers", link.name);
    // One after the other, each with what is so when it is its turn: the last one told is the present state.
    let _turn = link.trust_turn.lock().await;
    let rows = trusted::list(&mut *controller.store.read().await?).await?;
    let serving = rows.into_iter().filter(|row| row.serves(link.cluster));
    let providers = serving.map(|row| DescribedProvider { provider: row.name, description: row.description });
    let call = TakeTrust { providers: providers.collect(), anew };
    let status = link.call_within(call, PATIENCE).await.map_err(|error| error.into_problem(&what))?;
    link.note_trust(&status);
    Ok(status)
}

/// The trusted providers among those of keys that a task needs, and among those that make keys for it.
pub(crate) async fn needed(
    db: &mut AnyConnection,
    keys: &[KeyRef],
    makers: Vec<ProviderName>,
) -> Result<Vec<ProviderName>, StoreError> {
    let mut names = plan::trusted(keys);
    if !makers.is_empty() {
        let rows = trusted::list(db).await?;
        names.extend(makers.into_iter().filter(|name| rows.iter().any(|row| row.name == *name)));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The providers of keys that a plan takes.
pub(crate) fn makers<'a>(choices: impl IntoIterator<Item = &'a KeyChoice>) -> Vec<ProviderName> {
    choices.into_iter().map(|choice| choice.provider().clone()).collect()
}

/// Has the host that needs them get keys. The others get them when they need them.
pub(crate) async fn obtain(controller: &Controller, supply: &Supply<'_>, wanted: &[&KeyRef]) -> Result<(), Problem> {
    if supply.must.is_some_and(|must| !supply.hosts.iter().any(|link| link.id == must)) {
        return Err(keys::takes_none("keys of a trust authority"));
    }
    let needing = supply.hosts.iter().filter(|link| supply.must.is_none_or(|must| must == link.id));
    for link in needing {
        let call = || ObtainKeys { keys: wanted.iter().map(|key| (*key).clone()).collect() };
        let mut answer = link.call_within(call(), PATIENCE).await;
        // Its agent has just been enrolled, or was not told of a change.
        if matches!(&answer, Err(ward_rpc::CallError::Refused(problem)) if problem.code == Code::ProviderNone) {
            bring_up_to_date(controller, link, false).await?;
            answer = link.call_within(call(), PATIENCE).await;
        }
        answer.map_err(|error| error.into_problem(supply.what))?;
    }
    Ok(())
}

/// Records that a host is attested, or is no longer: once for each change.
pub(crate) async fn note_verdicts(
    controller: &Controller,
    link: &Link,
    status: &[TrustStatus],
    said: &mut BTreeMap<ProviderName, Option<Code>>,
) {
    let now = Timestamp::now();
    for trust in status {
        let lack = trust.lack(now);
        let verdict = lack.as_ref().map(|problem| problem.code);
        // That it was not asked yet is no verdict.
        let unasked = trust.trouble.is_none() && trust.unreached.is_none();
        if said.get(&trust.provider) == Some(&verdict) || lack.is_some() && unasked {
            continue;
        }
        let subject =
            EventSubject { host: Some(link.id), provider: Some(trust.provider.clone()), ..EventSubject::default() };
        let (kind, message) = match &lack {
            None => (EventKind::HostAttested, format!("host `{}` is attested for `{}`", link.name, trust.provider)),
            Some(problem) => (
                EventKind::HostNotAttested,
                format!(
                    "host `{}` gets no key of provider `{}`: {}: {}. {}",
                    link.name, trust.provider, problem.what, problem.why, problem.remedy
                ),
            ),
        };
        controller.record(kind, &subject, &message).await;
        said.insert(trust.provider.clone(), verdict);
    }
    said.retain(|provider, _| status.iter().any(|trust| trust.provider == *provider));
}

/// Records that a description was imported.
pub(crate) async fn note_import(
    tx: &mut crate::store::Tx,
    subject: &EventSubject,
    name: &ProviderName,
) -> Result<(), StoreError> {
    let message = format!("the description of trusted key provider `{name}` was imported anew");
    event::record(tx, EventKind::TrustDescribed, subject, &message).await
}
