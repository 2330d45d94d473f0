//! What a host does to the disks of a VM that is there, and how it tells of a disk in a file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ward_types::{DiskId, KeyRef, PlainFormat, VmId};

use crate::call::calls;

calls! {
    "read-disk" = ReadDisk => DiskInfo;
}

/// A change of a VM's disks. The VM must be off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum DiskChange {
    /// Gives it another disk.
    Add(AddDisk),
    /// Gives a disk that was detached back to it.
    Attach {
        /// Which.
        disk: DiskId,
    },
    /// Takes a disk from it, and keeps it in the home.
    Detach {
        /// Which.
        disk: DiskId,
    },
    /// Deletes a disk.
    Remove {
        /// Which.
        disk: DiskId,
    },
}

/// A disk that a VM is to get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddDisk {
    /// Its number, which no other disk of the VM has.
    pub id: DiskId,
    /// Where its content comes from. What is copied stays as it is.
    pub from: DiskFrom,
    /// The KEK under which it is in the VM; none where it is plain there.
    pub key: Option<KeyRef>,
    /// Whether it gets a new DEK, where it was encrypted before.
    pub new_dek: bool,
}

/// Where the content of a VM's new disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum DiskFrom {
    /// Nowhere: it is blank.
    Blank {
        /// Its size in bytes.
        size: u64,
        /// Its format.
        format: PlainFormat,
    },
    /// A plain image on the host.
    Image {
        /// The image.
        path: PathBuf,
        /// Its format, where that is known from elsewhere than from its content.
        format: Option<PlainFormat>,
    },
    /// A disk that Ward has encrypted, of whatever VM.
    Volume {
        /// The disk's file.
        path: PathBuf,
        /// What it says about itself, or must say.
        label: VolumeLabel,
        /// Its size in bytes, and what decrypting it makes; none where only its file is known.
        known: Option<(u64, PlainFormat)>,
    },
}

/// What an encrypted disk says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLabel {
    /// The KEK that opens it.
    pub key: KeyRef,
    /// Whose disk it is.
    pub vm: VmId,
    /// Which disk of that VM.
    pub disk: DiskId,
}

/// Asks what a file is that is to become a disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadDisk {
    /// The file.
    pub path: PathBuf,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum DiskInfo {
    /// A plain image.
    Plain,
    /// A disk that Ward has encrypted.
    Volume(VolumeLabel),
}
