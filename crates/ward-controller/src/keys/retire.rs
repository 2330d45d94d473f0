//! Keys that nobody needs any more: recorded, and forgotten by the hosts. At their key servers they stay.

use std::sync::Arc;

use futures_util::future::join_all;
use ward_rpc::api::host::DropKeys;
use ward_types::{ClusterId, EventKind, EventSubject, KeyRef};

use crate::controller::Controller;
use crate::hosts::Link;
use crate::store::{StoreError, Tx, event, needed, server_key};

/// Of `keys`, those that nothing needs any more, which is recorded.
pub(crate) async fn retire(tx: &mut Tx, subject: &EventSubject, keys: Vec<KeyRef>) -> Result<Vec<KeyRef>, StoreError> {
    // One that is wrapped in the VM's own files is gone with them: nothing of it stays elsewhere.
    let keys = keys.into_iter().filter(|key| !key.is_wrapped()).collect();
    let unneeded = needed::unneeded(tx, keys).await?;
    for key in &unneeded {
        server_key::unneeded(tx, key, None).await?;
        let message = format!(
            "nothing in the inventory needs key {key} any more; it stays at the key server, for backups may need it, until somebody \
             destroys it (`ward key destroy`)"
        );
        let subject = EventSubject { key: Some(key.clone()), provider: Some(key.provider.clone()), ..subject.clone() };
        event::record(tx, EventKind::KeyUnneeded, &subject, &message).await?;
    }
    Ok(unneeded)
}

/// Lets a cluster's hosts forget keys. One that is away now will not have them when it is back.
pub(crate) async fn drop_from_hosts(controller: &Controller, cluster: ClusterId, keys: Vec<KeyRef>) {
    if keys.is_empty() {
        return;
    }
    let call = |link: Arc<Link>| {
        let keys = keys.clone();
        async move { link.call(DropKeys { keys }).await }
    };
    for answer in join_all(controller.links.of_cluster(cluster).into_iter().map(call)).await {
        if let Err(error) = answer {
            tracing::debug!(%error, "a host could not be told to forget keys");
        }
    }
}
