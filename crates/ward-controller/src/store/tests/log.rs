//! The event log.

use std::collections::HashSet;

use ward_types::{EventKind, EventSubject, TaskId, VmId};

use super::super::event;
use super::{Db, key, name, on_both};

on_both! {
    events_are_read_as_they_were_written
    pages_are_oldest_first
    every_kind_is_kept
    what_is_undone_leaves_no_gap
    numbers_are_gapless_and_in_the_order_of_commits
    followers_hear_of_commits_only
}

async fn add(db: &Db, messages: &[&str]) {
    for message in messages {
        let mut tx = db.store.write().await.unwrap();
        event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), message).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn events_are_read_as_they_were_written(db: Db) {
    let subject = EventSubject {
        vm: Some(VmId::new()),
        host: None,
        provider: Some("kms".parse().unwrap()),
        key: Some(key("kms", "a \"key\" with ü")),
        task: Some(TaskId::new()),
        user: Some(name("ann")),
    };
    let mut tx = db.store.write().await.unwrap();
    event::record(&mut tx, EventKind::KeyMissingAtServer, &subject, "it's gone; DROP TABLE event").await.unwrap();
    tx.commit().await.unwrap();
    let events = event::last(&mut db.store.read().await.unwrap(), 10).await.unwrap();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((event.id, event.kind, &event.subject), (1, EventKind::KeyMissingAtServer, &subject));
    assert_eq!(event.severity, EventKind::KeyMissingAtServer.severity());
    assert_eq!(event.message, "it's gone; DROP TABLE event");
    assert!(jiff::Timestamp::now().duration_since(event.time).as_secs().abs() < 60);
}

async fn pages_are_oldest_first(db: Db) {
    add(&db, &["a", "b", "c", "d"]).await;
    let mut read = db.store.read().await.unwrap();
    let messages = |events: Vec<ward_types::Event>| events.into_iter().map(|e| e.message).collect::<Vec<_>>();
    assert_eq!(messages(event::last(&mut read, 2).await.unwrap()), ["c", "d"]);
    assert_eq!(messages(event::last(&mut read, 9).await.unwrap()), ["a", "b", "c", "d"]);
    assert_eq!(messages(event::after(&mut read, 0, 2).await.unwrap()), ["a", "b"]);
    assert_eq!(messages(event::after(&mut read, 2, 9).await.unwrap()), ["c", "d"]);
    assert!(event::after(&mut read, 4, 9).await.unwrap().is_empty());
    assert!(event::last(&mut read, 0).await.unwrap().is_empty());
}

async fn every_kind_is_kept(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    for kind in EventKind::ALL {
        event::record(&mut tx, *kind, &EventSubject::default(), "m").await.unwrap();
    }
    let kinds: Vec<_> = event::after(&mut tx, 0, 1000).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, EventKind::ALL);
}

async fn what_is_undone_leaves_no_gap(db: Db) {
    add(&db, &["a"]).await;
    let mut tx = db.store.write().await.unwrap();
    event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), "undone").await.unwrap();
    drop(tx);
    add(&db, &["b"]).await;
    let events = event::last(&mut db.store.read().await.unwrap(), 10).await.unwrap();
    let listed: Vec<_> = events.iter().map(|event| (event.id, event.message.as_str())).collect();
    assert_eq!(listed, [(1, "a"), (2, "b")]);
}

async fn numbers_are_gapless_and_in_the_order_of_commits(db: Db) {
    const WRITERS: usize = 6;
    const EACH: usize = 15;
    let writers = (0..WRITERS).map(|writer| {
        let store = db.store.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let mut tx = store.write().await.unwrap();
                let subject = EventSubject::default();
                event::record(&mut tx, EventKind::UserLogin, &subject, &format!("{writer} {number}")).await.unwrap();
                // Every third comes to nothing.
                if number % 3 == 2 { drop(tx) } else { tx.commit().await.unwrap() }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    // A follower that asks for what comes after what it knows misses nothing.
    let mut seen = Vec::new();
    let wanted = WRITERS * EACH * 2 / 3;
    let mut added = db.store.events_added();
    let follow = async {
        while seen.len() < wanted {
            added.mark_unchanged();
            let after = i64::try_from(seen.len()).unwrap();
            let events = event::after(&mut db.store.read().await.unwrap(), after, 7).await.unwrap();
            if events.is_empty() {
                added.changed().await.unwrap();
            }
            seen.extend(events);
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), follow).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let ids: Vec<_> = seen.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=i64::try_from(wanted).unwrap()).collect::<Vec<_>>());
    let messages: HashSet<_> = seen.iter().map(|event| &event.message).collect();
    assert_eq!(messages.len(), wanted);
    assert_eq!(event::last(&mut db.store.read().await.unwrap(), 1000).await.unwrap().len(), wanted);
}

async fn followers_hear_of_commits_only(db: Db) {
    let added = db.store.events_added();
    let mut tx = db.store.write().await.unwrap();
    event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), "m").await.unwrap();
    assert!(!added.has_changed().unwrap());
    drop(tx);
    assert!(!added.has_changed().unwrap());
    db.store.write().await.unwrap().commit().await.unwrap();
    assert!(!added.has_changed().unwrap(), "nothing was added");
    add(&db, &["m"]).await;
    assert!(added.has_changed().unwrap());
}
