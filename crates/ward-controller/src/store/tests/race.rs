//! Rules that must hold whoever else writes at the same moment.

use std::time::Duration;

use ward_types::{EventKind, EventSubject, TaskId, TaskKind, VmId};

use super::super::provider::{self, ProviderRow};
use super::super::{event, setting, task};
use super::{Db, name, on_both};
use crate::tasks::Work;

on_both! {
    one_of_many_tasks_for_a_vm_is_open
    who_reads_then_writes_sees_nobody_elses_half
    writers_in_any_order_wait_and_do_not_fail
}

async fn one_of_many_tasks_for_a_vm_is_open(db: Db) {
    let vm = VmId::new();
    let askers: Vec<_> = (0..12)
        .map(|_| {
            let store = db.store.clone();
            tokio::spawn(async move {
                let mut tx = store.write().await.unwrap();
                let work = Work::Remove { keys: vec![], host: None };
                let added =
                    task::add(&mut tx, (TaskId::new(), TaskKind::VmRemove), (vm, &name("web")), &name("ann"), &work)
                        .await;
                match added {
                    Ok(_) => tx.commit().await.map(|()| true).unwrap(),
                    Err(error) => {
                        assert!(error.is_conflict(), "{error}");
                        false
                    }
                }
            })
        })
        .collect();
    let mut won = 0;
    for asker in askers {
        won += u32::from(asker.await.unwrap());
    }
    assert_eq!(won, 1);
    assert_eq!(task::open(&mut db.store.read().await.unwrap()).await.unwrap().len(), 1);
}

/// Every rule of the form "if there is none, add one" is written that way.
async fn who_reads_then_writes_sees_nobody_elses_half(db: Db) {
    let writers: Vec<_> = (0..10)
        .map(|_| {
            let store = db.store.clone();
            tokio::spawn(async move {
                let mut tx = store.write().await.unwrap();
                let count: u32 = setting::get(&mut tx, "count").await.unwrap().map_or(0, |text| text.parse().unwrap());
                tokio::task::yield_now().await;
                setting::put(&mut tx, "count", &(count + 1).to_string()).await.unwrap();
                tx.commit().await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let count = setting::get(&mut db.store.read().await.unwrap(), "count").await.unwrap();
    assert_eq!(count.as_deref(), Some("10"));
}

async fn writers_in_any_order_wait_and_do_not_fail(db: Db) {
    let row = ProviderRow::new("a".parse().unwrap(), ward_types::ProviderKind::Standard);
    let mut tx = db.store.write().await.unwrap();
    provider::add(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    let writers: Vec<_> = (0..16)
        .map(|number| {
            let (store, name) = (db.store.clone(), row.name.clone());
            tokio::spawn(async move {
                let mut tx = store.write().await.unwrap();
                // Half of them the one first, half of them the other.
                for step in [number, number + 1] {
                    if step % 2 == 0 {
                        provider::set_default(&mut tx, &name).await.unwrap();
                    } else {
                        event::record(&mut tx, EventKind::UserLogin, &EventSubject::default(), "m").await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
                tx.commit().await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        tokio::time::timeout(Duration::from_secs(30), writer).await.unwrap().unwrap();
    }
}
