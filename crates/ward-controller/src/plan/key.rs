//! Which keys may be used for what.

use ward_types::{Code, KeyLocator, KeyRef, KeyState, Problem, ProviderName};

/// The trusted providers among those of keys.
pub(crate) fn trusted<'a>(keys: impl IntoIterator<Item = &'a KeyRef>) -> Vec<ProviderName> {
    let keys = keys.into_iter().filter(|key| matches!(key.key, KeyLocator::Trusted { .. }));
    let mut names: Vec<_> = keys.map(|key| key.provider.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// What may be done with a key in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyUse {
    /// It is ready.
    Ready,
    /// It is to be activated first.
    Activate,
}

/// Whether a key may encrypt: only an active one may, and one that was never used can be made active.
pub(crate) fn judge_state(what: &str, key: &KeyRef, state: KeyState) -> Result<KeyUse, Problem> {
    match state {
        KeyState::Active => Ok(KeyUse::Ready),
        KeyState::PreActive => Ok(KeyUse::Activate),
        KeyState::Deactivated | KeyState::Compromised | KeyState::Destroyed | KeyState::DestroyedCompromised => {
            Err(Problem::new(
                Code::KeyNotUsable,
                what,
                format!("key {key} is {state} at its key server, and only an Active key may encrypt"),
                "name another key with `--key-id`, or leave that out to have a new one made",
            ))
        }
    }
}
