//! Roles that users made, and permissions.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use ward_types::{
    GroupId, Name, Object, PermissionId, PrivilegeSet, Role, RoleKind, RoleName, Subject, UserId, builtin_roles,
};

use super::cells::{Cells, json, now};
use super::{Result, user};
use crate::authz::{Given, Grant, Place, Policy, Target as _};

/// A permission with its ID.
#[derive(Clone, Debug)]
pub(crate) struct PermissionRow {
    pub(crate) id: PermissionId,
    pub(crate) given: Given,
}

/// The user or group that a permission is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SubjectId {
    User(UserId),
    Group(GroupId),
}

/// All roles by name: the built-in ones and those that users made.
pub(crate) async fn roles(db: &mut AnyConnection) -> Result<Vec<Role>> {
    let rows = sqlx::query("SELECT * FROM role").fetch_all(db).await?;
    let mut roles = builtin_roles();
    for row in &rows {
        let cells = Cells(row);
        let (name, privileges) = (cells.parsed("name")?, cells.json("privileges")?);
        roles.push(Role { name, kind: RoleKind::Custom, privileges });
    }
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(roles)
}

pub(crate) async fn add_role(db: &mut AnyConnection, name: &RoleName, privileges: PrivilegeSet) -> Result<()> {
    sqlx::query("INSERT INTO role (name, privileges, created) VALUES ($1, $2, $3)")
        .bind(name.as_str())
        .bind(json(&privileges)?)
        .bind(now())
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn set_role(db: &mut AnyConnection, name: &RoleName, privileges: PrivilegeSet) -> Result<()> {
    sqlx::query("UPDATE role SET privileges = $2 WHERE name = $1")
        .bind(name.as_str())
        .bind(json(&privileges)?)
        .execute(db)
        .await?;
    Ok(())
}

pub(crate) async fn remove_role(db: &mut AnyConnection, name: &RoleName) -> Result<()> {
    sqlx::query("DELETE FROM role WHERE name = $1").bind(name.as_str()).execute(db).await?;
    Ok(())
}

/// Gives a subject a role on an object, in place of the one that it had there.
pub(crate) async fn give(
    db: &mut AnyConnection,
    subject: SubjectId,
    object: &Object,
    role: &RoleName,
    propagates: bool,
) -> Result<PermissionId> {
    let id = PermissionId::new();
    let (column, account, group) = match subject {
        SubjectId::User(id) => ("account_id", Some(id.to_string()), None),
        SubjectId::Group(id) => ("group_id", None, Some(id.to_string())),
    };
    let delete = match column {
        "account_id" => "DELETE FROM permission WHERE account_id = $1 AND object = $2",
        _ => "DELETE FROM permission WHERE group_id = $1 AND object = $2",
    };
    sqlx::query(delete).bind(account.clone().or(group.clone())).bind(object.to_string()).execute(&mut *db).await?;
    sqlx::query(
        "INSERT INTO permission (id, account_id, group_id, object, role, propagates, created) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.to_string())
    .bind(account)
    .bind(group)
    .bind(object.to_string())
    .bind(role.as_str())
    .bind(i64::from(propagates))
    .bind(now())
    .execute(db)
    .await?;
    Ok(id)
}

pub(crate) async fn remove(db: &mut AnyConnection, id: PermissionId) -> Result<()> {
    sqlx::query("DELETE FROM permission WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

/// Removes all permissions on an object that is going away.
pub(crate) async fn forget(db: &mut AnyConnection, object: &Object) -> Result<()> {
    sqlx::query("DELETE FROM permission WHERE object = $1").bind(object.to_string()).execute(db).await?;
    Ok(())
}

/// All permissions, in the order in which they were given.
pub(crate) async fn list(db: &mut AnyConnection) -> Result<Vec<PermissionRow>> {
    let rows = sqlx::query(
        "SELECT permission.id, permission.object, permission.role, permission.propagates, \
         account.name AS account, user_group.name AS groupname FROM permission \
         LEFT JOIN account ON account.id = permission.account_id \
         LEFT JOIN user_group ON user_group.id = permission.group_id ORDER BY permission.id",
    )
    .fetch_all(db)
    .await?;
    rows.iter().map(permission).collect()
}

fn permission(row: &AnyRow) -> Result<PermissionRow> {
    let cells = Cells(row);
    let subject = match cells.parsed_or_null::<Name>("account")? {
        Some(user) => Subject::User(user),
        None => Subject::Group(cells.parsed("groupname")?),
    };
    let given = Given {
        subject,
        object: cells.parsed("object")?,
        role: cells.parsed("role")?,
        propagates: cells.flag("propagates")?,
    };
    Ok(PermissionRow { id: cells.parsed("id")?, given })
}

/// The permissions that apply to a user: its own, and those of its groups.
pub(crate) async fn grants_of(db: &mut AnyConnection, user: UserId) -> Result<Vec<Grant>> {
    let rows = sqlx::query(
        "SELECT permission.account_id, permission.object, permission.role, permission.propagates, role.privileges \
         FROM permission LEFT JOIN role ON role.name = permission.role WHERE permission.account_id = $1 \
         OR permission.group_id IN (SELECT group_id FROM membership WHERE account_id = $1)",
    )
    .bind(user.to_string())
    .fetch_all(db)
    .await?;
    let builtin = builtin_roles();
    let grant = |row: &AnyRow| {
        let cells = Cells(row);
        let role = cells.text("role")?;
        let privileges = match builtin.iter().find(|known| known.name.as_str() == role) {
            Some(role) => role.privileges,
            None => cells.json_or_null("privileges")?.unwrap_or_default(),
        };
        Ok(Grant {
            object: cells.parsed("object")?,
            own: cells.text_or_null("account_id")?.is_some(),
            propagates: cells.flag("propagates")?,
            privileges,
        })
    };
    rows.iter().map(grant).collect()
}

/// Everything that decides who may do what.
pub(crate) async fn policy(db: &mut AnyConnection) -> Result<Policy> {
    let roles = roles(&mut *db).await?.into_iter().map(|role| (role.name, role.privileges)).collect();
    let users = user::list(&mut *db).await?.into_iter().map(|user| (user.name, !user.disabled)).collect();
    let mut groups: BTreeMap<Name, BTreeSet<Name>> = BTreeMap::new();
    for group in user::groups(&mut *db).await? {
        groups.insert(group.name, group.members.into_iter().collect());
    }
    let given: Vec<_> = list(&mut *db).await?.into_iter().map(|row| row.given).collect();
    let mut paths = BTreeMap::new();
    for given in &given {
        if !paths.contains_key(&given.object)
            && let Some(place) = Place::find(&mut *db, &given.object.to_string()).await?
        {
            paths.insert(given.object.clone(), place.path());
        }
    }
    Ok(Policy { roles, users, groups, given, paths })
}
