//! Why something could not be done, on its way to becoming a [`Problem`]; and the one place where errors of the crates
//! below become codes.

use std::io;
use std::path::Path;

use ward_disk::{DiskError, DiskErrorKind};
use ward_secret::SecretError;
use ward_tpm::TpmError;
use ward_types::{Code, KeyRef, Problem};

/// A problem of which it is not yet said what failed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) why: String,
    pub(crate) remedy: String,
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(crate) fn new(code: Code, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, why: why.into(), remedy: remedy.into() }
    }

    pub(crate) fn internal(why: impl Into<String>) -> Self {
        Self::new(Code::Internal, why, "this is a defect of Ward; please report it with the log")
    }

    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::new(Code::RequestInvalid, why, "correct the request")
    }

    pub(crate) fn unfit(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::HostUnfit, why, remedy)
    }

    pub(crate) fn home_invalid(why: impl Into<String>) -> Self {
        Self::new(Code::HomeInvalid, why, "restore the home from a backup, or correct what is wrong in it")
    }

    pub(crate) fn tampered(why: impl Into<String>) -> Self {
        Self::new(
            Code::HomeTampered,
            why,
            "find out who changed it; then restore vm.toml from a backup, since Ward doesn't use a description that \
             it did not write",
        )
    }

    pub(crate) fn key_wrong(what: &str, key: &KeyRef) -> Self {
        Self::new(
            Code::KeyWrong,
            format!("the key {key} does not open {what}"),
            "check that the key provider is connected to the key server that it was connected to when this was encrypted",
        )
    }

    pub(crate) fn io(doing: &str, path: &Path, source: &io::Error) -> Self {
        let why = format!("cannot {doing} {}: {source}", path.display());
        match DiskErrorKind::of(source) {
            DiskErrorKind::NoSpace => Self::new(Code::StorageFull, why, remedy(DiskErrorKind::NoSpace)),
            DiskErrorKind::AccessDenied => Self::new(Code::StorageIo, why, remedy(DiskErrorKind::AccessDenied)),
            _ => Self::new(Code::StorageIo, why, remedy(DiskErrorKind::Io)),
        }
    }

    /// The problem, of what was being done.
    pub(crate) fn problem(self, what: impl Into<String>) -> Problem {
        Problem::new(self.code, what, self.why, self.remedy)
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Memory(_) => Self::unfit(error.to_string(), "raise the limit of locked memory of the agent"),
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<TpmError> for Fault {
    fn from(error: TpmError) -> Self {
        let why = error.to_string();
        match error {
            TpmError::Tcti(_) | TpmError::Pcrs(_) => Self::invalid(why),
            // Nothing is lost but time.
            TpmError::Changed(_) | TpmError::NotOurs => Self::new(
                Code::KeyNotOnHost,
                why,
                "the host waits for the controller, which hands the keys over when it is reached; if nobody changed the \
                 machine, find out who did",
            ),
            TpmError::Secret(error) => error.into(),
            _ => Self::unfit(
                why,
                "check the TPM (`--tpm`), and that the agent's user may use it; the system's log may say more",
            ),
        }
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Self {
        Self::new(code(error.kind), error.to_string(), remedy(error.kind))
    }
}

fn code(kind: DiskErrorKind) -> Code {
    use DiskErrorKind as Kind;
    match kind {
        Kind::ImageMissing => Code::ImageMissing,
        Kind::ImageLocked => Code::ImageLocked,
        Kind::ImageTruncated => Code::ImageTruncated,
        Kind::ImageInvalid
        | Kind::ImageUnsupported
        | Kind::ImageHasBackingFile
        | Kind::ImageHasDataFile
        | Kind::ImageEncrypted
        | Kind::ImageDirty
        | Kind::ImageHasSnapshots => Code::ImageInvalid,
        Kind::NoSpace => Code::StorageFull,
        Kind::AccessDenied | Kind::Io => Code::StorageIo,
        Kind::Cancelled => Code::Cancelled,
        Kind::Spawn => Code::HostUnfit,
        _ => Code::Internal,
    }
}

fn remedy(kind: DiskErrorKind) -> &'static str {
    use DiskErrorKind as Kind;
    match kind {
        Kind::ImageMissing => "check the path, and that the datastore is mounted on this host",
        Kind::ImageLocked => "stop the program that has the image open; `fuser` shows which it is",
        Kind::ImageTruncated => "take the image from its source or from a backup again",
        Kind::ImageInvalid => "check the image with `qemu-img check`",
        Kind::ImageUnsupported => "convert it with `qemu-img convert -O qcow2`",
        Kind::ImageHasBackingFile | Kind::ImageHasDataFile => {
            "flatten it into one file with `qemu-img convert -O qcow2`"
        }
        Kind::ImageEncrypted => "decrypt it first, with what it was encrypted with",
        Kind::ImageDirty => "repair it with `qemu-img check -r all`",
        Kind::ImageHasSnapshots => "delete its internal snapshots with `qemu-img snapshot -d`",
        Kind::NoSpace => "make room on the datastore",
        Kind::AccessDenied => "let the agent's user read and write there",
        Kind::Io => "check the storage; the kernel's log may say more",
        Kind::Cancelled => "nothing remains of it; ask again when it is wanted",
        Kind::Spawn => "check that the `ward` binary is in its place and that processes can be started",
        Kind::ProcessGone => "look for what killed it (out of memory?) and ask again",
        _ => "this is a defect of Ward; please report it with the log",
    }
}

/// What opening or changing a LUKS2 header may say, of that file, with that key.
pub(crate) fn of_luks(error: &luks2::Error, path: &Path, key: &KeyRef) -> Fault {
    match error {
        luks2::Error::NoKeyslotOpens { .. } | luks2::Error::WrongVolumeKey => {
            Fault::key_wrong(&path.display().to_string(), key)
        }
        _ => of_header(error, path),
    }
}

/// The same where no key was tried.
pub(crate) fn of_header(error: &luks2::Error, path: &Path) -> Fault {
    use luks2::Error;
    let why = format!("{}: {error}", path.display());
    match error {
        Error::Io { source, .. } => Fault::io(&error.to_string().replacen("cannot ", "", 1), path, source),
        Error::NotLuks2 | Error::BothDamaged { .. } => Fault::new(
            Code::HeaderDamaged,
            why,
            "restore the header from a backup (`cryptsetup luksHeaderRestore`); without it nobody can open the disk",
        ),
        Error::Luks1 | Error::Unsupported(_) => {
            Fault::new(Code::ImageInvalid, why, "undo what another program did to the header")
        }
        Error::NoFreeKeyslot(_) | Error::NoKeyslotSpace { .. } | Error::NoMetadataSpace { .. } => Fault::new(
            Code::ImageInvalid,
            why,
            "make room in the header: remove keyslots that nobody needs with `cryptsetup luksKillSlot`",
        ),
        Error::TooSmall { .. } => Fault::new(Code::ImageTruncated, why, remedy(DiskErrorKind::ImageTruncated)),
        _ => Fault::internal(why),
    }
}

/// Says what was being done when a result of the operating system is an error.
pub(crate) trait Doing<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Fault::io(what, path, &source))
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|source| Fault::io(what, path, &source.into()))
    }
}
