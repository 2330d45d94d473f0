//! The keys that a host holds, and those that it ought to.

use std::collections::BTreeSet;

use uuid::Uuid;
use ward_types::{HostCrypto, KeyRef};

use crate::keys::Needed;
use crate::store::host_crypto::HostStanding;

/// The keys that a host holds. Hosts of a cluster that hold the same share one list of them: they are many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    shared: Needed,
    own: BTreeSet<KeyRef>,
}

impl Held {
    pub(super) fn new(keys: impl IntoIterator<Item = KeyRef>) -> Self {
        Self { shared: Needed::default(), own: keys.into_iter().collect() }
    }

    pub(crate) fn contains(&self, key: &KeyRef) -> bool {
        self.own.contains(key) || self.shared.contains(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.len() + self.own.len()
    }

    /// Each once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyRef> {
        self.shared.iter().chain(&self.own)
    }
}

/// The keys that a host ought to hold: as long as it is safe those of its cluster's VMs, and its own.
#[derive(Clone, Debug)]
pub(super) struct Ought {
    of_cluster: Needed,
    own: BTreeSet<KeyRef>,
    /// Whether it is given what it lacks.
    is_given: bool,
}

impl Ought {
    /// Of a host whose agent is in that run.
    pub(super) fn new(standing: &HostStanding, of_cluster: &Needed, boot: Uuid) -> Self {
        let own = |is_kept: bool| if is_kept { standing.keys.clone() } else { BTreeSet::new() };
        match &standing.crypto {
            HostCrypto::Safe { .. } => Self { of_cluster: of_cluster.clone(), own: own(true), is_given: true },
            // Its host key is on its way. What it holds from before it keeps, and nothing more is given to it.
            HostCrypto::Prepared { .. } => Self { of_cluster: of_cluster.clone(), own: own(true), is_given: false },
            // What dumps itself until the restart is encrypted too.
            HostCrypto::PendingIncapable { boot: last, .. } => {
                Self { of_cluster: Needed::default(), own: own(*last == boot), is_given: false }
            }
            HostCrypto::Incapable => Self { of_cluster: Needed::default(), own: own(false), is_given: false },
        }
    }

    fn has(&self, key: &KeyRef) -> bool {
        self.own.contains(key) || self.of_cluster.contains(key)
    }

    fn iter(&self) -> impl Iterator<Item = &KeyRef> {
        self.of_cluster.iter().chain(self.own.iter().filter(|key| !self.of_cluster.contains(*key)))
    }

    /// What it is to be given: for VMs, and for itself alone.
    pub(super) fn missing(&self, held: &Held) -> [Vec<&KeyRef>; 2] {
        let is_missing = |key: &&KeyRef| self.is_given && !held.contains(key);
        let own = self.own.iter().filter(|key| !self.of_cluster.contains(*key));
        [self.of_cluster.iter().filter(is_missing).collect(), own.filter(is_missing).collect()]
    }

    /// What it holds and ought not to.
    pub(super) fn surplus(&self, held: &Held) -> BTreeSet<KeyRef> {
        held.iter().filter(|key| !self.has(key)).cloned().collect()
    }

    /// What it holds, where that is just what it ought to. What unwraps the keys of native and trusted providers is another
    /// matter.
    pub(super) fn is_held(&self, held: &Held) -> Option<Held> {
        let given = |key: &&KeyRef| !key.is_wrapped();
        let is_it =
            self.iter().filter(given).count() == held.len() && self.iter().filter(given).all(|key| held.contains(key));
        if !is_it {
            return None;
        }
        if self.of_cluster.iter().any(KeyRef::is_wrapped) {
            return Some(held.clone());
        }
        let own = self.own.iter().filter(given).filter(|key| !self.of_cluster.contains(*key));
        Some(Held { shared: self.of_cluster.clone(), own: own.cloned().collect() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;

    fn key(id: u8) -> KeyRef {
        KeyRef::standard("kms".parse().unwrap(), id.to_string().try_into().unwrap())
    }

    #[test]
    fn what_a_host_ought_to_hold_follows_from_its_mode() {
        let of_cluster: Needed = Arc::new([key(1), key(2)].into());
        let (boot, other) = (Uuid::new_v4(), Uuid::new_v4());
        let own = key(9);
        let ought = |crypto: HostCrypto| {
            let standing = HostStanding { crypto, keys: [own.clone()].into(), ..HostStanding::default() };
            Ought::new(&standing, &of_cluster, boot)
        };
        let (none, all) = (Held::default(), Held::new([key(1), key(2), key(9), key(5)]));
        let pending = |boot| HostCrypto::PendingIncapable { key: own.clone(), boot };
        for (crypto, missing, surplus) in [
            (HostCrypto::Safe { key: own.clone(), rekey: None }, vec![1, 2, 9], vec![5]),
            (HostCrypto::Prepared { attempt: boot }, vec![], vec![5]),
            (pending(boot), vec![], vec![1, 2, 5]),
            (pending(other), vec![], vec![1, 2, 5, 9]),
            (HostCrypto::Incapable, vec![], vec![1, 2, 5, 9]),
        ] {
            let ought = ought(crypto);
            let keys = |ids: Vec<u8>| ids.into_iter().map(key).collect::<BTreeSet<_>>();
            let lacks: BTreeSet<_> = ought.missing(&none).concat().into_iter().cloned().collect();
            assert_eq!(lacks, keys(missing), "{ought:?}");
            assert_eq!(ought.surplus(&all), keys(surplus), "{ought:?}");
            assert!(ought.is_held(&all).is_none());
        }
        let safe = ought(HostCrypto::Safe { key: own.clone(), rekey: None });
        let held = safe.is_held(&Held::new([key(9), key(2), key(1)])).unwrap();
        assert!(Arc::ptr_eq(&held.shared, &of_cluster), "the list is shared");
        assert_eq!((held.len(), held.contains(&own), held.contains(&key(5))), (3, true, false));
        assert!(safe.is_held(&Held::new([key(1), key(2)])).is_none());
    }
}
