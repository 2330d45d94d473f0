//! The audit log: who was allowed or refused what, and what came of it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{KeyRef, Object, PrivilegeSet, TaskId};

/// What an entry of the audit log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It was allowed, and begun.
    Granted,
    /// It was not allowed.
    Refused,
    /// What was begun earlier was done.
    Done,
    /// What was begun earlier failed, and was undone.
    Failed,
}

impl fmt::Display for AuditOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Granted => "granted",
            Self::Refused => "refused",
            Self::Done => "done",
            Self::Failed => "failed",
        })
    }
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number: 1, 2, 3 and so on, without gaps.
    pub number: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Who: the name that was shown, which for a failed login may be no user's.
    pub user: String,
    /// What was to be done: an operation such as `vm.encrypt`.
    pub operation: String,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// On what.
    pub object: Object,
    /// The object's name.
    pub object_name: String,
    /// The privileges that it takes.
    #[serde(default, skip_serializing_if = "PrivilegeSet::is_empty_ref")]
    pub privileges: PrivilegeSet,
    /// The keys concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyRef>,
    /// The task that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The particulars.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The hash of the entry before this one; 64 zeros for the first.
    pub previous: String,
}

/// An entry as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    /// The text of an [`AuditEntry`] in JSON, byte for byte as it was hashed.
    pub entry: String,
    /// SHA-256 of that text, in hexadecimal.
    pub hash: String,
}
