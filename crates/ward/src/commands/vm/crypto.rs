//! What changes a VM's encryption.

use std::collections::BTreeMap;

use clap::Args;
use ward_controller::api::types::{Decrypt, Encrypt, Recrypt, SetPolicy};
use ward_types::{DiskId, KeyId, PolicyName, Problem, ProviderName};

use super::{OnVm, ask, parse_key_id};
use crate::client::Api;
use crate::output::Output;

/// Which parts of a VM.
#[derive(Args)]
pub(crate) struct Parts {
    /// The VM home; with --disk, only what is named is touched.
    #[arg(long)]
    home: bool,
    /// A disk by its number, as `ward vm show` lists them; give it once for each disk.
    #[arg(long = "disk", value_name = "N")]
    disks: Vec<DiskId>,
}

/// From where the key comes.
#[derive(Args)]
pub(crate) struct Key {
    /// The key provider; the default one unless named.
    #[arg(long)]
    pub(super) provider: Option<ProviderName>,
    /// A key that exists at the provider's key server; a new one is made unless named.
    #[arg(long, value_parser = parse_key_id)]
    pub(super) key_id: Option<KeyId>,
}

/// `ward vm encrypt`.
#[derive(Args)]
pub(crate) struct EncryptVm {
    #[command(flatten)]
    on: OnVm,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    parts: Parts,
}

/// `ward vm decrypt`.
#[derive(Args)]
pub(crate) struct DecryptVm {
    #[command(flatten)]
    on: OnVm,
    #[command(flatten)]
    parts: Parts,
}

/// `ward vm recrypt`.
#[derive(Args)]
pub(crate) struct RecryptVm {
    #[command(flatten)]
    on: OnVm,
    /// Make new DEKs too and write everything anew. The VM must be off, and the datastore have room for a second copy.
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    parts: Parts,
}

/// `ward vm set-policy`.
#[derive(Args)]
pub(crate) struct SetPolicyOfVm {
    #[command(flatten)]
    on: OnVm,
    /// The policy of the VM home.
    #[arg(long, value_name = "POLICY")]
    home: Option<PolicyName>,
    /// The policy of one disk, as N=POLICY; give it once for each disk.
    #[arg(long = "disk", value_name = "N=POLICY", value_parser = parse_disk_policy)]
    disks: Vec<(DiskId, PolicyName)>,
    /// The policy of all disks that are not named by themselves.
    #[arg(long, value_name = "POLICY")]
    all_disks: Option<PolicyName>,
}

impl EncryptVm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let Key { provider, key_id } = self.key;
        let Parts { home, disks } = self.parts;
        let body = Encrypt { provider, key_id, home, disks };
        ask(api, self.on, "encrypt", &body, output).await
    }
}

impl DecryptVm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let Parts { home, disks } = self.parts;
        ask(api, self.on, "decrypt", &Decrypt { home, disks }, output).await
    }
}

impl RecryptVm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let Key { provider, key_id } = self.key;
        let Parts { home, disks } = self.parts;
        let body = Recrypt { deep: self.deep, provider, key_id, home, disks };
        ask(api, self.on, "recrypt", &body, output).await
    }
}

impl SetPolicyOfVm {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let disks: BTreeMap<_, _> = self.disks.into_iter().collect();
        ask(api, self.on, "policy", &SetPolicy { home: self.home, all_disks: self.all_disks, disks }, output).await
    }
}

pub(super) fn parse_disk_policy(text: &str) -> Result<(DiskId, PolicyName), String> {
    let (disk, policy) = text.split_once('=').ok_or("give it as N=POLICY, such as 0='VM Encryption Policy'")?;
    let disk = disk.parse().map_err(|_| format!("`{disk}` is no disk; give its number"))?;
    Ok((disk, policy.parse().map_err(|error: ward_types::NameError| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_disks() {
        let (disk, policy) = parse_disk_policy("1=VM Encryption Policy").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((disk, policy), (DiskId(1), PolicyName::encryption()));
        for text in ["1", "x=P", "=P", "1=", "1= P"] {
            assert!(parse_disk_policy(text).is_err(), "{text}");
        }
    }
}
