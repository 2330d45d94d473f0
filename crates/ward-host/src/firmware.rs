//! OVMF, as Debian's package of that name has it.

use std::path::{Path, PathBuf};

use crate::fault::{Fault, Result};
use crate::files;

const DIRECTORY: &str = "/usr/share/OVMF";

/// The firmware itself, which VMs share.
pub(crate) fn code(secure_boot: bool) -> Result<PathBuf> {
    find(if secure_boot { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" })
}

/// The variables that a VM begins with: with Secure Boot, Microsoft's keys.
pub(crate) fn vars(secure_boot: bool) -> Result<PathBuf> {
    find(if secure_boot { "OVMF_VARS_4M.ms.fd" } else { "OVMF_VARS_4M.fd" })
}

/// Whether there is all that such a VM takes.
pub(crate) fn is_there(secure_boot: bool) -> bool {
    code(secure_boot).is_ok() && vars(secure_boot).is_ok()
}

fn find(name: &str) -> Result<PathBuf> {
    let path = Path::new(DIRECTORY).join(name);
    if files::exists(&path)? {
        return Ok(path);
    }
    let why = format!("this host has no UEFI firmware for VMs: there is no {}", path.display());
    Err(Fault::unfit(why, "install Debian's package `ovmf` on the host"))
}
