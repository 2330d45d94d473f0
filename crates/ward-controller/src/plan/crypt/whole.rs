//! Requests that name no components mean all to which they apply.

use ward_types::{
    Code, Component, CryptoRequest, CryptoSpec, DiskId, KeyLocator, KeyRef, KeyWish, Problem, ProviderName, TaskKind,
};

use super::{VmFacts, cannot, idle, keys};

/// Which components somebody names; none means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) home: bool,
    pub(crate) disks: Vec<DiskId>,
}

/// What is to be done with all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Encrypt(KeyWish),
    Decrypt,
    Recrypt { deep: bool, key: KeyWish },
}

impl Verb {
    /// As its task and its problems say it.
    pub(crate) const fn kind(&self) -> TaskKind {
        match self {
            Self::Encrypt(_) => TaskKind::VmEncrypt,
            Self::Decrypt => TaskKind::VmDecrypt,
            Self::Recrypt { .. } => TaskKind::VmRecrypt,
        }
    }

    /// The KEK that is wanted, where one is.
    pub(crate) const fn wish(&self) -> Option<&KeyWish> {
        match self {
            Self::Encrypt(wish) | Self::Recrypt { key: wish, .. } => Some(wish),
            Self::Decrypt => None,
        }
    }

    fn applies(&self, key: Option<&KeyRef>) -> bool {
        match self {
            Self::Encrypt(_) => key.is_none(),
            Self::Decrypt => key.is_some(),
            Self::Recrypt { key: wish, .. } => key.is_some_and(|key| !is_that(key, wish)),
        }
    }

    fn spec(self) -> CryptoSpec {
        match self {
            Self::Encrypt(key) => CryptoSpec::Encrypt(key),
            Self::Decrypt => CryptoSpec::Decrypt,
            Self::Recrypt { deep: false, key } => CryptoSpec::ShallowRecrypt(key),
            Self::Recrypt { deep: true, key } => CryptoSpec::DeepRecrypt(key),
        }
    }
}

/// Whether a key is the very one that somebody names.
fn is_that(key: &KeyRef, wish: &KeyWish) -> bool {
    let provider = |name: &ProviderName| *name == key.provider;
    match (&key.key, &wish.key_id) {
        (KeyLocator::Standard { key_id }, Some(wanted)) => {
            key_id == wanted && wish.provider.as_ref().is_none_or(provider)
        }
        _ => false,
    }
}

/// The request for those components of a VM that are named, or for all that the verb applies to.
pub(crate) fn whole(vm: VmFacts<'_>, selection: &Selection, verb: Verb) -> Result<CryptoRequest, Problem> {
    let kind = verb.kind();
    if selection.home || !selection.disks.is_empty() {
        let home = selection.home.then_some(Component::Home);
        let disks = selection.disks.iter().map(|disk| Component::Disk(*disk));
        return Ok(CryptoRequest::of(home.into_iter().chain(disks), &verb.spec()));
    }
    let keys = keys(idle(kind, vm)?);
    let applies: Vec<_> = keys.iter().filter(|(_, key)| verb.applies(key.as_ref())).map(|(part, _)| *part).collect();
    if !applies.is_empty() {
        return Ok(CryptoRequest::of(applies, &verb.spec()));
    }
    let (code, why, remedy) = match verb {
        Verb::Encrypt(_) => (
            Code::AlreadyEncrypted,
            "its home and all its disks are encrypted already",
            format!("`ward vm show {}` tells under which key", vm.name),
        ),
        Verb::Recrypt { .. } if keys.values().any(Option::is_some) => (
            Code::KeyUnchanged,
            "all of it that is encrypted is under that key already",
            "leave `--key-id` out to have a new key made".to_owned(),
        ),
        Verb::Decrypt | Verb::Recrypt { .. } => {
            (Code::NotEncrypted, "nothing of it is encrypted", "nothing is to be done".to_owned())
        }
    };
    Err(Problem::new(code, cannot(kind, vm.name), why, remedy))
}
