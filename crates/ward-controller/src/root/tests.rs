#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use super::*;

fn passphrase(dir: &Path, passphrase: &str) -> RootKey {
    let file = dir.join("passphrase");
    fs::write(&file, passphrase).unwrap();
    RootKey { way: Some(RootKeyWay::Passphrase), passphrase_file: Some(file), ..RootKey::default() }
}

fn why<T>(result: Result<T, Error>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn a_file_is_made_once_and_kept_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let load = |may_make| load(dir.path(), &RootKey::default(), may_make);
    assert!(matches!(load(false), Err(Error::RootKeyMissing { .. })), "a loss, not a first start");
    let (key, way) = load(true).unwrap();
    assert_eq!(way, RootKeyWay::File);
    assert_eq!(load(false).unwrap().0.expose(), key.expose());
    let path = dir.path().join(FILE);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(load(true), Err(Error::RootKeySource { .. })));
}

#[test]
fn a_passphrase_opens_what_it_was_made_with() {
    let dir = tempfile::tempdir().unwrap();
    let load = |said: &str, may_make| load(dir.path(), &passphrase(dir.path(), said), may_make);
    assert!(load("open sesame\n", false).is_err());
    assert!(load("\n", true).is_err());
    let (key, way) = load("open sesame\n", true).unwrap();
    assert_eq!(way, RootKeyWay::Passphrase);
    assert_eq!(load("open sesame", false).unwrap().0.expose(), key.expose());
    let said = why(load("open sesamE", true));
    assert!(said.contains("the passphrase is wrong"), "{said}");
    let kept = fs::read(dir.path().join(FILE)).unwrap();
    assert!(!kept.windows(32).any(|window| window == key.expose()));
}

#[test]
fn how_it_is_kept_changes_and_the_key_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let file = RootKey { way: Some(RootKeyWay::File), ..RootKey::default() };
    let (key, _) = load(dir.path(), &RootKey::default(), true).unwrap();
    let secret = passphrase(dir.path(), "open sesame\n");

    // A copy changes nothing.
    let copy = dir.path().join("copy");
    let copying = RootKeyChange { now: RootKey::default(), to: secret.clone(), copy: Some(copy.clone()) };
    assert_eq!(change_root_key(dir.path(), &copying).unwrap(), RootKeyWay::File);
    assert_eq!(root_key_way(dir.path()).unwrap(), RootKeyWay::File);
    assert!(matches!(change_root_key(dir.path(), &copying), Err(Error::File { .. })), "it overwrites nothing");

    // The plain key does not stay on the disk, in whatever has the old file open.
    let old = fs::File::open(&path).unwrap();
    let change = RootKeyChange { now: RootKey::default(), to: secret.clone(), copy: None };
    assert_eq!(change_root_key(dir.path(), &change).unwrap(), RootKeyWay::File);
    let mut left = [1; 32];
    old.read_exact_at(&mut left, 0).unwrap();
    assert_eq!(left, [0; 32]);
    assert_eq!(root_key_way(dir.path()).unwrap(), RootKeyWay::Passphrase);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let said = why(load(dir.path(), &file, false));
    assert!(said.contains("under a passphrase") && said.contains("--to file"), "{said}");
    // Nobody need say how.
    let any = RootKey { way: None, ..secret.clone() };
    assert_eq!(load(dir.path(), &any, false).unwrap().0.expose(), key.expose());

    // What an interrupted change had not put into use goes.
    let temporary = files::temporary(&path);
    fs::write(&temporary, key.expose()).unwrap();
    assert_eq!(load(dir.path(), &any, false).unwrap().0.expose(), key.expose());
    assert!(!temporary.exists());

    let back = RootKeyChange { now: any, to: file.clone(), copy: None };
    assert_eq!(change_root_key(dir.path(), &back).unwrap(), RootKeyWay::Passphrase);
    assert_eq!(load(dir.path(), &file, false).unwrap().0.expose(), key.expose());
    // The copy does in its place.
    fs::rename(&copy, &path).unwrap();
    assert_eq!(load(dir.path(), &secret, false).unwrap().0.expose(), key.expose());
}

#[test]
fn what_is_no_root_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    load(dir.path(), &RootKey::default(), true).unwrap();
    for content in
        ["", "{}", r#"{"version": 2, "kept": "credential", "sealed": ""}"#, "0123456789012345678901234567890"]
    {
        fs::write(&path, content).unwrap();
        let said = why(load(dir.path(), &RootKey::default(), true));
        assert!(said.contains("restore it from a backup"), "{content}: {said}");
    }
}
