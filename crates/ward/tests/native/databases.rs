//! The primary key on PostgreSQL: sealed there as in the embedded database.

use std::fs;
use std::path::Path;
use std::process::Command;

use key_search::Keys;

use crate::postgres;
use crate::support::{System, keys_in, text};

/// All that a database says, as text.
fn dumped(url: &str) -> Vec<u8> {
    let output = Command::new("pg_dump").args(["--inserts", url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn the_key_is_plain_in_no_row_and_no_file_of_postgresql() {
    let cluster = postgres::start();
    let url = format!("postgres://ward@localhost/postgres?host={}", cluster.sockets);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &url).unwrap();
    let system = System::start_with(1, &["--database-file", text(file.path())]);
    let backup = system.backed_up("n1");
    system.encrypted_vm("web-1", "n1");
    let kdk = keys_in(&backup, &system.password()).remove(0);
    let mut keys = Keys::default();
    keys.add("the KDK", &kdk);
    let finder = keys.finder().unwrap();
    let rows = dumped(&url);
    let row = b"INSERT INTO public.native_key";
    assert!(rows.windows(row.len()).any(|window| window == row), "the key's row is not there");
    assert_eq!(finder.in_bytes(&rows), Vec::<String>::new());
    assert_eq!(finder.in_files(Path::new(&cluster.sockets)).unwrap(), []);
    assert_eq!(finder.in_files(&system.controller_state()).unwrap(), []);
    assert!(!system.controller_state().join("controller.db").exists());
}
