//! PyKMIP's server as a peer.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::pki::{Authority, Identity};

/// A program of the Python environment with PyKMIP. Not having it is a failure: a test that was skipped has shown nothing.
pub fn program(name: &str) -> PathBuf {
    let environment = std::env::var_os("WARD_PYKMIP_VENV")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv"), PathBuf::from);
    let program = environment.join("bin").join(name);
    assert!(
        program.exists(),
        "PyKMIP is not there ({} is missing): run ./test, which makes its environment, or set WARD_PYKMIP_VENV",
        program.display()
    );
    program
}

/// A running PyKMIP server with a database of its own.
pub struct PyKmip {
    pub port: u16,
    pub authority: Authority,
    directory: tempfile::TempDir,
    child: Child,
}

impl PyKmip {
    pub fn start() -> Self {
        let authority = Authority::new("test authority");
        let server = authority.server();
        Self::start_as(authority, &server, free_port())
    }

    pub fn start_as(authority: Authority, server: &Identity, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("ca.pem"), &authority.pem).unwrap();
        fs::write(path("server.pem"), &server.certificate).unwrap();
        fs::write(path("server.key"), &server.key).unwrap();
        fs::create_dir(path("policies")).unwrap();
        let base = directory.path().display();
        let configuration = format!(
            "[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={base}/server.pem\n\
             key_path={base}/server.key\nca_path={base}/ca.pem\nauth_suite=TLS1.2\npolicy_path={base}/policies\n\
             enable_tls_client_auth=True\nlogging_level=WARNING\ndatabase_path={base}/pykmip.db\n"
        );
        fs::write(path("server.conf"), configuration).unwrap();
        let child = run(directory.path());
        let server = Self { port, authority, directory, child };
        server.wait();
        server
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < deadline, "PyKMIP's server did not listen within a minute: {}", self.log());
            // Not too eagerly: what is waited for needs the processor too.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again with the same database.
    pub fn restart(&mut self) {
        self.stop();
        self.child = run(self.directory.path());
        self.wait();
    }
}

fn run(directory: &Path) -> Child {
    Command::new(program("python"))
        .args(["-W", "ignore"])
        .arg(program("pykmip-server"))
        .arg("-f")
        .arg(directory.join("server.conf"))
        .arg("-l")
        .arg(directory.join("server.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
