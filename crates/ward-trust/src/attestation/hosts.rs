//! Enrolled hosts.

use attest::appraisal::Report;
use attest::binding::CertThumbprint;
use attest::credential::{AkRecord, ResidentAk};
use attest::ek::TrustedEk;
use attest::hash::HashAlg;
use attest::label::Label;
use attest::log::{EventLog, VerifiedLog};
use attest::quote::{Nonce, QuoteRequest};
use attest::tpm::{Name, PcrMask, Public};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::Error;
use crate::home::Home;

/// An enrolled host.
pub(super) struct Host {
    pub(super) label: Label,
    pub(super) admitted: bool,
    pub(super) ek_public: Public,
    pub(super) ek_certificate: Option<Vec<u8>>,
    pub(super) ak: AkRecord,
}

/// An enrolled host, for showing.
#[derive(Clone, Debug, Serialize)]
pub struct HostInfo {
    /// What the service calls it.
    pub label: Label,
    /// The Name of its TPM's EK.
    pub ek: String,
    /// Whether it is let in.
    pub admitted: bool,
    /// When it was enrolled, or last showed a new attestation key.
    pub enrolled: Timestamp,
    /// When it was last attested.
    pub attested: Option<Timestamp>,
    /// The last verdict on it, good or bad.
    pub report: Option<Report>,
}

/// Proof of what a host booted, kept so that a base image can be made of it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Captured {
    #[serde(with = "crate::api::base64_bytes")]
    nonce: Vec<u8>,
    certificate: CertThumbprint,
    bank: HashAlg,
    pcrs: PcrMask,
    evidence: attest::appraisal::Evidence,
}

impl Captured {
    pub(super) fn new(
        request: &QuoteRequest,
        certificate: CertThumbprint,
        evidence: attest::appraisal::Evidence,
    ) -> Self {
        let (bank, pcrs) = (request.bank(), request.pcrs());
        Self { nonce: request.nonce().as_bytes().to_vec(), certificate, bank, pcrs, evidence }
    }

    /// Verifies quote and log anew.
    pub(super) fn verify(&self, ak: &ResidentAk) -> Result<VerifiedLog, Error> {
        let bad = |why: String| Error::invalid("the host's evidence", why);
        let request = Nonce::new(&self.nonce)
            .and_then(|nonce| QuoteRequest::new(nonce, self.bank, self.pcrs))
            .map_err(|error| bad(error.to_string()))?
            .bound_to(self.certificate);
        let quote = request.verify(ak, &self.evidence.quote).map_err(|error| bad(error.to_string()))?;
        let log = EventLog::from_bytes(&self.evidence.event_log).map_err(|error| bad(error.to_string()))?;
        log.verify(&quote).map_err(|error| bad(error.to_string()))
    }
}

impl Host {
    fn from_row(row: &SqliteRow) -> Result<Self, Error> {
        let label: String = row.try_get("label")?;
        let corrupt = |why: &dyn ToString| Error::corrupt(format!("host {label}"), why.to_string());
        let (ek_public, ak): (Vec<u8>, String) = (row.try_get("ek_public")?, row.try_get("ak_record")?);
        Ok(Self {
            admitted: row.try_get("admitted")?,
            ek_public: Public::from_tpm2b(&ek_public).map_err(|error| corrupt(&error))?,
            ek_certificate: row.try_get("ek_certificate")?,
            ak: serde_json::from_str(&ak).map_err(|error| corrupt(&error))?,
            label: label.parse().map_err(|error| corrupt(&error))?,
        })
    }
}

/// A host is let in as an administrator has said; where none has said anything, by the way in which it enrolled.
const ADMITTED: &str = "COALESCE((SELECT decision.admitted FROM decision WHERE decision.ek = host.ek), host.admitted)";

async fn by(db: &mut SqliteConnection, column: &'static str, value: String) -> Result<Option<Host>, Error> {
    let query = format!(
        "SELECT label, ek_public, ek_certificate, ak_record, {ADMITTED} AS admitted FROM host WHERE {column} = ?"
    );
    let row = sqlx::query(AssertSqlSafe(query)).bind(value).fetch_optional(db).await?;
    row.as_ref().map(Host::from_row).transpose()
}

pub(super) async fn by_ak(home: &Home, ak: &Name) -> Result<Option<Host>, Error> {
    by(&mut *home.pool.acquire().await?, "ak", ak.to_string()).await
}

/// The attestation key of a host, and what it last proved to have booted.
pub(super) async fn captured(home: &Home, label: &Label) -> Result<(AkRecord, Option<Captured>), Error> {
    let query = sqlx::query_as("SELECT ak_record, captured FROM host WHERE label = ?").bind(label.as_str());
    let row: Option<(String, Option<String>)> = query.fetch_optional(&home.pool).await?;
    let (ak, captured) = row.ok_or_else(|| Error::NotFound { what: "host", name: label.to_string() })?;
    let corrupt = |error: serde_json::Error| Error::corrupt(format!("host {label}"), error);
    let captured = captured.map(|json| serde_json::from_str(&json)).transpose().map_err(corrupt)?;
    Ok((serde_json::from_str(&ak).map_err(corrupt)?, captured))
}

/// Takes a host in, or its new attestation key. A host that was let in stays so. Gives whether it is let in.
pub(super) async fn enrol(
    home: &Home,
    ek: &TrustedEk,
    ek_certificate: Option<&[u8]>,
    ak: &ResidentAk,
    (label, admitted): (&Label, bool),
) -> Result<bool, Error> {
    let record = serde_json::to_string(&ak.record()).map_err(|error| Error::invalid("an AK", error))?;
    let query = "INSERT INTO host (ek, label, ak, ek_public, ek_certificate, ak_record, admitted, enrolled_ms) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (ek) DO UPDATE SET label = excluded.label, \
                 ak = excluded.ak, ek_certificate = excluded.ek_certificate, ak_record = excluded.ak_record, \
                 enrolled_ms = excluded.enrolled_ms, captured = NULL, admitted = excluded.admitted";
    let mut tx = home.pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(query)
        .bind(ek.name().to_string())
        .bind(label.as_str())
        .bind(ak.name().to_string())
        .bind(ek.public().to_tpm2b())
        .bind(ek_certificate)
        .bind(record)
        .bind(admitted)
        .bind(ak.proven_at().as_millisecond())
        .execute(&mut *tx)
        .await?;
    let host = by(&mut tx, "ek", ek.name().to_string()).await?;
    tx.commit().await?;
    Ok(host.is_some_and(|host| host.admitted))
}

/// Keeps the verdict on what a host has quoted, and what it proved to have booted, if it did.
pub(super) async fn note(
    home: &Home,
    host: &Host,
    report: &Report,
    good: bool,
    captured: &Captured,
) -> Result<(), Error> {
    let json = |error: serde_json::Error| Error::invalid("a report", error);
    let proven = report.boot.is_some();
    let query = "UPDATE host SET report = ?, attested_ms = CASE WHEN ? THEN ? ELSE attested_ms END, \
                 captured = CASE WHEN ? THEN ? ELSE captured END WHERE label = ?";
    sqlx::query(query)
        .bind(serde_json::to_string(report).map_err(json)?)
        .bind(good)
        .bind(report.at.as_millisecond())
        .bind(proven)
        .bind(serde_json::to_string(captured).map_err(json)?)
        .bind(host.label.as_str())
        .execute(&home.pool)
        .await?;
    Ok(())
}

pub(super) async fn list(home: &Home) -> Result<Vec<HostInfo>, Error> {
    let query =
        format!("SELECT label, ek, {ADMITTED} AS admitted, enrolled_ms, attested_ms, report FROM host ORDER BY label");
    let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&home.pool).await?;
    rows.iter()
        .map(|row| {
            let label: String = row.try_get("label")?;
            let corrupt = |why: &dyn ToString| Error::corrupt(format!("host {label}"), why.to_string());
            let time = |ms: i64| Timestamp::from_millisecond(ms).map_err(|error| corrupt(&error));
            let report: Option<String> = row.try_get("report")?;
            Ok(HostInfo {
                label: label.parse().map_err(|error| corrupt(&error))?,
                ek: row.try_get("ek")?,
                admitted: row.try_get("admitted")?,
                enrolled: time(row.try_get("enrolled_ms")?)?,
                attested: row.try_get::<Option<i64>, _>("attested_ms")?.map(time).transpose()?,
                report: report.map(|json| serde_json::from_str(&json)).transpose().map_err(|error| corrupt(&error))?,
            })
        })
        .collect()
}
