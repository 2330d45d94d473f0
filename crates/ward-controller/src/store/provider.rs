//! Key providers. Their private keys lie here sealed.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{Object, ProviderKind, ProviderName};

use super::cells::{Cells, now, word};
use super::{Result, permission};

#[derive(Clone, Debug)]
pub(crate) struct ProviderRow {
    pub(crate) name: ProviderName,
    pub(crate) kind: ProviderKind,
    pub(crate) server_host: String,
    pub(crate) server_port: u16,
    pub(crate) ca: String,
    pub(crate) certificate: String,
    /// Ciphertext under the controller's root key, base64.
    pub(crate) sealed_key: String,
    pub(crate) is_default: bool,
}

fn provider(row: &AnyRow) -> Result<ProviderRow> {
    let cells = Cells(row);
    Ok(ProviderRow {
        name: cells.parsed("name")?,
        kind: cells.word("kind")?,
        server_host: cells.text("server_host")?,
        server_port: cells.number("server_port")?,
        ca: cells.text("ca")?,
        certificate: cells.text("certificate")?,
        sealed_key: cells.text("sealed_key")?,
        is_default: cells.flag("is_default")?,
    })
}

pub(crate) async fn add(db: &mut AnyConnection, row: &ProviderRow) -> Result<()> {
    sqlx::query(
        "INSERT INTO provider (name, kind, server_host, server_port, ca, certificate, sealed_key, is_default, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.name.as_str())
    .bind(word(&row.kind)?)
    .bind(&row.server_host)
    .bind(i64::from(row.server_port))
    .bind(&row.ca)
    .bind(&row.certificate)
    .bind(&row.sealed_key)
    .bind(i64::from(row.is_default))
    .bind(now())
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<ProviderRow>> {
    let rows = sqlx::query("SELECT * FROM provider ORDER BY name").fetch_all(db).await?;
    rows.iter().map(provider).collect()
}

pub(crate) async fn get(db: &mut AnyConnection, name: &ProviderName) -> Result<Option<ProviderRow>> {
    let row = sqlx::query("SELECT * FROM provider WHERE name = $1").bind(name.as_str()).fetch_optional(db).await?;
    row.as_ref().map(provider).transpose()
}

/// Makes one provider the default one, and no other.
pub(crate) async fn set_default(db: &mut AnyConnection, name: &ProviderName) -> Result<()> {
    sqlx::query("UPDATE provider SET is_default = CASE WHEN name = $1 THEN 1 ELSE 0 END")
        .bind(name.as_str())
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn remove(db: &mut AnyConnection, name: &ProviderName) -> Result<()> {
    permission::forget(&mut *db, &Object::Provider(name.clone())).await?;
    sqlx::query("DELETE FROM provider WHERE name = $1").bind(name.as_str()).execute(db).await?;
    Ok(())
}
