//! PyKMIP's client against our server.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Process, python};
use ward_keyserver::{ClientFiles, issue_client};

fn configuration(directory: &Path, files: &ClientFiles, port: u16) -> std::path::PathBuf {
    let path = directory.join("client.conf");
    let text = format!(
        "[client]\nhost=127.0.0.1\nport={port}\ncertfile={}\nkeyfile={}\nca_certs={}\ncert_reqs=CERT_REQUIRED\n\
         ssl_version=PROTOCOL_TLSv1_2\ndo_handshake_on_connect=True\nsuppress_ragged_eofs=True\nusername=\npassword=\n",
        files.certificate.display(),
        files.key.display(),
        files.ca.display()
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_keys_life_at_every_version() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let server = Process::start(&state_dir, &["alice"]);
    let files = issue_client(&state_dir, "alice").unwrap();
    let configuration = configuration(directory.path(), &files, server.address.port());
    for version in ["1.0", "1.1", "1.2", "1.3", "1.4", "2.0"] {
        let output = Command::new(python())
            .args(["-W", "ignore"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pykmip_client.py"))
            .arg(&configuration)
            .arg(version)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "KMIP {version}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    server.stop();
}
