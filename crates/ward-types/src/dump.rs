//! Dumps of memory that a host keeps, encrypted: what is known of them without opening them.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{HostId, KeyRef, Name, VmId};

/// Whose memory a dump holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum DumpSubject {
    /// A process that a signal ended: an ELF core file.
    Process {
        /// Its ID, as the host's kernel counts.
        pid: u32,
        /// Its name, as the kernel gives it.
        command: String,
        /// The signal.
        signal: u32,
    },
    /// A guest, as QEMU writes it: an ELF core file.
    Guest {
        /// The VM.
        vm: VmId,
    },
}

impl fmt::Display for DumpSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command, signal } => write!(f, "process {pid} ({command}), signal {signal}"),
            Self::Guest { vm } => write!(f, "guest of VM {vm}"),
        }
    }
}

/// What a dump says of itself in the open; it does not open where that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpAbout {
    /// The host on which it was taken.
    pub host: HostId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub taken: Timestamp,
    /// Whose memory it holds.
    #[serde(flatten)]
    pub subject: DumpSubject,
}

/// A dump that a host could not keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostDump {
    /// A name of its own.
    pub name: Name,
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    pub taken: Timestamp,
    /// Whose memory it held.
    #[serde(flatten)]
    pub subject: DumpSubject,
    /// Why it could not be kept.
    pub why: String,
}

/// A dump that a host keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpInfo {
    /// Its name: that of its file, without the ending.
    pub name: Name,
    /// What it says of itself.
    #[serde(flatten)]
    pub about: DumpAbout,
    /// The host key that opens it.
    pub key: KeyRef,
    /// The file's size in bytes.
    pub size: u64,
}
