//! `ward bench`: measurements that a user can repeat, side by side with the tools that do the same.

mod disk;
mod keys;
mod measure;
mod native;
mod recrypt;
mod trust;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::output::Output;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Offline encryption of an image, against `cp` and against `qemu-img convert` to LUKS; memory of a disk process.
    #[command(after_help = "Each run makes the same copy in all three ways, in turn, and each copy is on the storage \
                            before its time is taken. The ratios are taken run by run, so that a machine whose speed \
                            drifts does not spoil them. Needs three times SIZE of room, and qemu-img.")]
    Disk(DiskArguments),
    /// Many keys on many hosts: a rebooted host, a controller that is started anew, a check of every key.
    #[command(
        after_help = "A key server and a controller run as processes of their own, the hosts are played in this one; \
                            all in DIR, and gone at the end. Each number of VMs is measured from the beginning, so that \
                            the rows show how it grows."
    )]
    Keys(KeysArguments),
    /// New KEKs for many disks (`ward vm recrypt`), against a loop of `cryptsetup luksAddKey` and `luksRemoveKey`.
    #[command(
        after_help = "Both work on the same files, part by part in turn; cryptsetup on a sample, since its time for \
                            one disk is all that is asked. Needs about 1 MiB of room for each disk, and cryptsetup."
    )]
    Recrypt(RecryptArguments),
    /// A native key provider: KEKs unwrapped, VMs made ready to start, and an update of its key given to many hosts.
    #[command(
        after_help = "Unwraps and starts are on one core, one after the other. A start is all that a host does before it \
                            starts the VM's processes: it locks the home, unwraps the KEK, checks the home's code, opens \
                            the disk's keyslot and checks its token. The hosts of the update are simulated in this process, \
                            each with its own certificate and listener; the controller is a real one, in a process of its \
                            own, with SQLite, and asks each host every two seconds besides. The time is that of `ward \
                            provider update-key`, which ends when all hosts have the new version."
    )]
    Native(NativeArguments),
    /// A trust authority: attestations and unwraps per second, and many hosts that come up at once.
    #[command(
        after_help = "Both services, the key server and the hosts are in this process, over TLS on loopback, with SQLite. The \
                            hosts are simulated: their attestation keys are in this process and not in TPMs, which would be \
                            what is measured; all that they send is verified as ever. A host that comes up is attested, has a \
                            KEK made, and has it unwrapped. The rates are those of 16 clients that ask again and again."
    )]
    Trust(TrustArguments),
}

/// How to measure that.
#[derive(Args)]
pub(crate) struct TrustArguments {
    /// How many hosts come up at once.
    #[arg(long, default_value_t = 1000)]
    hosts: usize,
    /// The event log of the boot that they claim.
    #[arg(long, value_name = "FILE", default_value = ward_host::TpmConfig::EVENT_LOG)]
    event_log: PathBuf,
    /// The directory to work in: on the storage that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// How to measure that.
#[derive(Args)]
pub(crate) struct NativeArguments {
    /// How many VMs to make ready.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    vms: u32,
    /// How many hosts get the update; several numbers, rising, show the curve.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    hosts: Vec<usize>,
    /// How many updates for each number of hosts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// The directory to work in: on the storage that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// How to measure that.
#[derive(Args)]
pub(crate) struct KeysArguments {
    /// How many VMs, each with a key of its own.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 2000, 5000, 10_000])]
    vms: Vec<usize>,
    /// How many hosts.
    #[arg(long, default_value_t = 64)]
    hosts: usize,
    /// The directory to work in.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// How to measure that.
#[derive(Args)]
pub(crate) struct RecryptArguments {
    /// How many disks; several sets show whether the time for one disk grows with their number.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000])]
    disks: Vec<usize>,
    /// Of how many disks of each set cryptsetup replaces the key too.
    #[arg(long, default_value_t = 200)]
    cryptsetup_disks: usize,
    /// How many disks Ward works on at a time in its second turn; a fleet's recryption works on as many VMs.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    at_once: u8,
    /// The directory to work in: on the storage that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// How to measure.
#[derive(Args)]
pub(crate) struct DiskArguments {
    /// The size of the image in MiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(64..=1_048_576))]
    size_mib: u64,
    /// How many runs to take the median of.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// The directory to work in: on the storage that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

pub(crate) fn run(bench: &Bench, output: Output) -> Result<(), Box<dyn std::error::Error>> {
    match bench {
        Bench::Disk(arguments) => disk::run(arguments, output),
        Bench::Keys(arguments) => keys::run(arguments, output),
        Bench::Recrypt(arguments) => recrypt::run(arguments, output),
        Bench::Native(arguments) => native::run(arguments, output),
        Bench::Trust(arguments) => trust::run(arguments, output),
    }
}
