//! Ward's vocabulary: what the processes say to one another and to their users. No I/O, no async, no key bytes.

mod crypto;
mod event;
mod ids;
mod key;
mod names;
mod native;
mod problem;
mod task;
mod vm;

pub use crypto::{Component, CryptoPlan, CryptoSpec, CryptoStep, StepAction};
pub use event::{Event, EventKind, EventSubject, Severity};
pub use ids::{ClusterId, DatastoreId, DiskId, HostId, IdError, KdkId, TaskId, TokenId, UserId, VmId};
pub use key::{KeyId, KeyLocator, KeyRef, KeyState, ProviderKind};
pub use names::{FileName, Name, NameError, ProviderName};
pub use native::{BytesError, KdkRef, NativeKey, Salt, WrappedKek};
pub use problem::{Code, Problem};
pub use task::{Progress, ProgressUnit, TaskInfo, TaskKind, TaskState};
pub use vm::{Boot, DiskConfig, DiskCrypto, HomeCrypto, PlainFormat, Power, VmConfig, WrappedHomeKey};
