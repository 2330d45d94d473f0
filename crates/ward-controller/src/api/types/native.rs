//! Native key providers.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use ward_types::{KdkId, Name, ProviderName};

/// What is particular to a native key provider.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NativeView {
    /// The ID of its key, the same in all versions: what a restored provider must have again.
    pub key_id: KdkId,
    /// The versions of its key, from the first on. New keys are made under the last.
    pub versions: Vec<NativeVersion>,
    /// How it stands.
    pub state: NativeState,
    /// The hosts that lack its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingHost>,
    /// When its key as it is now was backed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub backed_up: Option<Timestamp>,
    /// Whether it gives its key to hosts with a TPM only.
    pub tpm_required: bool,
    /// The clusters that it serves; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Name>,
    /// Where the root key comes from, under which the controller keeps the key sealed.
    pub sealed_under: String,
}

/// A version of a native provider's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NativeVersion {
    /// Its number.
    pub version: u32,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// How many hosts need it, as host keys or for dumps.
    #[serde(default)]
    pub hosts: usize,
    /// How many VMs need it.
    pub vms: usize,
}

/// How a native provider stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NativeState {
    /// Its key has no backup: it encrypts nothing.
    NotBackedUp,
    /// Hosts lack its key.
    Warning,
    /// All that are to have its key have it.
    Active,
}

impl fmt::Display for NativeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotBackedUp => "not backed up",
            Self::Warning => "warning",
            Self::Active => "active",
        })
    }
}

/// A host that lacks a native provider's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingHost {
    /// The host.
    pub host: Name,
    /// Why.
    pub why: String,
}

/// A native key provider that is to be made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddNative {
    /// Its name, which is its identity.
    pub name: ProviderName,
    /// Whether to give its key to hosts with a TPM only.
    #[serde(default)]
    pub tpm_required: bool,
    /// The clusters that it is to serve; none means all.
    #[serde(default)]
    pub clusters: Vec<Name>,
    /// Whether keys come from it unless said otherwise. The first provider is the default one anyway.
    #[serde(default)]
    pub default: bool,
}

/// Under what a backup is to be made.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportNative {
    /// The password.
    pub password: String,
    /// Whether an empty password is meant: it protects nothing.
    #[serde(default)]
    pub allow_empty: bool,
}

/// A backup.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct NativeBackup {
    /// The file (PKCS#12), base64.
    pub file: String,
    /// The last version of the key in it: to be given back when the file is kept.
    pub version: u32,
}

/// Says that a backup is kept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepNative {
    /// The last version of the key in it.
    pub version: u32,
}

/// A backup that is to be restored.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportNative {
    /// The provider's name: that of the backup.
    pub name: ProviderName,
    /// The file (PKCS#12), base64.
    pub file: String,
    /// Its password.
    pub password: String,
    /// Whether only to look.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a backup holds and what restoring it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// The provider.
    pub provider: ProviderName,
    /// The ID of its key.
    pub key_id: KdkId,
    /// The versions of the key in the backup.
    pub versions: Vec<u32>,
    /// Those of them that the controller did not have.
    pub added: Vec<u32>,
    /// Whether it gives its key to hosts with a TPM only.
    pub tpm_required: bool,
    /// When the backup was made.
    pub exported: String,
    /// Whether it was only looked at.
    pub dry_run: bool,
}

impl fmt::Debug for ExportNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportNative").finish_non_exhaustive()
    }
}

impl fmt::Debug for NativeBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeBackup").field("version", &self.version).finish_non_exhaustive()
    }
}

impl fmt::Debug for ImportNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportNative").field("name", &self.name).finish_non_exhaustive()
    }
}
