//! Users, their groups and their sessions.

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{GroupId, Name, TokenId, UserId};

use super::Result;
use super::cells::{Cells, now};

#[derive(Clone, Debug)]
pub(crate) struct UserRow {
    pub(crate) id: UserId,
    pub(crate) name: Name,
    pub(crate) password_hash: String,
    /// Whether it may not log in.
    pub(crate) disabled: bool,
    pub(crate) created: Timestamp,
}

#[derive(Clone, Debug)]
pub(crate) struct GroupRow {
    pub(crate) id: GroupId,
    pub(crate) name: Name,
    /// By name.
    pub(crate) members: Vec<Name>,
}

#[derive(Clone, Debug)]
pub(crate) struct SessionRow {
    pub(crate) id: TokenId,
    pub(crate) user_id: UserId,
    pub(crate) user: Name,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
}

fn account(row: &AnyRow) -> Result<UserRow> {
    let cells = Cells(row);
    Ok(UserRow {
        id: cells.parsed("id")?,
        name: cells.parsed("name")?,
        password_hash: cells.text("password_hash")?,
        disabled: cells.flag("disabled")?,
        created: cells.time("created")?,
    })
}

fn session_row(row: &AnyRow) -> Result<SessionRow> {
    let cells = Cells(row);
    Ok(SessionRow {
        id: cells.parsed("id")?,
        user_id: cells.parsed("account_id")?,
        user: cells.parsed("name")?,
        created: cells.time("created")?,
        expires: cells.time("expires")?,
    })
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
    row.as_ref().map(account).transpose()
}

pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<UserRow>> {
    let rows = sqlx::query("SELECT * FROM account").fetch_all(db).await?;
    let mut users = rows.iter().map(account).collect::<Result<Vec<_>>>()?;
    users.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(users)
}

/// Changes a password, and ends the user's sessions but `keep`.
pub(crate) async fn set_password(
    db: &mut AnyConnection,
    id: UserId,
    password_hash: &str,
    keep: Option<TokenId>,
) -> Result<()> {
    sqlx::query("UPDATE account SET password_hash = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(password_hash)
        .execute(&mut *db)
        .await?;
    end_sessions(db, id, keep).await
}

/// Lets a user log in or not; who may not has no session any more.
pub(crate) async fn set_disabled(db: &mut AnyConnection, id: UserId, disabled: bool) -> Result<()> {
    sqlx::query("UPDATE account SET disabled = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(i64::from(disabled))
        .execute(&mut *db)
        .await?;
    if disabled { end_sessions(db, id, None).await } else { Ok(()) }
}

/// Removes a user with its sessions, memberships and permissions.
pub(crate) async fn remove(db: &mut AnyConnection, id: UserId) -> Result<()> {
    sqlx::query("DELETE FROM account WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

pub(crate) async fn groups(db: &mut AnyConnection) -> Result<Vec<GroupRow>> {
    let rows = sqlx::query("SELECT id, name FROM user_group").fetch_all(&mut *db).await?;
    let members = sqlx::query(
        "SELECT membership.group_id, account.name FROM membership JOIN account ON account.id = membership.account_id",
    )
    .fetch_all(db)
    .await?;
    let members = members.iter().map(|row| Ok((Cells(row).parsed("group_id")?, Cells(row).parsed("name")?)));
    let members = members.collect::<Result<Vec<(GroupId, Name)>>>()?;
    let group = |row: &AnyRow| {
        let id = Cells(row).parsed("id")?;
        let mut own: Vec<_> = members.iter().filter(|(group, _)| *group == id).map(|(_, name)| name.clone()).collect();
        own.sort();
        Ok(GroupRow { id, name: Cells(row).parsed("name")?, members: own })
    };
    let mut groups = rows.iter().map(group).collect::<Result<Vec<_>>>()?;
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(groups)
}

pub(crate) async fn group(db: &mut AnyConnection, name: &str) -> Result<Option<GroupRow>> {
    Ok(groups(db).await?.into_iter().find(|group| group.name.as_str() == name))
}

pub(crate) async fn add_group(db: &mut AnyConnection, name: &Name) -> Result<GroupId> {
    let id = GroupId::new();
    sqlx::query("INSERT INTO user_group (id, name, created) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name.as_str())
        .bind(now())
        .execute(db)
        .await?;
    Ok(id)
}

/// Removes a group with its memberships and permissions.
pub(crate) async fn remove_group(db: &mut AnyConnection, id: GroupId) -> Result<()> {
    sqlx::query("DELETE FROM user_group WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

/// Makes a user a member of a group; nothing happens where it is one.
pub(crate) async fn join(db: &mut AnyConnection, group: GroupId, user: UserId) -> Result<()> {
    sqlx::query("INSERT INTO membership (group_id, account_id) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(group.to_string())
        .bind(user.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// Ends a membership; nothing happens where there is none.
pub(crate) async fn leave(db: &mut AnyConnection, group: GroupId, user: UserId) -> Result<()> {
    sqlx::query("DELETE FROM membership WHERE group_id = $1 AND account_id = $2")
        .bind(group.to_string())
        .bind(user.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// Adds a session of a user who may log in and has that password still; says whether it did. Sweeps expired ones away.
pub(crate) async fn begin_session(
    db: &mut AnyConnection,
    user: &UserRow,
    secret_hash: &str,
    expires: i64,
) -> Result<bool> {
    let now = find(&mut *db, user.name.as_str()).await?;
    let same = now.is_some_and(|now| now.id == user.id && now.password_hash == user.password_hash && !now.disabled);
    if same {
        add_session(db, user.id, secret_hash, expires).await?;
    }
    Ok(same)
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

/// The session with that secret, where it has not expired and its user may log in.
pub(crate) async fn session(db: &mut AnyConnection, secret_hash: &str) -> Result<Option<SessionRow>> {
    let row = sqlx::query(
        "SELECT session.id, session.account_id, session.created, session.expires, account.name FROM session \
         JOIN account ON account.id = session.account_id \
         WHERE session.secret_hash = $1 AND session.expires > $2 AND account.disabled = 0",
    )
    .bind(secret_hash)
    .bind(now())
    .fetch_optional(db)
    .await?;
    row.as_ref().map(session_row).transpose()
}

/// All sessions that have not expired, in the order in which they began.
pub(crate) async fn sessions(db: &mut AnyConnection) -> Result<Vec<SessionRow>> {
    let rows = sqlx::query(
        "SELECT session.id, session.account_id, session.created, session.expires, account.name FROM session \
         JOIN account ON account.id = session.account_id WHERE session.expires > $1 ORDER BY session.id",
    )
    .bind(now())
    .fetch_all(db)
    .await?;
    rows.iter().map(session_row).collect()
}

pub(crate) async fn end_session(db: &mut AnyConnection, id: TokenId) -> Result<()> {
    sqlx::query("DELETE FROM session WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

async fn end_sessions(db: &mut AnyConnection, user: UserId, keep: Option<TokenId>) -> Result<()> {
    sqlx::query("DELETE FROM session WHERE account_id = $1 AND id <> $2")
        .bind(user.to_string())
        .bind(keep.map_or_else(String::new, |id| id.to_string()))
        .execute(db)
        .await?;
    Ok(())
}
