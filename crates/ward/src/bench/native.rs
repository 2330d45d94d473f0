//! A native key provider: what its key costs at a VM's start, and what it takes to give a new version to many hosts.

mod simulated;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use ward_controller::api::types::{AddHost, AddNative, HostToken, ProviderView};
use ward_host::measure::NativeHost;

use self::simulated::Simulated;
use super::NativeArguments;
use super::disk::{Failure, Place};
use super::measure::{Spread, peak_memory};
use crate::client::{Api, ClientConfig};
use crate::commands::login::log_in;
use crate::output::Output;

/// How often the unwrapping of a KEK is timed, and how many are timed together.
const ROUNDS: usize = 20;
const UNWRAPS: u32 = 2000;
/// How long the controller may take to answer the first time.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Findings {
    /// KEKs unwrapped in a second.
    unwraps: Spread,
    /// VMs made ready to start in a second, round by round.
    starts: Spread,
    vms: u32,
    updates: Vec<Update>,
}

/// An update of the key for so many hosts.
#[derive(Serialize)]
struct Update {
    hosts: usize,
    /// Seconds until all of them have it.
    seconds: Spread,
    /// The most that the controller had resident so far, in bytes.
    controller_peak_memory: u64,
}

pub(super) fn run(arguments: &NativeArguments, output: Output) -> Result<(), Failure> {
    let place = Place::new(&arguments.dir)?;
    let (unwraps, starts) = at_the_host(arguments, &place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let updates = runtime.block_on(updates(arguments, &place))?;
    let findings = Findings { unwraps, starts, vms: arguments.vms, updates };
    Ok(output.show(&findings, || table(&findings))?)
}

fn at_the_host(arguments: &NativeArguments, place: &Place) -> Result<(Spread, Spread), Failure> {
    eprintln!("making {} VMs", arguments.vms);
    let host = NativeHost::new(&place.file("host"))?;
    let vms = (0..arguments.vms).map(|n| Ok(host.make_vm(format!("vm-{n}").parse()?)?));
    let vms = vms.collect::<Result<Vec<_>, Failure>>()?;
    let rate = |count: u32, time: Duration| f64::from(count) / time.as_secs_f64();
    let (mut unwraps, mut starts) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for vm in vms.iter().cycle().take(UNWRAPS as usize) {
            host.unwrap_kek(vm)?;
        }
        unwraps.push(rate(UNWRAPS, start.elapsed()));
        let start = Instant::now();
        for vm in &vms {
            host.prepare_start(vm)?;
        }
        starts.push(rate(arguments.vms, start.elapsed()));
    }
    Ok((Spread::of(unwraps), Spread::of(starts)))
}

/// A controller in a process of its own, that ends with this.
struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Controller {
    async fn start(place: &Place) -> Result<(Self, Api), Failure> {
        let state = place.file("controller");
        let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let (api, hosts): (SocketAddr, SocketAddr) = (free()?, free()?);
        let process = Command::new(std::env::current_exe()?)
            .args(["controller", "--listen-api", &api.to_string(), "--listen-hosts", &hosts.to_string(), "--state"])
            .arg(&state)
            .env("WARD_LOG", "error")
            .stdin(Stdio::null())
            .spawn()?;
        let controller = Self(process);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let known = std::fs::read_to_string(state.join("ca.pem"))
                .and_then(|ca| Ok((ca, std::fs::read_to_string(state.join("admin-password"))?)));
            if let Ok((ca, password)) = known {
                let config = ClientConfig {
                    url: format!("https://{api}"),
                    ca,
                    user: "admin".into(),
                    token: None,
                    audit_head: None,
                };
                match log_in(config, password.trim_end().to_owned()).await {
                    Ok((config, _)) => return Ok((controller, Api::new(&config)?)),
                    Err(problem) if Instant::now() > deadline => return Err(problem.into()),
                    Err(_) => {}
                }
            } else if Instant::now() > deadline {
                return Err("the controller does not start".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn updates(arguments: &NativeArguments, place: &Place) -> Result<Vec<Update>, Failure> {
    // A listener, and both ends of some connections, for each host.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let (controller, api) = Controller::start(place).await?;
    let provider = "bench".parse()?;
    let new = AddNative { name: provider, tpm_required: false, clusters: Vec::new(), default: false };
    let _: ProviderView = api.post("/native-providers", &new).await?;
    let mut hosts: Vec<Simulated> = Vec::new();
    let (mut updates, mut version) = (Vec::new(), 1);
    for &wanted in &arguments.hosts {
        eprintln!("{} hosts join", wanted.saturating_sub(hosts.len()));
        while hosts.len() < wanted {
            let token: HostToken = api.post("/hosts", &AddHost { cluster: None, minutes: None }).await?;
            hosts.push(Simulated::join(&token.token, hosts.len()).await?);
        }
        wait_for(&hosts, version).await?;
        let mut seconds = Vec::new();
        for _ in 0..arguments.runs {
            let start = Instant::now();
            let _: ProviderView = api.post("/native-providers/bench/update-key", &()).await?;
            seconds.push(start.elapsed().as_secs_f64());
            version += 1;
            let without = hosts.iter().filter(|host| !host.has(version)).count();
            if without > 0 {
                return Err(format!("{without} of {} hosts have not got version {version}", hosts.len()).into());
            }
        }
        let controller_peak_memory = peak_memory(controller.0.id())?;
        updates.push(Update { hosts: hosts.len(), seconds: Spread::of(seconds), controller_peak_memory });
    }
    Ok(updates)
}

/// Waits until all hosts have what there is.
async fn wait_for(hosts: &[Simulated], version: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !hosts.iter().all(|host| host.has(version)) {
        if Instant::now() > deadline {
            return Err("the hosts do not get the key".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn table(findings: &Findings) -> String {
    let mut text = format!("{:<44}{:>10}{:>10}{:>10}\n", "on one core of a host", "min", "median", "max");
    let row = |name: &str, Spread { min, median, max }: Spread, digits: usize| {
        format!("{name:<44}{min:>10.digits$}{median:>10.digits$}{max:>10.digits$}\n")
    };
    text += &row("KEKs unwrapped in a second", findings.unwraps, 0);
    text += &row(&format!("VMs made ready in a second (of {})", findings.vms), findings.starts, 0);
    text += "\na new version of the key, until all hosts have it\n";
    for update in &findings.updates {
        text += &row(&format!("{} hosts, seconds", update.hosts), update.seconds, 3);
        let mib = update.controller_peak_memory as f64 / f64::from(1 << 20);
        text += &format!("{:<44}{mib:>10.0}\n", "  the controller's peak memory, MiB");
    }
    text
}
