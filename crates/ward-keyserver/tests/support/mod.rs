//! A key server, in a process of its own or in this one, and clients for it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kmip::ProtocolVersion;
use kmip::client::{Client, ClientConfig};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use ward_keyserver::{ClientFiles, Config, Error, Server, init, issue_client};

/// The example `serve`, which cargo builds with the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/serve");
    assert!(program.exists(), "{} is missing: build the examples", program.display());
    program
}

/// A key server in this process.
pub struct Running {
    pub state_dir: PathBuf,
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), Error>>,
    _directory: tempfile::TempDir,
}

impl Running {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        init(&state_dir, &[]).await.unwrap();
        let server =
            Server::start(Config { listen: ([127, 0, 0, 1], 0).into(), state_dir: state_dir.clone() }).await.unwrap();
        let port = server.local_addr().port();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        Self { state_dir, port, stop: Some(stop), serving, _directory: directory }
    }

    /// A client of the last version in which attributes have an index and the ID placeholder no number.
    pub fn client(&self, name: &str) -> Client {
        self.client_at(name, ProtocolVersion::V1_4)
    }

    pub fn client_at(&self, name: &str, version: ProtocolVersion) -> Client {
        let files = issue_client(&self.state_dir, name).unwrap();
        Client::new(config(&files, self.port).with_highest_version(version))
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.serving.await.unwrap().unwrap();
    }
}

/// A key server in a process of its own.
pub struct Process {
    pub address: SocketAddr,
    child: Child,
}

impl Process {
    pub fn start(state_dir: &Path, clients: &[&str]) -> Self {
        let mut child = Command::new(program())
            .arg(state_dir)
            .args(clients)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap_or_else(|_| panic!("the server did not start: {line:?}"));
        Self { address, child }
    }

    /// As a power cut would: nothing is written any more.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As an operator would.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    pub fn client(&self, state_dir: &Path, name: &str) -> Client {
        client(&issue_client(state_dir, name).unwrap(), self.address.port())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn config(files: &ClientFiles, port: u16) -> ClientConfig {
    let read = |path: &Path| fs::read(path).unwrap();
    ClientConfig::new("127.0.0.1", port, &read(&files.ca), &read(&files.certificate), &read(&files.key)).unwrap()
}

pub fn client(files: &ClientFiles, port: u16) -> Client {
    Client::new(config(files, port))
}

/// A program of the Python environment with PyKMIP. Not having it is a failure: a test that was skipped has shown nothing.
pub fn python() -> PathBuf {
    let environment = std::env::var_os("WARD_PYKMIP_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv"), PathBuf::from);
    let program = environment.join("bin/python");
    assert!(
        program.exists(),
        "PyKMIP is not there ({} is missing): run ./test, which makes its environment, or set WARD_PYKMIP_VENV",
        program.display()
    );
    program
}
