//! Long work: what it is, how far it is.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Name, Problem, TaskId, VmId};

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Makes a VM with blank disks.
    VmCreate,
    /// Makes a VM from existing images.
    VmImport,
    /// Starts a VM.
    VmStart,
    /// Stops a VM.
    VmStop,
    /// Encrypts a VM or parts of it.
    VmEncrypt,
    /// Decrypts a VM or parts of it.
    VmDecrypt,
    /// Deletes a VM with its home.
    VmRemove,
    /// Puts new keys in the place of old ones.
    VmRecrypt,
    /// Changes the encryption of several components in several ways.
    VmReconfigure,
    /// Gives a VM a disk or takes one from it.
    VmDisks,
    /// Makes a VM from another one.
    VmClone,
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::VmCreate => "vm create",
            Self::VmImport => "vm import",
            Self::VmStart => "vm start",
            Self::VmStop => "vm stop",
            Self::VmEncrypt => "vm encrypt",
            Self::VmDecrypt => "vm decrypt",
            Self::VmRemove => "vm rm",
            Self::VmRecrypt => "vm recrypt",
            Self::VmReconfigure => "vm reconfigure",
            Self::VmDisks => "vm disk",
            Self::VmClone => "vm clone",
        })
    }
}

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Not begun.
    Queued,
    /// Being done, or waiting for what it needs (the step says which).
    Running,
    /// Done.
    Succeeded,
    /// Given up; nothing of it remains.
    Failed,
}

impl TaskState {
    /// Whether nothing more will happen to the task.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        })
    }
}

/// In what progress counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProgressUnit {
    /// Bytes of disk.
    #[default]
    Bytes,
}

/// How far a piece of work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// How much is done.
    pub done: u64,
    /// How much there is; 0 where that is not known.
    pub total: u64,
    /// In what both count.
    #[serde(default)]
    pub unit: ProgressUnit,
}

/// A task as users see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskInfo {
    /// Its ID.
    pub id: TaskId,
    /// What it does.
    pub kind: TaskKind,
    /// To which VM.
    pub vm: VmId,
    /// The VM's name when the task began.
    pub vm_name: Name,
    /// How it stands.
    pub state: TaskState,
    /// What it does just now, or waits for.
    pub step: String,
    /// How far it is.
    pub progress: Progress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// Who asked for it.
    pub user: Name,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended: Option<Timestamp>,
}
