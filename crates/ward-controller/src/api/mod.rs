//! The REST API for users: resources under `/api/v1`, its own description at `/api/openapi.json`.

pub(crate) mod auth;
mod clusters;
pub(crate) mod edge;
mod events;
pub(crate) mod hosts;
mod native;
mod providers;
mod session;
pub(crate) mod tasks;
pub mod types;
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

use self::edge::ApiError;
use crate::console;
use crate::controller::Shared;

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
        .routes(routes!(clusters::list))
        .routes(routes!(clusters::datastores, clusters::add_datastore))
        .routes(routes!(hosts::list, hosts::add))
        .routes(routes!(hosts::show))
        .routes(routes!(providers::list, providers::add))
        .routes(routes!(providers::show, providers::remove))
        .routes(routes!(providers::make_default))
        .routes(routes!(vms::list, vms::add))
        .routes(routes!(vms::show, vms::remove))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::encrypt))
        .routes(routes!(vms::decrypt))
        .routes(routes!(vms::console))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(events::list))
        .routes(routes!(native::add))
        .routes(routes!(native::import))
        .routes(routes!(native::export))
        .routes(routes!(native::keep))
        .routes(routes!(native::update_key))
        .routes(routes!(native::delete_version))
}

fn parts(controller: &Shared) -> (Router<Shared>, utoipa::openapi::OpenApi) {
    // Laid over everything but the login: a new endpoint is closed unless somebody opens it.
    let closed = documented().layer(from_fn_with_state(controller.clone(), auth::authenticate));
    let open = OpenApiRouter::new().routes(routes!(session::begin));
    OpenApiRouter::with_openapi(Description::openapi()).nest("/api/v1", closed.merge(open)).split_for_parts()
}

/// All that the controller answers to users.
pub(crate) fn router(controller: Shared) -> Router {
    let (router, description) = parts(&controller);
    router
        .route("/api/openapi.json", get(move || async move { Json(description) }))
        .merge(console::router())
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
