//! A swtpm that serves on two neighbouring ports: TPM tools take the control channel to be at the port above the TPM's.
#![allow(dead_code)]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One that ends with the test.
pub(crate) struct Swtpm {
    process: Child,
    pub(crate) port: u16,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Swtpm {
    /// A TPM that is on, its state in that directory.
    pub(crate) fn on(state: &Path) -> Self {
        Self::start(state, &["--flags", "not-need-init,startup-clear"])
    }

    /// The same with these arguments.
    pub(crate) fn start(state: &Path, arguments: &[&str]) -> Self {
        (0..20).find_map(|_| Self::try_start(state, arguments)).expect("no swtpm came up on any port")
    }

    fn try_start(state: &Path, arguments: &[&str]) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let above = TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
        drop((free, above));
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2"])
            .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
            .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
            .args(["--tpmstate", &format!("dir={}", state.display())])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm can't be started: run ./test, which installs what tests need");
        let mut swtpm = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !(listens(port) && listens(port + 1)) {
            if swtpm.process.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "swtpm does not listen after 20 seconds");
            std::thread::yield_now();
        }
        Some(swtpm)
    }

    /// How other programs reach it.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }
}

/// Whether somebody listens there, as the kernel says: to try it would take the one connection that a TPM serves.
fn listens(port: u16) -> bool {
    let (local, listening) = (format!(":{port:04X}"), "0A");
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.any(|fields| fields[1].ends_with(&local) && fields[3] == listening)
}
