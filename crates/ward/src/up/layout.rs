//! Where everything lies, and which ports it has.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ward_types::{Code, Problem};

/// The name of the controller's process, and of its directory.
pub(super) const CONTROLLER: &str = "controller";
/// The name of the key server's process, and of its directory.
pub(super) const KEYSERVER: &str = "keyserver";

/// A state directory.
pub(super) struct Layout {
    pub(super) root: PathBuf,
}

/// What was chosen at the first start and must stay.
#[derive(Serialize, Deserialize)]
pub(super) struct Chosen {
    /// Port of the embedded key server; none where another one is used.
    pub(super) keyserver_port: Option<u16>,
    pub(super) api_port: u16,
    pub(super) hosts_port: u16,
    /// Ports of the hosts' agents, the first host's first.
    pub(super) agent_ports: Vec<u16>,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Result<Self, Problem> {
        let root = crate::commands::absolute(root)?;
        Ok(Self { root })
    }

    /// Makes the directories that are not there. Nobody else may look into them.
    pub(super) fn make(&self) -> Result<(), Problem> {
        for directory in [self.root.clone(), self.root.join("run"), self.root.join("logs"), self.datastore()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|error| {
                let why = format!("{}: {error}", directory.display());
                Problem::new(Code::StorageIo, "cannot start", why, "choose another directory with --state")
            })?;
        }
        Ok(())
    }

    pub(super) fn directory(&self, process: &str) -> PathBuf {
        self.root.join(process)
    }

    pub(super) fn datastore(&self) -> PathBuf {
        self.root.join("datastore")
    }

    pub(super) fn log(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.log"))
    }

    /// Holds the ID of a process while it runs.
    pub(super) fn pid_file(&self, process: &str) -> PathBuf {
        self.root.join("run").join(format!("{process}.pid"))
    }

    /// Asks the supervisor to start a process that was stopped.
    pub(super) fn wanted(&self, process: &str) -> PathBuf {
        self.root.join("run").join(format!("{process}.wanted"))
    }

    /// Locked by the supervisor while it runs.
    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("run/up.lock")
    }

    /// Is there once everything answers.
    pub(super) fn ready(&self) -> PathBuf {
        self.root.join("run/ready")
    }

    /// The login of the user who started everything.
    pub(super) fn client_config(&self) -> PathBuf {
        self.root.join("client.json")
    }

    fn chosen_path(&self) -> PathBuf {
        self.root.join("up.json")
    }

    /// What was chosen at the first start.
    pub(super) fn chosen(&self) -> Result<Option<Chosen>, Problem> {
        let path = self.chosen_path();
        let bad = |why: String| {
            Problem::new(
                Code::RequestInvalid,
                format!("cannot use the state in {}", self.root.display()),
                format!("{}: {why}", path.display()),
                "name the directory of an earlier `ward up`, or an empty one",
            )
        };
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| bad(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// What was chosen, with ports for as many hosts as are wanted; chooses what is not chosen yet.
    pub(super) fn choose(&self, embedded: bool, hosts: u16) -> Result<Chosen, Problem> {
        let known = self.chosen()?;
        let mut chosen = match known {
            Some(chosen) => chosen,
            None => Chosen {
                keyserver_port: embedded.then(|| free_port(5696)).transpose()?,
                api_port: free_port(8443)?,
                hosts_port: free_port(8444)?,
                agent_ports: Vec::new(),
            },
        };
        for number in chosen.agent_ports.len()..usize::from(hosts) {
            let wished = u16::try_from(number).ok().and_then(|number| 8450u16.checked_add(number));
            let mut port = free_port(wished.unwrap_or(0))?;
            while chosen.agent_ports.contains(&port) {
                port = free_port(0)?;
            }
            chosen.agent_ports.push(port);
        }
        let save = || {
            let new = self.root.join("up.json.new");
            fs::write(&new, serde_json::to_vec_pretty(&chosen)?)?;
            fs::rename(&new, self.chosen_path())
        };
        save().map_err(|error: std::io::Error| {
            let why = format!("{}: {error}", self.chosen_path().display());
            Problem::new(Code::StorageIo, "cannot start", why, "make the directory writable")
        })?;
        Ok(chosen)
    }

    /// The processes, in the order in which they start.
    pub(super) fn processes(chosen: &Chosen) -> Vec<String> {
        let keyserver = chosen.keyserver_port.map(|_| KEYSERVER.to_owned());
        let hosts = (1..=chosen.agent_ports.len()).map(|number| format!("host-{number}"));
        keyserver.into_iter().chain([CONTROLLER.to_owned()]).chain(hosts).collect()
    }
}

impl Chosen {
    /// The controller's address for users.
    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }
}

/// The port wished for, or another one if that is taken.
fn free_port(wished: u16) -> Result<u16, Problem> {
    TcpListener::bind(("127.0.0.1", wished))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        .and_then(|listener| Ok(listener.local_addr()?.port()))
        .map_err(|error| Problem::internal("cannot find a free port", error))
}
