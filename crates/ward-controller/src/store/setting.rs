//! Single values: who the controller is, its certificates.

use sqlx::AnyConnection;

use super::Result;
use super::cells::Cells;

pub(crate) async fn get(db: &mut AnyConnection, name: &str) -> Result<Option<String>> {
    let row = sqlx::query("SELECT value FROM setting WHERE name = $1").bind(name).fetch_optional(db).await?;
    row.map(|row| Cells(&row).text("value")).transpose()
}

pub(crate) async fn put(db: &mut AnyConnection, name: &str, value: &str) -> Result<()> {
    sqlx::query(
        "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(name)
    .bind(value)
    .execute(db)
    .await?;
    Ok(())
}
