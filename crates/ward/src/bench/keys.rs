//! Many keys on many hosts: a key server and a controller as processes of their own, hosts that are played in this one.

mod host;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kmip::attribute::Attribute;
use kmip::client::{Client, ClientConfig as KmipConfig};
use serde::Serialize;
use tokio::runtime::Runtime;
use ward_controller::api::types::{
    AddDatastore, AddHost, AddProvider, CheckKeys, DatastoreView, HostState, HostToken, HostView, KeyCheck,
    ProviderView,
};
use ward_types::{KeyId, KeyRef};

use super::KeysArguments;
use super::disk::{Failure, Place};
use super::measure::peak_memory;
use crate::client::{Api, ClientConfig};
use crate::commands::login::log_in;
use crate::output::Output;
use host::Host;

/// How long a process may take to answer, and a host to get all its keys.
const PATIENCE: Duration = Duration::from_secs(1800);
const PROVIDER: &str = "kms";
/// How many connections make the keys at first.
const MAKERS: usize = 8;

#[derive(Serialize)]
struct Findings {
    hosts: usize,
    sets: Vec<Set>,
}

/// So many VMs, each with a key of its own. Times in seconds, memory in bytes.
#[derive(Serialize)]
struct Set {
    vms: usize,
    /// Until all hosts, which have just joined, have all keys.
    fill: f64,
    /// Until a host that was started anew has all keys.
    reboot: f64,
    /// The same of an agent in a process of its own.
    agent: f64,
    /// Until a controller that was started anew has looked at all hosts and answers users.
    restart: f64,
    /// Looking for every key at the key server: by its state, and by getting it.
    check: f64,
    check_fetch: f64,
    controller_memory: u64,
    keyserver_memory: u64,
    agent_memory: u64,
}

pub(super) fn run(arguments: &KeysArguments, output: Output) -> Result<(), Failure> {
    let runtime = Runtime::new()?;
    let mut sets = Vec::new();
    for &vms in &arguments.vms {
        sets.push(runtime.block_on(measure(arguments, vms))?);
    }
    let findings = Findings { hosts: arguments.hosts, sets };
    Ok(output.show(&findings, || table(&findings))?)
}

/// A process of Ward's that ends with the measurement.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], log: &Path) -> Result<Self, Failure> {
        let log = fs::File::create(log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).env("WARD_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is thrown away.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn measure(arguments: &KeysArguments, vms: usize) -> Result<Set, Failure> {
    let place = Place::new(&arguments.dir)?;
    let text = |name: &str| place.file(name).to_string_lossy().into_owned();
    eprintln!("{vms} VMs: making their keys");
    let kms = free_address()?;
    ward_keyserver::init(&place.file("keyserver"), &[]).await?;
    let files = ward_keyserver::issue_client(&place.file("keyserver"), "controller")?;
    let run = ["keyserver", "run", "--state", &text("keyserver"), "--listen", &kms.to_string()];
    let keyserver = Process::start(&run, &place.file("keyserver.log"))?;
    let read = |path: &Path| fs::read_to_string(path);
    let (ca, certificate, key) = (read(&files.ca)?, read(&files.certificate)?, read(&files.key)?);
    let config = KmipConfig::new("127.0.0.1", kms.port(), ca.as_bytes(), certificate.as_bytes(), key.as_bytes())?;
    let keys = make_keys(&config, vms).await?;

    let (api_address, hosts_address) = (free_address()?, free_address()?);
    let (api_text, hosts_text, state) = (api_address.to_string(), hosts_address.to_string(), text("controller"));
    let run = ["controller", "--state", &state, "--listen-api", &api_text, "--listen-hosts", &hosts_text];
    let start = || Process::start(&run, &place.file("controller.log"));
    let mut controller = start()?;
    let api = answer(&place.file("controller"), api_address).await?;
    let provider = AddProvider {
        name: PROVIDER.parse()?,
        servers: vec![kms.to_string().parse()?],
        timeout_s: None,
        ca: Some(ca),
        certificate: Some(certificate),
        key: Some(key),
        default: true,
    };
    let _: ProviderView = api.post("/providers", &provider).await?;
    let datastore = AddDatastore { name: "bench".parse()?, directory: "/bench".into(), cluster: None };
    let _: DatastoreView = api.post("/datastores", &datastore).await?;
    drop(controller);
    ward_controller::measure::add_vms(&place.file("controller"), &keys).await?;
    controller = start()?;
    let api = answer(&place.file("controller"), api_address).await?;

    eprintln!("{vms} VMs: {} hosts join", arguments.hosts);
    let begun = Instant::now();
    let mut hosts = Vec::new();
    for n in 0..arguments.hosts {
        let token: HostToken = api.post("/hosts", &AddHost::default()).await?;
        hosts.push(Host::join(&token.token, &format!("h{n:03}")).await?);
    }
    for host in &hosts {
        host.has(vms, PATIENCE).await?;
    }
    let fill = begun.elapsed().as_secs_f64();

    eprintln!("{vms} VMs: a host is started anew, then the controller");
    let begun = Instant::now();
    if let Some(host) = hosts.first() {
        host.reboot().await?;
        host.has(vms, PATIENCE).await?;
    }
    let reboot = begun.elapsed().as_secs_f64();

    eprintln!("{vms} VMs: the same with an agent of its own");
    let (agent, agent_memory) = agent(&api, &place, vms).await?;

    let before = peak_memory(controller.0.id())?;
    drop(controller);
    let begun = Instant::now();
    controller = start()?;
    for host in &hosts {
        host.is_asked_anew(PATIENCE).await?;
    }
    let api = answer(&place.file("controller"), api_address).await?;
    let restart = begun.elapsed().as_secs_f64();

    eprintln!("{vms} VMs: looking for every key");
    let check = check(&api, false, vms).await?;
    let check_fetch = self::check(&api, true, vms).await?;
    Ok(Set {
        vms,
        fill,
        reboot,
        agent,
        restart,
        check,
        check_fetch,
        controller_memory: before.max(peak_memory(controller.0.id())?),
        keyserver_memory: peak_memory(keyserver.0.id())?,
        agent_memory,
    })
}

/// One more host, which is no play: how long it takes to all its keys after a restart, and its memory at the peak.
async fn agent(api: &Api, place: &Place, keys: usize) -> Result<(f64, u64), Failure> {
    let token: HostToken = api.post("/hosts", &AddHost::default()).await?;
    let token_file = place.file("token");
    fs::write(&token_file, &token.token)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (address, state, log) = (free_address()?.to_string(), text(&place.file("host")), place.file("host.log"));
    let enrol = ["host", "enrol", "--token-file", &text(&token_file), "--address", &address, "--name", "agent"];
    if !Process::start(&[&enrol[..], &["--state", &state]].concat(), &log)?.0.wait()?.success() {
        return Err("a host can not join".into());
    }
    let run = ["host", "run", "--state", &state, "--listen", &address];
    let mut process = Process::start(&run, &log)?;
    until(api, |host| host.keys.len() >= keys).await?;
    drop(process);
    until(api, |host| host.state != HostState::Connected).await?;
    let begun = Instant::now();
    process = Process::start(&run, &log)?;
    until(api, |host| host.state == HostState::Connected && host.keys.len() >= keys).await?;
    Ok((begun.elapsed().as_secs_f64(), peak_memory(process.0.id())?))
}

/// Waits until the controller says so of the agent.
async fn until(api: &Api, so: impl Fn(&HostView) -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !so(&api.get("/hosts/agent").await?) {
        if Instant::now() > deadline {
            return Err("an agent is waited for in vain".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Makes keys at the key server.
async fn make_keys(config: &KmipConfig, count: usize) -> Result<Vec<KeyRef>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let probe = Client::new(config.clone());
    while probe.query().await.is_err() {
        if Instant::now() > deadline {
            return Err("the key server does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut makers = tokio::task::JoinSet::new();
    for maker in 0..MAKERS {
        let client = Client::new(config.clone());
        let share = (maker..count).step_by(MAKERS).count();
        makers.spawn(async move {
            let mut ids = Vec::with_capacity(share);
            for n in 0..share {
                let name = Attribute::name(&format!("bench-{maker}-{n}"));
                let id = client.create_aes256(&[name]).await?.id;
                client.activate(&id).await?;
                ids.push(id);
            }
            Ok::<_, kmip::client::ClientError>(ids)
        });
    }
    let mut keys = Vec::with_capacity(count);
    while let Some(made) = makers.join_next().await {
        for id in made?? {
            keys.push(KeyRef::standard(PROVIDER.parse()?, KeyId::try_from(id)?));
        }
    }
    Ok(keys)
}

/// The controller, as soon as it answers the first user.
async fn answer(state: &Path, address: SocketAddr) -> Result<Api, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tried = async {
            let ca = fs::read_to_string(state.join(ward_controller::CA_FILE))?;
            let password = fs::read_to_string(state.join(ward_controller::ADMIN_PASSWORD_FILE))?;
            let config = ClientConfig {
                url: format!("https://{address}"),
                ca,
                user: "admin".to_owned(),
                token: None,
                audit_head: None,
            };
            let (config, _) = log_in(config, password.trim().to_owned()).await?;
            Ok::<_, Failure>(Api::new(&config)?)
        };
        match tried.await {
            Ok(api) => return Ok(api),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Seconds until every key was looked for.
async fn check(api: &Api, fetch: bool, wanted: usize) -> Result<f64, Failure> {
    let begun = Instant::now();
    let (mut after, mut checked) = (None, 0);
    loop {
        let part: KeyCheck = api.post("/keys/check", &CheckKeys { fetch, after, limit: Some(1000) }).await?;
        if let Some(fault) = part.faults.first() {
            return Err(format!("{} can't be had", fault.name).into());
        }
        checked += part.checked;
        after = part.next;
        if after.is_none() {
            break;
        }
    }
    if checked != wanted {
        return Err(format!("{checked} keys were looked for, not {wanted}").into());
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn table(findings: &Findings) -> String {
    let mut text = format!("VMs with a key each, on {} hosts; seconds, and MiB at the peak\n\n", findings.hosts);
    text += &format!(
        "{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}{:>14}{:>13}{:>8}\n",
        "VMs", "all hosts", "one host", "agent", "restart", "check", "check fetch", "controller", "key server", "agent"
    );
    for set in &findings.sets {
        text += &format!(
            "{:>8}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>10.2}{:>12.2}{:>14}{:>13}{:>8}\n",
            set.vms,
            set.fill,
            set.reboot,
            set.agent,
            set.restart,
            set.check,
            set.check_fetch,
            set.controller_memory >> 20,
            set.keyserver_memory >> 20,
            set.agent_memory >> 20
        );
    }
    text
}
