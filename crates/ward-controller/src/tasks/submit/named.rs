//! What orders are about: the datastores, clusters and key providers that they name.

use sqlx::AnyConnection;
use ward_types::{ClusterId, Code, Problem, TaskKind};

use super::super::cannot;
use crate::authz::Sight;
use crate::controller::Shared;
use crate::plan::{self, NativeFacts, NewVm, ProviderFacts};
use crate::store::cluster::{ClusterRow, DatastoreRow};
use crate::store::{self, cluster, provider};

/// What planners need to know of key providers, for VMs of a cluster.
pub(crate) async fn providers(db: &mut AnyConnection, cluster: ClusterId) -> Result<Vec<ProviderFacts>, Problem> {
    let natives = store::native::list(db).await?;
    let trusted = store::trusted::list(db).await?;
    let own_default = provider::default_of(db, cluster).await?;
    let facts = |row: provider::ProviderRow| {
        let native = natives.iter().find(|native| native.name == row.name).map(|native| NativeFacts {
            backed_up: native.backed_up.is_some(),
            serves: native.serves(cluster),
            tpm_required: native.tpm_required,
        });
        let trusted = trusted.iter().find(|trusted| trusted.name == row.name).map(|trusted| NativeFacts {
            backed_up: true,
            serves: trusted.serves(cluster),
            tpm_required: true,
        });
        let native = native.or(trusted);
        let is_default = own_default.as_ref().map_or(row.is_default, |own| *own == row.name);
        ProviderFacts { name: row.name, is_default, native }
    };
    Ok(provider::list(db).await?.into_iter().map(facts).collect())
}

/// The datastore for a new VM: the one named, or the only one that the caller may see.
pub(crate) async fn datastore_for(
    controller: &Shared,
    sight: &Sight,
    new: &NewVm,
    key: Option<&str>,
) -> Result<DatastoreRow, Problem> {
    let kind = if new.reads_files() { TaskKind::VmImport } else { TaskKind::VmCreate };
    let what = cannot(kind, &new.name);
    // What makes no sense makes none on any datastore.
    plan::create(new.clone(), false)?;
    let mut seen = cluster::datastores(&mut *controller.store.read().await?).await?;
    seen.retain(|row| sight.sees(row));
    match key {
        Some(key) => {
            let found = seen.into_iter().find(|row| row.name.as_str() == key || row.id.to_string() == key);
            found.ok_or_else(|| {
                let why = format!("there is no datastore `{key}`");
                Problem::new(Code::NotFound, what, why, "`ward datastore ls` lists them")
            })
        }
        None if seen.len() == 1 => Ok(seen.remove(0)),
        None => {
            let (why, remedy) = if seen.is_empty() {
                ("there is no datastore", "add one with `ward datastore add NAME DIRECTORY`")
            } else {
                ("there are several datastores", "name one with `--datastore`; `ward datastore ls` lists them")
            };
            Err(Problem::new(Code::RequestInvalid, what, why, remedy))
        }
    }
}

/// The cluster with that name or ID, or the one that is meant where none is named.
pub(crate) async fn cluster_named(controller: &Shared, what: &str, key: Option<&str>) -> Result<ClusterRow, Problem> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let found = match key {
        Some(key) => cluster::find(&mut db, key).await?,
        None if clusters.len() == 1 => clusters.into_iter().next(),
        None => clusters.into_iter().find(|cluster| cluster.name.as_str() == "default"),
    };
    found.ok_or_else(|| {
        let why = format!("there is no cluster `{}`", key.unwrap_or("default"));
        Problem::new(Code::NotFound, what, why, "`ward cluster ls` lists them")
    })
}
