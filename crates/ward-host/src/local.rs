//! The agent's own socket: what this machine's administrator can have done without the controller.
//!
//! Whoever may open the socket (mode 0600) is root here, or the agent's user, and could take what the agent has anyway.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use ward_rpc::Client;
use ward_rpc::api::host::{HomeRef, StartHome, Started};
use ward_types::{Code, Problem};

use crate::fault::{Doing, Fault, Result};
use crate::files;

/// Its name in the state directory.
pub(crate) const SOCKET: &str = "agent.sock";

/// Answers until `shutdown`.
pub(crate) async fn serve(path: PathBuf, router: Router, shutdown: CancellationToken) {
    let served = async {
        files::remove(&path)?;
        // Nobody else gets in meanwhile: the directory is of mode 0700.
        let listener = UnixListener::bind(&path).doing("listen at", &path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).doing("keep others off", &path)?;
        let until = shutdown.clone();
        axum::serve(listener, router).with_graceful_shutdown(until.cancelled_owned()).await.doing("answer at", &path)
    };
    if let Err(fault) = served.await as Result<()> {
        tracing::error!(why = fault.why, "the agent does not answer on its own socket");
    }
}

/// Has the agent with that state directory start the VM in a home.
///
/// # Errors
/// [`Code::HostUnreachable`] where no agent answers there; else what the agent says.
pub async fn start_home(state_dir: &Path, home: &Path) -> std::result::Result<Started, Problem> {
    let what = format!("cannot start the VM in {}", home.display());
    let at = home_ref(home).map_err(|fault| fault.problem(&what))?;
    let client = Client::local(&state_dir.join(SOCKET)).map_err(|error| Problem::internal(&what, error))?;
    let started = client.call_within(StartHome { home: at }, std::time::Duration::from_secs(90)).await;
    started.map_err(|error| {
        let mut problem = error.into_problem(&what);
        if problem.code == Code::HostUnreachable {
            problem.remedy = format!("check that an agent runs on {} (`ward host run`)", state_dir.display());
        }
        problem
    })
}

/// The datastore is the directory in which the home lies.
fn home_ref(home: &Path) -> Result<HomeRef> {
    let home = std::path::absolute(home).doing("find", home)?;
    let named = home.parent().zip(home.file_name().and_then(|name| name.to_str()));
    let named = named.and_then(|(parent, name)| Some((parent.to_owned(), name.parse().ok()?)));
    let (datastore, directory) =
        named.ok_or_else(|| Fault::invalid(format!("{} is no name of a VM home", home.display())))?;
    Ok(HomeRef { datastore, directory })
}
