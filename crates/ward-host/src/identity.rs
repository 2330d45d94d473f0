//! Who this host is: its certificate and key, and the controller that it belongs to.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;
use ward_rpc::api::controller::Enrol;
use ward_rpc::{Client, Credentials, EnrolmentToken, Request};
use ward_secret::Zeroizing;
use ward_types::{ClusterId, Code, HostId, Name, Problem};

use crate::fault::{Doing, Fault, Result};
use crate::files::{self, Moments};

const HOST_JSON: &str = "host.json";
const CERTIFICATE: &str = "host.pem";
const KEY: &str = "host.key";
const MAX_FILE: u64 = 1 << 20;
const MOMENTS: Moments = Moments { written: "enrol.written", renamed: "enrol.renamed" };

/// What a host knows of itself. Its key is in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    version: u32,
    /// Its ID.
    pub host: HostId,
    /// Its name.
    pub name: Name,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where the controller answers hosts: `HOST:PORT`.
    pub controller: String,
    /// The name in the controller's certificate.
    pub server_name: String,
    /// The controller's CA certificate, PEM.
    pub ca: String,
    /// Where this host answers the controller: `HOST:PORT`.
    pub address: String,
}

/// Joins the cluster that `token` is for: gets a certificate from the controller and keeps it in `state_dir`.
///
/// `address` is where the controller will reach the agent, as `HOST:PORT`. The token is good once: where this fails after
/// the controller has answered, another one is needed.
///
/// # Errors
/// [`Code::Exists`] where the host is enrolled already; [`Code::EnrolmentRefused`] and [`Code::HostUnreachable`] from the
/// call; [`Code::StorageIo`] and its like where the state directory can't be written, which is found out first.
pub async fn enrol(
    state_dir: &Path,
    token: &EnrolmentToken,
    name: Name,
    address: String,
) -> std::result::Result<Enrolment, Problem> {
    let what = format!("cannot enrol this host at {}", token.controller);
    prepare(state_dir).map_err(|fault| fault.problem(&what))?;
    let request = Request::new().map_err(|error| Problem::internal(&what, error))?;
    let csr = request.csr().map_err(|error| Problem::internal(&what, error))?;
    let client = client(&token.controller, &token.server_name, &token.ca, None).await;
    let client = client.map_err(|fault| fault.problem(&what))?;
    let call =
        Enrol { token: token.id, secret: token.secret.clone(), name: name.clone(), address: address.clone(), csr };
    let enrolled = client.call(call).await.map_err(|error| {
        let mut problem = error.into_problem(&what);
        if problem.code == Code::HostUnreachable {
            problem.remedy = "check that the controller runs, and that this host reaches it at that address".into();
        }
        problem
    })?;
    let enrolment = Enrolment {
        version: 1,
        host: enrolled.host,
        name,
        cluster: enrolled.cluster,
        controller: token.controller.clone(),
        server_name: token.server_name.clone(),
        ca: token.ca.clone(),
        address,
    };
    store(state_dir, &enrolment, &request.complete(enrolled.certificate)).map_err(|fault| fault.problem(&what))?;
    Ok(enrolment)
}

fn prepare(state_dir: &Path) -> Result<()> {
    std::fs::create_dir_all(state_dir.parent().unwrap_or(state_dir)).doing("create", state_dir)?;
    files::make_private_dir(state_dir)?;
    std::fs::set_permissions(state_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .doing("keep others out of", state_dir)?;
    if files::exists(&state_dir.join(HOST_JSON))? {
        return Err(Fault::new(
            Code::Exists,
            format!("it is enrolled already, by {}", state_dir.display()),
            "to move it to another cluster, stop the agent and remove that directory first",
        ));
    }
    Ok(())
}

/// The enrolment last: with it, all is there.
fn store(state_dir: &Path, enrolment: &Enrolment, credentials: &Credentials) -> Result<()> {
    let json = serde_json::to_vec_pretty(enrolment).map_err(|error| Fault::internal(error.to_string()))?;
    files::write_atomically(&state_dir.join(KEY), credentials.expose_key().as_bytes(), MOMENTS)?;
    files::write_atomically(&state_dir.join(CERTIFICATE), credentials.certificate().as_bytes(), MOMENTS)?;
    files::write_atomically(&state_dir.join(HOST_JSON), &json, MOMENTS)
}

/// Reads what [`enrol`] stored.
pub(crate) fn load(state_dir: &Path) -> Result<(Enrolment, Credentials)> {
    let missing = |path: &Path| {
        let why = format!("this host is not enrolled: there is no {}", path.display());
        Fault::unfit(why, "make a token with `ward host add` and enrol the host with `ward host enrol`")
    };
    let read = |name: &str| -> Result<Zeroizing<Vec<u8>>> {
        let path = state_dir.join(name);
        Ok(Zeroizing::new(files::read_small(&path, MAX_FILE)?.ok_or_else(|| missing(&path))?))
    };
    let text = |name: &str, bytes: &[u8]| {
        let path = state_dir.join(name);
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| Fault::unfit(format!("{} is damaged", path.display()), "enrol the host again"))
    };
    let enrolment: Enrolment = serde_json::from_slice(&read(HOST_JSON)?).map_err(|error| {
        let why = format!("{} makes no sense: {error}", state_dir.join(HOST_JSON).display());
        Fault::unfit(why, "enrol the host again")
    })?;
    let key = Zeroizing::new(text(KEY, &read(KEY)?)?);
    Ok((enrolment, Credentials::new(text(CERTIFICATE, &read(CERTIFICATE)?)?, key)))
}

/// A client of the controller at `HOST:PORT`.
pub(crate) async fn client(
    controller: &str,
    server_name: &str,
    ca: &str,
    credentials: Option<&Credentials>,
) -> Result<Client> {
    let unreachable = |why: String| {
        Fault::new(Code::HostUnreachable, why, "check the controller's address, and this host's name service")
    };
    let address = lookup_host(controller)
        .await
        .map_err(|error| unreachable(format!("cannot find the address of {controller}: {error}")))?
        .next()
        .ok_or_else(|| unreachable(format!("{controller} has no address")))?;
    let tls =
        ward_rpc::client_config(ca, credentials).map_err(|error| Fault::unfit(error.to_string(), "enrol again"))?;
    Client::new(tls, server_name, address).map_err(|error| Fault::internal(error.to_string()))
}
