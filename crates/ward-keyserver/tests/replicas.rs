//! Three key servers of the same keys, one of them killed.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kmip::attribute::Attribute;
use kmip::client::{BackOff, Replicas};
use support::{Process, config};
use ward_keyserver::issue_client;

const KEYS: usize = 250;
const WORKERS: usize = 4;

/// Each key is made, activated, looked at and fetched: a thousand operations, and in their midst the server that is asked
/// first is killed as by a power cut. Its replicas share its database.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_dies_and_no_operation_fails() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let first = Process::start(&state_dir, &["alice"]);
    let others = [Process::start(&state_dir, &[]), Process::start(&state_dir, &[])];
    let files = issue_client(&state_dir, "alice").unwrap();
    let ports = [first.address.port(), others[0].address.port(), others[1].address.port()];
    let configs = ports.map(|port| config(&files, port)).to_vec();
    // Longer than the test: who was set aside stays so.
    let back_off = BackOff { first: Duration::from_secs(600), most: Duration::from_secs(600) };
    let replicas = Replicas::new(configs).unwrap().with_timeout(Duration::from_secs(30)).with_back_off(back_off);
    let replicas = Arc::new(replicas);

    let operations = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (replicas, operations) = (Arc::clone(&replicas), Arc::clone(&operations));
        workers.spawn(async move {
            let mut made = Vec::new();
            for number in (worker..KEYS).step_by(WORKERS) {
                let name = format!("key {number}");
                let created = replicas.create_aes256(&[Attribute::name(&name)]).await.unwrap();
                operations.fetch_add(1, Ordering::Relaxed);
                replicas.activate(&created.id).await.unwrap();
                operations.fetch_add(1, Ordering::Relaxed);
                let key = replicas.get_key(&created.id).await.unwrap();
                operations.fetch_add(1, Ordering::Relaxed);
                assert!(replicas.get_key(&created.id).await.unwrap() == key);
                operations.fetch_add(1, Ordering::Relaxed);
                made.push((name, created.id));
            }
            made
        });
    }
    while operations.load(Ordering::Relaxed) < 2 * KEYS {
        tokio::task::yield_now().await;
    }
    first.kill();
    let made: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
    assert_eq!(operations.load(Ordering::Relaxed), 4 * KEYS);

    // As many keys as were asked for, each by its name, and none made twice.
    let client = others[0].client(&state_dir, "alice");
    assert_eq!(client.locate(kmip::client::Filter::default()).await.unwrap().len(), KEYS);
    for (name, id) in &made {
        let found = client.locate(kmip::client::Filter::by_name(name)).await.unwrap();
        assert_eq!(found, std::slice::from_ref(id));
    }
    let status = replicas.status();
    assert!(status[0].last_error.is_some() && status[0].set_aside_until.is_some(), "{:?}", status[0]);
    assert!(status[1].last_success.is_some() && status[1].set_aside_until.is_none(), "{:?}", status[1]);
    for other in others {
        other.stop();
    }
}
