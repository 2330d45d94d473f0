//! `ward vm disk`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ward_controller::api::types::{NewDiskFrom, NewVmDisk, VmDiskView};
use ward_types::{
    Code, CryptoSpec, DiskCrypto, DiskId, KeyId, KeyWish, PlainFormat, PolicyName, Problem, ProviderName,
};

use super::{OnVm, finish, parse_format, parse_key_id, parse_size};
use crate::client::Api;
use crate::commands::absolute;
use crate::output::{Output, table};

/// What to do with the disks of a VM.
#[derive(Subcommand)]
pub(crate) enum Disk {
    /// List the disks of a VM, those that are detached too.
    Ls {
        /// The VM's name or ID.
        vm: String,
    },
    /// Give a VM, which must be off, a blank disk.
    #[command(
        after_help = "Examples:\n  ward vm disk add web-1 --size 20G\n  ward vm disk add web-1 --size 20G --encrypt\n\nA \
                            disk is encrypted only on a VM whose home is; a plain one may be on any."
    )]
    Add(Add),
    /// Give a VM, which must be off, a disk that there is: one of its own that was detached, or a copy of an image, of a
    /// disk of another VM, or of an encrypted disk of a VM that is in no inventory.
    #[command(
        after_help = "Examples:\n  ward vm disk attach web-1 2                          its own, detached before\n  ward \
                            vm disk attach web-1 --file /images/data.qcow2 --encrypt\n  ward vm disk attach web-1 --vm \
                            db-1 --disk 1            under the key that it has\n  ward vm disk attach web-1 --vm db-1 \
                            --disk 1 --new-kek  under a new one\n  ward vm disk attach web-1 --file \
                            /srv/vms/old/disk-0.luks\n\nWhat is copied stays as it is. An encrypted disk can be given \
                            only to a VM whose home is encrypted, and its key\nmust be at its key server."
    )]
    Attach(Attach),
    /// Take a disk from a VM, which must be off. It stays in the VM's home, under its number and its key, and is
    /// recrypted with the VM.
    Detach(OnDisk),
    /// Delete a disk of a VM, which must be off. Its key is not needed, and stays at the key server.
    Rm(Remove),
}

/// From where the key comes, where one is taken.
#[derive(Args)]
struct Key {
    /// The key provider; the default one unless named.
    #[arg(long)]
    provider: Option<ProviderName>,
    /// A key that exists at the provider's key server; a new one is made unless named.
    #[arg(long, value_parser = parse_key_id)]
    key_id: Option<KeyId>,
}

/// `ward vm disk add`.
#[derive(Args)]
pub(crate) struct Add {
    #[command(flatten)]
    on: OnVm,
    /// Its size, such as 512M, 20G or 1T.
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// Its format when it is not encrypted.
    #[arg(long, value_parser = parse_format, default_value = "raw")]
    format: PlainFormat,
    /// Encrypt it.
    #[arg(long, conflicts_with = "policy")]
    encrypt: bool,
    /// The storage policy under which it is to be.
    #[arg(long)]
    policy: Option<PolicyName>,
    #[command(flatten)]
    key: Key,
}

/// `ward vm disk attach`.
#[derive(Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    on: OnVm,
    /// A disk of the VM itself that was detached, by its number.
    #[arg(value_name = "N", required_unless_present_any = ["file", "other"])]
    own: Option<DiskId>,
    /// A file that the hosts can read: a plain image, or a disk that Ward has encrypted.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["own", "other"])]
    file: Option<PathBuf>,
    /// Another VM, by name or ID, whose disk is copied.
    #[arg(long = "vm", value_name = "VM", requires = "disk", conflicts_with = "own")]
    other: Option<String>,
    /// Which of its disks.
    #[arg(long, value_name = "N", requires = "other")]
    disk: Option<DiskId>,
    /// Encrypt a plain one on its way.
    #[arg(long, group = "change")]
    encrypt: bool,
    /// Decrypt an encrypted one on its way.
    #[arg(long, group = "change")]
    decrypt: bool,
    /// Give an encrypted one a new KEK; its DEK stays.
    #[arg(long, group = "change")]
    new_kek: bool,
    /// Encrypt an encrypted one anew, under a new DEK and a new KEK.
    #[arg(long, group = "change")]
    new_keys: bool,
    /// The storage policy under which it is to be.
    #[arg(long, conflicts_with = "change")]
    policy: Option<PolicyName>,
    #[command(flatten)]
    key: Key,
}

/// A disk of a VM.
#[derive(Args)]
pub(crate) struct OnDisk {
    #[command(flatten)]
    on: OnVm,
    /// The disk, by its number.
    #[arg(value_name = "N")]
    disk: DiskId,
}

/// `ward vm disk rm`.
#[derive(Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    of: OnDisk,
    /// Delete without asking.
    #[arg(long)]
    yes: bool,
}

impl Disk {
    pub(super) async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        match self {
            Self::Ls { vm } => list(api, &vm, output).await,
            Self::Add(Add { on, size, format, encrypt, policy, key }) => {
                let crypto = key.spec(encrypt.then_some(CryptoSpec::Encrypt))?;
                give(api, on, &NewVmDisk { from: NewDiskFrom::Blank { size, format }, crypto, policy }, output).await
            }
            Self::Attach(attach) => attach.run(api, output).await,
            Self::Detach(OnDisk { on, disk }) => change(api, on, &format!("{}/detach", disk.0), output).await,
            Self::Rm(Remove { of: OnDisk { on, disk }, yes }) => {
                if !yes {
                    confirm(&on.vm, disk)?;
                }
                let task = api.delete(&format!("/vms/{}/disks/{}", on.vm, disk.0)).await?;
                finish(api, task, on.no_wait, output).await
            }
        }
    }
}

impl Key {
    /// What is done with the key; one that is named for nothing is a mistake.
    fn spec(self, with: Option<fn(KeyWish) -> CryptoSpec>) -> Result<CryptoSpec, Problem> {
        let wish = KeyWish { provider: self.provider, key_id: self.key_id };
        match with {
            Some(with) => Ok(with(wish)),
            None if wish == KeyWish::default() => Ok(CryptoSpec::NoOp),
            None => Err(Problem::new(
                Code::RequestInvalid,
                "cannot change the disks of a VM",
                "a key is named, but nothing that takes one",
                "say what it is for: `--encrypt`, `--new-kek` or `--new-keys`",
            )),
        }
    }
}

impl Attach {
    async fn run(self, api: &Api, output: Output) -> Result<(), Problem> {
        let with: Option<fn(KeyWish) -> CryptoSpec> = match (self.encrypt, self.decrypt, self.new_kek, self.new_keys) {
            (true, ..) => Some(CryptoSpec::Encrypt),
            (_, true, ..) => Some(|_| CryptoSpec::Decrypt),
            (_, _, true, _) => Some(CryptoSpec::ShallowRecrypt),
            (.., true) => Some(CryptoSpec::DeepRecrypt),
            _ => None,
        };
        let crypto = self.key.spec(with)?;
        let from = match (self.own, self.file, self.other.zip(self.disk)) {
            (None, Some(path), _) => NewDiskFrom::File { path: absolute(&path)? },
            (None, None, Some((vm, disk))) => NewDiskFrom::Vm { vm, disk },
            (own, ..) => {
                let disk = own.unwrap_or(DiskId(0));
                return change(api, self.on, &format!("{}/attach", disk.0), output).await;
            }
        };
        give(api, self.on, &NewVmDisk { from, crypto, policy: self.policy }, output).await
    }
}

async fn give(api: &Api, on: OnVm, disk: &NewVmDisk, output: Output) -> Result<(), Problem> {
    let task = api.post(&format!("/vms/{}/disks", on.vm), disk).await?;
    finish(api, task, on.no_wait, output).await
}

async fn change(api: &Api, on: OnVm, what: &str, output: Output) -> Result<(), Problem> {
    let task = api.post(&format!("/vms/{}/disks/{what}", on.vm), &()).await?;
    finish(api, task, on.no_wait, output).await
}

fn confirm(vm: &str, disk: DiskId) -> Result<(), Problem> {
    eprint!("Delete {disk} of VM `{vm}`? Type `{disk}` to go on: ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.trim() == disk.to_string() {
        return Ok(());
    }
    Err(Problem::new(
        Code::Cancelled,
        format!("did not delete {disk} of VM `{vm}`"),
        "it was not confirmed",
        "type the disk's name when asked, or give --yes",
    ))
}

async fn list(api: &Api, vm: &str, output: Output) -> Result<(), Problem> {
    let disks: Vec<VmDiskView> = api.list(&format!("/vms/{vm}/disks")).await?;
    output.show(&disks, || {
        let rows = disks.iter().map(|disk| {
            let crypto = match &disk.crypto {
                DiskCrypto::Plain => format!("plain {}", disk.plain_format),
                DiskCrypto::Encrypted { key } => format!("encrypted under key {key}"),
            };
            let is = match (disk.attached, disk.boots) {
                (false, _) => "detached",
                (true, true) => "attached, boots",
                (true, false) => "attached",
            };
            vec![
                disk.id.to_string(),
                is.to_owned(),
                disk.size.to_string(),
                disk.file.to_string(),
                crypto,
                disk.policy.to_string(),
            ]
        });
        table(&["disk", "is", "bytes", "file", "encryption", "policy"], rows)
    })
}
