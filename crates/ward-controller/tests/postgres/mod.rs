//! A real PostgreSQL of the tests' own: one cluster for each test program, one database for each test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AnyConnection, Connection as _, Executor as _};

/// The cluster. It ends when this process does: it watches the pipe that is its standard input.
struct Cluster {
    sockets: String,
    _process: Child,
}

/// The URL of a new and empty database.
pub async fn database() -> String {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(start);
    let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let url = |name: &str| format!("postgres://ward@localhost/{name}?host={}", cluster.sockets);
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(&url("postgres")).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    connection.close().await.unwrap();
    url(&name)
}

fn start() -> Cluster {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/postgres/cluster.sh");
    let script = fs::read_to_string(script).unwrap();
    let mut command = Command::new("setpriv");
    // PostgreSQL refuses to run as root.
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).env_remove("TMPDIR");
    }
    let mut process = command
        .args(["sh", "-c", &script, "sh"])
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
