//! `ward host run` and `ward host enrol`.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use ward_host::{Config, TpmConfig};
use ward_rpc::EnrolmentToken;
use ward_types::{Code, Name, Problem};

use super::shutdown;
use crate::commands::read_file;
use crate::output::Output;

pub(super) const STATE: &str = "/var/lib/ward/host";
/// Where an agent listens unless told otherwise.
const PORT: u16 = 8450;

/// Run the agent that makes this machine a host.
#[derive(Args)]
pub(crate) struct Run {
    /// Where it keeps its certificate, and what it needs to find running VMs again.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Where it listens for the controller.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([0, 0, 0, 0], PORT)))]
    listen: SocketAddr,
    /// Where the controller reaches it, HOST:PORT, where that has changed since it was enrolled.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// The QEMU to run; that of PATH unless given.
    #[arg(long, value_name = "FILE")]
    qemu: Option<PathBuf>,
    /// The machine's TPM 2.0, such as `device:/dev/tpmrm0`: keys of native providers are sealed to it and outlive a restart,
    /// and trust authorities attest the host by it.
    #[arg(long, value_name = "TCTI")]
    tpm: Option<String>,
    /// The PCRs (SHA-256) that must be as they were for the TPM to unseal: 7 is Secure Boot's; none binds to the TPM only.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "7", requires = "tpm")]
    tpm_pcrs: Vec<u8>,
    /// The firmware's event log, which trust authorities want to see.
    #[arg(long, value_name = "FILE", default_value = TpmConfig::EVENT_LOG, requires = "tpm")]
    tpm_event_log: PathBuf,
    /// A file with the trust administrators' key (`ward trust admin-key`): the agent goes by what they sign and by nothing
    /// else. Without it, it goes by the one of the first description that it sees.
    #[arg(long, value_name = "FILE")]
    trust_key: Option<PathBuf>,
    /// The IDs of users and groups of which each running VM is given one of its own, where the agent is root; `none` has all
    /// VMs run as the agent's user.
    #[arg(long, value_name = "FIRST-LAST", value_parser = vm_users, default_value_t = VmUsers(Some(Config::VM_USERS)))]
    vm_users: VmUsers,
}

/// None where VMs are to have no users of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct VmUsers(Option<RangeInclusive<u32>>);

impl fmt::Display for VmUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(ids) => write!(f, "{}-{}", ids.start(), ids.end()),
            None => f.write_str("none"),
        }
    }
}

/// Below it are users of the machine's own, and whom the kernel has nobody be.
const FIRST_ID: u32 = 1 << 16;

fn vm_users(text: &str) -> Result<VmUsers, String> {
    if text == "none" {
        return Ok(VmUsers(None));
    }
    let (first, last) = text.split_once('-').ok_or("a range, such as 1900000000-1900065535, or `none`")?;
    let id = |text: &str| text.parse::<u32>().map_err(|error| error.to_string());
    match id(first)?..=id(last)? {
        range if range.is_empty() => Err("the range is empty".into()),
        range if *range.start() < FIRST_ID => Err(format!("IDs below {FIRST_ID} are users of the machine's own")),
        // To the kernel that number means no change.
        range if *range.end() == u32::MAX => Err(format!("{} is nobody", u32::MAX)),
        range => Ok(VmUsers(Some(range))),
    }
}

pub(crate) async fn run(arguments: Run) -> Result<(), Problem> {
    let exe = std::env::current_exe().map_err(|error| Problem::internal("cannot run a host's agent", error))?;
    let mut config = Config::new(arguments.state, arguments.listen, exe);
    config.advertise = arguments.address;
    config.qemu = arguments.qemu;
    let (pcrs, event_log) = (arguments.tpm_pcrs, arguments.tpm_event_log);
    config.tpm = arguments.tpm.map(|tcti| TpmConfig { tcti, pcrs, event_log });
    config.trust_key = arguments.trust_key;
    config.vm_users = arguments.vm_users.0;
    ward_host::run(config, shutdown()?).await
}

/// Have this machine's agent start the VM in a home.
#[derive(Args)]
pub(crate) struct Start {
    /// The VM's home: its directory on the datastore.
    home: PathBuf,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
}

pub(crate) async fn start(arguments: Start, output: Output) -> Result<(), Problem> {
    let Start { home, state } = arguments;
    let started = ward_host::start_home(&state, &home).await?;
    output.show(&started, || format!("the VM in {} runs", home.display()))
}

/// Join a cluster: make this machine a host of it. Done once.
#[derive(Args)]
pub(crate) struct Enrol {
    /// A file with the token from `ward host add`; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Where the controller reaches this host, HOST:PORT.
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// The host's name; that of the machine unless given.
    #[arg(long)]
    name: Option<Name>,
    /// Where the agent is to keep its state.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
}

pub(crate) async fn enrol(arguments: Enrol, output: Output) -> Result<(), Problem> {
    let what = "cannot enrol this host";
    let text = if arguments.token_file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).map_err(|error| Problem::internal(what, error))?;
        text
    } else {
        read_file(what, &arguments.token_file)?
    };
    let token: EnrolmentToken = text.parse().map_err(|error: ward_rpc::TokenError| {
        Problem::new(Code::RequestInvalid, what, error.to_string(), "make a token with `ward host add`")
    })?;
    let name = match arguments.name {
        Some(name) => name,
        None => machine_name(what)?,
    };
    let enrolment = ward_host::enrol(&arguments.state, &token, name, arguments.address).await?;
    output.show(&enrolment, || {
        format!("host {} enrolled by {}; start its agent with `ward host run`", enrolment.name, enrolment.controller)
    })
}

fn machine_name(what: &str) -> Result<Name, Problem> {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    name.parse().map_err(|error: ward_types::NameError| {
        Problem::new(Code::RequestInvalid, what, error.to_string(), "name the host with --name")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn vms_have_no_user_that_somebody_else_could_be() {
        assert_eq!(vm_users("none"), Ok(VmUsers(None)));
        assert_eq!(vm_users("65536-70000"), Ok(VmUsers(Some(65536..=70000))));
        let usual = VmUsers(Some(Config::VM_USERS));
        assert_eq!(vm_users(&usual.to_string()), Ok(usual));
        for wrong in
            ["0-5", "1000-70000", "65534-65534", "65535-65600", "70000-69999", "70000-4294967295", "70000", "x-y"]
        {
            vm_users(wrong).unwrap_err();
        }
    }
}
