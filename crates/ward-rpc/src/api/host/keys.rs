//! Keys that a host makes, gets and forgets.

use serde::{Deserialize, Serialize};
use ward_types::{KdkRef, KeyRef, ProviderName, TrustStatus, VmId};

use crate::call::calls;

calls! {
    "make-key" = MakeKey => KeyRef;
    "take-trust" = TakeTrust => Vec<TrustStatus>;
    "obtain-keys" = ObtainKeys => ();
    "make-trusted-key" = MakeTrustedKey => KeyRef;
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
