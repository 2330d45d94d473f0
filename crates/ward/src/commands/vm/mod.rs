//! `ward vm`.

mod clone;
mod crypto;
mod disk;
mod inventory;
mod tpm;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ward_controller::api::types::{
    AddDisk, AddKernel, AddUefi, AddVm, ConsoleQuery, ConsoleView, SetPolicy, Start, Stop, TaskView, VmView,
};
use ward_types::{
    Code, Component, DiskCrypto, DiskId, DumpInfo, Firmware, HomeCrypto, KeyId, Name, PlainFormat, PolicyName, Power,
    Problem, TaskState,
};

use super::absolute;
use crate::client::{Api, WAIT_MS, follow};
use crate::output::{Output, fields, print_raw, print_text, table};

/// What to do with virtual machines.
#[derive(Subcommand)]
pub(crate) enum Vm {
    /// Make a VM with blank disks.
    #[command(
        after_help = "Examples:\n  ward vm create db-1 --size 20G --memory 2048\n  ward vm create win-1 --size 64G --memory \
                            4096 --firmware uefi --secure-boot --tpm"
    )]
    Create(Create),
    /// Make a VM from existing images. They are copied; the originals stay as they are.
    #[command(
        after_help = "Examples:\n  ward vm import web-1 --disk /images/web-1.qcow2 --memory 2048\n  ward vm import \
                            tiny --disk root.raw --kernel vmlinuz --initrd initrd.cpio --append 'console=ttyS0'"
    )]
    Import(Import),
    /// List VMs.
    Ls,
    /// Show a VM: its disks, its keys, where it runs.
    Show {
        /// The VM's name or ID.
        vm: String,
    },
    /// Start a VM.
    Start(StartVm),
    /// Stop a VM: ask its guest to shut down, and pull the plug if it takes too long.
    Stop(StopVm),
    /// Dump the memory of a VM's guest, which waits meanwhile. The dump stays on its host, encrypted under the host key:
    /// `ward host dump ls` lists it.
    Dump {
        /// The VM's name or ID.
        vm: String,
    },
    /// Encrypt a VM, its home and all its disks or those parts that are named, under a new key unless one is named. The VM
    /// must be off.
    #[command(
        after_help = "A disk is encrypted only in an encrypted home; an encrypted home may have plain disks.\n\nThe plain originals are deleted when everything is encrypted and on the disk, not before. \
                            They are deleted, not\noverwritten: see SECURITY.md."
    )]
    Encrypt(crypto::EncryptVm),
    /// Decrypt a VM: its disks, then its home; or those parts that are named. The VM must be off.
    Decrypt(crypto::DecryptVm),
    /// Give a VM a new KEK, whether it runs or not; with --deep, write everything anew under new DEKs too.
    #[command(
        after_help = "Without --deep only the key-encryption key is replaced: the old keyslots are removed and overwritten, \
                            the data and\ntheir data-encryption keys stay. So it can't take anything from whoever has \
                            both the old KEK and an old copy of a\ndisk's header (a backup, a snapshot of the storage): he \
                            can still read the data. Where that must be so no\nlonger, take --deep; the VM must be off \
                            for it, and the datastore have room for a second copy.\n\nTo move a VM to another key \
                            server:\n  ward vm recrypt web-1 --provider NEW\nTo move all of them, see `ward recrypt`."
    )]
    Recrypt(crypto::RecryptVm),
    /// Put a VM's home and disks under storage policies: the ordinary way to encrypt and decrypt. The VM must be off where
    /// that means to encrypt or decrypt.
    #[command(
        after_help = "Examples:\n  ward vm set-policy web-1 --home 'VM Encryption Policy' --all-disks 'VM Encryption \
                            Policy'\n  ward vm set-policy web-1 --disk 1='No Encryption Policy'\n\n`ward policy ls` \
                            lists the policies."
    )]
    SetPolicy(crypto::SetPolicyOfVm),
    /// Make a VM from another one, which must be off: under the same keys unless new ones are asked for.
    #[command(
        after_help = "Examples:\n  ward vm clone web-1 web-2                same keys\n  ward vm clone web-1 web-2 --new-kek      \
                            a new KEK, the same DEKs\n  ward vm clone web-1 web-2 --new-keys     everything encrypted \
                            anew\n  ward vm clone golden web-3 --encrypt     encrypted on the way"
    )]
    Clone(clone::CloneVmCommand),
    /// Take a VM into the inventory from its home. Where its keys are not to be had, it is locked until they are.
    #[command(
        after_help = "Example:\n  ward vm register store-1 web-1\n\nA key provider of the name that the home tells \
                            must be there, with the same keys behind it."
    )]
    Register(inventory::RegisterVm),
    /// Take a VM out of the inventory. Its home stays as it is.
    Unregister {
        /// The VM's name or ID.
        vm: String,
    },
    /// Read a VM's description from its home again, which was put back from a backup.
    Reload {
        /// The VM's name or ID.
        vm: String,
    },
    /// Try again to get the keys of a VM that is locked, now: it is unlocked by itself some time after its key is back.
    Unlock {
        /// The VM's name or ID.
        vm: String,
    },
    /// Make a VM a template, which is never started. What may be done to a VM's encryption may be done to a template's.
    Template(inventory::TemplateVm),
    /// Give VMs a vTPM, or take it away.
    #[command(subcommand)]
    Tpm(tpm::Tpm),
    /// Change the disks of a VM: add, attach, detach, delete.
    #[command(subcommand)]
    Disk(disk::Disk),
    /// Show what a VM's guest prints to its serial console.
    Console(Console),
    /// Delete a VM with its home and all its disks, those that are detached too. Its keys stay at the key server.
    Rm(Remove),
}

/// What every new VM has.
#[derive(Args)]
pub(crate) struct NewVm {
    /// The VM's name.
    name: Name,
    /// The datastore where its home is to lie; needed where there are several.
    #[arg(long)]
    datastore: Option<String>,
    /// Virtual processors.
    #[arg(long)]
    cpus: Option<u16>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// A Linux kernel to boot directly, instead of from the first disk. It is copied, and not encrypted.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk for the kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "")]
    append: String,
    /// What starts it. UEFI keeps its variables in the VM home, encrypted when that is.
    #[arg(long, value_enum, default_value = "bios")]
    firmware: FirmwareKind,
    /// Boot only what is signed; the VM begins with Microsoft's keys unless other variables are named.
    #[arg(long)]
    secure_boot: bool,
    /// A copy of OVMF's variables to begin with, such as one with keys of your own for Secure Boot.
    #[arg(long, value_name = "FILE")]
    uefi_vars: Option<PathBuf>,
    /// Give it a vTPM. It needs UEFI, and encrypts the VM home with a key of the default provider where no storage policy
    /// does; the disks stay plain unless a policy encrypts them.
    #[arg(long)]
    tpm: bool,
    /// The storage policy of its home and its disks: under one that encrypts, nothing of it is ever plain on the storage,
    /// but for a kernel.
    #[arg(long)]
    policy: Option<PolicyName>,
    /// The storage policy of one disk, as N=POLICY; give it once for each such disk.
    #[arg(long = "disk-policy", value_name = "N=POLICY", value_parser = crypto::parse_disk_policy, requires = "policy")]
    disk_policies: Vec<(DiskId, PolicyName)>,
    /// Don't wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

/// What starts a VM.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareKind {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// `ward vm create`.
#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    vm: NewVm,
    /// The size of a disk, such as 512M, 20G or 1T; give it once for each disk.
    #[arg(long = "size", value_name = "SIZE", value_parser = parse_size)]
    sizes: Vec<u64>,
    /// The disks' format.
    #[arg(long, value_parser = parse_format, default_value = "raw")]
    format: PlainFormat,
}

/// `ward vm import`.
#[derive(Args)]
pub(crate) struct Import {
    #[command(flatten)]
    vm: NewVm,
    /// A raw or qcow2 image that the hosts can read; give it once for each disk.
    #[arg(long = "disk", value_name = "FILE", required = true)]
    disks: Vec<PathBuf>,
}

/// `ward vm start`.
#[derive(Args)]
pub(crate) struct StartVm {
    #[command(flatten)]
    on: OnVm,
    /// The host to start it on.
    #[arg(long)]
    host: Option<Name>,
    /// Then show its console until it stops.
    #[arg(long, conflicts_with = "no_wait")]
    console: bool,
}

/// `ward vm stop`.
#[derive(Args)]
pub(crate) struct StopVm {
    #[command(flatten)]
    on: OnVm,
    /// Pull the plug at once.
    #[arg(long)]
    force: bool,
    /// How many seconds the guest may take before the plug is pulled.
    #[arg(long, value_name = "SECONDS", conflicts_with = "force")]
    wait: Option<u32>,
}

/// A VM, and whether to wait for the task.
#[derive(Args)]
pub(crate) struct OnVm {
    /// The VM's name or ID.
    vm: String,
    /// Don't wait until it is done.
    #[arg(long)]
    no_wait: bool,
}

/// `ward vm rm`.
#[derive(Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    on: OnVm,
    /// Delete without asking.
    #[arg(long)]
    yes: bool,
}

/// `ward vm console`.
#[derive(Args)]
pub(crate) struct Console {
    /// The VM's name or ID.
    vm: String,
    /// Go on until the VM stops.
    #[arg(long)]
    follow: bool,
    /// Go on until the guest has printed this, or the VM stops (exit code 5).
    #[arg(long, value_name = "TEXT", conflicts_with = "follow")]
    until: Option<String>,
}

impl Vm {
    pub(crate) async fn run(self, output: Output) -> Result<(), Problem> {
        let api = Api::open()?;
        match self {
            Self::Create(create) => {
                let disk = |&size: &u64| AddDisk::Blank { size, format: create.format };
                let disks = create.sizes.iter().map(disk).collect();
                make(&api, create.vm, disks, output).await
            }
            Self::Import(import) => {
                let disk = |path: &PathBuf| absolute(path).map(|path| AddDisk::Copy { path });
                let disks = import.disks.iter().map(disk).collect::<Result<_, _>>()?;
                make(&api, import.vm, disks, output).await
            }
            Self::Ls => list(&api, output).await,
            Self::Show { vm } => show(&api, &vm, output).await,
            Self::Start(StartVm { on, host, console }) => {
                let vm = on.vm.clone();
                ask(&api, on, "start", &Start { host }, output).await?;
                if console { watch(&api, &vm, true, None).await } else { Ok(()) }
            }
            Self::Stop(StopVm { on, force, wait }) => {
                ask(&api, on, "stop", &Stop { force, wait_s: wait }, output).await
            }
            Self::Dump { vm } => {
                let dump: DumpInfo = api.post_patiently(&format!("/vms/{vm}/dump"), &()).await?;
                output.show(&dump, || format!("kept as {}; `ward host dump decrypt` opens it on its host", dump.name))
            }
            Self::Encrypt(encrypt) => encrypt.run(&api, output).await,
            Self::Decrypt(decrypt) => decrypt.run(&api, output).await,
            Self::Recrypt(recrypt) => recrypt.run(&api, output).await,
            Self::SetPolicy(set) => set.run(&api, output).await,
            Self::Clone(clone) => clone.run(&api, output).await,
            Self::Register(register) => register.run(&api, output).await,
            Self::Unregister { vm } => inventory::unregister(&api, &vm, output).await,
            Self::Reload { vm } => inventory::reload(&api, &vm, output).await,
            Self::Unlock { vm } => inventory::unlock(&api, &vm, output).await,
            Self::Template(template) => template.run(&api, output).await,
            Self::Tpm(tpm) => tpm.run(&api, output).await,
            Self::Disk(disk) => disk.run(&api, output).await,
            Self::Console(Console { vm, follow, until }) => watch(&api, &vm, follow, until).await,
            Self::Rm(Remove { on, yes }) => {
                if !yes {
                    let vm = &on.vm;
                    confirm(
                        vm,
                        &format!("Delete VM `{vm}` with all its disks?"),
                        &format!("did not delete VM `{vm}`"),
                    )?;
                }
                let task = api.delete(&format!("/vms/{}", on.vm)).await?;
                finish(&api, task, on.no_wait, output).await
            }
        }
    }
}

async fn make(api: &Api, vm: NewVm, disks: Vec<AddDisk>, output: Output) -> Result<(), Problem> {
    let kernel = match &vm.kernel {
        None => None,
        Some(kernel) => Some(AddKernel {
            kernel: absolute(kernel)?,
            initrd: vm.initrd.as_deref().map(absolute).transpose()?,
            command_line: vm.append,
        }),
    };
    let policies = vm.policy.map(|policy| SetPolicy {
        home: Some(policy.clone()),
        all_disks: Some(policy),
        disks: vm.disk_policies.into_iter().collect(),
    });
    let uefi = match vm.firmware {
        FirmwareKind::Uefi => {
            Some(AddUefi { secure_boot: vm.secure_boot, vars: vm.uefi_vars.as_deref().map(absolute).transpose()? })
        }
        FirmwareKind::Bios if vm.secure_boot || vm.uefi_vars.is_some() => {
            return Err(Problem::new(
                Code::RequestInvalid,
                format!("cannot create VM `{}`", vm.name),
                "a BIOS has neither Secure Boot nor variables",
                "give `--firmware uefi` too",
            ));
        }
        FirmwareKind::Bios => None,
    };
    let body = AddVm {
        name: vm.name,
        datastore: vm.datastore,
        cpus: vm.cpus,
        memory_mib: vm.memory,
        kernel,
        disks,
        policies,
        uefi,
        tpm: vm.tpm,
    };
    let task = api.post("/vms", &body).await?;
    finish(api, task, vm.no_wait, output).await
}

async fn ask<B: serde::Serialize>(api: &Api, on: OnVm, verb: &str, body: &B, output: Output) -> Result<(), Problem> {
    let task = api.post(&format!("/vms/{}/{verb}", on.vm), body).await?;
    finish(api, task, on.no_wait, output).await
}

async fn finish(api: &Api, task: TaskView, no_wait: bool, output: Output) -> Result<(), Problem> {
    let task = if no_wait { task } else { follow(api, task, output).await? };
    output.show(&task, || {
        let info = &task.info;
        if info.state == TaskState::Succeeded {
            return format!("{} {}: done", info.kind, info.vm_name);
        }
        format!("{} {}: {}; `ward task watch {}` follows it", info.kind, info.vm_name, info.state, info.id)
    })
}

/// Has somebody type the VM's name before something goes for good.
fn confirm(vm: &str, question: &str, else_said: &str) -> Result<(), Problem> {
    eprint!("{question} Type its name to go on: ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.trim() == vm {
        return Ok(());
    }
    Err(Problem::new(
        Code::Cancelled,
        else_said,
        "it was not confirmed",
        "type the VM's name when asked, or give --yes",
    ))
}

async fn list(api: &Api, output: Output) -> Result<(), Problem> {
    let vms: Vec<VmView> = api.list("/vms").await?;
    output.show(&vms, || {
        let rows = vms.iter().map(|vm| {
            vec![
                vm.name.to_string(),
                if vm.locked.is_some() { "locked".to_owned() } else { vm.power.to_string() },
                vm.host.as_ref().map_or_else(String::new, ToString::to_string),
                if vm.encrypted { "yes" } else { "no" }.to_owned(),
                vm.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                vm.datastore.to_string(),
            ]
        });
        table(&["name", "power", "host", "encrypted", "key", "datastore"], rows)
    })
}

async fn show(api: &Api, vm: &str, output: Output) -> Result<(), Problem> {
    let vm: VmView = api.get(&format!("/vms/{vm}")).await?;
    output.show(&vm, || describe(&vm))
}

fn describe(vm: &VmView) -> String {
    let mut lines = vec![
        ("name", vm.name.to_string()),
        ("id", vm.id.to_string()),
        ("power", vm.power.to_string()),
        ("host", vm.host.as_ref().map_or_else(String::new, ToString::to_string)),
        ("datastore", vm.datastore.to_string()),
        ("home", vm.home.display().to_string()),
        ("task", vm.task.map_or_else(String::new, |task| task.to_string())),
    ];
    if let Some(problem) = &vm.locked {
        lines.push(("locked", format!("{}: {}", problem.why, problem.remedy)));
    }
    if vm.template {
        lines.push(("template", "yes".to_owned()));
    }
    let policy = |component: Component| {
        let found = vm.policies.iter().find(|policy| policy.component == component);
        found.map_or_else(PolicyName::plain, |found| found.policy.clone())
    };
    if let Some(config) = &vm.config {
        lines.push(("hardware", format!("{} cpus, {} MiB", config.cpus, config.memory_mib)));
        let firmware = match &config.firmware {
            Firmware::Bios => "BIOS".to_owned(),
            Firmware::Uefi { secure_boot, nvram } => {
                format!("UEFI{}, variables in {}", if *secure_boot { " with Secure Boot" } else { "" }, nvram.file)
            }
        };
        lines.push(("firmware", firmware));
        if let Some(tpm) = &config.tpm {
            lines.push(("vTPM", tpm::describe(&tpm.state)));
        }
        let home = match &config.home {
            HomeCrypto::Plain => "plain".to_owned(),
            HomeCrypto::Encrypted { key, .. } => format!("encrypted under key {key}"),
        };
        lines.push(("VM home", format!("{home}  ({})", policy(Component::Home))));
        let disks = config.disks.iter().map(|disk| {
            let crypto = match &disk.crypto {
                DiskCrypto::Plain => format!("plain {}", disk.plain_format),
                DiskCrypto::Encrypted { key } => format!("encrypted (LUKS2) under key {key}"),
            };
            let policy = policy(Component::Disk(disk.id));
            let is = if disk.attached { "" } else { "  detached" };
            format!("{}  {}  {} bytes  {crypto}  ({policy}){is}", disk.id, disk.file, disk.size)
        });
        lines.push(("disks", disks.collect::<Vec<_>>().join("\n")));
    }
    fields(&lines)
}

async fn watch(api: &Api, vm: &str, follow: bool, until: Option<String>) -> Result<(), Problem> {
    let mut offset = 0;
    let mut seen = String::new();
    let go_on = follow || until.is_some();
    loop {
        let query = ConsoleQuery { offset, wait_ms: if go_on { WAIT_MS } else { 0 } };
        let piece: ConsoleView = api.query(&format!("/vms/{vm}/console"), &query).await?;
        let progressed = piece.end != offset;
        offset = piece.end;
        print_raw(&piece.text)?;
        if let Some(text) = &until {
            seen.push_str(&piece.text);
            if seen.contains(text.as_str()) {
                return print_text("");
            }
        }
        if !go_on || (piece.power == Power::Off && !progressed) {
            break;
        }
    }
    match until {
        None => Ok(()),
        Some(text) => Err(Problem::new(
            Code::VmNotRunning,
            format!("cannot wait for VM `{vm}` to print {text:?}"),
            "it has stopped without",
            format!("see what it did print with `ward vm console {vm}`, and start it again with `ward vm start {vm}`"),
        )),
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size; give one such as 512M, 20G or 1T");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(bad()),
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift)).filter(|&size| size > 0).ok_or_else(bad)
}

fn parse_format(text: &str) -> Result<PlainFormat, String> {
    match text {
        "raw" => Ok(PlainFormat::Raw),
        "qcow2" => Ok(PlainFormat::Qcow2),
        _ => Err("a disk is raw or qcow2".to_owned()),
    }
}

fn parse_key_id(text: &str) -> Result<KeyId, String> {
    KeyId::try_from(text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("1", 1), ("1K", 1024), ("3m", 3 << 20), ("20G", 20 << 30), ("1TiB", 1 << 40)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "G", "0", "1X", "-1", "1.5G", "99999999999T", "1é"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
