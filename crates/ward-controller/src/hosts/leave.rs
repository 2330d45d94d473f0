//! How a host leaves: its keys first.

use ward_rpc::api::host::Leave;
use ward_types::{Code, EventKind, EventSubject, KeyRef, Problem};

use super::watch_over;
use crate::authz::Granted;
use crate::authz::operations::RemoveHost;
use crate::controller::Shared;
use crate::keys::{self, named};
use crate::store::{event, host, task, vm};

/// Removes a host. It loses its keys; one that does not answer can't be told to, and is removed only by force.
pub(crate) async fn remove(controller: &Shared, granted: &Granted<RemoveHost>, force: bool) -> Result<(), Problem> {
    let row = granted.on();
    let what = format!("cannot remove host `{}`", row.name);
    controller.links.settled().await;
    {
        let mut db = controller.store.read().await?;
        let running = vm::running_on(&mut db, row.id).await?;
        if let Some(id) = running.first() {
            let name = vm::get(&mut db, *id).await?.map_or_else(|| id.to_string(), |row| row.name.to_string());
            let why = format!("VM `{name}` runs there");
            return Err(Problem::new(Code::InUse, what, why, format!("stop it first: `ward vm stop {name}`")));
        }
        let open = task::open(&mut db).await?;
        if let Some(task) = open.iter().find(|task| task.work.host() == Some(row.id)) {
            let why = format!("task {} ({}) works there", task.info.id, task.info.kind);
            let remedy = format!("wait for it with `ward task watch {}`", task.info.id);
            return Err(Problem::new(Code::Busy, what, why, remedy));
        }
    }
    let dumps = controller.links.get(row.id).and_then(|link| link.snapshot().status);
    let dumps = dumps.map_or(0, |status| status.crypto.dumps.len());
    if dumps > 0 && !force {
        let why = format!("it keeps {dumps} dumps, which nobody can decrypt once its host key is gone from it");
        let remedy = format!(
            "decrypt them there with `ward host dump decrypt`, or take them with `ward host support-bundle {}`, then \
             delete them; or remove the host with `--force`",
            row.name
        );
        return Err(Problem::new(Code::InUse, what, why, remedy));
    }
    let link = controller.links.get(row.id);
    // From now on nobody gives it any.
    controller.links.remove(row.id);
    let mut lost: Vec<KeyRef> = Vec::new();
    let mut unreached = None;
    if let Some(link) = link {
        // Whoever is just changing its host key is through with it first.
        let _turn = link.crypto_turn.lock().await;
        let forgotten = async {
            let told = link.ask(ward_rpc::Client::CALL_TIMEOUT).await?;
            lost = told.held.iter().cloned().collect();
            // What is still on its way to it is refused from then on.
            link.call(Leave {}).await
        };
        unreached = forgotten.await.err();
    }
    if let Some(error) = &unreached
        && !force
    {
        watch_over(controller, row);
        let remedy = format!(
            "start its agent; or switch the machine off for good and say `ward host rm {} --force`: its keys go with its \
             memory, and what its TPM keeps stays on the machine until it is wiped",
            row.name
        );
        return Err(Problem::new(
            Code::HostUnreachable,
            what,
            format!("it can't be told to forget its keys: {error}"),
            remedy,
        ));
    }
    let mut tx = controller.store.write().await?;
    vm::forget_host(&mut tx, row.id).await?;
    let own = host::remove(&mut tx, row.id).await?;
    let user = Some(granted.user().clone());
    let subject = EventSubject { host: Some(row.id), user, ..EventSubject::default() };
    keys::retire(&mut tx, &subject, own).await?;
    if !lost.is_empty() && unreached.is_none() {
        let message = format!("{} taken from host `{}`, which leaves", named(&lost), row.name);
        event::record(&mut tx, EventKind::KeyDropped, &subject, &message).await?;
    }
    let message = match &unreached {
        None => format!("host `{}` removed; it has no keys any more", row.name),
        Some(_) => format!(
            "host `{}` removed by force: it keeps its keys in memory until it is restarted, and those that its TPM seals until \
             its state directory is deleted",
            row.name
        ),
    };
    event::record(&mut tx, EventKind::HostRemoved, &subject, &message).await?;
    Ok(tx.commit().await?)
}
