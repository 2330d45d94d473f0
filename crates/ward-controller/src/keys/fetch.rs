//! Getting keys from a key server: many at once, and of each that can't be had, why.

use kmip::SecretBytes;
use kmip::client::{Replicas, ReplicasError};
use kmip::names::State;
use ward_secret::{Kek, Zeroizing};
use ward_types::{Code, KeyId, KeyLocator, KeyRef, Problem, ProviderName};

use super::KeyFault;

/// The ID of a key that lies at a key server.
pub(crate) const fn id_at_server(key: &KeyRef) -> Option<&KeyId> {
    match &key.key {
        KeyLocator::Standard { key_id } => Some(key_id),
        _ => None,
    }
}

fn ids<'a>(keys: &[&'a KeyRef]) -> Vec<&'a str> {
    keys.iter().map(|key| id_at_server(key).map_or("", KeyId::as_str)).collect()
}

/// The keys of one provider, in their order: each, or why it can't be had.
///
/// # Errors
/// Where the key server can't be asked.
pub(crate) async fn fetch(
    what: &str,
    (provider, servers): (&ProviderName, &Replicas),
    keys: &[&KeyRef],
) -> Result<Vec<Result<Kek, KeyFault>>, Box<KeyFault>> {
    let answers = servers.get_keys(&ids(keys)).await.map_err(|error| unasked(what, provider, keys, &error))?;
    let mut all = Vec::with_capacity(answers.len());
    for (key, answer) in keys.iter().zip(answers) {
        let error = match answer {
            Ok(bytes) => {
                all.push(kek(what, key, &bytes));
                continue;
            }
            Err(error) => error,
        };
        let mut fault = KeyFault::of(what, &key.provider, Some(key), &error);
        // A destroyed key is refused in many words; its state says it in one.
        if error.result_reason().is_some()
            && let Some(id) = id_at_server(key)
            && let Ok(state) = servers.state(id.as_str()).await
            && (fault.problem.code == Code::KeyNotUsable || is_destroyed(state))
        {
            fault = withheld(what, key, state);
        }
        all.push(Err(fault));
    }
    Ok(all)
}

/// The states of keys of one provider, in their order: each, or why it is not known.
///
/// # Errors
/// Where the key server can't be asked.
pub(crate) async fn states(
    what: &str,
    (provider, servers): (&ProviderName, &Replicas),
    keys: &[&KeyRef],
) -> Result<Vec<Result<State, KeyFault>>, Box<KeyFault>> {
    let answers = servers.states(&ids(keys)).await.map_err(|error| unasked(what, provider, keys, &error))?;
    let told = keys.iter().zip(answers);
    Ok(told.map(|(key, answer)| answer.map_err(|error| KeyFault::of(what, &key.provider, Some(key), &error))).collect())
}

/// The fault of a key that its server keeps and does not give out.
pub(crate) fn withheld(what: &str, key: &KeyRef, state: State) -> KeyFault {
    let why = format!("key {key} is {state} at its key server, which does not give it out");
    let remedy = format!("restore key {key} at the key server; the data that it protects opens with no other");
    KeyFault::new(&key.provider, Some(key), Problem::new(Code::KeyNotUsable, what, why, remedy))
}

/// Whether a key's bytes are gone.
pub(crate) fn is_destroyed(state: State) -> bool {
    matches!(state, State::DESTROYED | State::DESTROYED_COMPROMISED)
}

fn unasked(what: &str, provider: &ProviderName, keys: &[&KeyRef], error: &ReplicasError) -> Box<KeyFault> {
    let only = match keys {
        [only] => Some(*only),
        _ => None,
    };
    Box::new(KeyFault::of(what, provider, only, error))
}

fn kek(what: &str, key: &KeyRef, bytes: &SecretBytes) -> Result<Kek, KeyFault> {
    let mut copy = Zeroizing::new(bytes.expose().to_vec());
    Kek::take(&mut copy).map_err(|error| {
        let (code, remedy) = match error {
            ward_secret::SecretError::Length { .. } => (Code::KeyNotUsable, "name a key of AES-256"),
            _ => (Code::Internal, "raise the limit of locked memory (RLIMIT_MEMLOCK) of the controller"),
        };
        let problem = Problem::new(code, what, format!("key {key}: {error}"), remedy);
        KeyFault::new(&key.provider, Some(key), problem)
    })
}
