//! PyKMIP's server as a peer, run by `scripts/pykmip`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::pki::{Authority, Identity};

/// A running PyKMIP server with a database of its own.
pub struct PyKmip {
    pub port: u16,
    pub authority: Authority,
    directory: tempfile::TempDir,
}

impl PyKmip {
    pub fn start() -> Self {
        let authority = Authority::new("test authority");
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("ca.pem", &authority.pem);
        for (name, Identity { certificate, key }) in
            [("server", authority.server()), ("client", authority.client("alice"))]
        {
            write(&format!("{name}.pem"), &certificate);
            write(&format!("{name}.key"), &key);
        }
        script("start", directory.path());
        let address = fs::read_to_string(directory.path().join("address")).unwrap();
        let (_, port) = address.trim().rsplit_once(':').unwrap();
        Self { port: port.parse().unwrap(), authority, directory }
    }

    /// The operations that it was asked for, in their order.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("server.log")).unwrap();
        let operation = |line: &str| Some(line.split_once("Processing operation: ")?.1.trim().to_owned());
        log.lines().filter_map(operation).collect()
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        script("stop", self.directory.path());
    }

    /// Starts it again with the same database.
    pub fn restart(&mut self) {
        self.stop();
        script("start", self.directory.path());
    }
}

fn script(verb: &str, directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/pykmip");
    let output = Command::new(script).arg(verb).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        script("stop", self.directory.path());
    }
}
