//! The keys of native providers (KDKs) that this host has, and the KEKs that they wrap.
//!
//! A core without I/O. A KEK is in memory only as long as somebody uses it: each time it is wanted it is unwrapped anew.

use std::collections::BTreeMap;

use ward_rpc::NativeEntry;
use ward_secret::{Kdk, Kek, KekContext, SALT_LEN, SecretError, WRAPPED_KEK_LEN};
use ward_types::{Code, KdkRef, KeyRef, NativeKey, ProviderName, Salt, VmId, WrappedKek};

use crate::fault::{Fault, Result};

/// The KDKs.
#[derive(Default)]
pub(crate) struct KeyRing {
    kdks: BTreeMap<KdkRef, (NativeEntry, Kdk)>,
}

impl KeyRing {
    /// Takes these in the place of all others.
    pub(crate) fn replace(&mut self, kdks: impl IntoIterator<Item = (NativeEntry, Kdk)>) {
        self.kdks = kdks.into_iter().map(|(entry, kdk)| (entry.key.clone(), (entry, kdk))).collect();
    }

    /// The names of those that are there.
    pub(crate) fn references(&self) -> Vec<KdkRef> {
        self.kdks.keys().cloned().collect()
    }

    /// Unwraps a KEK, or says why not.
    pub(crate) fn unwrap(&self, provider: &ProviderName, key: &NativeKey) -> Result<Kek> {
        let kdk = KdkRef { provider: provider.clone(), key_id: key.key_id, version: key.version };
        let Some((_, found)) = self.kdks.get(&kdk) else { return Err(self.lacks(&kdk)) };
        found.unwrap_kek(&context(&kdk, &key.vm), &key.salt.0, &key.wrapped.0).map_err(|error| match error {
            SecretError::Unwrap => Fault::new(
                Code::KeyTampered,
                format!(
                    "the wrapped key {provider}/{key} does not open under {kdk} for VM {}: it was altered, or is \
                     another VM's",
                    key.vm
                ),
                "find out who changed vm.toml or the disk's token; restore them from a backup",
            ),
            error => error.into(),
        })
    }

    /// Makes a KEK for a VM. It exists in the reference only, wrapped.
    pub(crate) fn make(&self, kdk: &KdkRef, vm: VmId) -> Result<KeyRef> {
        let (_, found) = self.kdks.get(kdk).ok_or_else(|| self.lacks(kdk))?;
        Ok(reference(kdk, vm, found.wrap_new_kek(&context(kdk, &vm))?))
    }

    /// Wraps a KEK once more, under the same KDK, for another VM.
    pub(crate) fn rebind(&self, provider: &ProviderName, key: &NativeKey, vm: VmId) -> Result<(KeyRef, Kek)> {
        let kek = self.unwrap(provider, key)?;
        let kdk = KdkRef { provider: provider.clone(), key_id: key.key_id, version: key.version };
        let (_, found) = self.kdks.get(&kdk).ok_or_else(|| self.lacks(&kdk))?;
        let wrapped = found.wrap_kek_anew(&context(&kdk, &vm), &kek)?;
        Ok((reference(&kdk, vm, wrapped), kek))
    }

    /// Why a KDK can't be had: nothing of the provider is here, or something else of it.
    fn lacks(&self, kdk: &KdkRef) -> Fault {
        let provider = &kdk.provider;
        let of_provider: Vec<_> = self.kdks.keys().filter(|held| held.provider == *provider).collect();
        if of_provider.is_empty() {
            return Fault::new(
                Code::KeyNotOnHost,
                format!("the host does not have the key of native provider `{provider}`"),
                format!(
                    "`ward provider show {provider}` tells which hosts lack it and why; the controller hands it over \
                     as soon as it reaches the host"
                ),
            );
        }
        let Some(other) = of_provider.iter().find(|held| held.key_id != kdk.key_id) else {
            let versions: Vec<_> = of_provider.iter().map(|held| held.version.to_string()).collect();
            return Fault::new(
                Code::KeyWrongVersion,
                format!(
                    "the key is wrapped under version {} of the key of native provider `{provider}`, and there is \
                     only version {}",
                    kdk.version,
                    versions.join(", ")
                ),
                format!("restore a backup of `{provider}` that holds that version, with `ward provider import`"),
            );
        };
        Fault::new(
            Code::KeyWrong,
            format!(
                "the key is wrapped under the key {} of native provider `{provider}`, and the provider of that name \
                 has the key {}",
                kdk.key_id, other.key_id
            ),
            format!("restore the backup of the `{provider}` that the VM was encrypted with, under that name"),
        )
    }
}

fn reference(kdk: &KdkRef, vm: VmId, (salt, wrapped): ([u8; SALT_LEN], [u8; WRAPPED_KEK_LEN])) -> KeyRef {
    let key =
        NativeKey { key_id: kdk.key_id, version: kdk.version, salt: Salt(salt), wrapped: WrappedKek(wrapped), vm };
    KeyRef::native(kdk.provider.clone(), key)
}

fn context<'a>(kdk: &'a KdkRef, vm: &'a VmId) -> KekContext<'a> {
    KekContext {
        provider: kdk.provider.as_str(),
        key_id: kdk.key_id.as_bytes(),
        version: kdk.version,
        vm: vm.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ward_types::{KdkId, KeyLocator};

    use super::*;

    fn kdk(provider: &str, key_id: KdkId, version: u32) -> KdkRef {
        KdkRef { provider: provider.parse().unwrap(), key_id, version }
    }

    fn ring(keys: &[KdkRef]) -> KeyRing {
        let mut ring = KeyRing::default();
        let entry = |key: &KdkRef| NativeEntry { key: key.clone(), tpm_required: false };
        let kdk = |key: &KdkRef| Kdk::take(&mut [key.version.to_be_bytes(); 8].concat()).unwrap();
        ring.replace(keys.iter().map(|key| (entry(key), kdk(key))));
        ring
    }

    fn native(key: &KeyRef) -> &NativeKey {
        let KeyLocator::Native(native) = &key.key else { panic!("{key}") };
        native
    }

    #[test]
    fn a_key_opens_on_every_host_that_has_the_kdk() {
        let first = kdk("n1", KdkId::new(), 1);
        let vm = VmId::new();
        let key = ring(std::slice::from_ref(&first)).make(&first, vm).unwrap();
        assert_eq!(native(&key).vm, vm);
        let second = KdkRef { version: 2, ..first.clone() };
        let other = ring(&[first.clone(), second.clone()]);
        assert_eq!(other.references(), [first.clone(), second.clone()]);
        let kek = other.unwrap(&key.provider, native(&key)).unwrap();
        assert!(ring(&[first]).unwrap(&key.provider, native(&key)).unwrap().same(&kek));
        let again = other.make(&second, vm).unwrap();
        assert!(!other.unwrap(&again.provider, native(&again)).unwrap().same(&kek));
    }

    #[test]
    fn a_key_can_be_bound_to_another_vm() {
        let kdk = kdk("n1", KdkId::new(), 1);
        let ring = ring(std::slice::from_ref(&kdk));
        let (vm, clone) = (VmId::new(), VmId::new());
        let key = ring.make(&kdk, vm).unwrap();
        let (again, kek) = ring.rebind(&key.provider, native(&key), clone).unwrap();
        assert_eq!((native(&again).vm, again.kdk()), (clone, key.kdk()));
        assert!(native(&again).salt != native(&key).salt && native(&again).wrapped != native(&key).wrapped);
        for key in [&key, &again] {
            assert!(ring.unwrap(&key.provider, native(key)).unwrap().same(&kek));
        }
        let taken = NativeKey { vm: clone, ..native(&key).clone() };
        assert_eq!(ring.rebind(&key.provider, &taken, vm).err().unwrap().code, Code::KeyTampered);
    }

    #[test]
    fn each_reason_why_not_is_told_apart() {
        let id = KdkId::new();
        let first = kdk("n1", id, 1);
        let key = ring(std::slice::from_ref(&first)).make(&first, VmId::new()).unwrap();
        let code = |ring: &KeyRing, key: &NativeKey| ring.unwrap(&first.provider, key).err().unwrap().code;
        assert_eq!(code(&KeyRing::default(), native(&key)), Code::KeyNotOnHost);
        assert_eq!(code(&ring(&[kdk("n2", id, 1)]), native(&key)), Code::KeyNotOnHost);
        assert_eq!(code(&ring(&[kdk("n1", id, 2)]), native(&key)), Code::KeyWrongVersion);
        assert_eq!(code(&ring(&[kdk("n1", KdkId::new(), 1)]), native(&key)), Code::KeyWrong);
        let whole = ring(std::slice::from_ref(&first));
        let mut altered = native(&key).clone();
        altered.wrapped.0[7] ^= 1;
        assert_eq!(code(&whole, &altered), Code::KeyTampered);
        let mut altered = native(&key).clone();
        altered.salt.0[7] ^= 1;
        assert_eq!(code(&whole, &altered), Code::KeyTampered);
        let mut altered = native(&key).clone();
        altered.vm = VmId::new();
        assert_eq!(code(&whole, &altered), Code::KeyTampered);
    }
}
