//! What the first start does once the controller answers. Each step is left out where it has been done.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use ward_controller::api::types::{
    AddDatastore, AddHost, AddProvider, DatastoreView, HostState, HostToken, HostView, ProviderView,
};
use ward_types::{Code, Problem};

use super::Start;
use super::layout::{CONTROLLER, Chosen, KEYSERVER, Layout};
use crate::client::{Api, ClientConfig};
use crate::commands::login::log_in;
use crate::commands::read_file;

const WHAT: &str = "cannot set up";
/// How long a process may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name under which the controller is known to the embedded key server.
const CLIENT: &str = "ward-controller";

/// Makes the embedded key server's certificates, before it starts.
pub(super) async fn key_server(layout: &Layout) -> Result<(), Problem> {
    let directory = layout.directory(KEYSERVER);
    let failed = |error: ward_keyserver::Error| {
        Problem::new(Code::StorageIo, "cannot set a key server up", error.to_string(), "mend that and start again")
    };
    ward_keyserver::init(&directory, &[]).await.map_err(failed)?;
    ward_keyserver::issue_client(&directory, CLIENT).map_err(failed)?;
    Ok(())
}

/// Logs in as the first user, as soon as the controller answers. `alive` fails once waiting is in vain.
pub(super) async fn login(
    layout: &Layout,
    chosen: &Chosen,
    alive: impl Fn() -> Result<(), Problem>,
) -> Result<Api, Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        alive()?;
        match session(layout, chosen).await {
            Ok(config) => {
                remember(&config)?;
                return Api::new(&config);
            }
            Err(problem) if Instant::now() > deadline => return Err(problem),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A login for `ward up` itself: the last one, or, where that has ended, a new one.
pub(super) async fn session(layout: &Layout, chosen: &Chosen) -> Result<ClientConfig, Problem> {
    let path = layout.client_config();
    if let Ok(config) = ClientConfig::load_from(&path)
        && config.url == chosen.url()
        && Api::new(&config)?.get::<serde_json::Value>("/session").await.is_ok()
    {
        return Ok(config);
    }
    let directory = layout.directory(CONTROLLER);
    let ca = read_file(WHAT, &directory.join(ward_controller::CA_FILE))?;
    let password = read_file(WHAT, &directory.join(ward_controller::ADMIN_PASSWORD_FILE))?;
    let config = ClientConfig { url: chosen.url(), ca, user: "admin".to_owned(), token: None, audit_head: None };
    let (config, _) = log_in(config, password.trim_end().to_owned()).await?;
    config.save_to(&path)?;
    Ok(config)
}

/// Lets the user's next commands go to this controller, unless they go to another one.
fn remember(config: &ClientConfig) -> Result<(), Problem> {
    match ClientConfig::load() {
        Ok(known) if known.url != config.url => Ok(()),
        _ => config.save(),
    }
}

/// The key provider and the datastore.
pub(super) async fn inventory(layout: &Layout, chosen: &Chosen, start: &Start, api: &Api) -> Result<(), Problem> {
    let datastores: Vec<DatastoreView> = api.list("/datastores").await?;
    if datastores.is_empty() {
        let name = "default".parse().map_err(|error| Problem::internal(WHAT, error))?;
        let body = AddDatastore { name, directory: layout.datastore(), cluster: None };
        let _: DatastoreView = api.post("/datastores", &body).await?;
    }
    let providers: Vec<ProviderView> = api.list("/providers").await?;
    if !providers.is_empty() {
        return Ok(());
    }
    let (server, files) = match (chosen.keyserver_port, &start.with_key_server, &start.ca, &start.cert, &start.key) {
        (Some(port), ..) => {
            let issued = ward_keyserver::issue_client(&layout.directory(KEYSERVER), CLIENT)
                .map_err(|error| Problem::internal(WHAT, error))?;
            (format!("127.0.0.1:{port}"), [issued.ca, issued.certificate, issued.key])
        }
        (None, Some(server), Some(ca), Some(cert), Some(key)) => {
            (server.clone(), [ca.clone(), cert.clone(), key.clone()])
        }
        _ => {
            return Err(Problem::new(
                Code::RequestInvalid,
                "cannot add a key provider",
                "the first start had a key server of its own named, and did not get as far as using it",
                "name it again, with --with-key-server, --ca, --cert and --key",
            ));
        }
    };
    let [ca, certificate, key] = files.map(|path| read_file(WHAT, &path));
    let name = "kms".parse().map_err(|error| Problem::internal(WHAT, error))?;
    let server = server.parse().map_err(|error: ward_types::NoServer| {
        let remedy = "start again with --with-key-server HOST:PORT";
        Problem::new(Code::RequestInvalid, "cannot add a key provider", error.to_string(), remedy)
    })?;
    let body = AddProvider {
        name,
        servers: vec![server],
        timeout_s: None,
        ca: Some(ca?),
        certificate: Some(certificate?),
        key: Some(key?),
        default: true,
    };
    add_provider(api, &body).await
}

/// The key server may have been started a moment ago.
async fn add_provider(api: &Api, body: &AddProvider) -> Result<(), Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match api.post::<_, ProviderView>("/providers", body).await {
            Ok(_) => return Ok(()),
            Err(problem) if problem.code != Code::KeyServerUnreachable || Instant::now() > deadline => {
                return Err(problem);
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Makes hosts of this machine that are none yet.
pub(super) async fn enrol(layout: &Layout, chosen: &Chosen, api: &Api) -> Result<(), Problem> {
    for (number, port) in (1..).zip(&chosen.agent_ports) {
        let name = format!("host-{number}");
        let directory = layout.directory(&name);
        if directory.join("host.json").exists() {
            continue;
        }
        let token: HostToken = api.post("/hosts", &AddHost::default()).await?;
        let token = token.token.parse().map_err(|error| Problem::internal(WHAT, error))?;
        let name = name.parse().map_err(|error| Problem::internal(WHAT, error))?;
        ward_host::enrol(&directory, &token, name, format!("127.0.0.1:{port}")).await?;
    }
    Ok(())
}

/// Waits until the hosts answer that are to.
pub(super) async fn hosts_answer(
    api: &Api,
    wanted: &[String],
    alive: impl Fn() -> Result<(), Problem>,
) -> Result<(), Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        alive()?;
        let hosts: Vec<HostView> = api.list("/hosts").await?;
        let missing = wanted.iter().find(|name| {
            !hosts.iter().any(|host| host.name.as_str() == name.as_str() && host.state == HostState::Connected)
        });
        match missing {
            None => return Ok(()),
            Some(name) if Instant::now() > deadline => {
                let remedy = format!("look into the log of {name}");
                return Err(Problem::new(Code::HostUnreachable, WHAT, format!("{name} does not answer"), remedy));
            }
            Some(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}
