//! Giving hosts the keys of native providers: always all that a host is to have, and nothing else.

use std::sync::Arc;

use futures_util::future::join_all;
use sqlx::AnyConnection;
use ward_rpc::api::host::{NativeStatus, Status};
use ward_rpc::{NativeEntry, NativePush};
use ward_types::{ClusterId, Code, EventKind, EventSubject, KdkRef, KeyRef, Name, Problem};

use super::kdk::unseal;
use super::wanted;
use crate::controller::Controller;
use crate::hosts::Link;
use crate::keys::Supply;
use crate::store::native::{self, NativeRow};
use crate::store::{StoreError, host_crypto};

/// Makes a host have what it is to have. Says what it has then.
pub(crate) async fn bring_up_to_date(controller: &Controller, link: &Link) -> Result<NativeStatus, Problem> {
    let what = format!("cannot give host `{}` the keys of native providers", link.name);
    // One after the other, each with what is so when it is its turn: the last push is the present state.
    let _turn = link.native_turn.lock().await;
    let status = link.call(Status::default()).await.map_err(|error| error.into_problem(&what))?;
    if let Some(unfit) = status.unfit {
        return Err(Problem { what, ..unfit });
    }
    // A host that may have no keys is to have none.
    let mut db = controller.store.read().await?;
    let crypto = host_crypto::get(&mut db, link.id).await?;
    let rows = match crypto.takes_native_keys() {
        true => native::list(&mut db).await?,
        false => Vec::new(),
    };
    drop(db);
    link.set_crypto(crypto);
    if wanted(&rows, link.cluster, status.native.tpm) == status.native.keys {
        return Ok(status.native);
    }
    let _few = controller.links.native_pushes.acquire().await.map_err(|closed| Problem::internal(&what, closed))?;
    let push = push(controller, &rows, link.cluster, status.native.tpm)?;
    let has = link.push_native_keys(&push).await.map_err(|error| error.into_problem(&what))?;
    link.note_native(&has);
    Ok(has)
}

fn push(controller: &Controller, rows: &[NativeRow], cluster: ClusterId, tpm: bool) -> Result<NativePush, Problem> {
    let mut push = NativePush::default();
    for row in rows.iter().filter(|row| row.serves(cluster) && (tpm || !row.tpm_required)) {
        for version in &row.versions {
            let key = KdkRef { provider: row.name.clone(), key_id: row.key_id, version: version.version };
            let entry = NativeEntry { key, tpm_required: row.tpm_required };
            push.keys.push((entry, unseal(&controller.seal, row, version)?));
        }
    }
    Ok(push)
}

/// Brings hosts up to date after a change. Those that do not answer are brought up to date when they are back.
pub(crate) async fn give_all(controller: &Controller, subject: &EventSubject, change: &str) {
    let links = controller.links.all();
    let answers = join_all(links.iter().map(|link| bring_up_to_date(controller, link))).await;
    let mut reached = Vec::new();
    for (link, answer) in links.iter().zip(answers) {
        match answer {
            Ok(_) => reached.push(link.name.to_string()),
            Err(problem) => not_given(controller, subject, link, change, &problem).await,
        }
    }
    if !reached.is_empty() {
        let message = format!("{change}: told to host {}", reached.join(", "));
        controller.record(EventKind::KeyPushed, subject, &message).await;
    }
}

async fn not_given(controller: &Controller, subject: &EventSubject, link: &Link, what: &str, problem: &Problem) {
    let kind = match problem.code {
        Code::HostUnreachable => EventKind::KeyHostUnreachable,
        _ => EventKind::KeyHostUnfit,
    };
    let subject = EventSubject { host: Some(link.id), ..subject.clone() };
    let message = format!(
        "{what}: host `{}` was not told: {}. It is told when it answers again. {}",
        link.name, problem.why, problem.remedy
    );
    controller.record(kind, &subject, &message).await;
}

/// Gives hosts what they need for keys of native providers.
pub(crate) async fn give(controller: &Controller, supply: &Supply<'_>, keys: &[&KeyRef]) -> Result<(), Problem> {
    let rows = native::list(&mut *controller.store.read().await?).await?;
    let cluster = supply.hosts.first().map(|link| link.cluster);
    for key in keys {
        if let (Some(kdk), Some(cluster)) = (key.kdk(), cluster) {
            check(supply.what, &rows, &kdk, cluster)?;
        }
    }
    let give = |link: &Arc<Link>| {
        let link = Arc::clone(link);
        async move { (bring_up_to_date(controller, &link).await, link) }
    };
    let mut lost = None;
    for (answer, link) in join_all(supply.hosts.iter().map(give)).await {
        let problem = match answer {
            Err(problem) => problem,
            Ok(has) if supply.must == Some(link.id) => match lack(supply.what, &link.name, &rows, keys, &has) {
                Some(problem) => problem,
                None => continue,
            },
            Ok(_) => continue,
        };
        not_given(controller, supply.subject, &link, supply.what, &problem).await;
        if supply.must == Some(link.id) {
            lost = Some(problem);
        }
    }
    lost.map_or(Ok(()), Err)
}

/// What a host still lacks though it has all that it is to have: it has no TPM.
fn lack(what: &str, host: &Name, rows: &[NativeRow], keys: &[&KeyRef], has: &NativeStatus) -> Option<Problem> {
    let kdk = keys.iter().filter_map(|key| key.kdk()).find(|kdk| !has.keys.contains(kdk))?;
    let needs_tpm = rows.iter().any(|row| row.name == kdk.provider && row.tpm_required) && !has.tpm;
    let provider = &kdk.provider;
    Some(if needs_tpm {
        Problem::new(
            Code::HostUnfit,
            what,
            format!("host `{host}` has no TPM 2.0, and key provider `{provider}` gives its key to no host without one"),
            format!("use another host, or run the agent of `{host}` with `--tpm`"),
        )
    } else {
        Problem::new(
            Code::KeyNotOnHost,
            what,
            format!("host `{host}` has not taken the key of native provider `{provider}`"),
            format!("see the log of the agent of `{host}`"),
        )
    })
}

/// Makes sure that the controller has a key, for the hosts of a cluster.
pub(crate) fn check(what: &str, rows: &[NativeRow], kdk: &KdkRef, cluster: ClusterId) -> Result<(), Problem> {
    let provider = &kdk.provider;
    let Some(row) = rows.iter().find(|row| row.name == *provider) else {
        return Err(Problem::new(
            Code::ProviderNone,
            what,
            format!("there is no native key provider `{provider}`"),
            format!("restore its backup: `ward provider import {provider} --in FILE`"),
        ));
    };
    if row.key_id != kdk.key_id {
        return Err(Problem::new(
            Code::KeyWrong,
            what,
            format!("it needs the key {} of `{provider}`; the provider of that name has {}", kdk.key_id, row.key_id),
            format!("restore the backup of the `{provider}` that has that key; move other VMs off this one first"),
        ));
    }
    if !row.versions.iter().any(|version| version.version == kdk.version) {
        let there: Vec<_> = row.versions.iter().map(|version| version.version.to_string()).collect();
        return Err(Problem::new(
            Code::KeyWrongVersion,
            what,
            format!("it needs version {} of the key of `{provider}`; there is {}", kdk.version, there.join(", ")),
            format!("restore a backup of `{provider}` that holds that version"),
        ));
    }
    if !row.serves(cluster) {
        return Err(Problem::new(
            Code::ProviderNone,
            what,
            format!("key provider `{provider}` does not serve the hosts of its cluster"),
            format!("let it serve that cluster too, or restore `{provider}` there under the same name and key ID"),
        ));
    }
    Ok(())
}

/// Whether one of the keys is of a provider that gives its key to hosts with a TPM only.
pub(crate) async fn needs_tpm(db: &mut AnyConnection, keys: &[KeyRef]) -> Result<bool, StoreError> {
    if keys.iter().all(|key| key.kdk().is_none()) {
        return Ok(false);
    }
    let rows = native::list(db).await?;
    Ok(keys.iter().any(|key| rows.iter().any(|row| row.tpm_required && row.name == key.provider)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::KdkId;

    use super::*;
    use crate::store::native::VersionRow;

    #[test]
    fn a_vm_is_refused_where_its_provider_is_not_the_same_or_not_at_all() {
        let (here, there) = (ClusterId::new(), ClusterId::new());
        let key_id = KdkId::new();
        let row = NativeRow {
            name: "n1".parse().unwrap(),
            key_id,
            tpm_required: false,
            backed_up: None,
            reminded: None,
            clusters: vec![here],
            versions: vec![VersionRow { version: 2, sealed_kdk: String::new(), created: 0 }],
        };
        let rows = [row];
        let kdk = |provider: &str, key_id, version| KdkRef { provider: provider.parse().unwrap(), key_id, version };
        let check = |kdk: &KdkRef, cluster| check("cannot", &rows, kdk, cluster).err().map(|problem| problem.code);
        assert_eq!(check(&kdk("n1", key_id, 2), here), None);
        assert_eq!(check(&kdk("n1", key_id, 2), there), Some(Code::ProviderNone));
        assert_eq!(check(&kdk("n2", key_id, 2), here), Some(Code::ProviderNone));
        assert_eq!(check(&kdk("n1", KdkId::new(), 2), here), Some(Code::KeyWrong));
        assert_eq!(check(&kdk("n1", key_id, 1), here), Some(Code::KeyWrongVersion));
    }
}
