//! The log of what hosts asked for: a row is on disk before the answer leaves.

use attest::binding::CertThumbprint;

use crate::Error;
use crate::home::Home;

/// What a host asked for.
pub(crate) struct AuditRow<'a> {
    pub(crate) host: &'a str,
    pub(crate) certificate: CertThumbprint,
    pub(crate) operation: &'static str,
    pub(crate) object: &'a str,
    pub(crate) result: &'a str,
}

/// One thing that a host asked for, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::FromRow)]
pub struct AuditEntry {
    /// Counts up, without gaps.
    pub sequence: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The host, as the attestation service calls it; `?` if it is not known.
    pub host: String,
    /// The certificate of its TLS session.
    pub certificate: String,
    /// What it asked for.
    pub operation: String,
    /// Of what.
    pub object: String,
    /// `ok`, or why it was refused.
    pub result: String,
}

impl Home {
    pub(crate) async fn audit(&self, row: AuditRow<'_>) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO audit (at_ms, host, certificate, operation, object, result) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(jiff::Timestamp::now().as_millisecond())
        .bind(row.host)
        .bind(row.certificate.to_string())
        .bind(row.operation)
        .bind(row.object)
        .bind(row.result)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(crate) async fn audit_tail(&self, n: u32) -> Result<Vec<AuditEntry>, Error> {
        let query = "SELECT * FROM (SELECT * FROM audit ORDER BY sequence DESC LIMIT ?) ORDER BY sequence";
        Ok(sqlx::query_as(query).bind(n).fetch_all(&self.pool).await?)
    }
}
