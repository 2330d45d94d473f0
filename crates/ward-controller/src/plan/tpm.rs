//! Giving a VM a vTPM, and taking it away.

use ward_types::{Code, CryptoRequest, CryptoSpec, KeyWish, Problem, TaskKind};

use super::crypt::crypt_as;
use super::{CryptPlan, ProviderFacts, VmFacts, cannot, off};

const KIND: TaskKind = TaskKind::VmReconfigure;

/// Plans a vTPM for a VM that is off. It encrypts the home where that is plain, and leaves the disks as they are.
pub(crate) fn add_tpm(vm: VmFacts<'_>, wish: &KeyWish, providers: &[ProviderFacts]) -> Result<CryptPlan, Problem> {
    let config = off(KIND, vm)?;
    let refuse = |code, why: String, remedy: &str| Err(Problem::new(code, cannot(KIND, vm.name), why, remedy));
    if config.tpm.is_some() {
        return refuse(Code::Exists, "it has a vTPM already".to_owned(), "leave it as it is");
    }
    if config.firmware.is_bios() {
        let why = "a vTPM needs UEFI, and it has a BIOS".to_owned();
        return refuse(
            Code::Composition,
            why,
            "make another VM of its disks with `ward vm import --firmware uefi --tpm`",
        );
    }
    match config.home.key() {
        None => {
            let request = CryptoRequest { home: CryptoSpec::Encrypt(wish.clone()), ..CryptoRequest::default() };
            crypt_as(KIND, vm, &request, providers)
        }
        Some(key) if *wish != KeyWish::default() => {
            let why = format!("its home is encrypted already, under key {key}, and the vTPM's key goes under the same");
            refuse(Code::AlreadyEncrypted, why, "leave `--provider` and `--key-id` out")
        }
        Some(_) => Ok(CryptPlan::default()),
    }
}

/// Whether the vTPM of a VM can be changed now: there is one, and the VM is off.
pub(crate) fn with_tpm_off(vm: VmFacts<'_>) -> Result<(), Problem> {
    if off(KIND, vm)?.tpm.is_some() {
        return Ok(());
    }
    let why = "it has no vTPM";
    Err(Problem::new(Code::TpmNone, cannot(KIND, vm.name), why, "leave it as it is"))
}
