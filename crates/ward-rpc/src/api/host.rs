//! What a host answers to the controller.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ward_types::{
    CryptoPlan, EkCertificate, HostId, Isolation, KdkRef, KeyRef, Name, PlainFormat, Power, Problem, Progress,
    ProviderName, TaskId, TpmMake, TrustStatus, VmConfig, VmId,
};

use super::disk::DiskChange;
use crate::Call;

/// Where a VM home lies: a directory in a datastore.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HomeRef {
    /// The datastore's directory, the same on all hosts of a cluster.
    pub datastore: PathBuf,
    /// The home's directory in it; the VM's name when it was made.
    pub directory: Name,
}

impl HomeRef {
    /// The home's path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.datastore.join(self.directory.as_str())
    }
}

/// Asks how the host is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The keys that the asker knows the host to hold: of many keys it is not told again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<KeysMark>,
    /// Without its keys, whichever they are: many are just being given to it.
    #[serde(default)]
    pub without_keys: bool,
}

/// The keys that a host holds at one moment. Under the same mark they are the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysMark {
    /// The run of the agent.
    pub boot: Uuid,
    /// Grows with every change within it.
    pub revision: u64,
}

/// How a host is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Who answers.
    pub host: HostId,
    /// The agent's version.
    pub version: String,
    /// This run of the agent; another one has another key cache.
    pub boot: Uuid,
    /// Which keys it holds.
    pub mark: KeysMark,
    /// The keys that it holds; none where they are those that the asker knows, or does not want to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<KeyRef>>,
    /// The VMs that it runs.
    pub vms: Vec<VmId>,
    /// The jobs that it knows, ended ones too until they are forgotten.
    pub jobs: Vec<JobStatus>,
    /// QEMU's version, if there is a QEMU.
    pub qemu: Option<String>,
    /// Whether guests run on the processor itself (KVM), or are emulated (TCG).
    pub kvm: bool,
    /// What else it has for VMs.
    #[serde(default)]
    pub parts: HostParts,
    /// Running VMs of which a process has died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenVm>,
    /// Why the host can't hold keys, if it can't.
    pub unfit: Option<Problem>,
    /// The keys of native providers.
    #[serde(default)]
    pub native: NativeStatus,
    /// How it stands with the trust authorities that it was told of.
    #[serde(default)]
    pub trust: Vec<TrustStatus>,
    /// Its host key and its dumps.
    #[serde(default)]
    pub crypto: super::crypto::CryptoStatus,
    /// How it keeps VMs apart.
    #[serde(default)]
    pub isolation: Isolation,
}

/// What a host has for VMs beside a QEMU. Each is a thing to be installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostParts {
    /// UEFI firmware.
    pub uefi: bool,
    /// UEFI firmware that does Secure Boot.
    pub secure_boot: bool,
    /// swtpm, for vTPMs.
    pub swtpm: bool,
}

/// A running VM of which a process has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BrokenVm {
    /// Which VM.
    pub vm: VmId,
    /// What died.
    pub part: VmPart,
    /// When, by the host's clock: so that a second time is another one.
    pub at: Timestamp,
}

/// A process without which a running VM is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPart {
    /// swtpm. The guest goes on without its vTPM.
    Tpm,
    /// The disk process. QEMU is stopped: the guest would wait for its disks for ever.
    Disk,
}

/// What a host says of the keys of native providers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeStatus {
    /// Those that it has, in order.
    pub keys: Vec<KdkRef>,
    /// Whether it has a TPM to seal them to.
    pub tpm: bool,
    /// Whether they outlive a restart of the host: sealed to its TPM.
    pub sealed: bool,
    /// What is wrong with its TPM, or with what was sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Problem>,
}

/// Makes a key for a VM under a native provider's key, and tells its reference: the only place where it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeKey {
    /// The provider's key.
    pub kdk: KdkRef,
    /// The VM, which alone can use the new key.
    pub vm: VmId,
}

impl Call for MakeKey {
    type Reply = KeyRef;
    const NAME: &'static str = "make-key";
}

/// Tells the host of all trusted providers that it is to have. What is not among them goes.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeTrust {
    /// The providers.
    pub providers: Vec<DescribedProvider>,
    /// Whether it is to be attested anew at once, whatever it holds; the answer then tells how that ended.
    pub anew: bool,
}

/// A trusted provider, and the signed description of its trust authority's services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedProvider {
    /// The provider.
    pub provider: ProviderName,
    /// The description. The controller can't make one: the trust administrators sign it.
    pub description: String,
}

impl Call for TakeTrust {
    type Reply = Vec<TrustStatus>;
    const NAME: &'static str = "take-trust";
}

/// Makes the host get keys of trusted providers from the trust authority, for as long as it is attested.
#[derive(Debug, Serialize, Deserialize)]
pub struct ObtainKeys {
    /// Which.
    pub keys: Vec<KeyRef>,
}

impl Call for ObtainKeys {
    type Reply = ();
    const NAME: &'static str = "obtain-keys";
}

/// Makes the host have the trust authority make a key, and tells its reference: the only place where it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeTrustedKey {
    /// The provider.
    pub provider: ProviderName,
}

impl Call for MakeTrustedKey {
    type Reply = KeyRef;
    const NAME: &'static str = "make-trusted-key";
}

impl Call for Status {
    type Reply = HostStatus;
    const NAME: &'static str = "status";
}

/// Asks which VM homes of some datastores need a key: whether they are in the inventory or not.
#[derive(Debug, Serialize, Deserialize)]
pub struct HomesUnder {
    /// The datastores' directories.
    pub datastores: Vec<PathBuf>,
    /// The key.
    pub key: KeyRef,
}

impl Call for HomesUnder {
    type Reply = Vec<PathBuf>;
    const NAME: &'static str = "homes-under";
}

/// Makes the host forget keys. Those of running VMs stay in their disk processes.
#[derive(Debug, Serialize, Deserialize)]
pub struct DropKeys {
    /// Which.
    pub keys: Vec<KeyRef>,
}

impl Call for DropKeys {
    type Reply = ();
    const NAME: &'static str = "drop-keys";
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

impl Call for StartJob {
    type Reply = JobStatus;
    const NAME: &'static str = "start-job";
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

impl Call for CheckJob {
    type Reply = ();
    const NAME: &'static str = "check-job";
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

impl Call for GiveCertificates {
    type Reply = ();
    const NAME: &'static str = "give-certificates";
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

impl Call for WatchJob {
    type Reply = JobStatus;
    const NAME: &'static str = "watch-job";
}

/// Stops a job that runs; it undoes itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct CancelJob {
    /// Which job.
    pub job: TaskId,
}

impl Call for CancelJob {
    type Reply = ();
    const NAME: &'static str = "cancel-job";
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

impl Call for AbandonJob {
    type Reply = Abandoned;
    const NAME: &'static str = "abandon-job";
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

impl Call for ForgetJob {
    type Reply = ();
    const NAME: &'static str = "forget-job";
}

/// Starts a VM. Refused with `key.not-on-host` where a key is missing, `image.locked` where it runs elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartVm {
    /// Which VM.
    pub vm: VmId,
    /// Its home.
    pub home: HomeRef,
    /// What its description must say, to the letter: of an encrypted VM, what the controller knows of it. A description that
    /// was right once and was put back is known by nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Box<VmConfig>>,
}

impl Call for StartVm {
    type Reply = Started;
    const NAME: &'static str = "start-vm";
}

/// A VM was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// What somebody should know all the same.
    pub notices: Vec<Notice>,
}

/// Stops a VM. Answered when it is off.
#[derive(Debug, Serialize, Deserialize)]
pub struct StopVm {
    /// Which VM.
    pub vm: VmId,
    /// Whether to pull the plug instead of asking the guest (ACPI) and waiting for `wait_ms`.
    pub force: bool,
    /// How long the guest may take, in milliseconds, before the plug is pulled.
    pub wait_ms: u32,
}

impl Call for StopVm {
    type Reply = ();
    const NAME: &'static str = "stop-vm";
}

/// Asks whether a VM runs here.
#[derive(Debug, Serialize, Deserialize)]
pub struct VmPower {
    /// Which VM.
    pub vm: VmId,
}

impl Call for VmPower {
    type Reply = Power;
    const NAME: &'static str = "vm-power";
}

/// Reads a VM's serial console from `offset` on; waits up to `wait_ms` for something to read. What a guest prints is
/// kept in the agent's memory only, at most its last 64 KiB.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadConsole {
    /// Which VM.
    pub vm: VmId,
    /// How much the caller has read, counted from the VM's start.
    pub offset: u64,
    /// How long to wait, in milliseconds; at most 30,000.
    pub wait_ms: u32,
}

impl Call for ReadConsole {
    type Reply = ConsoleText;
    const NAME: &'static str = "read-console";
}

/// A piece of a console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleText {
    /// Where it ends, counted from the VM's start: the next `offset`.
    pub end: u64,
    /// What the guest printed; bytes that are no UTF-8 replaced.
    pub text: String,
    /// Whether the VM still runs.
    pub power: Power,
}

/// Reads a VM home: to rebuild the controller's index, or to check it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadHome {
    /// The home.
    pub home: HomeRef,
}

impl Call for ReadHome {
    type Reply = VmConfig;
    const NAME: &'static str = "read-home";
}

/// Starts the VM in a home. Answered on the host's own socket too, so that it works without the controller.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartHome {
    /// The home.
    pub home: HomeRef,
}

impl Call for StartHome {
    type Reply = Started;
    const NAME: &'static str = "start-home";
}
