//! The audit log.

use axum::extract::{Json, State};
use ward_types::{AuditEntry, AuditRecord, Code, Problem};

use super::edge::{ApiResult, Params, invalid};
use super::page::{Listed, Page};
use super::types::{AuditCount, AuditQuery, CodeView};
use crate::authz::Granted;
use crate::authz::operations::ReadAudit;
use crate::controller::Shared;
use crate::store::audit;

/// Lists entries of the audit log, the oldest first.
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = [AuditRecord]), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(controller): State<Shared>,
    _: Granted<ReadAudit>,
    Params(query): Params<AuditQuery>,
    page: Page,
) -> ApiResult<Listed<AuditRecord>> {
    let after = query.after.unwrap_or(0);
    if after < 0 {
        return Err(invalid(format!("there is no entry {after}")));
    }
    let limit = i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut records = audit::after(&mut *controller.store.read().await?, after, limit).await?;
    let more = records.len() > page.limit;
    records.truncate(page.limit);
    let last = records.last().filter(|_| more).map(|record| {
        // What makes no sense is for the reader to find: the numbers go on without gaps.
        let entry = serde_json::from_str::<AuditEntry>(&record.entry);
        entry.map_or_else(|_| after.saturating_add(limit - 1).to_string(), |entry| entry.number.to_string())
    });
    Ok(page.page(records, last))
}

/// Tells how many entries the audit log has had: a log that has fewer was cut off.
#[utoipa::path(get, path = "/audit/count", tag = "audit",
    responses((status = 200, body = AuditCount), (status = "4XX", body = Problem)))]
pub(super) async fn count(State(controller): State<Shared>, _: Granted<ReadAudit>) -> ApiResult<Json<AuditCount>> {
    let entries = audit::count(&mut *controller.store.read().await?).await?;
    Ok(Json(AuditCount { entries }))
}

/// Lists all codes of errors. This needs no session.
#[utoipa::path(get, path = "/problems", tag = "problem", security(()),
    responses((status = 200, body = [CodeView]), (status = "4XX", body = Problem)))]
pub(super) async fn problems() -> Json<Vec<CodeView>> {
    let view = |&code: &Code| CodeView {
        code,
        title: code.title().to_owned(),
        status: code.http_status(),
        exit_code: code.exit_code(),
    };
    Json(Code::ALL.iter().map(view).collect())
}
