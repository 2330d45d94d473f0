//! The key cache: what this host has to resolve key references with. In memory only.
//!
//! A core without I/O: keys go in, are resolved and are dropped. A [`ResolvedKek`] can come from nowhere else, so whoever
//! has one has asked; and nobody who asks need know which kind of provider a key is of.

mod ring;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ward_secret::{Kek, Zeroizing};
use ward_types::{Code, KeyLocator, KeyRef, ProviderName, VmId};

use crate::fault::Fault;
use ring::KeyRing;

/// What the controller gave to this host: KEKs by their references, and the keys of native providers.
#[derive(Default)]
pub(crate) struct KeyCache {
    keys: BTreeMap<KeyRef, Arc<Kek>>,
    /// Grows with every change of `keys`.
    revision: u64,
    /// KEKs of trusted providers, each until the attestation ends for which it was given.
    trusted: BTreeMap<KeyRef, (Arc<Kek>, Instant)>,
    pub(crate) ring: KeyRing,
}

/// A KEK that was found in the cache. It stays usable for who holds it when the cache drops the key.
#[derive(Clone)]
pub(crate) struct ResolvedKek {
    reference: KeyRef,
    kek: Arc<Kek>,
}

impl ResolvedKek {
    /// One that is in no cache.
    pub(crate) fn new(reference: KeyRef, kek: Kek) -> Self {
        Self { reference, kek: Arc::new(kek) }
    }

    pub(crate) fn reference(&self) -> &KeyRef {
        &self.reference
    }

    pub(crate) fn kek(&self) -> &Kek {
        &self.kek
    }
}

/// All the KEKs that a piece of work needs.
#[derive(Clone, Default)]
pub(crate) struct ResolvedKeks(BTreeMap<KeyRef, ResolvedKek>);

impl ResolvedKeks {
    /// Puts a key that is thrown away in the place of one that is not made yet.
    pub(crate) fn stand_in(&mut self, key: &KeyRef) -> Result<(), Fault> {
        if !self.0.contains_key(key) {
            self.0.insert(key.clone(), ResolvedKek::new(key.clone(), Kek::generate()?));
        }
        Ok(())
    }

    /// One of them.
    pub(crate) fn get(&self, key: &KeyRef) -> Result<&ResolvedKek, Fault> {
        self.0.get(key).ok_or_else(|| Fault::internal(format!("the key {key} was not asked for beforehand")))
    }

    /// One more.
    pub(crate) fn add(&mut self, key: ResolvedKek) {
        self.0.insert(key.reference.clone(), key);
    }
}

/// What became of a key that was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// It was not there before.
    New,
    /// It was there.
    Same,
    /// Under its reference was another key. Key servers don't do that to a key; it is the newer that counts.
    Replaced,
}

impl KeyCache {
    /// Puts a key in.
    pub(crate) fn insert(&mut self, reference: KeyRef, kek: Kek) -> Inserted {
        match self.keys.get(&reference) {
            Some(known) if known.same(&kek) => return Inserted::Same,
            _ => self.revision += 1,
        }
        match self.keys.insert(reference, Arc::new(kek)) {
            None => Inserted::New,
            Some(_) => Inserted::Replaced,
        }
    }

    /// Puts a trusted provider's KEK in, which is good until then.
    pub(crate) fn insert_trusted(&mut self, reference: KeyRef, kek: Kek, until: Instant) {
        self.trusted.insert(reference, (Arc::new(kek), until));
    }

    /// Whether a trusted provider's KEK is there, and good for at least that long.
    pub(crate) fn has_trusted(&self, key: &KeyRef, least: Duration) -> bool {
        self.good_for(key, least).is_some()
    }

    fn good_for(&self, key: &KeyRef, least: Duration) -> Option<&Arc<Kek>> {
        self.trusted.get(key).filter(|(_, until)| Instant::now() + least < *until).map(|(kek, _)| kek)
    }

    /// Forgets all KEKs of a trusted provider.
    pub(crate) fn drop_trusted(&mut self, provider: &ProviderName) {
        self.trusted.retain(|key, _| key.provider != *provider);
    }

    /// Forgets the KEKs of trusted providers that are good no longer.
    pub(crate) fn forget_expired(&mut self) {
        let now = Instant::now();
        self.trusted.retain(|_, (_, until)| now < *until);
    }

    /// Forgets a key; says whether it was there.
    pub(crate) fn drop_key(&mut self, key: &KeyRef) -> bool {
        let there = self.keys.remove(key).is_some();
        self.revision += u64::from(there);
        there || self.trusted.remove(key).is_some()
    }

    /// Forgets all of them.
    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.trusted.clear();
        self.revision += 1;
    }

    /// Another one means other keys.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// All of them once more, to be sealed.
    pub(crate) fn copy(&self) -> Result<Vec<(KeyRef, Kek)>, Fault> {
        let copy = |(key, kek): (&KeyRef, &Arc<Kek>)| {
            let kek = Kek::take(&mut Zeroizing::new(*kek.expose())[..])?;
            Ok((key.clone(), kek))
        };
        self.keys.iter().map(copy).collect()
    }

    /// The keys that are there.
    pub(crate) fn references(&self) -> Vec<KeyRef> {
        let trusted = self.trusted.keys().filter(|key| self.has_trusted(key, Duration::ZERO));
        self.keys.keys().chain(trusted).cloned().collect()
    }

    /// A key, or why it can't be had: `key.not-on-host`, and for one that is to be unwrapped `key.wrong-version`,
    /// `key.wrong` and `key.tampered`.
    pub(crate) fn resolve(&self, key: &KeyRef) -> Result<ResolvedKek, Fault> {
        let kek = match &key.key {
            KeyLocator::Standard { .. } => self.keys.get(key).map(Arc::clone).ok_or_else(|| missing(&[key]))?,
            KeyLocator::Trusted { .. } => {
                self.good_for(key, Duration::ZERO).map(Arc::clone).ok_or_else(|| not_given(key))?
            }
            KeyLocator::Native(native) => Arc::new(self.ring.unwrap(&key.provider, native)?),
        };
        Ok(ResolvedKek { reference: key.clone(), kek })
    }

    /// A key of one VM, for another: a key that any VM may use is the same, one that is bound to its VM has another
    /// reference.
    pub(crate) fn rebind(&self, key: &KeyRef, vm: VmId) -> Result<ResolvedKek, Fault> {
        match &key.key {
            KeyLocator::Native(native) if native.vm != vm => {
                let (reference, kek) = self.ring.rebind(&key.provider, native, vm)?;
                Ok(ResolvedKek::new(reference, kek))
            }
            _ => self.resolve(key),
        }
    }

    /// All of these keys, or which of them are missing.
    pub(crate) fn resolve_all<'a>(&self, keys: impl IntoIterator<Item = &'a KeyRef>) -> Result<ResolvedKeks, Fault> {
        let (mut found, mut lacking) = (BTreeMap::new(), Vec::new());
        for key in keys {
            match self.resolve(key) {
                Ok(resolved) => {
                    found.insert(key.clone(), resolved);
                }
                Err(fault) if key.is_wrapped() => return Err(fault),
                Err(_) if lacking.contains(&key) => {}
                Err(_) => lacking.push(key),
            }
        }
        if lacking.is_empty() { Ok(ResolvedKeks(found)) } else { Err(missing(&lacking)) }
    }
}

fn not_given(key: &KeyRef) -> Fault {
    let why = format!("the host does not have the key {key}, or not for the time for which it is attested");
    Fault::new(
        Code::KeyNotOnHost,
        why,
        "`ward trust status` tells whether the host is attested, and why not if it isn't",
    )
}

fn missing(keys: &[&KeyRef]) -> Fault {
    let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
    let why = match names.as_slice() {
        [one] => format!("the host does not have the key {one}"),
        many => format!("the host does not have the keys {}", many.join(", ")),
    };
    let remedy = "check that the key provider's key server answers and has the key; the controller then hands it over";
    Fault::new(Code::KeyNotOnHost, why, remedy)
}

/// The cache as the parts of the agent share it.
#[derive(Clone, Default)]
pub(crate) struct SharedKeys(Arc<Mutex<KeyCache>>);

impl SharedKeys {
    pub(crate) fn lock(&self) -> MutexGuard<'_, KeyCache> {
        // Every change is one map operation, so a panic elsewhere can't have left one half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use ward_types::KeyId;

    use super::*;

    fn key(id: u8) -> KeyRef {
        KeyRef::standard("kms".parse().unwrap(), KeyId::try_from(id.to_string()).unwrap())
    }

    fn kek(byte: u8) -> Kek {
        Kek::take(&mut [byte; 32]).unwrap()
    }

    #[test]
    fn a_trusted_key_ends_with_the_attestation_for_which_it_was_given() {
        let trusted = |provider: &str| {
            let wrapped = ward_types::TrustedKey::try_from(format!("2/{provider}/AAAA")).unwrap();
            KeyRef::trusted(provider.parse().unwrap(), wrapped)
        };
        let (vault, safe) = (trusted("vault"), trusted("safe"));
        let mut cache = KeyCache::default();
        assert_eq!(cache.resolve(&vault).err().unwrap().code, Code::KeyNotOnHost);
        let later = Instant::now() + Duration::from_secs(3600);
        cache.insert_trusted(vault.clone(), kek(1), later);
        cache.insert_trusted(safe.clone(), kek(2), later);
        assert!(cache.resolve(&vault).unwrap().kek().same(&kek(1)));
        let [minute, hour] = [60, 3600].map(Duration::from_secs);
        assert!(cache.has_trusted(&vault, minute) && !cache.has_trusted(&vault, hour));
        assert_eq!(cache.references(), [safe.clone(), vault.clone()]);
        cache.drop_trusted(&safe.provider);
        assert!(cache.resolve(&safe).is_err());
        cache.insert_trusted(vault.clone(), kek(1), Instant::now());
        assert_eq!(cache.resolve_all([&vault]).err().unwrap().code, Code::KeyNotOnHost);
        assert_eq!(cache.references(), []);
        cache.forget_expired();
        assert!(!cache.drop_key(&vault));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut cache = KeyCache::default();
        assert_eq!(cache.insert(key(1), kek(1)), Inserted::New);
        assert_eq!(cache.resolve(&key(2)).err().unwrap().code, Code::KeyNotOnHost);
        let error = cache.resolve_all([&key(1), &key(2), &key(3), &key(2)]).err().unwrap();
        assert_eq!(error.why, "the host does not have the keys kms/2, kms/3");
        assert!(cache.resolve_all([&key(1)]).unwrap().get(&key(1)).unwrap().kek().same(&kek(1)));
    }

    #[test]
    fn a_key_in_use_outlives_its_place_in_the_cache() {
        let mut cache = KeyCache::default();
        cache.insert(key(1), kek(1));
        let held = cache.resolve(&key(1)).unwrap();
        assert!(cache.drop_key(&key(1)));
        assert!(!cache.drop_key(&key(1)));
        assert!(cache.resolve(&key(1)).is_err());
        assert!(held.kek().same(&kek(1)));
        assert_eq!(held.reference(), &key(1));
    }

    proptest! {
        /// Against a plain model: what was put in last under a reference and not dropped since, resolves; nothing else.
        #[test]
        fn holds_what_was_put_in_and_not_dropped(ops in prop::collection::vec((0u8..6, 0u8..4, any::<bool>()), 0..60)) {
            let mut cache = KeyCache::default();
            let mut model = BTreeMap::new();
            for (id, byte, put) in ops {
                let (before, was) = (cache.revision(), model.clone());
                if put {
                    let expected = match model.insert(id, byte) {
                        None => Inserted::New,
                        Some(old) if old == byte => Inserted::Same,
                        Some(_) => Inserted::Replaced,
                    };
                    prop_assert_eq!(cache.insert(key(id), kek(byte)), expected);
                } else {
                    prop_assert_eq!(cache.drop_key(&key(id)), model.remove(&id).is_some());
                }
                prop_assert_eq!(cache.revision() == before, model == was);
                for id in 0..6 {
                    match (cache.resolve(&key(id)), model.get(&id)) {
                        (Ok(found), Some(byte)) => prop_assert!(found.kek().same(&kek(*byte))),
                        (Err(fault), None) => prop_assert_eq!(fault.code, Code::KeyNotOnHost),
                        _ => prop_assert!(false, "cache and model differ"),
                    }
                }
                let references: BTreeSet<_> = cache.references().into_iter().collect();
                prop_assert_eq!(references, model.keys().map(|id| key(*id)).collect());
            }
        }
    }
}
