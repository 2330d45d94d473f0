//! Ward's vocabulary: what the processes say to one another and to their users. No I/O, no async, no key bytes.

mod audit;
mod authz;
mod crypto;
mod dump;
mod event;
mod host_mode;
mod ids;
mod isolation;
mod key;
mod names;
mod native;
mod problem;
mod server;
mod task;
mod text;
mod trusted;
mod vm;

pub use audit::{AuditEntry, AuditOutcome, AuditRecord};
pub use authz::{Object, ObjectKind, Privilege, PrivilegeSet, Role, RoleKind, Subject, builtin_roles};
pub use crypto::{Component, CryptoPlan, CryptoRequest, CryptoSpec, CryptoStep, KeyWish, StepAction};
pub use dump::{DumpAbout, DumpInfo, DumpSubject, LostDump};
pub use event::{Event, EventKind, EventSubject, Severity};
pub use host_mode::{HostCrypto, HostMode};
pub use ids::{
    ClusterId, DatastoreId, DiskId, GroupId, HostId, IdError, KdkId, PermissionId, TaskId, TokenId, UserId, VmId,
    VolumeId,
};
pub use isolation::Isolation;
pub use key::{KeyId, KeyLocator, KeyRef, KeyState, ProviderKind};
pub use names::{FileName, Name, NameError, PolicyName, ProviderName, RoleName};
pub use native::{BytesError, KdkRef, NativeKey, Salt, WrappedKek};
pub use problem::{Code, Problem, ProblemDocument};
pub use server::{NoServer, ServerAddress};
pub use task::{Progress, ProgressUnit, TaskInfo, TaskKind, TaskState};
pub use trusted::{TrustStatus, TrustedKey};
pub use vm::{
    Boot, DiskConfig, DiskCrypto, EkCertificate, Endorsement, EndorsementKey, Firmware, HomeCrypto, Nvram, PlainFormat,
    Power, TpmMake, VirtualTpm, VmConfig, VolumeRef, WrappedHomeKey, WrappedTpmKey,
};
