//! What on a datastore needs a key, before anybody destroys the key.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use ward_rpc::api::host::{DatastoreUses, DiskSource, FindUses};
use ward_types::PlainFormat;

/// What there is under a key, of the datastores at these places.
async fn uses(host: &Host, id: u8, datastores: &[&Path]) -> Vec<DatastoreUses> {
    let datastores = datastores.iter().map(|path| path.to_path_buf()).collect();
    host.call(FindUses { datastores, key: key(id) }).await.unwrap()
}

/// The same, of the only datastore, by names.
async fn found(host: &Host, id: u8) -> Vec<PathBuf> {
    let store = host.store();
    let [seen] = &uses(host, id, &[&store]).await[..] else { panic!("the datastore is not there") };
    assert!(seen.marked, "there is a VM home");
    seen.uses.iter().map(|path| path.strip_prefix(&store).unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn homes_and_disks_that_need_a_key_are_found_wherever_they_lie() {
    let mut host = Host::start().await;
    let store = host.store();
    let blank = || vec![DiskSource::Blank { size: MIB, format: PlainFormat::Raw }];
    // Nobody has made anything yet.
    let [seen] = &uses(&host, 1, &[&store]).await[..] else { panic!("the datastore is not there") };
    assert!(!seen.marked && seen.uses.is_empty());

    host.create("web", blank()).await;
    host.create("plain", blank()).await;
    host.push(&[1, 2]).await;
    host.done("web", encrypt(1, &[0])).await;
    assert_eq!(found(&host, 1).await, [Path::new("web")]);
    assert_eq!(found(&host, 2).await, [] as [&Path; 0]);

    // Copies of the disk: beside a home that does not know of it, in a directory without a home, by itself.
    let disk = store.join("web/disk-0.luks");
    fs::create_dir(store.join("attic")).unwrap();
    for copy in ["plain/old.luks", "attic/disk", "stray.luks"] {
        fs::copy(&disk, store.join(copy)).unwrap();
    }
    let copies = ["attic/disk", "plain/old.luks", "stray.luks"].map(PathBuf::from);
    let with_home = || [&copies[..], &[PathBuf::from("web")]].concat();
    assert_eq!(found(&host, 1).await, with_home());
    // One copy of the header is enough to tell; where neither makes sense, the name of the key is.
    let mut damaged = fs::read(&disk).unwrap();
    damaged[..6].fill(0);
    fs::write(store.join("stray.luks"), &damaged).unwrap();
    assert_eq!(found(&host, 1).await, with_home());
    let mut damaged = fs::read(&disk).unwrap();
    for header in [0, damaged.windows(6).position(|window| window == b"SKUL\xba\xbe").unwrap()] {
        damaged[header + 448..header + 512].fill(0);
    }
    fs::write(store.join("stray.luks"), &damaged).unwrap();
    assert_eq!(found(&host, 1).await, with_home());
    // So it is with a description.
    let description = fs::read_to_string(store.join("web/vm.toml")).unwrap();
    fs::write(store.join("web/vm.toml"), format!("{description}\nand = \"nonsense")).unwrap();
    assert_eq!(found(&host, 1).await, with_home());

    // An empty directory is no datastore that was used; one that is not there is not told of.
    let empty = host.path("empty");
    fs::create_dir(&empty).unwrap();
    let seen = uses(&host, 1, &[&empty, &host.path("nowhere")]).await;
    assert_eq!(seen.iter().map(|seen| (seen.directory.as_path(), seen.marked)).collect::<Vec<_>>(), [(&*empty, false)]);
    // The mark outlives the last home.
    for directory in ["web", "plain", "attic"] {
        fs::remove_dir_all(store.join(directory)).unwrap();
    }
    fs::remove_file(store.join("stray.luks")).unwrap();
    assert_eq!(found(&host, 1).await, [] as [&Path; 0]);
}
