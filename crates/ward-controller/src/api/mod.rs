//! The REST API for users: resources under `/api/v1`, its own description at `/api/openapi.json`.

mod audit;
pub(crate) mod auth;
mod clusters;
mod describe;
mod dumps;
pub(crate) mod edge;
pub(crate) mod events;
mod host_crypto;
pub(crate) mod hosts;
mod keys;
mod native;
mod page;
mod policies;
mod provider_servers;
mod provider_trust;
pub(crate) mod providers;
mod recryptions;
mod reform;
pub(crate) mod repeat;
mod roles;
mod session;
pub(crate) mod tasks;
mod trusted;
pub mod types;
mod users;
mod vm_crypto;
mod vm_disks;
mod vm_inventory;
mod vm_tpm;
pub(crate) mod vms;

use axum::Router;
use axum::extract::Json;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use ward_types::{Code, Problem};

#[cfg(test)]
mod tests;

pub use self::page::MAX_LIMIT;

use self::edge::{ApiError, no_such_method};
use crate::console;
use crate::controller::Shared;

/// What all paths of the API begin with.
const PREFIX: &str = "/api/v1";

#[derive(OpenApi)]
#[openapi(
    info(title = "Ward controller", description = "VM encryption for KVM: inventory, key providers, tasks, events."),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

fn documented() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(session::show, session::end))
        .routes(routes!(session::privileges))
        .routes(routes!(session::password))
        .routes(routes!(session::list))
        .routes(routes!(session::revoke))
        .routes(routes!(users::list, users::add))
        .routes(routes!(users::show, users::remove))
        .routes(routes!(users::password))
        .routes(routes!(users::disable))
        .routes(routes!(users::enable))
        .routes(routes!(users::groups, users::add_group))
        .routes(routes!(users::remove_group))
        .routes(routes!(users::join, users::leave))
        .routes(routes!(roles::privileges))
        .routes(routes!(roles::list, roles::add))
        .routes(routes!(roles::set, roles::remove))
        .routes(routes!(roles::permissions, roles::give))
        .routes(routes!(roles::take))
        .routes(routes!(audit::list))
        .routes(routes!(audit::count))
        .routes(routes!(clusters::list, clusters::add))
        .routes(routes!(clusters::datastores, clusters::add_datastore))
        .routes(routes!(clusters::remove_datastore))
        .routes(routes!(hosts::list, hosts::add))
        .routes(routes!(hosts::show, hosts::remove))
        .routes(routes!(host_crypto::set_encryption))
        .routes(routes!(host_crypto::rekey))
        .routes(routes!(host_crypto::set_host_persistence))
        .routes(routes!(host_crypto::set_cluster_persistence))
        .routes(routes!(host_crypto::bundle))
        .routes(routes!(host_crypto::dump_vm))
        .routes(routes!(providers::list, providers::add))
        .routes(routes!(providers::show, providers::remove))
        .routes(routes!(providers::make_default))
        .routes(routes!(providers::set_cluster_default))
        .routes(routes!(provider_servers::add))
        .routes(routes!(provider_servers::remove))
        .routes(routes!(provider_trust::certificates))
        .routes(routes!(provider_trust::trust))
        .routes(routes!(provider_trust::identify))
        .routes(routes!(provider_trust::try_identity))
        .routes(routes!(vms::list, vms::add))
        .routes(routes!(vms::show, vms::remove))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vm_crypto::encrypt))
        .routes(routes!(vm_crypto::decrypt))
        .routes(routes!(vms::console))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(events::list))
        .routes(routes!(vm_crypto::recrypt))
        .routes(routes!(vm_crypto::crypto))
        .routes(routes!(vm_crypto::set_policy))
        .routes(routes!(vm_disks::list, vm_disks::add))
        .routes(routes!(vm_disks::remove))
        .routes(routes!(vm_disks::attach))
        .routes(routes!(vm_disks::detach))
        .routes(routes!(vm_inventory::register))
        .routes(routes!(vm_inventory::unregister))
        .routes(routes!(vm_inventory::unlock))
        .routes(routes!(vm_inventory::reload))
        .routes(routes!(vm_inventory::template))
        .routes(routes!(vm_tpm::show, vm_tpm::add, vm_tpm::remove))
        .routes(routes!(vm_tpm::certify))
        .routes(routes!(vm_tpm::ca))
        .routes(routes!(vm_inventory::clone))
        .routes(routes!(policies::list, policies::add))
        .routes(routes!(policies::show, policies::remove))
        .routes(routes!(providers::set_rotation))
        .routes(routes!(recryptions::plan))
        .routes(routes!(recryptions::list, recryptions::add))
        .routes(routes!(recryptions::show))
        .routes(routes!(recryptions::vms))
        .routes(routes!(recryptions::pause))
        .routes(routes!(recryptions::resume))
        .routes(routes!(recryptions::cancel))
        .routes(routes!(keys::list))
        .routes(routes!(keys::check))
        .routes(routes!(keys::grace, keys::set_grace))
        .routes(routes!(keys::show, keys::destroy))
        .routes(routes!(keys::orphans))
        .routes(routes!(native::add))
        .routes(routes!(native::import))
        .routes(routes!(native::export))
        .routes(routes!(native::keep))
        .routes(routes!(native::update_key))
        .routes(routes!(native::delete_version))
        .routes(routes!(trusted::add))
        .routes(routes!(trusted::describe))
        .routes(routes!(trusted::hosts))
        .routes(routes!(trusted::services))
        .routes(routes!(trusted::remediate))
}

fn parts(controller: &Shared) -> (Router<Shared>, serde_json::Value) {
    // Laid over everything but the login: a new endpoint is closed unless somebody opens it.
    let closed = documented().layer(from_fn_with_state(controller.clone(), auth::authenticate));
    let open = OpenApiRouter::new().routes(routes!(session::begin)).routes(routes!(audit::problems));
    let all = OpenApiRouter::with_openapi(Description::openapi()).nest(PREFIX, closed.merge(open));
    let (router, description) = all.split_for_parts();
    let description = describe::complete(&description).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot describe the API");
        serde_json::Value::Null
    });
    (router, description)
}

/// All that the controller answers to users.
pub(crate) fn router(controller: Shared) -> Router {
    let (router, description) = parts(&controller);
    router
        .route("/api/openapi.json", get(move || async move { Json(description) }))
        .merge(console::router())
        .method_not_allowed_fallback(no_such_method)
        .fallback(|| async {
            ApiError(Problem::new(
                Code::NotFound,
                "cannot find what is asked for",
                "there is nothing under that path",
                "see /api/openapi.json for what there is",
            ))
        })
        .with_state(controller)
}
