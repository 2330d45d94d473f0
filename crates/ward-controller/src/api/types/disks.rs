//! The disks of a VM that is there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use ward_types::{CryptoSpec, DiskCrypto, DiskId, FileName, PlainFormat, PolicyName};

/// A disk that a VM is to get.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVmDisk {
    /// What it is made of. What is copied stays as it is.
    pub from: NewDiskFrom,
    /// What is done to it on the way: `encrypt`, `decrypt`, `shallow-recrypt`, `deep-recrypt`. Where nothing is said, a
    /// plain disk stays plain, and an encrypted one under its key.
    #[serde(default)]
    pub crypto: CryptoSpec,
    /// The storage policy under which it is to be, instead.
    #[serde(default)]
    pub policy: Option<PolicyName>,
}

/// What a new disk is made of.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NewDiskFrom {
    /// Nothing: it is blank.
    Blank {
        /// Its size in bytes, a multiple of 4096.
        size: u64,
        /// Its format when it is not encrypted.
        format: PlainFormat,
    },
    /// A file that the hosts can read: a plain image, or a disk that Ward has encrypted, of whatever VM.
    File {
        /// The file.
        #[schema(value_type = String)]
        path: PathBuf,
    },
    /// A disk of a VM of the inventory, which must be off. It stays with that VM.
    Vm {
        /// That VM's name or ID.
        vm: String,
        /// Which of its disks.
        disk: DiskId,
    },
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmDiskView {
    /// Its number.
    pub id: DiskId,
    /// Its file in the home.
    pub file: FileName,
    /// What the guest sees, in bytes.
    pub size: u64,
    /// Its format when it is not encrypted.
    pub plain_format: PlainFormat,
    /// Whether it is encrypted, and under which key.
    pub crypto: DiskCrypto,
    /// Whether the VM has it when it runs.
    pub attached: bool,
    /// Whether the VM boots from it.
    pub boots: bool,
    /// The storage policy under which it is.
    pub policy: PolicyName,
}
