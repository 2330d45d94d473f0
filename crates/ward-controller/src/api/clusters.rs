//! Clusters and datastores.

use axum::extract::{Json, State};
use ward_types::{Code, Name, Problem};

use super::auth::Caller;
use super::edge::{ApiResult, Body};
use super::types::{AddDatastore, ClusterView, DatastoreView};
use crate::controller::Shared;
use crate::store::{cluster, host, vm};
use crate::tasks::submit::cluster_named;

/// Lists clusters.
#[utoipa::path(get, path = "/clusters", tag = "cluster",
    responses((status = 200, body = [ClusterView]), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(controller): State<Shared>, _: Caller) -> ApiResult<Json<Vec<ClusterView>>> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let datastores = cluster::datastores(&mut db).await?;
    let hosts = host::list(&mut db).await?;
    let vms = vm::list(&mut db).await?;
    let view = |row: cluster::ClusterRow| ClusterView {
        id: row.id,
        hosts: hosts.iter().filter(|host| host.cluster == row.id).map(|host| host.name.clone()).collect(),
        datastores: datastores.iter().filter(|store| store.cluster == row.id).map(|store| store.name.clone()).collect(),
        vms: vms.iter().filter(|vm| vm.cluster == row.id).count(),
        name: row.name,
    };
    Ok(Json(clusters.into_iter().map(view).collect()))
}

/// Lists datastores.
#[utoipa::path(get, path = "/datastores", tag = "datastore",
    responses((status = 200, body = [DatastoreView]), (status = "4XX", body = Problem)))]
pub(super) async fn datastores(State(controller): State<Shared>, _: Caller) -> ApiResult<Json<Vec<DatastoreView>>> {
    let mut db = controller.store.read().await?;
    let clusters = cluster::list(&mut db).await?;
    let rows = cluster::datastores(&mut db).await?;
    let view = |row: cluster::DatastoreRow| {
        let cluster = clusters.iter().find(|cluster| cluster.id == row.cluster)?.name.clone();
        Some(DatastoreView { id: row.id, name: row.name, cluster, directory: row.directory })
    };
    Ok(Json(rows.into_iter().filter_map(view).collect()))
}

/// Adds a datastore.
#[utoipa::path(post, path = "/datastores", tag = "datastore", request_body = AddDatastore,
    responses((status = 200, body = DatastoreView), (status = "4XX", body = Problem)))]
pub(super) async fn add_datastore(
    State(controller): State<Shared>,
    _: Caller,
    Body(new): Body<AddDatastore>,
) -> ApiResult<Json<DatastoreView>> {
    let what = format!("cannot add datastore `{}`", new.name);
    let directory = match new.directory.to_str() {
        Some(directory) if new.directory.is_absolute() && !directory.contains('\0') => directory,
        _ => {
            let why = format!("`{}` is not an absolute path in UTF-8", new.directory.display());
            let remedy = "give the path under which all hosts of the cluster find it";
            return Err(Problem::new(Code::RequestInvalid, what, why, remedy).into());
        }
    };
    let id = cluster_named(&controller, &what, new.cluster.as_deref()).await?;
    let mut tx = controller.store.write().await?;
    let datastore = match cluster::add_datastore(&mut tx, id, &new.name, directory).await {
        Err(error) if error.is_conflict() => {
            let why = "there is one of that name or directory already";
            return Err(Problem::new(Code::Exists, what, why, "`ward datastore ls` lists them").into());
        }
        added => added?,
    };
    let clusters = cluster::list(&mut tx).await?;
    tx.commit().await?;
    let cluster: Option<Name> = clusters.into_iter().find(|cluster| cluster.id == id).map(|cluster| cluster.name);
    let cluster = cluster.ok_or_else(|| Problem::internal(what, "its cluster is gone"))?;
    Ok(Json(DatastoreView { id: datastore, name: new.name, cluster, directory: new.directory }))
}
