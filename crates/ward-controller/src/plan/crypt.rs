//! Encrypting and decrypting.

use serde::{Deserialize, Serialize};
use ward_types::{
    Code, Component, CryptoPlan, CryptoStep, DiskCrypto, HomeCrypto, KeyId, KeyRef, Name, Problem, ProviderName,
    StepAction, TaskKind, VmConfig,
};

use super::{NativeFacts, ProviderFacts, VmFacts, cannot, off};

/// Where the KEK comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyChoice {
    /// The provider makes one.
    New(ProviderName),
    /// It exists.
    Existing(KeyRef),
}

/// What encrypting comes to, but for the key, which is had only when the task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncryptPlan {
    pub(crate) key: KeyChoice,
    /// What is to be encrypted: all that is not.
    pub(crate) components: Vec<Component>,
    /// Whether only a host with a TPM can do it.
    pub(crate) tpm: bool,
}

impl EncryptPlan {
    /// The steps, now that the key is known.
    pub(crate) fn steps(components: &[Component], key: &KeyRef) -> CryptoPlan {
        let step = |&component| CryptoStep { component, action: StepAction::Encrypt { key: key.clone() } };
        CryptoPlan::new(components.iter().map(step).collect())
    }
}

/// Plans the encryption of all of a VM that is not encrypted, under one key.
pub(crate) fn encrypt(
    vm: VmFacts<'_>,
    provider: Option<&ProviderName>,
    key_id: Option<&KeyId>,
    providers: &[ProviderFacts],
) -> Result<EncryptPlan, Problem> {
    let config = off(TaskKind::VmEncrypt, vm)?;
    let components: Vec<_> = components(config).filter(|(_, key)| key.is_none()).map(|(part, _)| part).collect();
    if components.is_empty() {
        return Err(Problem::new(
            Code::AlreadyEncrypted,
            cannot(TaskKind::VmEncrypt, vm.name),
            "its home and all its disks are encrypted already",
            format!("`ward vm show {}` tells under which key", vm.name),
        ));
    }
    let provider = choose_provider(vm.name, provider, providers)?;
    let native = providers.iter().find(|facts| facts.name == provider).and_then(|facts| facts.native);
    if let Some(native) = native {
        check_native(vm.name, &provider, native, key_id)?;
    }
    let key = match key_id {
        None => KeyChoice::New(provider),
        Some(id) => KeyChoice::Existing(KeyRef::standard(provider, id.clone())),
    };
    Ok(EncryptPlan { key, components, tpm: native.is_some_and(|native| native.tpm_required) })
}

/// Whether a native provider may encrypt.
fn check_native(
    vm: &Name,
    provider: &ProviderName,
    native: NativeFacts,
    key_id: Option<&KeyId>,
) -> Result<(), Problem> {
    let what = cannot(TaskKind::VmEncrypt, vm);
    if key_id.is_some() {
        let why = format!("the keys of native provider `{provider}` have no IDs: it makes one for each VM");
        return Err(Problem::new(Code::RequestInvalid, what, why, "leave `--key-id` out"));
    }
    if !native.serves {
        return Err(Problem::new(
            Code::ProviderNone,
            what,
            format!("key provider `{provider}` does not serve the hosts of its cluster"),
            "name another provider with `--provider`",
        ));
    }
    if !native.backed_up {
        return Err(Problem::new(
            Code::ProviderNotBackedUp,
            what,
            format!("the key of native provider `{provider}` is not backed up: were it lost, so would the VM be"),
            format!("back it up with `ward provider export {provider} --out FILE`, then try again"),
        ));
    }
    Ok(())
}

/// Plans the decryption of all of a VM that is encrypted.
pub(crate) fn decrypt(vm: VmFacts<'_>) -> Result<CryptoPlan, Problem> {
    let config = off(TaskKind::VmDecrypt, vm)?;
    let steps: Vec<_> = components(config)
        .filter(|(_, key)| key.is_some())
        .map(|(component, _)| CryptoStep { component, action: StepAction::Decrypt })
        .collect();
    if steps.is_empty() {
        return Err(Problem::new(
            Code::NotEncrypted,
            cannot(TaskKind::VmDecrypt, vm.name),
            "nothing of it is encrypted",
            "nothing is to be done",
        ));
    }
    Ok(CryptoPlan::new(steps))
}

/// Every component with the key that it is encrypted under.
fn components(config: &VmConfig) -> impl Iterator<Item = (Component, Option<&KeyRef>)> {
    let home = match &config.home {
        HomeCrypto::Plain => None,
        HomeCrypto::Encrypted { key, .. } => Some(key),
    };
    let disks = config.disks.iter().map(|disk| {
        let key = match &disk.crypto {
            DiskCrypto::Plain => None,
            DiskCrypto::Encrypted { key } => Some(key),
        };
        (Component::Disk(disk.id), key)
    });
    std::iter::once((Component::Home, home)).chain(disks)
}

fn choose_provider(
    vm: &Name,
    asked: Option<&ProviderName>,
    providers: &[ProviderFacts],
) -> Result<ProviderName, Problem> {
    let what = cannot(TaskKind::VmEncrypt, vm);
    let add = "add one with `ward provider add standard NAME --server HOST:PORT --ca FILE --cert FILE --key FILE`";
    match asked {
        Some(name) if providers.iter().any(|provider| &provider.name == name) => Ok(name.clone()),
        Some(name) => Err(Problem::new(
            Code::NotFound,
            what,
            format!("there is no key provider `{name}`"),
            "`ward provider ls` lists them",
        )),
        None => match providers.iter().find(|provider| provider.is_default) {
            Some(provider) => Ok(provider.name.clone()),
            None if providers.is_empty() => {
                Err(Problem::new(Code::ProviderNone, what, "there is no key provider to take a key from", add))
            }
            None => Err(Problem::new(
                Code::ProviderNone,
                what,
                "no key provider is the default one",
                "name one with `--provider`, or make one the default with `ward provider default NAME`",
            )),
        },
    }
}
