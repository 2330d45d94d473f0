//! Work on a VM home.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ward_types::{
    CryptoPlan, EkCertificate, KeyRef, Name, PlainFormat, Problem, Progress, TaskId, TpmMake, VmConfig, VmId,
};

use super::{DiskChange, HomeRef};
use crate::call::calls;

calls! {
    "start-job" = StartJob => JobStatus;
    "check-job" = CheckJob => ();
    "give-certificates" = GiveCertificates => ();
    "watch-job" = WatchJob => JobStatus;
    "cancel-job" = CancelJob => ();
    "abandon-job" = AbandonJob => Abandoned;
    "forget-job" = ForgetJob => ();
}

/// Begins a job, or goes on with it where the agent or another host was interrupted. Asked again for a job that runs
/// or has ended, it only tells how it stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartJob {
    /// The job has the ID of its task.
    pub job: TaskId,
    /// The VM home.
    pub home: HomeRef,
    /// What to do.
    pub spec: JobSpec,
}

/// Asks whether a job could begin now, and leaves everything as it is. Of the keys that it takes only those must be on the
/// host under which something is already: so that none is made for a job that would be refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckJob {
    /// The job has the ID of its task.
    pub job: TaskId,
    /// The VM home.
    pub home: HomeRef,
    /// What is to be done, with anything for the keys that are not made yet.
    pub spec: JobSpec,
}

/// Work that takes long. Each is checked whole before it begins, survives a crash at any point, and undoes itself
/// where it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum JobSpec {
    /// Makes a plain VM. The home must not exist.
    Create(CreateVm),
    /// Encrypts and decrypts components.
    Crypt {
        /// The steps, in their order.
        plan: CryptoPlan,
    },
    /// Gives a VM a vTPM or takes it away, and changes the encryption of its components in the same step.
    Tpm {
        /// The steps, in their order; none where the home is encrypted already and stays so.
        plan: CryptoPlan,
        /// What becomes of the vTPM.
        change: TpmChange,
    },
    /// Deletes the home with all in it.
    Remove,
    /// Makes an encrypted VM; nothing of what its encrypted disks hold is ever plain on the storage. The home must not
    /// exist.
    CreateEncrypted {
        /// The VM.
        vm: CreateVm,
        /// The KEK of its home.
        home: KeyRef,
        /// The KEKs of its disks, one place for each; none for one that is plain.
        disks: Vec<Option<KeyRef>>,
    },
    /// Makes a VM from another one, which is off and stays as it is. The home must not exist.
    Clone(CloneVm),
    /// Gives a VM a disk or takes one from it.
    Disks(DiskChange),
}

impl JobSpec {
    /// Whether a vTPM is made, or given certificates, so that the job may ask for some.
    #[must_use]
    pub const fn certifies_tpm(&self) -> bool {
        match self {
            Self::CreateEncrypted { vm, .. } => vm.tpm,
            Self::Clone(clone) => clone.replace_tpm,
            Self::Tpm { change, .. } => matches!(change, TpmChange::Add | TpmChange::Certify { .. }),
            Self::Create(_) | Self::Crypt { .. } | Self::Disks(_) | Self::Remove => false,
        }
    }
}

/// What becomes of a VM's vTPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TpmChange {
    /// There is a new one.
    Add,
    /// It goes, with all that the guest keeps in it.
    Remove,
    /// It gets certificates of its endorsement keys. One that has none yet gets the controller's first.
    Certify {
        /// That of the RSA key; none leaves it as it is.
        rsa: Option<EkCertificate>,
        /// That of the ECC key; none leaves it as it is.
        ecc: Option<EkCertificate>,
    },
}

/// Endorsement keys of a vTPM that is being made, for which its job needs certificates to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EkRequest {
    /// What the TPM says of its make.
    pub make: TpmMake,
    /// The RSA key: a TPM2B_PUBLIC, base64.
    pub rsa: String,
    /// The ECC key: a TPM2B_PUBLIC, base64.
    pub ecc: String,
}

/// Gives a job the certificates for which its status asks. One that does not ask, or not any more, takes none.
#[derive(Debug, Serialize, Deserialize)]
pub struct GiveCertificates {
    /// Which job.
    pub job: TaskId,
    /// That of the RSA key.
    pub rsa: EkCertificate,
    /// That of the ECC key.
    pub ecc: EkCertificate,
}

/// A VM to be made from another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneVm {
    /// The home of that one.
    pub from: HomeRef,
    /// The new one's identity.
    pub id: VmId,
    /// The new one's name.
    pub name: Name,
    /// What is changed on the way. A component without a step keeps its keys.
    pub plan: CryptoPlan,
    /// Whether its vTPM is a new one, instead of a copy with the same secrets.
    #[serde(default)]
    pub replace_tpm: bool,
}

/// A VM to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateVm {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: Name,
    /// Virtual processors.
    pub cpus: u16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The kernel to boot directly; none means from the first disk.
    pub kernel: Option<KernelSource>,
    /// Its disks.
    pub disks: Vec<DiskSource>,
    /// What starts it.
    #[serde(default)]
    pub firmware: NewFirmware,
    /// Whether it has a vTPM, which needs UEFI and an encrypted home.
    #[serde(default)]
    pub tpm: bool,
}

/// What starts a new VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NewFirmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi {
        /// Whether it boots only what is signed.
        secure_boot: bool,
        /// A file on the host with the variables that it begins with; none means the host's own, which with Secure Boot
        /// hold Microsoft's keys.
        vars: Option<PathBuf>,
    },
}

/// Files on the host that are copied into the home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSource {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
}

/// Where a new disk's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
pub enum DiskSource {
    /// Nowhere: it is blank.
    Blank {
        /// Its size in bytes.
        size: u64,
        /// Its format.
        format: PlainFormat,
    },
    /// A copy of an image on the host, in the image's own format.
    Copy {
        /// The image; it stays as it is.
        path: PathBuf,
    },
}

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Which job.
    pub job: TaskId,
    /// Grows with each change; see [`WatchJob`].
    pub revision: u64,
    /// What it does just now.
    pub step: String,
    /// How far it is.
    pub progress: Progress,
    /// What it waits for: [`GiveCertificates`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<EkRequest>,
    /// How it ended.
    pub outcome: Option<JobOutcome>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum JobOutcome {
    /// Done.
    Done {
        /// The VM as it is now; none where it was removed.
        config: Option<Box<VmConfig>>,
        /// What somebody should know of it all the same.
        notices: Vec<Notice>,
    },
    /// Failed; nothing of it remains.
    Failed {
        /// Why.
        problem: Problem,
    },
}

/// Something that went well but ought to be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "kebab-case")]
pub enum Notice {
    /// A damaged copy of a disk's LUKS2 header was restored from the other one.
    HeaderRepaired {
        /// The disk's file.
        file: PathBuf,
        /// What was wrong.
        damage: String,
    },
}

/// Waits until a job's revision is above `seen`, or `wait_ms` have passed, and tells how it stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct WatchJob {
    /// Which job.
    pub job: TaskId,
    /// The revision that the caller knows.
    pub seen: u64,
    /// How long to wait, in milliseconds; at most 30,000.
    pub wait_ms: u32,
}

/// Stops a job that runs; it undoes itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct CancelJob {
    /// Which job.
    pub job: TaskId,
}

/// Settles what an interrupted run of a job left, since nobody will go on with it: it is undone, or finished where its
/// moment has passed. Of a job that has left nothing it is a question without effect.
#[derive(Debug, Serialize, Deserialize)]
pub struct AbandonJob {
    /// Which job.
    pub job: TaskId,
    /// The VM home that it worked on.
    pub home: HomeRef,
}

/// A job was abandoned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandoned {
    /// The VM as it is now; none where nothing was to be settled.
    pub config: Option<Box<VmConfig>>,
}

/// Lets the host forget a job that has ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct ForgetJob {
    /// Which job.
    pub job: TaskId,
}
