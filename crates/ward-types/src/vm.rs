//! What a VM is: the content of `vm.toml`, and of the controller's index of it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DiskId, FileName, KeyRef, Name, VmId, VolumeId};

/// The description of a VM, as it lies in its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Version of this format; 1.
    pub version: u32,
    /// The VM's identity.
    pub id: VmId,
    /// The VM's name.
    pub name: Name,
    /// Virtual processors.
    pub cpus: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What it boots.
    pub boot: Boot,
    /// What starts it.
    #[serde(default, skip_serializing_if = "Firmware::is_bios")]
    pub firmware: Firmware,
    /// Whether the home is encrypted.
    pub home: HomeCrypto,
    /// Its disks, by number.
    #[serde(default, rename = "disk", skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskConfig>,
    /// Its vTPM. It needs UEFI and an encrypted home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<VirtualTpm>,
}

/// What a VM boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Boot {
    /// Its first disk, by the BIOS.
    Disk,
    /// A Linux kernel that lies in the home. It is not encrypted.
    Kernel {
        /// The kernel.
        kernel: FileName,
        /// The initial RAM disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initrd: Option<FileName>,
        /// The kernel's command line.
        #[serde(default)]
        command_line: String,
    },
}

/// What starts a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS, which keeps nothing.
    #[default]
    Bios,
    /// OVMF.
    Uefi {
        /// Whether it boots only what is signed, and whether the guest's kernel is kept from its variables.
        secure_boot: bool,
        /// Where its variables are.
        nvram: Nvram,
    },
}

/// The store of a VM's UEFI variables. It is encrypted when the VM home is, under the same KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nvram {
    /// Its file in the home.
    pub file: FileName,
    /// What the firmware sees, in bytes.
    pub size: u64,
}

/// A VM's TPM 2.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VirtualTpm {
    /// The directory in the home where its state lies, encrypted.
    pub state: FileName,
    /// The key of the state, wrapped under the home's KEK.
    pub wrapped_key: WrappedTpmKey,
    /// Its endorsement keys and their certificates, as they are in its NV memory; none for one that was made before vTPMs
    /// got certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsement: Option<Endorsement>,
}

/// What a vTPM shows of who it is: its endorsement keys (EK), each with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Endorsement {
    /// What it says of its make.
    pub make: TpmMake,
    /// The RSA-2048 key of the TCG's template L-1.
    pub rsa: EndorsementKey,
    /// The ECC P-256 key of the TCG's template L-2.
    pub ecc: EndorsementKey,
}

/// What a TPM says of its make, as the TCG's EK certificates have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TpmMake {
    /// tPMManufacturer, such as `id:49424D00`.
    pub manufacturer: String,
    /// tPMModel
    pub model: String,
    /// tPMVersion, such as `id:20191023`.
    pub version: String,
    /// The revision of the TPM 2.0 specification, such as 164 for 1.64.
    pub revision: u32,
}

/// An endorsement key and its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndorsementKey {
    /// The public area, a TPM2B_PUBLIC, base64.
    pub public: String,
    /// The certificate, DER, base64.
    pub certificate: EkCertificate,
}

/// The certificate of an endorsement key: DER, base64 in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct EkCertificate(pub String);

/// A wrapped key of a vTPM: AES-KWP ciphertext, base64 in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct WrappedTpmKey(pub String);

/// Whether a VM home is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum HomeCrypto {
    /// It is not.
    Plain,
    /// It is.
    Encrypted {
        /// The KEK that opens `wrapped_key`.
        key: KeyRef,
        /// The home's own key, wrapped under the KEK.
        wrapped_key: WrappedHomeKey,
    },
}

/// A wrapped home key: AES-KWP ciphertext, base64 in files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct WrappedHomeKey(pub String);

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Its number.
    pub id: DiskId,
    /// Its file in the home.
    pub file: FileName,
    /// What the guest sees, in bytes.
    pub size: u64,
    /// Its format when it is not encrypted; what decrypting it makes.
    pub plain_format: PlainFormat,
    /// Whether it is encrypted.
    pub crypto: DiskCrypto,
    /// Whether the VM has it when it runs. A disk that was detached stays in the home, under its number and its key, and
    /// what may be done to the encryption of disks may be done to it.
    #[serde(default = "attached", skip_serializing_if = "is_attached")]
    #[schema(default = true)]
    pub attached: bool,
}

const fn attached() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "Serde asks like that")]
const fn is_attached(attached: &bool) -> bool {
    *attached
}

/// Whether a disk is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum DiskCrypto {
    /// It is a plain image.
    Plain,
    /// It is a LUKS2 volume.
    Encrypted {
        /// The KEK that opens its keyslot.
        key: KeyRef,
    },
}

/// The format of a plain image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlainFormat {
    /// The bytes of the disk.
    Raw,
    /// QEMU's format.
    Qcow2,
}

impl fmt::Display for PlainFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// It does not.
    Off,
    /// It does.
    On,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

impl VmConfig {
    /// The version of the format that this program writes and reads.
    pub const VERSION: u32 = 1;

    /// The disk with that number.
    #[must_use]
    pub fn disk(&self, id: DiskId) -> Option<&DiskConfig> {
        self.disks.iter().find(|disk| disk.id == id)
    }

    /// Its volumes: the store of its UEFI variables, if there is one, and its disks.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeRef<'_>> {
        let nvram = self.firmware.nvram().map(|nvram| VolumeRef {
            id: VolumeId::Nvram,
            file: &nvram.file,
            size: nvram.size,
            plain_format: PlainFormat::Raw,
            key: self.home.key(),
        });
        nvram.into_iter().chain(self.disks.iter().map(VolumeRef::from))
    }

    /// The volumes that it has when it runs: the store of its UEFI variables, and the disks that are attached.
    pub fn volumes_to_run(&self) -> impl Iterator<Item = VolumeRef<'_>> {
        let detached =
            |volume: &VolumeRef<'_>| self.disks.iter().any(|disk| !disk.attached && volume.id == disk.id.into());
        self.volumes().filter(move |volume| !detached(volume))
    }

    /// That volume.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<VolumeRef<'_>> {
        self.volumes().find(|volume| volume.id == id)
    }

    /// The disks that the VM has when it runs.
    pub fn attached(&self) -> impl Iterator<Item = &DiskConfig> {
        self.disks.iter().filter(|disk| disk.attached)
    }

    /// The disk that it boots from; none where it boots a kernel.
    #[must_use]
    pub fn boot_disk(&self) -> Option<&DiskConfig> {
        match self.boot {
            Boot::Disk => self.attached().next(),
            Boot::Kernel { .. } => None,
        }
    }

    /// Every KEK that the VM needs to run, each once: the home's first, then those of the disks that it has then.
    #[must_use]
    pub fn keys_to_run(&self) -> Vec<&KeyRef> {
        each_once(self.home.key().into_iter().chain(self.attached().filter_map(DiskConfig::key)))
    }

    /// Every KEK under which anything of the VM is, each once: the home's first, then those of all its disks.
    #[must_use]
    pub fn keys(&self) -> Vec<&KeyRef> {
        each_once(self.home.key().into_iter().chain(self.disks.iter().filter_map(DiskConfig::key)))
    }

    /// Whether anything of the VM is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !self.keys().is_empty()
    }
}

/// A volume of a VM, as its description has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeRef<'a> {
    /// Which.
    pub id: VolumeId,
    /// Its file in the home.
    pub file: &'a FileName,
    /// What the guest sees, in bytes.
    pub size: u64,
    /// Its format when it is not encrypted.
    pub plain_format: PlainFormat,
    /// The KEK that opens it, if it is encrypted.
    pub key: Option<&'a KeyRef>,
}

impl<'a> From<&'a DiskConfig> for VolumeRef<'a> {
    fn from(disk: &'a DiskConfig) -> Self {
        Self { id: disk.id.into(), file: &disk.file, size: disk.size, plain_format: disk.plain_format, key: disk.key() }
    }
}

impl Firmware {
    /// Whether it is a BIOS.
    #[must_use]
    pub const fn is_bios(&self) -> bool {
        matches!(self, Self::Bios)
    }

    /// Where its variables are, if it has any.
    #[must_use]
    pub const fn nvram(&self) -> Option<&Nvram> {
        match self {
            Self::Bios => None,
            Self::Uefi { nvram, .. } => Some(nvram),
        }
    }
}

impl HomeCrypto {
    /// The KEK of the home, if it is encrypted.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyRef> {
        match self {
            Self::Plain => None,
            Self::Encrypted { key, .. } => Some(key),
        }
    }
}

fn each_once<'a>(all: impl Iterator<Item = &'a KeyRef>) -> Vec<&'a KeyRef> {
    let mut keys = Vec::new();
    for key in all {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

impl DiskConfig {
    /// The KEK that the disk needs, if it is encrypted.
    #[must_use]
    pub const fn key(&self) -> Option<&KeyRef> {
        match &self.crypto {
            DiskCrypto::Plain => None,
            DiskCrypto::Encrypted { key } => Some(key),
        }
    }
}
