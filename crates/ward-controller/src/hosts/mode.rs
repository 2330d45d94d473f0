//! Host encryption mode, done: modes changed and told, host keys given and forgotten.
//!
//! What may follow upon what is decided in `plan::host_mode`.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::timeout;
use uuid::Uuid;
use ward_rpc::api::host::{CryptoStatus, DropKeys, SetHostKey};
use ward_types::{Code, EventKind, EventSubject, HostCrypto, HostId, HostMode, KeyRef, Problem};

use super::host_key::{self, Maker};
use super::{Link, Reach};
use crate::controller::{Controller, Shared};
use crate::keys;
use crate::plan::{ModeChange, change_mode};
use crate::store::host::{self, HostRow};
use crate::store::host_crypto::{self, HostStanding};
use crate::store::native::NativeRow;
use crate::store::{StoreError, Tx, event, native, provider, vm};

/// Changes a host's mode, and tells of it.
pub(crate) async fn change(
    tx: &mut Tx,
    what: &str,
    link: &Link,
    change: ModeChange<'_>,
    subject: &EventSubject,
) -> Result<HostCrypto, Problem> {
    let now = host_crypto::get(tx, link.id).await?;
    // Somebody else has switched it on a moment ago.
    if matches!(change, ModeChange::Prepare { .. }) && now.takes_native_keys() {
        return Ok(now);
    }
    let new = change_mode(what, &link.name, &now, change)?;
    if new != now {
        host_crypto::set(tx, link.id, &new).await?;
    }
    if (new.mode(), new.key()) != (now.mode(), now.key()) {
        let key = new.key().map_or_else(String::new, |key| format!(", host key {key}"));
        let message = format!("encryption mode of host `{}`: {} -> {}{key}", link.name, now.mode(), new.mode());
        tell(tx, link.id, &new, subject, &message).await?;
    }
    Ok(new)
}

async fn tell(
    tx: &mut Tx,
    host: HostId,
    new: &HostCrypto,
    subject: &EventSubject,
    message: &str,
) -> Result<(), StoreError> {
    let key = new.key().cloned();
    let provider = key.as_ref().map(|key| key.provider.clone());
    let subject = EventSubject { host: Some(host), vm: None, key, provider, ..subject.clone() };
    event::record(tx, EventKind::HostModeChanged, &subject, message).await
}

/// The mode in which a host joins: whoever lets it in may let it have keys, and it gets those that its cluster has.
pub(super) async fn on_joining(tx: &mut Tx, row: &HostRow) -> Result<HostCrypto, StoreError> {
    let modes = host_crypto::list(tx).await?;
    let hosts = host::list(tx).await?;
    let others = hosts.iter().filter(|other| other.cluster == row.cluster).filter_map(|other| modes.get(&other.id));
    let on = others.into_iter().any(HostCrypto::takes_native_keys)
        || !vm::keys_of_cluster(tx, row.cluster).await?.is_empty()
        || native::list(tx).await?.iter().any(|native| native.serves(row.cluster));
    if on { prepare(tx, row, &EventSubject::default()).await } else { Ok(HostCrypto::Incapable) }
}

async fn prepare(tx: &mut Tx, row: &HostRow, subject: &EventSubject) -> Result<HostCrypto, StoreError> {
    let new = HostCrypto::Prepared { attempt: Uuid::new_v4() };
    host_crypto::set(tx, row.id, &new).await?;
    let message = format!("encryption mode of host `{}`: {} -> {}", row.name, HostMode::Incapable, new.mode());
    tell(tx, row.id, &new, subject, &message).await?;
    Ok(new)
}

/// Prepares the hosts that a new native provider serves, as far as whoever adds it may: they are to have its key.
pub(crate) async fn prepare_served(
    tx: &mut Tx,
    native: &NativeRow,
    enable: &[HostId],
    subject: &EventSubject,
) -> Result<(), StoreError> {
    let meant = |row: &HostRow| native.serves(row.cluster) && enable.contains(&row.id);
    for row in host::list(tx).await?.into_iter().filter(meant) {
        if host_crypto::get(tx, row.id).await? == HostCrypto::Incapable {
            prepare(tx, &row, subject).await?;
        }
    }
    Ok(())
}

/// Gives the prepared hosts of a cluster their host keys. Waits for the one that is needed, whose failure is one, and a moment
/// for the others. One that has all the keys that are needed already is not waited for: no key is to be given to it.
pub(crate) async fn make_cluster_safe(
    controller: &Shared,
    what: &str,
    subject: &EventSubject,
    must: &Arc<Link>,
    keys: &[KeyRef],
) -> Result<(), Problem> {
    let modes = host_crypto::list(&mut *controller.store.read().await?).await?;
    if !modes.get(&must.id).is_some_and(HostCrypto::takes_native_keys) {
        return Err(off(what, must, &modes.get(&must.id).cloned().unwrap_or_default()));
    }
    let prepared = |link: &Arc<Link>| {
        link.snapshot().reach == Reach::Up
            && modes.get(&link.id).is_some_and(|crypto| crypto.mode() == HostMode::Prepared)
    };
    let has_all = !keys.is_empty() && must.told().is_some_and(|told| !keys.iter().any(|key| told.is_to_be_given(key)));
    let mut others = Vec::new();
    for link in controller.links.of_cluster(must.cluster).into_iter().filter(prepared) {
        if link.id == must.id && !has_all {
            continue;
        }
        let (controller, subject, what) = (Arc::clone(controller), subject.clone(), what.to_owned());
        others.push(controller.clone().background.spawn(async move {
            if let Err(problem) = make_safe(&controller, &what, &subject, &link).await {
                not_made(&controller, &link, &subject, &problem).await;
            }
        }));
    }
    if has_all {
        return Ok(());
    }
    make_safe(controller, what, subject, must).await?;
    // They get theirs even if nobody waits any longer.
    let _ = timeout(keys::MOMENT, join_all(others)).await;
    Ok(())
}

fn off(what: &str, link: &Link, now: &HostCrypto) -> Problem {
    let why = format!("the encryption mode of host `{}` is `{}`", link.name, now.mode());
    Problem::new(Code::HostMode, what, why, format!("switch it on: `ward host encryption enable {}`", link.name))
}

/// Tells that a host has no host key, and why.
pub(super) async fn not_made(controller: &Controller, link: &Link, subject: &EventSubject, problem: &Problem) {
    let subject = EventSubject { host: Some(link.id), ..subject.clone() };
    let what = format!("host `{}` can't be given a host key", link.name);
    let problem = Problem { what, ..problem.clone() };
    controller.record_problem(EventKind::HostKeyFailed, &subject, &problem).await;
}

/// Makes a prepared host safe: it gets a host key. One that is safe stays so.
pub(crate) async fn make_safe(
    controller: &Shared,
    what: &str,
    subject: &EventSubject,
    link: &Arc<Link>,
) -> Result<(), Problem> {
    let _turn = link.crypto_turn.lock().await;
    let now = host_crypto::get(&mut *controller.store.read().await?, link.id).await?;
    let attempt = match &now {
        HostCrypto::Prepared { attempt } => *attempt,
        HostCrypto::Safe { .. } => {
            link.set_crypto(now);
            return Ok(());
        }
        HostCrypto::Incapable | HostCrypto::PendingIncapable { .. } => {
            return Err(off(what, link, &now));
        }
    };
    let maker = host_key::maker(controller, what, subject, link).await?;
    let (key, _) = give_new_key(controller, what, subject, link, maker, attempt).await?;
    let mut tx = controller.store.write().await?;
    let new = change(&mut tx, what, link, ModeChange::Enable { key }, subject).await?;
    tx.commit().await?;
    link.set_crypto(new);
    // It gets the keys of its cluster.
    link.poke.notify_one();
    Ok(())
}

/// Why a host is to get another host key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rekey {
    /// Somebody wants it.
    Asked,
    /// Somebody wanted it, and it was not finished.
    Resumed,
    /// The provider of the old one was removed: nobody else has that any more.
    OfGoneProvider,
    /// The old one is under a version of a native provider's key that is to go.
    OfOldVersion,
}

/// Whether a host key is under an older version of a native provider's key than new keys are.
pub(super) fn is_of_old_version(rows: &[NativeRow], key: &KeyRef) -> bool {
    let Some(kdk) = key.kdk() else { return false };
    rows.iter().any(|row| {
        let is_it = row.name == kdk.provider && row.key_id == kdk.key_id;
        is_it && row.backed_up.is_some() && row.current() > kdk.version
    })
}

/// Gives a safe host another host key. Its dumps go under it, as far as the old one is there.
pub(crate) async fn rekey(
    controller: &Shared,
    what: &str,
    subject: &EventSubject,
    link: &Arc<Link>,
    why: Rekey,
) -> Result<(), Problem> {
    let _turn = link.crypto_turn.lock().await;
    let mut db = controller.store.read().await?;
    let now = host_crypto::get(&mut db, link.id).await?;
    let HostCrypto::Safe { key: old, rekey } = &now else {
        return Err(off(what, link, &now));
    };
    let is_done = match why {
        Rekey::Asked => false,
        Rekey::Resumed => rekey.is_none(),
        Rekey::OfGoneProvider => provider::get(&mut db, &old.provider).await?.is_some(),
        Rekey::OfOldVersion => !is_of_old_version(&native::list(&mut db).await?, old),
    };
    drop(db);
    if is_done {
        return Ok(());
    }
    let maker = host_key::maker(controller, what, subject, link).await?;
    // Written down before a key server is asked: whatever happens then, what it has made is found again.
    let attempt = rekey.unwrap_or_else(Uuid::new_v4);
    let mut tx = controller.store.write().await?;
    link.set_crypto(change(&mut tx, what, link, ModeChange::Rekey { attempt }, subject).await?);
    tx.commit().await?;
    crash_point::reach("host.key-wanted");
    let (key, status) = give_new_key(controller, what, subject, link, maker, attempt).await?;
    let mut tx = controller.store.write().await?;
    let new = change(&mut tx, what, link, ModeChange::ChangeKey { key }, subject).await?;
    let standing = host_crypto::standing(&mut tx, link.id, link.cluster).await?;
    let idle = unneeded(&standing, &status.dump_keys);
    let dropped = forget_keys(&mut tx, link.id, subject, idle).await?;
    tx.commit().await?;
    link.set_crypto(new);
    if let Err(error) = link.call(DropKeys { keys: dropped }).await {
        tracing::debug!(host = %link.name, %error, "a host could not be told to forget its old host key");
    }
    link.poke.notify_one();
    Ok(())
}

/// The keys of a host that are neither its host key nor open any of its dumps.
pub(super) fn unneeded(standing: &HostStanding, dump_keys: &[KeyRef]) -> Vec<KeyRef> {
    let idle = |key: &&KeyRef| standing.crypto.key() != Some(key) && !dump_keys.contains(key);
    standing.keys.iter().filter(idle).cloned().collect()
}

/// Forgets keys of a host. Tells those that nothing else needs.
pub(super) async fn forget_keys(
    tx: &mut Tx,
    host: HostId,
    subject: &EventSubject,
    idle: Vec<KeyRef>,
) -> Result<Vec<KeyRef>, StoreError> {
    host_crypto::forget_keys(tx, host, &idle).await?;
    let subject = EventSubject { host: Some(host), ..subject.clone() };
    keys::retire(tx, &subject, idle).await
}

/// Makes a host key and has the host take it: the key, and how the host stands with it.
async fn give_new_key(
    controller: &Shared,
    what: &str,
    subject: &EventSubject,
    link: &Arc<Link>,
    maker: Maker,
    attempt: Uuid,
) -> Result<(KeyRef, CryptoStatus), Problem> {
    let subject = EventSubject { host: Some(link.id), ..subject.clone() };
    let key = maker.make(controller, what, &subject, link, attempt).await?;
    let (keys, hosts) = (std::slice::from_ref(&key), std::slice::from_ref(link));
    keys::supply(controller, keys::Supply { what, subject: &subject, keys, hosts, must: Some(link.id) }).await?;
    crash_point::reach("host.key-given");
    let set = link.call(SetHostKey { key: Some(key.clone()) }).await;
    let status = set.map_err(|error| Problem { what: what.to_owned(), ..error.into_problem(what) })?;
    crash_point::reach("host.key-set");
    Ok((key, status))
}
