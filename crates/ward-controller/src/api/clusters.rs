//! Clusters and datastores.

use std::path::{Component, Path, PathBuf};

use axum::extract::{Json, State};
use ward_types::{Code, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body};
use super::page::{Listed, Page};
use super::types::{AddCluster, AddDatastore, ClusterView, DatastoreView, PageQuery};
use crate::authz::{Granted, Root, Sight, grant, operations};
use crate::controller::Shared;
use crate::store::{cluster, host, vm};
use crate::tasks::submit::cluster_named;

/// Lists clusters.
#[utoipa::path(get, path = "/clusters", tag = "cluster", params(PageQuery),
    responses((status = 200, body = [ClusterView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, sight: Sight, page: Page) -> ApiResult<Listed<ClusterView>> {
    let mut db = controller.store.read().await?;
    let mut clusters = cluster::list(&mut db).await?;
    let mut datastores = cluster::datastores(&mut db).await?;
    let mut hosts = host::list(&mut db).await?;
    let mut vms = vm::list(&mut db).await?;
    clusters.retain(|row| sight.sees(row));
    datastores.retain(|row| sight.sees(row));
    hosts.retain(|row| sight.sees(row));
    vms.retain(|row| sight.sees(row));
    let view = |row: cluster::ClusterRow| ClusterView {
        id: row.id,
        hosts: hosts.iter().filter(|host| host.cluster == row.id).map(|host| host.name.clone()).collect(),
        datastores: datastores.iter().filter(|store| store.cluster == row.id).map(|store| store.name.clone()).collect(),
        vms: vms.iter().filter(|vm| vm.cluster == row.id).count(),
        name: row.name,
    };
    Ok(page.cut(clusters.into_iter().map(view).collect(), |view: &ClusterView| view.name.to_string()))
}

/// Adds a cluster.
#[utoipa::path(post, path = "/clusters", tag = "cluster", request_body = AddCluster,
    responses((status = 200, body = ClusterView), (status = "4XX", body = Problem)))]
pub(super) async fn add(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddCluster>,
) -> ApiResult<Json<ClusterView>> {
    let note = format!("add cluster `{}`", new.name);
    let _: Granted<operations::AddCluster> = grant(&controller, &caller, Root, note.into()).await?;
    let mut tx = controller.store.write().await?;
    let id = match cluster::add(&mut tx, &new.name).await {
        Err(error) if error.is_conflict() => {
            let what = format!("cannot add cluster `{}`", new.name);
            let why = "there is one of that name already";
            return Err(Problem::new(Code::Exists, what, why, "`ward cluster ls` lists them").into());
        }
        added => added?,
    };
    tx.commit().await?;
    Ok(Json(ClusterView { id, name: new.name, hosts: Vec::new(), datastores: Vec::new(), vms: 0 }))
}

/// Lists datastores.
#[utoipa::path(get, path = "/datastores", tag = "datastore", params(PageQuery),
    responses((status = 200, body = [DatastoreView]), (status = "4XX", body = Problem)))]
pub(super) async fn datastores(
    State(controller): State<Shared>,
    sight: Sight,
    page: Page,
) -> ApiResult<Listed<DatastoreView>> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let mut rows = cluster::datastores(&mut db).await?;
    rows.retain(|row| sight.sees(row));
    let view = |row: cluster::DatastoreRow| {
        let cluster = clusters.iter().find(|cluster| cluster.id == row.cluster)?.name.clone();
        Some(DatastoreView { id: row.id, name: row.name, cluster, directory: row.directory })
    };
    Ok(page.cut(rows.into_iter().filter_map(view).collect(), |view: &DatastoreView| view.name.to_string()))
}

/// Adds a datastore.
#[utoipa::path(post, path = "/datastores", tag = "datastore", request_body = AddDatastore,
    responses((status = 200, body = DatastoreView), (status = "4XX", body = Problem)))]
pub(super) async fn add_datastore(
    State(controller): State<Shared>,
    caller: Caller,
    Body(new): Body<AddDatastore>,
) -> ApiResult<Json<DatastoreView>> {
    let what = format!("cannot add datastore `{}`", new.name);
    let Some(directory) = directory_of(&new.directory) else {
        let why = format!("`{}` is not an absolute path in UTF-8 without `..`", new.directory.display());
        let remedy = "give the path under which all hosts of the cluster find it";
        return Err(Problem::new(Code::RequestInvalid, what, why, remedy).into());
    };
    let target = cluster_named(&controller, &what, new.cluster.as_deref()).await?;
    let note = format!("add datastore `{}` at {directory}", new.name);
    let granted: Granted<operations::AddDatastore> = grant(&controller, &caller, target, note.into()).await?;
    let (id, cluster) = (granted.on().id, granted.on().name.clone());
    let mut tx = controller.store.write().await?;
    let datastore = match cluster::add_datastore(&mut tx, id, &new.name, &directory).await {
        Err(error) if error.is_conflict() => {
            let why = "there is one of that name or directory already";
            return Err(Problem::new(Code::Exists, what, why, "`ward datastore ls` lists them").into());
        }
        added => added?,
    };
    tx.commit().await?;
    Ok(Json(DatastoreView { id: datastore, name: new.name, cluster, directory: directory.into() }))
}

/// Forgets a datastore on which no VM of the inventory is. What is on it stays as it is.
#[utoipa::path(delete, path = "/datastores/{datastore}", tag = "datastore",
    params(("datastore" = String, Path, description = "name or ID")),
    responses((status = 200), (status = "4XX", body = Problem)))]
pub(super) async fn remove_datastore(
    State(controller): State<Shared>,
    granted: Granted<operations::RemoveDatastore>,
) -> ApiResult<Json<()>> {
    let datastore = granted.on();
    let mut tx = controller.store.write().await?;
    let on_it: Vec<_> = vm::list(&mut tx).await?.into_iter().filter(|vm| vm.datastore == datastore.id).collect();
    if let Some(vm) = on_it.first() {
        let what = format!("cannot remove datastore `{}`", datastore.name);
        let why = format!("{} VMs of the inventory are on it, such as `{}`", on_it.len(), vm.name);
        let remedy = "delete them, or take them out of the inventory: `ward vm unregister`";
        return Err(Problem::new(Code::InUse, what, why, remedy).into());
    }
    cluster::remove_datastore(&mut tx, datastore.id).await?;
    tx.commit().await?;
    Ok(Json(()))
}

/// A path as it is kept: in one way of several in which it can be written, so that no directory is two datastores.
fn directory_of(path: &Path) -> Option<String> {
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    // Single dots and slashes at the end are none of its components.
    let plain: PathBuf = path.components().collect();
    let text = plain.to_str().filter(|text| !text.contains('\0'))?;
    (plain.is_absolute() && plain.components().all(is_plain)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_written_in_one_way() {
        for (given, kept) in [
            ("/store", Some("/store")),
            ("/store/", Some("/store")),
            ("/store/.", Some("/store")),
            ("//store//a/./b", Some("/store/a/b")),
            ("/store/../other", None),
            ("store", None),
            ("", None),
            ("/a\0b", None),
        ] {
            assert_eq!(directory_of(Path::new(given)).as_deref(), kept, "{given:?}");
        }
    }
}
