//! What a host answers about its encryption mode and its dumps.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ward_types::{DumpInfo, KeyRef, LostDump, Name, VmId};

use crate::call::calls;

calls! {
    "set-host-key" = SetHostKey => CryptoStatus;
    "set-key-persistence" = SetKeyPersistence => CryptoStatus;
    "dump-vm" = DumpVm => DumpInfo;
}

/// How a host stands with its host key and its dumps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoStatus {
    /// The machine's hardware UUID (SMBIOS), or its machine ID where the firmware tells none.
    pub hardware: Option<Uuid>,
    /// The host key under which it encrypts dumps; whether it holds that key stands among its keys.
    pub host_key: Option<KeyRef>,
    /// Whether it keeps its keys over a restart, sealed to its TPM.
    pub persistent: bool,
    /// Its dumps, by name.
    pub dumps: Vec<DumpInfo>,
    /// Those that it could not keep: the newest of them.
    #[serde(default)]
    pub lost: Vec<LostDump>,
    /// The keys that open its dumps, those that are being written too. Each once.
    #[serde(default)]
    pub dump_keys: Vec<KeyRef>,
    /// Whether the kernel hands the memory of processes that crash to the host's own handler, which encrypts it.
    #[serde(default)]
    pub core_handler: bool,
}

/// Names the key under which the host encrypts dumps from now on; none means that it makes none any more. What was
/// encrypted under another one is put under the new one, as far as the other one is there.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetHostKey {
    /// The key. The host must hold it, or what unwraps it.
    pub key: Option<KeyRef>,
}

/// Says whether the host keeps its keys over a restart, sealed to its TPM. Refused with `host.unfit` without one.
#[derive(Debug, Serialize, Deserialize)]
pub struct SetKeyPersistence {
    /// Whether.
    pub on: bool,
}

/// Dumps the memory of a guest that runs, encrypted under the host key. Answered when it is written; the guest waits.
#[derive(Debug, Serialize, Deserialize)]
pub struct DumpVm {
    /// The VM.
    pub vm: VmId,
}

/// Asks for a support bundle: the answer's body is a tar archive (see `docs/dump-format.md`).
#[derive(Serialize, Deserialize)]
pub struct SupportBundle {
    /// The password under which dumps are put in it; without one they stay under the host key.
    pub password: Option<String>,
    /// The dumps that go into it; none means all.
    #[serde(default)]
    pub dumps: Option<Vec<Name>>,
}

/// Where a support bundle is asked for.
pub const SUPPORT_BUNDLE_PATH: &str = "/v1/support-bundle";
/// Where a process of the host's own, on the agent's socket, asks for the key of a new dump, whose subject and
/// time are the request's body (JSON). The body of the answer: the
/// length of the lock (4 bytes, big-endian), the lock (JSON), the key (32 bytes).
pub const NEW_DUMP_PATH: &str = "/v1/new-dump";
/// Where, on the agent's socket, a dump is opened: the request's body is its lock (JSON), the answer's its key (32 bytes).
pub const OPEN_DUMP_PATH: &str = "/v1/open-dump";
