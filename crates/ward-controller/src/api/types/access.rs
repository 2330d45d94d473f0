//! Users, groups, roles, permissions, sessions, the audit log.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use ward_types::{Name, PermissionId, Privilege, PrivilegeSet, RoleName, Subject, TokenId};

/// A password that is to be somebody's.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The password, of 8 to 256 characters.
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
}

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewPassword").finish_non_exhaustive()
    }
}

/// A user's own password, and the one that it is to be.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    /// The password as it is.
    pub current: String,
    /// The password as it is to be, of 8 to 256 characters.
    #[schema(min_length = 8, max_length = 256)]
    pub new: String,
}

impl fmt::Debug for ChangePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangePassword").finish_non_exhaustive()
    }
}

/// A session of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionView {
    /// Its ID, which is not its token.
    pub id: TokenId,
    /// Whose it is.
    pub user: Name,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// Until when it is good.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    /// Its name.
    pub name: Name,
    /// Whether it may not log in.
    pub disabled: bool,
    /// The groups that it belongs to.
    pub groups: Vec<Name>,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

/// A user that is to be.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddUser {
    /// Its name.
    pub name: Name,
    /// Its password, of 8 to 256 characters.
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
}

impl fmt::Debug for AddUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    /// Its name.
    pub name: Name,
    /// Its members.
    pub members: Vec<Name>,
}

/// A group that is to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddGroup {
    /// Its name.
    pub name: Name,
}

/// A privilege.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrivilegeView {
    /// Its name.
    pub name: Privilege,
    /// What it allows.
    pub allows: String,
}

/// A role that is to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRole {
    /// Its name.
    pub name: RoleName,
    /// What it is to allow; a role without privileges shuts its holder out.
    pub privileges: PrivilegeSet,
}

/// What a role is to allow.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRole {
    /// The privileges.
    pub privileges: PrivilegeSet,
}

/// A permission: a role for a user or group on an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PermissionView {
    /// Its ID.
    pub id: PermissionId,
    /// Who has it.
    pub subject: Subject,
    /// On what: `root` or KIND/NAME.
    pub object: String,
    /// The role.
    pub role: RoleName,
    /// Whether it holds for all that is in the object too.
    pub propagates: bool,
}

/// A permission that is to be given. It takes the place of the one that the subject has on the object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPermission {
    /// Who is to have it.
    pub subject: Subject,
    /// On what: `root`, or KIND/NAME such as `cluster/default`, `vm/web-1`, `provider/kms`.
    pub object: String,
    /// The role.
    pub role: RoleName,
    /// Whether it is to hold for all that is in the object too; it does unless said otherwise.
    #[serde(default = "yes")]
    pub propagates: bool,
}

const fn yes() -> bool {
    true
}

/// What the caller may do on an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Allowed {
    /// The object: `root` or KIND/NAME.
    pub object: String,
    /// What it may.
    pub privileges: PrivilegeSet,
}

/// Which object.
#[derive(Clone, Debug, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AllowedQuery {
    /// The object: `root`, or KIND/NAME.
    pub object: String,
}

/// A cluster that is to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddCluster {
    /// Its name.
    pub name: Name,
}

/// A code of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodeView {
    /// The code.
    pub code: ward_types::Code,
    /// What it means.
    pub title: String,
    /// The HTTP status that it comes with.
    pub status: u16,
    /// The exit code of a command that fails with it.
    pub exit_code: u8,
}

/// How long the audit log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCount {
    /// How many entries were ever written.
    pub entries: i64,
}

/// Which entries of the audit log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Those after this number; none means from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 0)]
    pub after: Option<i64>,
    /// At most so many; none means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<i64>, minimum = 1, maximum = 4_294_967_295_i64)]
    pub limit: Option<u32>,
}
