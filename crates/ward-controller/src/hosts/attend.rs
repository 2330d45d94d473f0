//! Looking after a host's encryption mode: a host key for whoever is prepared, the end of the waiting of whoever was switched
//! off, dumps that nobody was told of, and whether keys outlive a restart.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ward_rpc::api::host::{HostStatus, SetHostKey, SetKeyPersistence};
use ward_types::{Code, DumpSubject, EventKind, EventSubject, HostCrypto, KeyRef, Name, Problem};

use super::link::Told;
use super::mode::{self, Rekey};
use super::supervise::Before;
use super::{Link, about};
use crate::controller::Shared;
use crate::plan::ModeChange;
use crate::store::host_crypto::{self, HostStanding};
use crate::store::{StoreError, event, provider};

/// How long to wait after a host key could not be made.
const BACK_OFF: Duration = Duration::from_secs(30);

/// What is remembered from one answer of a host to the next.
#[derive(Default)]
pub(super) struct Attention {
    /// Whether the provider of its host key is gone, as of that number of what is needed.
    provider_gone: Option<(i64, bool)>,
    /// When a host key could not be made last, and why; none while that is being tried.
    failed: Arc<Mutex<Failed>>,
    /// Why keys are not kept over a restart.
    persistence: Option<Code>,
}

#[derive(Default)]
struct Failed {
    trying: bool,
    last: Option<(Instant, Code)>,
}

impl Attention {
    pub(super) async fn attend(
        &mut self,
        controller: &Shared,
        link: &Arc<Link>,
        before: &Before,
        told: &Told,
    ) -> Result<(), StoreError> {
        let (standing, status) = (&before.standing, &*told.status);
        match &standing.crypto {
            HostCrypto::Prepared { .. } => {
                let is_begun = !standing.keys.is_empty();
                if is_begun || !before.needed.is_empty() || controller.links.is_cluster_safe(link.cluster) {
                    self.host_key(controller, link, None);
                }
            }
            // The controller was killed over it, or the key server may have made a key and did not say so.
            HostCrypto::Safe { rekey: Some(_), .. } => self.host_key(controller, link, Some(Rekey::Resumed)),
            HostCrypto::Safe { key, .. } => {
                if self.is_provider_gone(controller, before, key).await? {
                    self.host_key(controller, link, Some(Rekey::OfGoneProvider));
                } else if mode::is_of_old_version(&before.native, key) {
                    self.host_key(controller, link, Some(Rekey::OfOldVersion));
                } else if status.crypto.host_key.as_ref() != Some(key) && told.has(key) {
                    tell_host(link, SetHostKey { key: Some(key.clone()) }).await;
                }
            }
            HostCrypto::PendingIncapable { boot, .. } if *boot == status.boot => {}
            HostCrypto::PendingIncapable { .. } => end(controller, link, standing, told).await?,
            HostCrypto::Incapable => {}
        }
        forget_keys(controller, link, standing, status).await?;
        self.persist(controller, link, standing, status).await;
        tell_of_dumps(controller, link, standing, status).await
    }

    async fn is_provider_gone(
        &mut self,
        controller: &Shared,
        before: &Before,
        key: &KeyRef,
    ) -> Result<bool, StoreError> {
        if let Some((generation, gone)) = self.provider_gone
            && generation == before.generation
        {
            return Ok(gone);
        }
        let gone = provider::get(&mut *controller.store.read().await?, &key.provider).await?.is_none();
        self.provider_gone = Some((before.generation, gone));
        Ok(gone)
    }

    /// Has a host key made, the first or another one, beside all else: its key server may take its time.
    fn host_key(&self, controller: &Shared, link: &Arc<Link>, rekey: Option<Rekey>) {
        let failed = Arc::clone(&self.failed);
        {
            let mut now = failed.lock().unwrap_or_else(PoisonError::into_inner);
            let waits = now.last.is_some_and(|(at, _)| at.elapsed() < BACK_OFF);
            if now.trying || waits {
                return;
            }
            now.trying = true;
        }
        let (controller, link) = (Arc::clone(controller), Arc::clone(link));
        controller.clone().background.spawn(async move {
            let what = format!("cannot give host `{}` a host key", link.name);
            let subject = about(&link);
            let made = match rekey {
                None => mode::make_safe(&controller, &what, &subject, &link).await,
                Some(rekey) => mode::rekey(&controller, &what, &subject, &link, rekey).await,
            };
            let known = {
                let mut now = failed.lock().unwrap_or_else(PoisonError::into_inner);
                now.trying = false;
                let code = made.as_ref().err().map(|problem| problem.code);
                let before = std::mem::replace(&mut now.last, code.map(|code| (Instant::now(), code)));
                before.map(|(_, code)| code) == code
            };
            if let Err(problem) = made
                && !known
            {
                mode::not_made(&controller, &link, &subject, &problem).await;
            }
        });
    }

    /// Has the host keep its keys over a restart, or not, as is said. What is wrong is told once.
    async fn persist(&mut self, controller: &Shared, link: &Link, standing: &HostStanding, status: &HostStatus) {
        let (own, cluster) = standing.persistence;
        let wanted = standing.crypto.takes_keys() && own.unwrap_or(cluster && status.native.tpm);
        if wanted == status.crypto.persistent {
            self.persistence = None;
            return;
        }
        let message = match link.call(SetKeyPersistence { on: wanted }).await {
            Ok(_) if wanted => format!("host `{}` keeps its keys over a restart, sealed to its TPM", link.name),
            Ok(_) => format!("host `{}` keeps no keys over a restart any more", link.name),
            Err(error) => {
                let problem = error.into_problem("cannot change whether a host keeps its keys");
                if self.persistence.replace(problem.code) != Some(problem.code) {
                    let problem = Problem { what: format!("host `{}`: {}", link.name, problem.what), ..problem };
                    controller.record_problem(EventKind::HostKeyPersistence, &about(link), &problem).await;
                }
                return;
            }
        };
        controller.record(EventKind::HostKeyPersistence, &about(link), &message).await;
    }
}

async fn tell_host<C: ward_rpc::Call>(link: &Link, call: C) {
    if let Err(error) = link.call(call).await {
        tracing::debug!(host = %link.name, %error, "a host could not be told about its keys");
    }
}

/// Ends the waiting of a host that was switched off, as soon as it has no key any more.
async fn end(controller: &Shared, link: &Link, standing: &HostStanding, told: &Told) -> Result<(), StoreError> {
    let status = &told.status;
    let holds = told.held.len() + status.native.keys.len();
    if holds > 0 || status.crypto.persistent {
        return Ok(());
    }
    tell_host(link, SetHostKey { key: None }).await;
    let mut tx = controller.store.write().await?;
    let seen = ModeChange::Seen { boot: status.boot, holds };
    match mode::change(&mut tx, "cannot end the waiting of a host", link, seen, &about(link)).await {
        Ok(new) => {
            let after = HostStanding { crypto: new.clone(), ..standing.clone() };
            let idle = mode::unneeded(&after, &status.crypto.dump_keys);
            mode::forget_keys(&mut tx, link.id, &about(link), idle).await?;
            tx.commit().await?;
            link.set_crypto(new);
        }
        Err(problem) => tracing::error!(%problem, "a host's mode"),
    }
    Ok(())
}

/// Forgets the earlier host keys of a host that open no dump of it any more.
async fn forget_keys(
    controller: &Shared,
    link: &Link,
    standing: &HostStanding,
    status: &HostStatus,
) -> Result<(), StoreError> {
    let settled = match &standing.crypto {
        HostCrypto::Safe { rekey, .. } => rekey.is_none(),
        // Its host key is on its way.
        HostCrypto::Prepared { .. } => false,
        HostCrypto::PendingIncapable { .. } | HostCrypto::Incapable => true,
    };
    let idle = mode::unneeded(standing, &status.crypto.dump_keys);
    if !settled || idle.is_empty() {
        return Ok(());
    }
    // Whoever changes its mode at this moment knows better.
    let Ok(_turn) = link.crypto_turn.try_lock() else { return Ok(()) };
    let mut tx = controller.store.write().await?;
    if host_crypto::get(&mut tx, link.id).await? == standing.crypto {
        mode::forget_keys(&mut tx, link.id, &about(link), idle).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// One event for each dump, kept or lost: what, when, under which key, where.
async fn tell_of_dumps(
    controller: &Shared,
    link: &Link,
    standing: &HostStanding,
    status: &HostStatus,
) -> Result<(), StoreError> {
    let (kept, lost) = (&status.crypto.dumps, &status.crypto.lost);
    let names: BTreeSet<Name> =
        kept.iter().map(|dump| &dump.name).chain(lost.iter().map(|dump| &dump.name)).cloned().collect();
    if names == standing.dumps_told {
        return Ok(());
    }
    let of = |of: &DumpSubject| EventSubject {
        vm: match of {
            DumpSubject::Guest { vm } => Some(*vm),
            DumpSubject::Process { .. } => None,
        },
        ..about(link)
    };
    let mut tx = controller.store.write().await?;
    for dump in kept.iter().filter(|dump| !standing.dumps_told.contains(&dump.name)) {
        let message = format!(
            "host `{}` keeps a dump of {}, taken {}, encrypted under host key {}: {}",
            link.name, dump.about.subject, dump.about.taken, dump.key, dump.name
        );
        let (key, provider) = (Some(dump.key.clone()), Some(dump.key.provider.clone()));
        let subject = EventSubject { key, provider, ..of(&dump.about.subject) };
        event::record(&mut tx, EventKind::HostDump, &subject, &message).await?;
    }
    for dump in lost.iter().filter(|dump| !standing.dumps_told.contains(&dump.name)) {
        let message =
            format!("host `{}` could not keep a dump of {}, of {}: {}", link.name, dump.subject, dump.taken, dump.why);
        event::record(&mut tx, EventKind::HostDumpLost, &of(&dump.subject), &message).await?;
    }
    host_crypto::set_dumps_told(&mut tx, link.id, &names).await?;
    tx.commit().await
}
