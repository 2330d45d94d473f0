//! Keys that a host makes, gets and forgets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ward_types::{KdkRef, KeyRef, ProviderName, TrustStatus, VmId};

use crate::call::calls;

calls! {
    "make-key" = MakeKey => KeyRef;
    "take-trust" = TakeTrust => Vec<TrustStatus>;
    "obtain-keys" = ObtainKeys => ();
    "make-trusted-key" = MakeTrustedKey => KeyRef;
    "find-uses" = FindUses => Vec<DatastoreUses>;
    "drop-keys" = DropKeys => ();
    "leave" = Leave => ();
}

/// Makes a key for a VM under a native provider's key, and tells its reference: the only place where it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeKey {
    /// The provider's key.
    pub kdk: KdkRef,
    /// The VM, which alone can use the new key.
    pub vm: VmId,
}

/// Tells the host of all trusted providers that it is to have. What is not among them goes.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeTrust {
    /// The providers.
    pub providers: Vec<DescribedProvider>,
    /// Whether it is to be attested anew at once, whatever it holds; the answer then tells how that ended.
    pub anew: bool,
}

/// A trusted provider, and the signed description of its trust authority's services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedProvider {
    /// The provider.
    pub provider: ProviderName,
    /// The description. The controller can't make one: the trust administrators sign it.
    pub description: String,
}

/// Makes the host get keys of trusted providers from the trust authority, for as long as it is attested.
#[derive(Debug, Serialize, Deserialize)]
pub struct ObtainKeys {
    /// Which.
    pub keys: Vec<KeyRef>,
}

/// Makes the host have the trust authority make a key, and tells its reference: the only place where it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct MakeTrustedKey {
    /// The provider.
    pub provider: ProviderName,
}

/// Asks what on some datastores needs a key: VM homes and encrypted disks, whether they are in the inventory or not.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindUses {
    /// The datastores' directories.
    pub datastores: Vec<PathBuf>,
    /// The key.
    pub key: KeyRef,
}

/// What of it lies on a datastore. One that the host does not have at all is left out of the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct DatastoreUses {
    /// Its directory.
    pub directory: PathBuf,
    /// Whether Ward's mark is there, which each datastore has from its first VM home on: where that is not mounted, it is not.
    pub marked: bool,
    /// The homes, and disks outside of such homes.
    pub uses: Vec<PathBuf>,
}

/// Makes the host forget keys. Those of running VMs stay in their disk processes.
#[derive(Debug, Serialize, Deserialize)]
pub struct DropKeys {
    /// Which.
    pub keys: Vec<KeyRef>,
}

/// Makes the host forget all its keys for good, those that it keeps over a restart too, and take none any more as long as its
/// agent runs: it leaves its cluster. An error says what it could not be rid of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Leave {}
