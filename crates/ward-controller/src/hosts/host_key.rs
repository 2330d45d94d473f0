//! Host keys: from which provider each comes, and how it is made there.

use std::sync::Arc;
use std::time::Duration;

use kmip::client::Replicas;
use uuid::Uuid;
use ward_rpc::CallError;
use ward_rpc::api::host::{HostStatus, MakeKey, MakeTrustedKey, Status};
use ward_types::{ClusterId, Code, EventKind, EventSubject, KdkRef, KeyRef, Problem, ProviderName, VmId};

use super::{Link, change};
use crate::controller::Shared;
use crate::keys::{self, KeyFault, NotMade, Owner};
use crate::native;
use crate::plan::ModeChange;
use crate::store::native::NativeRow;
use crate::store::{self, Tx, event, host_crypto, provider, server_key};
use crate::trusted;

/// How long a host may take that has to be attested first.
const PATIENCE: Duration = Duration::from_secs(60);

/// What makes a host's key.
pub(super) struct Maker {
    provider: ProviderName,
    way: Way,
    /// How the key server knows the host.
    identifier: String,
}

enum Way {
    Standard(Arc<Replicas>),
    Native(NativeRow),
    Trusted,
}

enum Kind {
    Standard,
    Native(NativeRow),
    Trusted,
}

/// Finds what can make a key for the host: nothing has begun yet.
pub(super) async fn maker(
    controller: &Shared,
    what: &str,
    subject: &EventSubject,
    link: &Link,
) -> Result<Maker, Problem> {
    let status = link.call(Status::default()).await.map_err(|error| error.into_problem(what))?;
    if let Some(unfit) = status.unfit {
        return Err(Problem { what: what.to_owned(), ..unfit });
    }
    let (provider, kind) = provider_for(controller, what, link.cluster, &status).await?;
    let way = match kind {
        Kind::Native(row) => Way::Native(row),
        Kind::Trusted => Way::Trusted,
        Kind::Standard => match keys::connect(controller, what, &provider).await {
            Ok(servers) => Way::Standard(servers),
            Err(problem) => {
                let subject = EventSubject { host: Some(link.id), ..subject.clone() };
                return Err(keys::report(controller, &subject, KeyFault::new(&provider, None, problem)).await);
            }
        },
    };
    let identifier = status.crypto.hardware.map_or_else(|| link.id.to_string(), |uuid| uuid.to_string());
    Ok(Maker { provider, way, identifier })
}

/// The provider of host keys: the cluster's default one, or that of all; or another, where that one encrypts nothing for such
/// a host.
async fn provider_for(
    controller: &Shared,
    what: &str,
    cluster: ClusterId,
    status: &HostStatus,
) -> Result<(ProviderName, Kind), Problem> {
    let tpm = status.native.tpm;
    let mut db = controller.store.read().await?;
    let mut rows = provider::list(&mut db).await?;
    let own = provider::default_of(&mut db, cluster).await?;
    let (natives, trusted) = (store::native::list(&mut db).await?, store::trusted::list(&mut db).await?);
    drop(db);
    rows.sort_by_key(|row| (own.as_ref() != Some(&row.name), !row.is_default));
    for row in rows {
        if let Some(native) = natives.iter().find(|native| native.name == row.name) {
            if native.backed_up.is_some() && native.serves(cluster) && (tpm || !native.tpm_required) {
                return Ok((row.name, Kind::Native(native.clone())));
            }
        } else if let Some(trusted) = trusted.iter().find(|trusted| trusted.name == row.name) {
            if trusted.serves(cluster) && tpm {
                return Ok((row.name, Kind::Trusted));
            }
        } else {
            return Ok((row.name, Kind::Standard));
        }
    }
    Err(Problem::new(
        Code::ProviderNone,
        what,
        "there is no key provider that can make a host key",
        "add one with `ward provider add`; a native one must be backed up first",
    ))
}

impl Maker {
    /// The key that is made under that name: the same at each try. The host needs it from then on.
    pub(super) async fn make(
        &self,
        controller: &Shared,
        what: &str,
        subject: &EventSubject,
        link: &Arc<Link>,
        attempt: Uuid,
    ) -> Result<KeyRef, Problem> {
        let key = match &self.way {
            Way::Standard(servers) => return self.at_server(controller, what, subject, link, (servers, attempt)).await,
            Way::Native(row) => {
                native::bring_up_to_date(controller, link).await?;
                let kdk = KdkRef { provider: row.name.clone(), key_id: row.key_id, version: row.current() };
                // A wrapped key is bound to whoever it is for.
                link.call(MakeKey { kdk, vm: VmId::from_uuid(link.id.uuid()) }).await
            }
            Way::Trusted => {
                let call = || MakeTrustedKey { provider: self.provider.clone() };
                match link.call_within(call(), PATIENCE).await {
                    // Its agent was not told of the trust authority yet.
                    Err(CallError::Refused(problem)) if problem.code == Code::ProviderNone => {
                        trusted::bring_up_to_date(controller, link, false).await?;
                        link.call_within(call(), PATIENCE).await
                    }
                    made => made,
                }
            }
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                let problem = Problem { what: what.to_owned(), ..error.into_problem(what) };
                let fault = KeyFault::new(&self.provider, None, problem);
                return Err(keys::report(controller, subject, fault).await);
            }
        };
        let mut tx = controller.store.write().await?;
        note(&mut tx, link, subject, &key, "made").await?;
        tx.commit().await?;
        Ok(key)
    }

    async fn at_server(
        &self,
        controller: &Shared,
        what: &str,
        subject: &EventSubject,
        link: &Link,
        (servers, attempt): (&Replicas, Uuid),
    ) -> Result<KeyRef, Problem> {
        let name = &self.provider;
        // The same name at each try: what an earlier one made is found.
        let made = match keys::locate_or_make(what, servers, name, &keys::host_key_name(attempt), true).await {
            Ok(made) => made,
            Err(NotMade { fault, .. }) => return Err(keys::report(controller, subject, *fault).await),
        };
        crash_point::reach("host.key-made-unknown");
        let key = made.key.clone();
        let mut tx = controller.store.write().await?;
        if !host_crypto::keys_of(&mut tx, link.id).await?.contains(&key) {
            server_key::made(&mut tx, &key).await?;
            note(&mut tx, link, subject, &key, "made at its key server").await?;
        }
        tx.commit().await?;
        crash_point::reach("host.key-made");
        if let Err(fault) = keys::adopt(what, servers, &key).await {
            if fault.problem.code == Code::KeyNotUsable {
                give_up(controller, what, subject, link).await?;
            }
            return Err(keys::report(controller, subject, fault).await);
        }
        let owner = Owner { component: "Host", name: &link.name, identifier: self.identifier.clone() };
        keys::make_ready(controller, subject, servers, made, &owner).await?;
        Ok(key)
    }
}

/// Writes down that the host needs a key, before anything is put under it.
async fn note(tx: &mut Tx, link: &Link, subject: &EventSubject, key: &KeyRef, made: &str) -> Result<(), Problem> {
    host_crypto::add_key(tx, link.id, key).await?;
    // It is nobody else's, whoever's operation it is made for.
    let subject =
        EventSubject { vm: None, key: Some(key.clone()), provider: Some(key.provider.clone()), ..subject.clone() };
    let message = format!("host key {key} {made} for host `{}`", link.name);
    Ok(event::record(tx, EventKind::KeyCreated, &subject, &message).await?)
}

/// What is asked for under the name of this attempt comes to nothing: a further try has another one.
async fn give_up(controller: &Shared, what: &str, subject: &EventSubject, link: &Link) -> Result<(), Problem> {
    let mut tx = controller.store.write().await?;
    link.set_crypto(change(&mut tx, what, link, ModeChange::GiveUp { attempt: Uuid::new_v4() }, subject).await?);
    Ok(tx.commit().await?)
}
