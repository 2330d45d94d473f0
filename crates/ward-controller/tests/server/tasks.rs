//! What a task does, as its user and the hosts see it.

use http::Method;
use jiff::Timestamp;
use serde_json::json;
use std::time::{Duration, Instant};
use ward_controller::api::types::{TaskView, VmView};
use ward_rpc::api::host::{BrokenVm, VmPart};
use ward_types::{Code, EventKind, Power, Problem, TaskState};

use crate::support::{KeyServer, Ward, in_time};

/// A controller with a key server, a host and a VM.
async fn with_vm() -> (Ward, KeyServer, crate::support::Host) {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let host = ward.host("h").await;
    ward.vm("web").await;
    (ward, server, host)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_has_one_task_at_a_time() {
    let (ward, _server, host) = with_vm().await;
    host.change(|inside| inside.hold = true);
    let asking: Vec<_> = (0..6)
        .map(|_| {
            let api = ward.api.clone();
            tokio::spawn(async move { api.post::<TaskView>("/vms/web/encrypt", json!({})).await })
        })
        .collect();
    let mut tasks = Vec::new();
    for asked in asking {
        match asked.await.unwrap() {
            Ok(task) => tasks.push(task),
            Err(refusal) => assert_eq!(refusal.code(), Code::Busy),
        }
    }
    let [task] = tasks.as_slice() else { panic!("{tasks:?}") };
    for (method, path) in [(Method::POST, "/vms/web/start"), (Method::DELETE, "/vms/web")] {
        let refusal = ward.api.send::<TaskView>(method, path, Some(json!({}))).await.unwrap_err();
        assert_eq!(refusal.code(), Code::Busy);
        assert!(refusal.0.why.contains(&task.info.id.to_string()), "{:?}", refusal.0);
    }
    assert_eq!(ward.api.get::<VmView>("/vms/web").await.unwrap().task, Some(task.info.id));
    host.until("the job", |inside| !inside.jobs.is_empty()).await;
    host.release();
    assert_eq!(ward.api.ended(&task.info).await.problem, None);
    assert_eq!(ward.api.get::<VmView>("/vms/web").await.unwrap().task, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_task_hears_of_its_end_at_once() {
    let (ward, _server, host) = with_vm().await;
    host.change(|inside| inside.hold = true);
    let task: TaskView = ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
    let now = ward.api.when(&task.info, |view| view.info.step == "copies").await;
    assert_eq!((now.info.progress.done, now.info.progress.total), (1, 2));
    let began = Instant::now();
    let watching = {
        let (api, path) =
            (ward.api.clone(), format!("/tasks/{}?seen={}&wait_ms=30000", task.info.id, now.revision + (1 << 60)));
        tokio::spawn(async move { api.get::<TaskView>(&path).await.unwrap() })
    };
    host.release();
    let ended = watching.await.unwrap();
    assert_eq!(ended.info.state, TaskState::Succeeded);
    assert!(ended.revision > now.revision);
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    let listed: Vec<TaskView> = ward.api.get("/tasks?limit=1").await.unwrap();
    assert_eq!(listed[0].info.id, task.info.id);
    assert!(ward.api.get::<Vec<TaskView>>("/tasks?open=true").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_a_host_works_on_can_be_cancelled() {
    let (ward, server, host) = with_vm().await;
    host.change(|inside| inside.hold = true);
    let task: TaskView = ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
    host.until("the job", |inside| !inside.jobs.is_empty()).await;
    let path = format!("/tasks/{}/cancel", task.info.id);
    ward.api.post::<()>(&path, json!({})).await.unwrap();
    let ended = ward.api.ended(&task.info).await;
    assert_eq!((ended.state, ended.problem.unwrap().code), (TaskState::Failed, Code::Cancelled));
    assert_eq!(ward.api.post::<()>(&path, json!({})).await.unwrap_err().code(), Code::Cancelled);
    // The key that was made for it: told, forgotten by the host, left at the server.
    assert_eq!(ward.api.told(EventKind::KeyUnneeded).await.len(), 1);
    host.until("the host forgets", |inside| inside.vm_keys().is_empty() && inside.jobs.is_empty()).await;
    assert_eq!(server.count().await, 1);
    assert!(!ward.api.get::<VmView>("/vms/web").await.unwrap().encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_says_went_wrong_is_what_its_user_reads() {
    let (ward, _server, host) = with_vm().await;
    let problem = Problem::new(Code::StorageFull, "cannot encrypt", "the datastore is full", "make room");
    host.change(|inside| inside.fails_jobs = Some(problem.clone()));
    assert_eq!(ward.api.fails(Method::POST, "/vms/web/encrypt", Some(json!({}))).await, problem);
    let told = ward.api.told(EventKind::TaskFailed).await;
    assert!(told[0].message.contains("the datastore is full") && told[0].message.contains("make room"));
    assert_eq!(told[0].subject.host, Some(host.id));
    // A VM that was not made leaves its name free.
    let disk = json!({ "source": "blank", "size": 4096, "format": "raw" });
    let new = json!({ "name": "new", "disks": [disk] });
    assert_eq!(ward.api.fails(Method::POST, "/vms", Some(new.clone())).await, problem);
    assert_eq!(ward.api.get::<VmView>("/vms/new").await.unwrap_err().code(), Code::NotFound);
    host.change(|inside| inside.fails_jobs = None);
    ward.api.done(Method::POST, "/vms", Some(new)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ends_by_itself_is_noticed() {
    let (ward, _server, host) = with_vm().await;
    let console = ward.api.get::<serde_json::Value>("/vms/web/console").await.unwrap_err();
    assert_eq!(console.code(), Code::VmNotRunning);
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    let vm: VmView = ward.api.get("/vms/web").await.unwrap();
    assert_eq!((vm.power, vm.host.unwrap().as_str()), (Power::On, "h"));
    for path in ["/vms/web/encrypt", "/vms/web/start"] {
        assert_eq!(ward.api.post::<TaskView>(path, json!({})).await.unwrap_err().code(), Code::VmRunning);
    }
    host.change(|inside| inside.running.clear());
    // Whoever asks for something that needs it off need not wait until that was noticed.
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
    assert_eq!(ward.api.told(EventKind::VmStopped).await.len(), 1);
    assert_eq!(ward.api.post::<TaskView>("/vms/web/stop", json!({})).await.unwrap_err().code(), Code::VmNotRunning);
    // One that runs though nobody knows is noticed too.
    host.change(|inside| {
        inside.running.insert(vm.id);
    });
    host.hello().await.unwrap();
    let found = |event: &ward_types::Event| event.kind == EventKind::VmStarted && event.message.contains("found");
    ward.api.event("it was found running", found).await;
    ward.api.done(Method::POST, "/vms/web/stop", Some(json!({ "force": true }))).await;
    assert_eq!(ward.api.get::<VmView>("/vms/web").await.unwrap().power, Power::Off);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_a_vm_that_died_is_told_once() {
    let (ward, _server, host) = with_vm().await;
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    let vm: VmView = ward.api.get("/vms/web").await.unwrap();
    let died = |part, second| BrokenVm { vm: vm.id, part, at: Timestamp::from_second(second).unwrap() };
    let is_about = |text: &'static str| {
        move |event: &ward_types::Event| event.kind == EventKind::VmPartDied && event.message.contains(text)
    };
    host.change(|inside| inside.broken = vec![died(VmPart::Tpm, 1)]);
    host.hello().await.unwrap();
    let event = ward.api.event("swtpm died", is_about("swtpm of VM `web` died on host `h`")).await;
    assert_eq!((event.subject.vm, event.subject.host), (Some(vm.id), Some(host.id)));
    // Neither a second look nor another controller says it again; what dies next, and again, is another matter.
    let ward = ward.stop().await.start().await.unwrap();
    host.change(|inside| inside.broken.push(died(VmPart::Disk, 2)));
    host.hello().await.unwrap();
    ward.api.event("the disk process died", is_about("the disk process of VM `web`")).await;
    host.change(|inside| inside.broken = vec![died(VmPart::Disk, 3)]);
    host.hello().await.unwrap();
    in_time("it is told", async {
        while ward.api.told(EventKind::VmPartDied).await.len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_heard_when_they_happen() {
    let (ward, _server, _host) = with_vm().await;
    let last = ward.api.events().await.len();
    let began = Instant::now();
    let following = {
        let (api, path) = (ward.api.clone(), format!("/events?after={last}&wait_ms=30000"));
        tokio::spawn(async move { api.get::<Vec<ward_types::Event>>(&path).await.unwrap() })
    };
    ward.api.done(Method::POST, "/vms/web/start", Some(json!({}))).await;
    let heard = following.await.unwrap();
    assert_eq!(heard[0].kind, EventKind::TaskStarted);
    assert!(began.elapsed() < Duration::from_secs(15));
    let none: Vec<ward_types::Event> = ward.api.get("/events?after=1000000&wait_ms=1").await.unwrap();
    assert!(none.is_empty());
}
