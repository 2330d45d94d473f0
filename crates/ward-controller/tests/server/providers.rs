//! Key providers, against a real key server.

use http::Method;
use serde_json::{Value, json};
use ward_controller::api::types::{HostView, Light, ProviderView, TaskView};
use ward_types::{Code, EventKind};

use crate::support::{KeyServer, Refusal, Ward};

async fn add(ward: &Ward, request: Value) -> Result<ProviderView, Refusal> {
    ward.api.post("/providers", request).await
}

fn with(mut request: Value, field: &str, value: impl Into<Value>) -> Value {
    request[field] = value.into();
    request
}

async fn show(ward: &Ward, name: &str) -> ProviderView {
    ward.api.get(&format!("/providers/{name}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_comes_is_shown_and_goes() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let added = ward.provider("kms", &server).await;
    assert!(added.default, "the first is the default one");
    for view in [added, show(&ward, "kms").await] {
        let [shown] = &view.servers[..] else { panic!("{view:?}") };
        assert_eq!(shown.address.to_string(), server.address.to_string());
        assert_eq!((view.status, shown.status), (Light::Green, Light::Green), "{shown:?}");
        assert!(shown.version.as_ref().unwrap().contains('.') && shown.vendor.is_some(), "{shown:?}");
        assert!(shown.latency_ms.is_some() && shown.checked.is_some() && shown.problem().is_none(), "{shown:?}");
        for certificate in [&shown.certificate, &view.certificate] {
            assert!(certificate.as_ref().unwrap().days_left > 30, "{certificate:?}");
        }
    }

    assert_eq!(add(&ward, server.provider("kms")).await.unwrap_err().code(), Code::Exists);
    assert!(!ward.provider("b", &server).await.default);
    assert!(add(&ward, with(server.provider("c"), "default", true)).await.unwrap().default);
    let default = async || {
        let all: Vec<ProviderView> = ward.api.get("/providers").await.unwrap();
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["b", "c", "kms"]);
        all.into_iter().filter(|one| one.default).map(|one| one.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(default().await, ["c"]);
    assert!(ward.api.post::<ProviderView>("/providers/b/default", json!({})).await.unwrap().default);
    assert_eq!(default().await, ["b"]);

    ward.api.delete::<()>("/providers/b").await.unwrap();
    assert_eq!(ward.api.delete::<()>("/providers/b").await.unwrap_err().code(), Code::NotFound);
    let missing = ward.api.post::<ProviderView>("/providers/b/default", json!({})).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    for (kind, times) in
        [(EventKind::ProviderAdded, 3), (EventKind::ProviderDefault, 3), (EventKind::ProviderRemoved, 1)]
    {
        let told = ward.api.told(kind).await;
        assert_eq!(told.len(), times, "{kind}");
        assert!(told.iter().all(|event| event.subject.user.is_some() && event.subject.provider.is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_private_key_is_nowhere_in_plain() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let request = server.provider("kms");
    let pem = request["key"].as_str().unwrap();
    let line = pem.lines().nth(1).unwrap();
    ward.provider("kms", &server).await;
    for path in ["/providers", "/providers/kms", "/events?after=0"] {
        let answer = ward.api.get::<Value>(path).await.unwrap().to_string();
        assert!(!answer.contains("PRIVATE KEY") && !answer.contains(line), "{answer}");
    }
    // The database as it is on the disk, with its log.
    let mut looked_at = 0;
    for file in std::fs::read_dir(&ward.config.state_dir).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!holds(b"PRIVATE KEY") && !holds(line.as_bytes()), "{}", path.display());
        looked_at += usize::from(holds(b"authority-key") || holds(request["certificate"].as_str().unwrap().as_bytes()));
    }
    assert!(looked_at > 0, "the database was not among the files");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_told_and_not_added() {
    let ward = Ward::start().await;
    let mut server = KeyServer::start().await;
    server.stop().await;
    let refusal = add(&ward, server.provider("kms")).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyServerUnreachable);
    assert!(refusal.0.why.contains(&server.address.to_string()), "{:?}", refusal.0);
    let told = ward.api.told(EventKind::KeyServerUnreachable).await;
    assert_eq!(told[0].subject.provider.as_ref().unwrap().as_str(), "kms");
    assert!(ward.api.get::<Vec<ProviderView>>("/providers").await.unwrap().is_empty());

    server.start_again().await;
    ward.provider("kms", &server).await;
    server.stop().await;
    let shown = show(&ward, "kms").await;
    assert_eq!((shown.status, shown.servers[0].status), (Light::Red, Light::Red));
    assert_eq!(shown.servers[0].connection.problem().unwrap().code, Code::KeyServerUnreachable);
    // It can be removed all the same.
    ward.api.delete::<()>("/providers/kms").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_trust_on_both_sides_no_provider_is_added() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let other = KeyServer::stopped().await;
    let good = server.provider("kms");
    let other_ca = std::fs::read_to_string(other.state("ca.pem")).unwrap();
    let with_pair =
        |(certificate, key): (String, String)| with(with(good.clone(), "certificate", certificate), "key", key);
    // An expired certificate of ours is seen without asking anybody, which is no event.
    let table = [
        (with(good.clone(), "ca", other_ca), "no authority that we trust", 1),
        (with_pair(server.issue(2019, 2020)), "expired: its field notAfter is 2020-01-01", 1),
        (with_pair(other.issue(2024, 2049)), "client certificate", 2),
    ];
    for (request, why, events) in table {
        let refusal = add(&ward, request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::KeyServerTrust, "{why}");
        assert!(refusal.0.why.contains(why), "{:?}", refusal.0);
        let told = ward.api.told(EventKind::KeyServerTrust).await;
        assert_eq!(told.len(), events, "{why}");
    }
    assert!(ward.api.get::<Vec<ProviderView>>("/providers").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_provider_is_refused_before_anybody_is_asked() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let good = server.provider("kms");
    let (_, other_key) = server.issue(2024, 2049);
    let secret = good["key"].as_str().unwrap().to_owned();
    let table = [
        with(good.clone(), "servers", ["kms:0"]),
        with(good.clone(), "servers", [""]),
        with(good.clone(), "servers", ["two words"]),
        with(good.clone(), "servers", Vec::<String>::new()),
        with(good.clone(), "servers", ["kms:5696", "KMS"]),
        with(good.clone(), "timeout_s", 0),
        with(good.clone(), "timeout_s", 601),
        with(good.clone(), "certificate", Value::Null),
        with(good.clone(), "key", Value::Null),
        with(good.clone(), "ca", "no PEM"),
        with(good.clone(), "ca", ""),
        with(good.clone(), "certificate", "no PEM"),
        with(good.clone(), "certificate", secret.clone()),
        with(good.clone(), "key", "no PEM"),
        with(good.clone(), "key", other_key),
        with(good.clone(), "name", "a/b"),
    ];
    for request in table {
        let refusal = add(&ward, request.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::RequestInvalid, "{request}");
        assert!(!format!("{:?}", refusal.0).contains(secret.lines().nth(1).unwrap()), "{:?}", refusal.0);
    }
    assert!(ward.api.get::<Vec<ProviderView>>("/providers").await.unwrap().is_empty());
    assert!(ward.api.events().await.iter().all(|event| event.kind == EventKind::UserLogin));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_stays_while_a_vm_needs_it() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let mut host = ward.host("h").await;
    ward.vm("web").await;
    let in_use = async |why: &str| {
        let refusal = ward.api.delete::<()>("/providers/kms").await.unwrap_err();
        assert_eq!(refusal.code(), Code::InUse);
        assert!(refusal.0.why.contains("`web`") && refusal.0.why.contains(why), "{:?}", refusal.0);
    };
    // From the moment on when the task is there.
    host.change(|inside| inside.hold = true);
    let task: TaskView = ward.api.post("/vms/web/encrypt", json!({})).await.unwrap();
    in_use(&task.info.id.to_string()).await;
    host.until("the job", |inside| !inside.jobs.is_empty()).await;
    in_use(&task.info.id.to_string()).await;
    host.release();
    assert_eq!(ward.api.ended(&task.info).await.problem, None);
    in_use("kms/").await;
    assert_eq!(show(&ward, "kms").await.vms.iter().map(|vm| vm.as_str()).collect::<Vec<_>>(), ["web"]);

    ward.api.done(Method::POST, "/vms/web/decrypt", Some(json!({}))).await;
    // Of it is the host key too, until the host may have no keys any more.
    assert_eq!(ward.api.delete::<()>("/providers/kms").await.unwrap_err().code(), Code::InUse);
    ward.api.put::<HostView>("/hosts/h/encryption", json!({ "on": false })).await.unwrap();
    host.cut();
    host.come_back().await;
    let ended = |event: &ward_types::Event| event.message.contains("pending-incapable -> incapable");
    ward.api.event("the end of the waiting", ended).await;
    ward.api.delete::<()>("/providers/kms").await.unwrap();
    assert_eq!(server.count().await, 1, "its keys stay at the server");
}
