//! Providers with several key servers.

use http::Method;
use serde_json::{Value, json};
use ward_controller::api::types::{Light, ProviderView, TaskView, VmView};
use ward_types::{Code, EventKind};

use crate::support::{KeyServer, Relay, Ward};

async fn provider(ward: &Ward, server: &KeyServer, servers: &[String], timeout: u64) -> ProviderView {
    let mut request = server.provider("kms");
    request["servers"] = json!(servers);
    request["timeout_s"] = timeout.into();
    ward.api.post("/providers", request).await.unwrap()
}

async fn show(ward: &Ward) -> ProviderView {
    ward.api.get("/providers/kms").await.unwrap()
}

fn lights(provider: &ProviderView) -> Vec<Light> {
    provider.servers.iter().map(|server| server.status).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_servers_one_may_die_in_the_middle() {
    const VMS: usize = 12;
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let relays = [Relay::to(server.address).await, Relay::to(server.address).await, Relay::to(server.address).await];
    let addresses = relays.each_ref().map(|relay| relay.address.to_string());
    let added = provider(&ward, &server, &addresses, 5).await;
    assert_eq!((added.status, lights(&added)), (Light::Green, vec![Light::Green; 3]));
    ward.datastore().await;
    let _host = ward.host("h").await;
    for n in 0..VMS {
        ward.vm(&format!("vm{n}")).await;
    }
    let [first, second, third] = relays;
    let mut tasks = Vec::new();
    for n in 0..VMS {
        let task: TaskView = ward.api.post(&format!("/vms/vm{n}/encrypt"), json!({})).await.unwrap();
        tasks.push(task.info);
    }
    ward.api.event("the first key", |event| event.kind == EventKind::KeyCreated).await;
    first.cut().await;
    for task in &tasks {
        assert_eq!(ward.api.ended(task).await.problem, None);
    }
    assert_eq!(server.count().await, VMS, "each VM has its key, and none was made twice");
    assert!(ward.api.told(EventKind::KeyServerUnreachable).await.is_empty());

    let shown = show(&ward).await;
    assert_eq!((shown.status, lights(&shown)), (Light::Yellow, vec![Light::Red, Light::Green, Light::Green]));
    let told = ward.api.told(EventKind::KeyServerRed).await;
    assert!(told.len() == 1 && told[0].message.contains(&addresses[0]), "{told:?}");
    show(&ward).await;
    assert_eq!(ward.api.told(EventKind::KeyServerRed).await.len(), 1, "what is known is not told again");

    second.cut().await;
    third.cut().await;
    ward.vm("late").await;
    let problem = ward.api.fails(Method::POST, "/vms/late/encrypt", Some(json!({}))).await;
    assert_eq!(problem.code, Code::KeyServerUnreachable, "{problem}");
    let shown = show(&ward).await;
    assert_eq!((shown.status, shown.keys_unreachable), (Light::Red, VMS + 1), "those of VMs and the host key");
    assert_eq!(ward.api.told(EventKind::ProviderRed).await.len(), 1);
    let vm: VmView = ward.api.get("/vms/vm0").await.unwrap();
    assert!(vm.encrypted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_set_aside() {
    const VMS: usize = 5;
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let silent = Relay::listening([127, 0, 0, 1].into(), None).await;
    let added = provider(&ward, &server, &[silent.address.to_string(), server.address.to_string()], 1).await;
    assert_eq!((added.status, lights(&added)), (Light::Yellow, vec![Light::Red, Light::Green]));
    let problem = added.servers[0].connection.problem().unwrap();
    assert!(problem.why.contains(&silent.address.to_string()), "{problem}");
    ward.datastore().await;
    let _host = ward.host("h").await;
    for n in 0..VMS {
        ward.vm(&format!("vm{n}")).await;
        ward.api.done(Method::POST, &format!("/vms/vm{n}/encrypt"), Some(json!({}))).await;
    }
    // Each VM takes several requests; the silent one is not asked each time.
    assert!(silent.connections() < VMS * 2, "{} connections", silent.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_reached_by_address_of_either_kind_and_by_name() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let six = Relay::listening("::1".parse().unwrap(), Some(server.address)).await;
    // The name has an address of each kind, and at one of them nobody listens.
    let name = format!("localhost:{}", server.address.port());
    let added = provider(&ward, &server, &[six.address.to_string(), name.clone()], 5).await;
    assert_eq!((added.status, lights(&added)), (Light::Green, vec![Light::Green; 2]), "{added:?}");
    let written: Vec<_> = added.servers.iter().map(|server| server.address.to_string()).collect();
    assert_eq!(written, [six.address.to_string(), name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_come_and_go() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let (relay, stranger) = (Relay::to(server.address).await, KeyServer::start().await);
    ward.provider("kms", &server).await;
    ward.datastore().await;
    let _host = ward.host("h").await;
    ward.vm("web").await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;

    let add = async |request: Value| ward.api.post::<ProviderView>("/providers/kms/servers", request).await;
    let added = add(json!({ "server": relay.address.to_string(), "first": true })).await.unwrap();
    assert_eq!(added.servers[0].address.to_string(), relay.address.to_string());
    assert_eq!(add(json!({ "server": relay.address.to_string() })).await.unwrap_err().code(), Code::Exists);
    // One with another CA, and one that is trusted and does not have the keys.
    let refusal = add(json!({ "server": stranger.address.to_string() })).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyServerTrust, "{refusal:?}");
    let empty = KeyServer::like(&server).await;
    let refusal = add(json!({ "server": empty.address.to_string() })).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyMissing, "{refusal:?}");
    let gone = Relay::to(server.address).await;
    let address = gone.address.to_string();
    gone.cut().await;
    assert_eq!(add(json!({ "server": address })).await.unwrap_err().code(), Code::KeyServerUnreachable);

    let remove = async |server: String| {
        ward.api.send::<ProviderView>(Method::DELETE, &format!("/providers/kms/servers/{server}"), None).await
    };
    assert_eq!(remove("nobody:1".into()).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(remove(server.address.to_string()).await.unwrap().servers.len(), 1);
    assert_eq!(remove(relay.address.to_string()).await.unwrap_err().code(), Code::InUse, "the last one stays");
    ward.vm("two").await;
    ward.api.done(Method::POST, "/vms/two/encrypt", Some(json!({}))).await;
    assert!(relay.connections() > 1);
    assert_eq!(ward.api.told(EventKind::ProviderServers).await.len(), 2);
}
