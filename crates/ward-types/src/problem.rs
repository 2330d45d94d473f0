//! Errors as users meet them: what failed, why, and what to do next, under a stable code.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::text;

macro_rules! codes {
    ($(#[doc = $doc:literal] $variant:ident = $text:literal, $status:literal, $exit:literal;)*) => {
        /// What kind of error it is. The text form is stable: scripts may depend on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $doc] #[serde(rename = $text)] $variant,)*
            /// A code that this program is too old to know.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl Code {
            /// All codes that this program knows.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Unknown => "unknown" }
            }

            /// What kind of error it is, for people.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $doc.trim(),)* Self::Unknown => "Something went wrong." }
            }

            /// The HTTP status under which the code travels.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)* Self::Unknown => 500 }
            }

            /// Whether a key or a key server is at fault.
            #[must_use]
            pub const fn is_about_keys(self) -> bool {
                self.exit_code() == 6
            }

            /// The exit code of a command that failed with it: 2 asked wrongly, 3 not allowed, 4 not found, 5 refused as
            /// things stand, 6 a key or key server is at fault, 7 a host is at fault, 8 storage is at fault, 1 all else.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $exit,)* Self::Unknown => 1 }
            }
        }
    };
}

codes! {
    /// The request makes no sense.
    RequestInvalid = "request.invalid", 400, 2;
    /// The path answers other methods only.
    RequestMethod = "request.method", 405, 2;
    /// The request is too large.
    RequestTooLarge = "request.too-large", 413, 2;
    /// The body is not JSON, or does not say so.
    RequestMediaType = "request.media-type", 415, 2;
    /// An idempotency key was used before, for another request.
    RequestKeyReused = "request.key-reused", 422, 2;
    /// Nobody is logged in.
    AuthRequired = "auth.required", 401, 3;
    /// The user may not do that.
    AuthDenied = "auth.denied", 403, 3;
    /// There were too many failures.
    AuthThrottled = "auth.throttled", 429, 3;
    /// There is no such object.
    NotFound = "object.not-found", 404, 4;
    /// There is one already.
    Exists = "object.exists", 409, 5;
    /// Another task works on it.
    Busy = "object.busy", 409, 5;
    /// Something needs it.
    InUse = "object.in-use", 409, 5;
    /// The VM runs, and must not.
    VmRunning = "vm.running", 409, 5;
    /// The VM does not run, and must.
    VmNotRunning = "vm.not-running", 409, 5;
    /// It is encrypted already.
    AlreadyEncrypted = "vm.already-encrypted", 409, 5;
    /// It is not encrypted.
    NotEncrypted = "vm.not-encrypted", 409, 5;
    /// The request breaks a rule of what may be encrypted beside what.
    Composition = "vm.composition", 409, 5;
    /// The VM home can't be read or makes no sense.
    HomeInvalid = "vm.home-invalid", 409, 8;
    /// The VM home was changed by something that is not Ward.
    HomeTampered = "vm.home-tampered", 409, 8;
    /// QEMU did not start or did not stay.
    VmmFailed = "vm.vmm-failed", 502, 7;
    /// There is no such image.
    ImageMissing = "image.missing", 404, 8;
    /// Another program has the image open.
    ImageLocked = "image.locked", 409, 8;
    /// The image is shorter than it says.
    ImageTruncated = "image.truncated", 409, 8;
    /// The image is damaged, or of a kind that is not supported.
    ImageInvalid = "image.invalid", 409, 8;
    /// Both copies of a LUKS2 header are damaged.
    HeaderDamaged = "image.header-damaged", 409, 8;
    /// The datastore has too little room.
    StorageFull = "storage.full", 507, 8;
    /// Reading or writing failed.
    StorageIo = "storage.io", 500, 8;
    /// There is no key provider to take a key from.
    ProviderNone = "provider.none", 409, 6;
    /// The key server does not answer.
    KeyServerUnreachable = "key.server-unreachable", 502, 6;
    /// The key server and the controller do not trust each other.
    KeyServerTrust = "key.server-trust", 502, 6;
    /// The key server answered with an error.
    KeyServerRefused = "key.server-refused", 502, 6;
    /// The key server does not have the key.
    KeyMissing = "key.missing-at-server", 409, 6;
    /// The key is in a state in which it may not be used.
    KeyNotUsable = "key.not-usable", 409, 6;
    /// A key is kept for some time after nothing needs it any more.
    KeyKept = "key.kept", 409, 5;
    /// The key was not made by this controller.
    KeyNotOurs = "key.not-ours", 409, 5;
    /// The host does not have the key.
    KeyNotOnHost = "key.not-on-host", 409, 6;
    /// The key does not open what it should.
    KeyWrong = "key.wrong", 409, 6;
    /// The controller does not answer.
    ControllerUnreachable = "controller.unreachable", 502, 7;
    /// The host does not answer.
    HostUnreachable = "host.unreachable", 502, 7;
    /// The host can't do what is asked (no QEMU, no lockable memory).
    HostUnfit = "host.unfit", 409, 7;
    /// No host of the cluster can take the work.
    HostNone = "host.none", 409, 7;
    /// The enrolment token is wrong, used or expired.
    EnrolmentRefused = "host.enrolment-refused", 403, 3;
    /// The host is not what the attestation policy asks for.
    AttestationFailed = "attestation.failed", 403, 7;
    /// The attestation service knows no host with that attestation key.
    HostNotEnrolled = "attestation.host-not-enrolled", 403, 7;
    /// No administrator of the trust authority has let the host in.
    HostNotAdmitted = "attestation.host-not-admitted", 403, 7;
    /// The host shows no attestation token that is good for this session.
    TokenRefused = "attestation.token-refused", 403, 7;
    /// No instance of the trust authority's service answers.
    TrustUnreachable = "attestation.service-unreachable", 502, 6;
    /// The description of a trust authority is not one, or not signed by whom it must be.
    DescriptionRefused = "attestation.description-refused", 409, 5;
    /// The key provider is not for hosts that were attested under this policy.
    ProviderNotAllowed = "provider.not-allowed", 403, 6;
    /// The role is part of Ward.
    RoleBuiltIn = "role.built-in", 409, 5;
    /// Nobody would be left who may manage users and permissions.
    LastAdministrator = "user.last-administrator", 409, 5;
    /// The audit log is not whole.
    AuditBroken = "audit.broken", 409, 8;
    /// The work was cancelled.
    Cancelled = "task.cancelled", 409, 5;
    /// It is encrypted under that very key already.
    KeyUnchanged = "key.unchanged", 409, 5;
    /// The policy is built in, and can't be changed or removed.
    PolicyBuiltIn = "policy.built-in", 409, 5;
    /// The VM is a template, which is never started.
    VmTemplate = "vm.template", 409, 5;
    /// A device is shared or raw, and can't be a disk of a VM.
    DeviceUnsuitable = "disk.device-unsuitable", 409, 5;
    /// The VM has no vTPM.
    TpmNone = "vm.no-tpm", 409, 5;
    /// The key was wrapped under a version of its provider's key that is not there.
    KeyWrongVersion = "key.wrong-version", 409, 6;
    /// A wrapped key was altered, or is another VM's.
    KeyTampered = "key.tampered", 409, 6;
    /// A native provider encrypts nothing before its key is backed up.
    ProviderNotBackedUp = "provider.not-backed-up", 409, 6;
    /// A backup is damaged or no backup.
    BackupInvalid = "backup.invalid", 409, 2;
    /// The password does not open the backup.
    BackupPassword = "backup.wrong-password", 409, 2;
    /// The backup is another provider's, or of an earlier state of this one.
    BackupOther = "backup.other", 409, 5;
    /// The encryption mode of the host does not allow it.
    HostMode = "host.mode", 409, 7;
    /// A dump is damaged, cut short, or no dump.
    DumpInvalid = "dump.invalid", 409, 8;
    /// The password does not open it.
    PasswordWrong = "dump.wrong-password", 409, 2;
    /// A defect of Ward; please report it.
    Internal = "internal", 500, 1;
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let texts = Self::ALL.iter().chain(&[Self::Unknown]).map(|it| it.as_str());
        text::one_of(texts, "What kind of error it is. The text form is stable; bear with those that are newer.")
    }
}

impl ToSchema for Code {}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error for a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{what}: {why} [{code}]")]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What failed, on what: "cannot encrypt VM `web-1`".
    pub what: String,
    /// Why: "the VM is running on host `h1`".
    pub why: String,
    /// What to do next: "stop it with `ward vm stop web-1`".
    pub remedy: String,
}

/// A problem as it travels over HTTP: a problem document (RFC 9457), with Ward's own members as extensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// What kind of problem it is: the place in the controller's list of codes that tells of it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What failed and why, in one sentence.
    pub detail: String,
    /// The problem itself.
    #[serde(flatten)]
    pub problem: Problem,
}

impl ProblemDocument {
    /// The media type of problem documents.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";
    /// Where the controller lists all codes.
    pub const CODES: &'static str = "/api/v1/problems";
}

impl From<Problem> for ProblemDocument {
    fn from(problem: Problem) -> Self {
        Self {
            kind: format!("{}#{}", Self::CODES, problem.code),
            title: problem.code.title().to_owned(),
            status: problem.code.http_status(),
            detail: format!("{}: {}", problem.what, problem.why),
            problem,
        }
    }
}

impl Problem {
    /// A problem with its three sentences.
    pub fn new(code: Code, what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: why.into(), remedy: remedy.into() }
    }

    /// A defect of Ward.
    pub fn internal(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(Code::Internal, what, why.to_string(), "this is a defect of Ward; please report it with the log")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_travel_as_their_text() {
        let texts: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("{:?}", code.as_str()));
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), *code);
        }
        assert_eq!(serde_json::from_str::<Code>("\"from.the.future\"").unwrap(), Code::Unknown);
    }
    #[test]
    fn a_problem_document_is_a_problem_too() {
        let problem = Problem::new(Code::VmRunning, "cannot encrypt VM `a`", "it is running", "stop it");
        let json = serde_json::to_value(ProblemDocument::from(problem.clone())).unwrap();
        assert_eq!(json["type"], "/api/v1/problems#vm.running");
        assert_eq!(json["title"], "The VM runs, and must not.");
        assert_eq!(json["status"], 409);
        assert_eq!(json["detail"], "cannot encrypt VM `a`: it is running");
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
