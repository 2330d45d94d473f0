//! `ward bench trust`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attest::image::{BaseImage, ImageId, Mode, Validity};
use attest::label::Label;
use attest::tpm::PcrMask;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use ward_secret::Zeroizing;
use ward_trust::attestation::{self, PolicySettings};
use ward_trust::client::Client;
use ward_trust::key_provider::{self, Credentials, PrimaryUse, Provider};
use ward_trust::measure::{Boot, SimulatedHost, enrol};
use ward_types::ProviderName;

use super::TrustArguments;
use crate::output::{Output, table};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// How many clients ask at once where a rate is measured.
const CLIENTS: usize = 16;
/// For how long.
const SPELL: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Measured {
    what: String,
    count: usize,
    seconds: f64,
    per_second: f64,
}

impl Measured {
    fn new(what: String, count: usize, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let per_second = count as f64 / seconds;
        Self { what, count, seconds, per_second }
    }
}

struct Scene {
    policy: Label,
    vault: ProviderName,
    safe: ProviderName,
    boot: Boot,
    attestation: (String, SocketAddr),
    keys: (String, SocketAddr),
}

impl Scene {
    fn attestation(&self, host: &SimulatedHost) -> Result<Client> {
        Ok(Client::new(&host.identity, &self.attestation.0, "localhost", self.attestation.1)?)
    }

    fn keys(&self, host: &SimulatedHost) -> Result<Client> {
        Ok(Client::new(&host.identity, &self.keys.0, "localhost", self.keys.1)?)
    }
}

pub(super) fn run(arguments: &TrustArguments, output: Output) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(arguments, output))
}

async fn measure(arguments: &TrustArguments, output: Output) -> Result<()> {
    let place = arguments.dir.join(format!("ward-bench-trust-{}", std::process::id()));
    std::fs::create_dir(&place)?;
    let measured = measure_in(&place, arguments).await;
    std::fs::remove_dir_all(&place)?;
    let measured = measured?;
    output.show(&measured, || {
        let rows = measured.iter().map(|it| {
            vec![it.what.clone(), it.count.to_string(), format!("{:.2}", it.seconds), format!("{:.0}", it.per_second)]
        });
        table(&["what", "count", "seconds", "per second"], rows)
    })?;
    Ok(())
}

async fn measure_in(place: &Path, arguments: &TrustArguments) -> Result<Vec<Measured>> {
    let hosts = (0..arguments.hosts).map(SimulatedHost::new).collect::<std::result::Result<Vec<_>, _>>()?;
    let hosts: Vec<_> = hosts.into_iter().map(Arc::new).collect();
    let stop = CancellationToken::new();
    let scene = Arc::new(set_up(place, arguments, &hosts, &stop).await?);
    let mut measured = Vec::new();

    // All of them at once, each over connections of its own: attested, and one KEK made and unwrapped.
    let begun = Instant::now();
    let mut work = JoinSet::new();
    for host in &hosts {
        let (scene, host) = (Arc::clone(&scene), Arc::clone(host));
        work.spawn(async move { come_up(&scene, &host).await.map_err(|error| error.to_string()) });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    measured.push(Measured::new("hosts that come up at once".to_owned(), hosts.len(), begun.elapsed()));

    let few: Vec<_> = hosts.iter().take(CLIENTS).cloned().collect();
    let done = spell(&scene, &few, Asked::Token).await?;
    measured.push(Measured::new("attestations".to_owned(), done.0, done.1));
    for (provider, how) in [(&scene.vault, "at the key server"), (&scene.safe, "in memory")] {
        let done = spell(&scene, &few, Asked::Unwrap(provider.clone())).await?;
        measured.push(Measured::new(format!("unwraps, primary key {how}"), done.0, done.1));
    }
    stop.cancel();
    Ok(measured)
}

async fn come_up(scene: &Scene, host: &SimulatedHost) -> Result<()> {
    let (attestation, keys) = (scene.attestation(host)?, scene.keys(host)?);
    let token = host.attest(&attestation, &scene.policy, &scene.boot).await?.token;
    let (kek, wrapped) = keys.make_kek(&token, &scene.safe).await?;
    if keys.unwrap_kek(&token, &wrapped).await?.same(&kek) { Ok(()) } else { Err("another KEK came back".into()) }
}

/// What is asked again and again.
#[derive(Clone)]
enum Asked {
    Token,
    Unwrap(ProviderName),
}

async fn spell(scene: &Arc<Scene>, hosts: &[Arc<SimulatedHost>], asked: Asked) -> Result<(usize, Duration)> {
    let count = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut work = JoinSet::new();
    for host in hosts {
        let (scene, host, asked, count) = (Arc::clone(scene), Arc::clone(host), asked.clone(), Arc::clone(&count));
        work.spawn(async move {
            again(&scene, &host, &asked, begun + SPELL, &count).await.map_err(|error| error.to_string())
        });
    }
    while let Some(done) = work.join_next().await {
        done??;
    }
    Ok((count.load(Ordering::Relaxed), begun.elapsed()))
}

async fn again(scene: &Scene, host: &SimulatedHost, asked: &Asked, until: Instant, count: &AtomicUsize) -> Result<()> {
    let attestation = scene.attestation(host)?;
    let token = host.attest(&attestation, &scene.policy, &scene.boot).await?.token;
    let keys = scene.keys(host)?;
    let wrapped = match asked {
        Asked::Token => None,
        Asked::Unwrap(provider) => Some(keys.make_kek(&token, provider).await?.1),
    };
    while Instant::now() < until {
        match &wrapped {
            None => drop(host.attest(&attestation, &scene.policy, &scene.boot).await?),
            Some(wrapped) => drop(keys.unwrap_kek(&token, wrapped).await?),
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn set_up(
    place: &Path,
    arguments: &TrustArguments,
    hosts: &[Arc<SimulatedHost>],
    stop: &CancellationToken,
) -> Result<Scene> {
    let [kms, trust, vault_dir] = ["kms", "attestation", "key-provider"].map(|name| place.join(name));
    ward_keyserver::init(&kms, &[]).await?;
    let files = ward_keyserver::issue_client(&kms, "bench")?;
    let config = ward_keyserver::Config { listen: LOCAL.into(), state_dir: kms };
    let server = ward_keyserver::Server::start(config).await?;
    let server_address = server.local_addr();
    let until = stop.clone();
    tokio::spawn(async move { server.serve(until.cancelled_owned()).await });

    let (name, policy): (Label, Label) = ("bench".parse()?, "bench".parse()?);
    attestation::init(&trust, &name, &[]).await?;
    let admin = attestation::Admin::open(&trust).await?;
    let settings = PolicySettings { secure_boot: false, ek_certificate: false, ..PolicySettings::default() };
    admin.set_policy(&policy, &settings).await?;
    let service = attestation::Service::start(&trust, LOCAL.into()).await?;
    let attestation_address = service.local_addr();
    tokio::spawn(service.serve(stop.clone()));
    let description = admin.description().await?;

    key_provider::init(&vault_dir, &description.audience, &[]).await?;
    let keys = key_provider::Admin::open(&vault_dir).await?;
    keys.trust_issuer(&description.issuer, &description.token_key).await?;
    let credentials = Credentials {
        certificate: std::fs::read_to_string(&files.certificate)?,
        key: Zeroizing::new(std::fs::read_to_string(&files.key)?),
    };
    let ca = std::fs::read_to_string(&files.ca)?;
    let (vault, safe): (ProviderName, ProviderName) = ("vault".parse()?, "safe".parse()?);
    for (provider, primary_use) in [(&vault, PrimaryUse::AtServer), (&safe, PrimaryUse::Fetched)] {
        let (host, port) = ("localhost".to_owned(), server_address.port());
        let what = "cannot measure";
        let made = key_provider::make_primary_key(what, provider, (&host, port), &ca, &credentials).await?;
        let policies = vec![policy.clone()];
        let settings = Provider { host, port, ca: ca.clone(), primary_key: made, primary_use, policies };
        keys.set_provider(provider, &settings, &credentials).await?;
    }
    let service = key_provider::Service::start(&vault_dir, LOCAL.into()).await?;
    let keys_address = service.local_addr();
    tokio::spawn(service.serve(stop.clone()));

    let boot = Boot::replay(std::fs::read(&arguments.event_log)?)?;
    let scene = Scene {
        policy,
        vault,
        safe,
        boot,
        attestation: (description.certificate, attestation_address),
        keys: (keys.certificate()?, keys_address),
    };
    enrol(&trust, hosts).await?;
    // What the first one has booted is good: it shows it, in vain, and an image is made of that.
    let first = hosts.first().ok_or("no host")?;
    if first.attest(&scene.attestation(first)?, &scene.policy, &scene.boot).await.is_ok() {
        return Err("a host was attested against no image".into());
    }
    let id = ImageId { name: "bench".parse()?, version: "1".parse()? };
    let validity = Validity { from: jiff::Timestamp::UNIX_EPOCH, until: None };
    let pcrs = PcrMask::of(BaseImage::USUAL_PCRS);
    admin.capture_image(first.label(), id, pcrs, validity, Mode::Enforce).await?;
    Ok(scene)
}
