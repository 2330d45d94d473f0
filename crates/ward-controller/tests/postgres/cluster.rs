//! A real PostgreSQL in a directory of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The cluster. It ends when this process does: it watches the pipe that is its standard input.
pub struct Cluster {
    /// The directory of its socket, of the user `ward`; its data are below that.
    pub sockets: String,
    _process: Child,
}

/// Starts one.
pub fn start() -> Cluster {
    let mut command = Command::new("setpriv");
    // PostgreSQL refuses to run as root.
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).env_remove("TMPDIR");
    }
    let mut process = command
        .args(["sh", "-c", include_str!("cluster.sh"), "sh"])
        .arg(programs())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sockets = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut sockets).unwrap();
    let sockets = sockets.trim().to_owned();
    assert!(!sockets.is_empty(), "PostgreSQL did not start: see what it said above");
    Cluster { sockets, _process: process }
}

/// Where Debian keeps the newest server's programs. Not having one is a failure: a skipped test has shown nothing.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.max_by_key(|version| version.file_name().to_str().and_then(|v| v.parse::<u32>().ok()));
    newest.expect("PostgreSQL is not there: install the Debian package `postgresql`").path().join("bin")
}
