//! `ward vm clone`.

use clap::{Args, ValueEnum};
use ward_controller::api::types::{CloneKeys, CloneVm, TpmClone, VmView};
use ward_types::{
    Code, Component, CryptoRequest, CryptoSpec, DiskCrypto, HomeCrypto, KeyId, KeyWish, Name, Problem, ProviderName,
};

use super::{OnVm, finish, parse_key_id};
use crate::client::Api;
use crate::output::Output;

/// `ward vm clone`.
#[derive(Args)]
pub(crate) struct CloneVmCommand {
    #[command(flatten)]
    on: OnVm,
    /// The clone's name.
    name: Name,
    /// The datastore where its home is to lie; that of the other VM unless named.
    #[arg(long)]
    datastore: Option<String>,
    /// Put the clone under a new KEK; its DEKs stay the same.
    #[arg(long)]
    new_kek: bool,
    /// Give the clone new DEKs too: everything is encrypted anew.
    #[arg(long, conflicts_with = "new_kek")]
    new_keys: bool,
    /// Encrypt what is plain, on the way.
    #[arg(long)]
    encrypt: bool,
    /// Decrypt what is encrypted, on the way.
    #[arg(long, conflicts_with_all = ["encrypt", "new_kek", "new_keys", "provider", "key_id"])]
    decrypt: bool,
    /// The provider of new keys; the default one unless named.
    #[arg(long)]
    provider: Option<ProviderName>,
    /// A key that exists at the provider's key server; a new one is made unless named.
    #[arg(long, value_parser = parse_key_id)]
    key_id: Option<KeyId>,
    /// What becomes of the vTPM; it is copied unless said otherwise.
    #[arg(long, value_enum)]
    tpm: Option<Tpm>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Tpm {
    /// The clone has the same secrets.
    Copy,
    /// The clone has a new, empty one.
    Replace,
}

impl CloneVmCommand {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let keys = match (self.new_kek, self.new_keys) {
            (true, _) => CloneKeys::NewKek,
            (_, true) => CloneKeys::New,
            (false, false) => CloneKeys::Same,
        };
        let wish = KeyWish { provider: self.provider.clone(), key_id: self.key_id.clone() };
        let crypto = if self.encrypt {
            on_the_way(api, &self.on.vm, false, &CryptoSpec::Encrypt(wish)).await?
        } else if self.decrypt {
            on_the_way(api, &self.on.vm, true, &CryptoSpec::Decrypt).await?
        } else {
            CryptoRequest::default()
        };
        let tpm = self.tpm.map(|tpm| match tpm {
            Tpm::Copy => TpmClone::Copy,
            Tpm::Replace => TpmClone::Replace,
        });
        let Self { name, datastore, provider, key_id, .. } = self;
        let body = CloneVm { name, datastore, keys, provider, key_id, crypto, tpm };
        let task = api.post(&format!("/vms/{}/clone", self.on.vm), &body).await?;
        finish(api, task, self.on.no_wait, output).await
    }
}

/// What is asked of all components that are encrypted, or of all that are not.
async fn on_the_way(api: &Api, vm: &str, encrypted: bool, spec: &CryptoSpec) -> Result<CryptoRequest, Problem> {
    let view: VmView = api.get(&format!("/vms/{vm}")).await?;
    let config = view.config.ok_or_else(|| {
        let (why, remedy) = ("its home was never finished", "wait for its task, or remove it");
        Problem::new(Code::HomeInvalid, format!("cannot clone VM `{vm}`"), why, remedy)
    })?;
    let home = (Component::Home, config.home != HomeCrypto::Plain);
    let disks = config.disks.iter().map(|disk| (Component::Disk(disk.id), disk.crypto != DiskCrypto::Plain));
    let all = std::iter::once(home).chain(disks);
    Ok(CryptoRequest::of(all.filter(|(_, is)| *is == encrypted).map(|(component, _)| component), spec))
}
