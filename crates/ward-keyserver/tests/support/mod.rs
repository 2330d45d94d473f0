//! A key server as a process, and clients for it.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kmip::client::{Client, ClientConfig};
use ward_keyserver::{ClientFiles, issue_client};

/// The example `serve`, which cargo builds with the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/serve");
    assert!(program.exists(), "{} is missing: build the examples", program.display());
    program
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
