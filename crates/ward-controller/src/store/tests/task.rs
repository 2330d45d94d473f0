//! Tasks.

use ward_types::{
    Code, Component, DiskId, HostId, PolicyName, Problem, Progress, ProgressUnit, TaskId, TaskKind, TaskState, VmId,
};

use super::super::task::{self, TaskRow};
use super::super::{Tx, vm};
use super::{Db, conflict, key, name, on_both};
use crate::plan::{CryptPlan, KeyChoice, PlannedAction};
use crate::tasks::{KeyMark, Work};

on_both! {
    a_task_goes_its_way
    what_has_ended_stays_as_it_is
    every_kind_of_work_is_kept
    the_newest_come_first_and_open_ones_oldest_first
    a_vm_has_one_open_task
}

fn start() -> Work {
    Work::Start { asked: None, keys: vec![], host: None }
}

async fn add(tx: &mut Tx, vm: VmId, work: &Work) -> TaskRow {
    task::add(tx, (TaskId::new(), TaskKind::VmStart), (vm, &name("web")), &name("ann"), work).await.unwrap()
}

async fn a_task_goes_its_way(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let vm = VmId::new();
    let added = add(&mut tx, vm, &start()).await.info;
    assert_eq!((added.kind, added.vm, added.state), (TaskKind::VmStart, vm, TaskState::Queued));
    assert_eq!(task::get(&mut tx, added.id).await.unwrap().unwrap(), added);
    assert_eq!(task::open_of_vm(&mut tx, vm).await.unwrap().unwrap(), added);

    let host = HostId::new();
    let mut work = start();
    work.set_host(host);
    task::set_work(&mut tx, added.id, "half way", &work).await.unwrap();
    let open = task::open(&mut tx).await.unwrap();
    let [row] = open.as_slice() else { panic!("{open:?}") };
    assert_eq!((row.info.state, row.info.step.as_str(), row.work.host()), (TaskState::Running, "half way", Some(host)));

    let progress = Progress { done: 3, total: 7, unit: ProgressUnit::Bytes };
    let problem = Problem::new(Code::HostUnreachable, "cannot x", "it's \"away\"", "look");
    task::end(&mut tx, added.id, progress, Some(&problem)).await.unwrap();
    let ended = task::get(&mut tx, added.id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.progress, ended.problem.as_ref()), (TaskState::Failed, progress, Some(&problem)));
    assert!(ended.ended.unwrap() >= ended.created);
    assert!(task::open(&mut tx).await.unwrap().is_empty());
    assert!(task::open_of_vm(&mut tx, vm).await.unwrap().is_none());
    assert!(task::get(&mut tx, TaskId::new()).await.unwrap().is_none());
}

async fn what_has_ended_stays_as_it_is(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let id = add(&mut tx, VmId::new(), &start()).await.info.id;
    // More than SQL's numbers hold.
    let progress = Progress { done: u64::MAX, total: u64::MAX, unit: ProgressUnit::Bytes };
    task::end(&mut tx, id, progress, None).await.unwrap();
    let ended = task::get(&mut tx, id).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.problem.clone()), (TaskState::Succeeded, None));
    assert_eq!(ended.progress.done, u64::try_from(i64::MAX).unwrap());
    task::set_work(&mut tx, id, "again", &start()).await.unwrap();
    task::end(&mut tx, id, Progress::default(), Some(&Problem::internal("x", "y"))).await.unwrap();
    assert_eq!(task::get(&mut tx, id).await.unwrap().unwrap(), ended);
}

fn plan(keys: Vec<KeyChoice>, steps: &[(Component, PlannedAction)]) -> CryptPlan {
    let mut plan = CryptPlan { keys, ..CryptPlan::default() };
    plan.steps.extend(steps.iter().copied().map(Into::into));
    plan
}

async fn every_kind_of_work_is_kept(db: Db) {
    let (host, one) = (Some(HostId::new()), key("kms", "1"));
    let spec = ward_rpc::api::host::CreateVm {
        id: VmId::new(),
        name: name("web"),
        cpus: 1,
        memory_mib: 64,
        kernel: None,
        disks: vec![ward_rpc::api::host::DiskSource::Copy { path: "/x".into() }],
        firmware: ward_rpc::api::host::NewFirmware::Uefi { secure_boot: true, vars: Some("/v".into()) },
        tpm: true,
    };
    let home = Component::Home;
    let crypt = |key, mark| Work::Crypt {
        plan: plan(vec![key], &[(home, PlannedAction::Encrypt(0))]),
        marks: vec![mark],
        policies: vec![(home, PolicyName::encryption())],
        host,
    };
    let new = || KeyChoice::New("kms".parse().unwrap());
    let works = [
        Work::Make { spec: spec.clone(), policies: Vec::new(), host },
        crypt(new(), KeyMark::None),
        crypt(new(), KeyMark::Wanted),
        crypt(new(), KeyMark::Made { key: one.clone() }),
        crypt(KeyChoice::Existing(one.clone()), KeyMark::Ready { key: one.clone() }),
        Work::Crypt {
            plan: plan(
                vec![new(), KeyChoice::Existing(one.clone())],
                &[
                    (home, PlannedAction::ShallowRecrypt(0)),
                    (Component::Disk(DiskId(0)), PlannedAction::DeepRecrypt(1)),
                    (Component::Disk(DiskId(1)), PlannedAction::Decrypt),
                ],
            ),
            marks: vec![KeyMark::Wanted, KeyMark::None],
            policies: vec![],
            host: None,
        },
        Work::MakeEncrypted {
            spec: spec.clone(),
            plan: plan(vec![new()], &[(home, PlannedAction::Encrypt(0))]),
            marks: vec![KeyMark::None],
            policies: vec![(home, PolicyName::encryption())],
            host,
        },
        Work::Clone {
            source: name("db"),
            from: ward_rpc::api::host::HomeRef { datastore: "/d".into(), directory: name("db") },
            keys: vec![one.clone()],
            plan: CryptPlan::default(),
            marks: vec![],
            policies: vec![],
            host,
            replace_tpm: true,
            has_tpm: true,
        },
        Work::Tpm {
            change: ward_rpc::api::host::TpmChange::Add,
            plan: plan(vec![new()], &[(home, PlannedAction::Encrypt(0))]),
            marks: vec![KeyMark::Made { key: one.clone() }],
            host,
        },
        Work::Start { asked: Some(name("h")), keys: vec![one.clone()], host: None },
        Work::Stop { host: HostId::new(), force: true, wait_ms: 7 },
        Work::Remove { keys: vec![one], host },
    ];
    let mut tx = db.store.write().await.unwrap();
    for work in works {
        let id = add(&mut tx, VmId::new(), &work).await.info.id;
        let read = task::open(&mut tx).await.unwrap().into_iter().find(|row| row.info.id == id).unwrap();
        assert_eq!(format!("{:?}", read.work), format!("{work:?}"));
    }
}

async fn the_newest_come_first_and_open_ones_oldest_first(db: Db) {
    let mut tx = db.store.write().await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(add(&mut tx, VmId::new(), &start()).await.info.id);
    }
    task::end(&mut tx, ids[1], Progress::default(), None).await.unwrap();
    let listed = |tasks: Vec<ward_types::TaskInfo>| tasks.into_iter().map(|task| task.id).collect::<Vec<_>>();
    assert_eq!(listed(task::list(&mut tx, false, 9).await.unwrap()), [ids[3], ids[2], ids[1], ids[0]]);
    assert_eq!(listed(task::list(&mut tx, false, 2).await.unwrap()), [ids[3], ids[2]]);
    assert_eq!(listed(task::list(&mut tx, true, i64::MAX).await.unwrap()), [ids[3], ids[2], ids[0]]);
    let open: Vec<_> = task::open(&mut tx).await.unwrap().into_iter().map(|row| row.info.id).collect();
    assert_eq!(open, [ids[0], ids[2], ids[3]]);
}

async fn a_vm_has_one_open_task(db: Db) {
    let vm = VmId::new();
    let mut tx = db.store.write().await.unwrap();
    let first = add(&mut tx, vm, &start()).await.info.id;
    tx.commit().await.unwrap();
    let mut tx = db.store.write().await.unwrap();
    conflict(task::add(&mut tx, (TaskId::new(), TaskKind::VmStop), (vm, &name("web")), &name("bob"), &start()).await);
    drop(tx);
    let mut tx = db.store.write().await.unwrap();
    add(&mut tx, VmId::new(), &start()).await;
    task::end(&mut tx, first, Progress::default(), None).await.unwrap();
    add(&mut tx, vm, &start()).await;
    // A task stays when its VM goes, and knows its name.
    vm::remove(&mut tx, vm).await.unwrap();
    assert!(task::open_of_vm(&mut tx, vm).await.unwrap().is_some());
}
