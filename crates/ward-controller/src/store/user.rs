//! Users and their sessions.

use sqlx::AnyConnection;
use ward_types::{Name, TokenId, UserId};

use super::Result;
use super::cells::{Cells, now};

#[derive(Clone, Debug)]
pub(crate) struct UserRow {
    pub(crate) id: UserId,
    pub(crate) name: Name,
    pub(crate) password_hash: String,
}

pub(crate) async fn add(db: &mut AnyConnection, name: &Name, password_hash: &str) -> Result<UserId> {
    let id = UserId::new();
    sqlx::query("INSERT INTO account (id, name, password_hash, created) VALUES ($1, $2, $3, $4)")
        .bind(id.to_string())
        .bind(name.as_str())
        .bind(password_hash)
        .bind(now())
        .execute(db)
        .await?;
    Ok(id)
}

pub(crate) async fn find(db: &mut AnyConnection, name: &str) -> Result<Option<UserRow>> {
    let row = sqlx::query("SELECT * FROM account WHERE name = $1").bind(name).fetch_optional(db).await?;
    row.map(|row| {
        let cells = Cells(&row);
        Ok(UserRow {
            id: cells.parsed("id")?,
            name: cells.parsed("name")?,
            password_hash: cells.text("password_hash")?,
        })
    })
    .transpose()
}

/// Adds a session, and sweeps expired ones away.
pub(crate) async fn add_session(
    db: &mut AnyConnection,
    user: UserId,
    secret_hash: &str,
    expires: i64,
) -> Result<TokenId> {
    let id = TokenId::new();
    let created = now();
    sqlx::query("DELETE FROM session WHERE expires <= $1").bind(created).execute(&mut *db).await?;
    sqlx::query("INSERT INTO session (id, account_id, secret_hash, created, expires) VALUES ($1, $2, $3, $4, $5)")
        .bind(id.to_string())
        .bind(user.to_string())
        .bind(secret_hash)
        .bind(created)
        .bind(expires)
        .execute(db)
        .await?;
    Ok(id)
}

/// Whose session it is, where it has not expired.
pub(crate) async fn session(db: &mut AnyConnection, secret_hash: &str) -> Result<Option<(TokenId, Name)>> {
    let row = sqlx::query(
        "SELECT session.id, account.name FROM session JOIN account ON account.id = session.account_id \
         WHERE session.secret_hash = $1 AND session.expires > $2",
    )
    .bind(secret_hash)
    .bind(now())
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let cells = Cells(&row);
        Ok((cells.parsed("id")?, cells.parsed("name")?))
    })
    .transpose()
}

pub(crate) async fn end_session(db: &mut AnyConnection, id: TokenId) -> Result<()> {
    sqlx::query("DELETE FROM session WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}
