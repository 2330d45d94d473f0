//! What happened: the log that auditors read.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::text;
use crate::{HostId, KeyRef, Name, Problem, ProviderName, TaskId, VmId};

/// How much an event wants attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// None: it is a record.
    Info,
    /// Soon.
    Warning,
    /// Now.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $variant:ident = $text:literal, $severity:ident;)*) => {
        /// What happened. The text form is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$meta])* #[serde(rename = $text)] $variant,)*
        }

        impl EventKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// How much it wants attention.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }
        }
    };
}

kinds! {
    /// A key was made at a key server.
    KeyCreated = "key.created", Info;
    /// A key was given to hosts.
    KeyPushed = "key.pushed", Info;
    /// Nothing in the inventory needs the key any more; it stays at the key server.
    KeyUnneeded = "key.unneeded", Info;
    /// A key that nothing needed was destroyed at its key server.
    KeyDestroyed = "key.destroyed", Info;
    /// Keys were taken from a host, which leaves or does not need them.
    KeyDropped = "key.dropped", Info;
    /// A key could not be made.
    KeyNotMade = "key.error.not-made", Error;
    /// The time was set for which keys that nothing needs are kept.
    KeyGraceSet = "key.grace-set", Info;
    /// The key server refused custom attributes; the key is good, without them.
    KeyAttributesRefused = "key.attributes-refused", Warning;
    /// A key could not be given to a host that does not answer.
    KeyHostUnreachable = "key.error.host-unreachable", Error;
    /// A key could not be given to a host that can't hold keys.
    KeyHostUnfit = "key.error.host-unfit", Error;
    /// The key server does not have the key.
    KeyMissingAtServer = "key.error.missing-at-server", Error;
    /// The key is at the key server, in a state in which it may not be used.
    KeyNotUsable = "key.error.not-usable", Error;
    /// The key server does not answer.
    KeyServerUnreachable = "key.error.server-unreachable", Error;
    /// The key server and the controller do not trust each other.
    KeyServerTrust = "key.error.server-trust", Error;
    /// The key server answered with an error.
    KeyServerRefused = "key.error.server-refused", Error;
    /// A VM can't be used: a key that it needs is not to be had.
    VmLocked = "vm.locked", Error;
    /// A VM was made.
    VmCreated = "vm.created", Info;
    /// A VM was made from existing images.
    VmImported = "vm.imported", Info;
    /// A VM was started.
    VmStarted = "vm.started", Info;
    /// A VM was stopped, or its guest ended.
    VmStopped = "vm.stopped", Info;
    /// A VM or parts of it were encrypted.
    VmEncrypted = "vm.encrypted", Info;
    /// A VM or parts of it were decrypted.
    VmDecrypted = "vm.decrypted", Info;
    /// A VM was deleted.
    VmRemoved = "vm.removed", Info;
    /// One copy of a disk's LUKS2 header was damaged, and was restored from the other.
    DiskHeaderRepaired = "disk.header-repaired", Warning;
    /// A task was begun.
    TaskStarted = "task.started", Info;
    /// A task went on after the controller or a host had been away.
    TaskResumed = "task.resumed", Warning;
    /// A task failed; nothing of it remains.
    TaskFailed = "task.failed", Error;
    /// A host joined a cluster.
    HostEnrolled = "host.enrolled", Info;
    /// A host left its cluster.
    HostRemoved = "host.removed", Info;
    /// A host answers.
    HostConnected = "host.connected", Info;
    /// A host no longer answers.
    HostDisconnected = "host.disconnected", Warning;
    /// A host was attested by the trust authority.
    HostAttested = "host.attested", Info;
    /// The trust authority does not attest a host, or no longer.
    HostNotAttested = "host.not-attested", Error;
    /// A service of the trust authority answers again.
    TrustServiceUp = "trust.service-up", Info;
    /// A service of the trust authority no longer answers.
    TrustServiceDown = "trust.service-down", Error;
    /// The description of a trust authority's services was imported anew.
    TrustDescribed = "trust.described", Info;
    /// A key provider was added.
    ProviderAdded = "provider.added", Info;
    /// A key provider was removed.
    ProviderRemoved = "provider.removed", Info;
    /// A key provider became the default one.
    ProviderDefault = "provider.default", Info;
    /// A user logged in.
    UserLogin = "user.login", Info;
    /// Somebody failed to log in.
    UserLoginFailed = "user.login-failed", Warning;
    /// A VM or parts of it got a new KEK, or a new DEK and KEK.
    VmRecrypted = "vm.recrypted", Info;
    /// A VM was made from another one.
    VmCloned = "vm.cloned", Info;
    /// A VM was taken into the inventory from its home.
    VmRegistered = "vm.registered", Info;
    /// A VM was taken out of the inventory; its home stays.
    VmUnregistered = "vm.unregistered", Info;
    /// A VM that was locked can be used: its keys are to be had.
    VmUnlocked = "vm.unlocked", Info;
    /// A VM's description was read from its home again.
    VmReloaded = "vm.reloaded", Info;
    /// A VM got or lost a disk.
    VmDisksChanged = "vm.disks-changed", Info;
    /// A VM was given a vTPM, or other certificates for it, or lost it.
    VmTpmChanged = "vm.tpm-changed", Info;
    /// A process without which a running VM is not whole has died.
    VmPartDied = "vm.part-died", Error;
    /// A VM became a template or ceased to be one.
    VmTemplate = "vm.template", Info;
    /// A VM or a disk is under another storage policy.
    VmPolicySet = "vm.policy-set", Info;
    /// A storage policy was made.
    PolicyCreated = "policy.created", Info;
    /// A storage policy was removed.
    PolicyRemoved = "policy.removed", Info;
    /// The recryption of many VMs was begun.
    RecryptionStarted = "recryption.started", Info;
    /// The recryption of many VMs was paused, went on, or was cancelled.
    RecryptionChanged = "recryption.changed", Info;
    /// The recryption of many VMs ended.
    RecryptionEnded = "recryption.ended", Info;
    /// The age at which keys are replaced was set.
    RotationSet = "rotation.set", Info;
    /// A host does not have what opens a key.
    KeyNotOnHost = "key.error.not-on-host", Error;
    /// A key was wrapped under a version of its provider's key that is not there.
    KeyWrongVersion = "key.error.wrong-version", Error;
    /// A key does not open what it should.
    KeyWrong = "key.error.wrong", Error;
    /// A wrapped key was altered, or is another VM's.
    KeyTampered = "key.error.tampered", Error;
    /// A native provider's key has no backup.
    ProviderNotBackedUp = "provider.not-backed-up", Warning;
    /// A native provider's key left the controller, in a file under a password.
    ProviderExported = "provider.exported", Info;
    /// A native provider's key was backed up.
    ProviderBackedUp = "provider.backed-up", Info;
    /// A native provider got a new version of its key.
    ProviderKeyUpdated = "provider.key-updated", Info;
    /// A version of a native provider's key was deleted.
    ProviderKeyDeleted = "provider.key-deleted", Info;
    /// A native provider was restored from a backup.
    ProviderRestored = "provider.restored", Info;
    /// A native provider was deleted although VMs need it.
    ProviderRemovedInUse = "provider.removed-in-use", Warning;
    /// All is well with a key provider again.
    ProviderGreen = "provider.green", Info;
    /// A key provider works, and something about it wants attention.
    ProviderYellow = "provider.yellow", Warning;
    /// A key provider does not work.
    ProviderRed = "provider.red", Error;
    /// All is well with a key server again.
    KeyServerGreen = "provider.server-green", Info;
    /// A key server works, and something about it wants attention.
    KeyServerYellow = "provider.server-yellow", Warning;
    /// A key server can't be used.
    KeyServerRed = "provider.server-red", Error;
    /// A key provider got or lost a key server.
    ProviderServers = "provider.servers", Info;
    /// What a key provider's servers or the controller is known by has changed.
    ProviderTrust = "provider.trust", Info;
    /// A certificate is about to expire.
    CertificateExpiring = "certificate.expiring", Warning;
    /// A certificate has expired.
    CertificateExpired = "certificate.expired", Error;
    /// The encryption mode of a host changed, or its host key.
    HostModeChanged = "host.mode-changed", Info;
    /// A host can't be given a host key.
    HostKeyFailed = "host.key-failed", Error;
    /// Whether a host keeps its keys over a restart, sealed to its TPM, was changed.
    HostKeyPersistence = "host.key-persistence", Warning;
    /// A process of a host dumped its memory, encrypted.
    HostDump = "host.dump", Warning;
    /// A dump could not be kept: what crashed, and why its memory is not there.
    HostDumpLost = "host.dump-lost", Warning;
    /// A support bundle of a host was made.
    HostSupportBundle = "host.support-bundle", Info;
}

impl PartialSchema for EventKind {
    fn schema() -> RefOr<Schema> {
        text::one_of(Self::ALL.iter().map(|it| it.as_str()), "What happened. The text form is stable.")
    }
}

impl ToSchema for EventKind {}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an event is about: as much of it as applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventSubject {
    /// The VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The key provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRef>,
    /// The task in whose course it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Who caused it; nobody where the system did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Name>,
}

/// An entry of the event log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; later events have higher ones.
    pub id: i64,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// How much it wants attention.
    pub severity: Severity,
    /// To what.
    #[serde(flatten)]
    pub subject: EventSubject,
    /// What went wrong, where something did: the stable code, the cause, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The same for people: what, why, and what to do where something is to be done.
    pub message: String,
}
