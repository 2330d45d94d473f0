//! A key server that dies while a key is being made: the task fails, the log says so, and no key is left that it does
//! not tell of.

use std::fs;
use std::sync::{Arc, OnceLock};

use http::Method;
use kmip::ProtocolVersion;
use kmip::message::{RequestMessage, ResponseHeader, ResponseItem, ResponseMessage};
use kmip::names::ObjectType;
use kmip::operation::{CreateResponse, DiscoverVersionsResponse, QueryResponse, RequestPayload, ResponsePayload};
use kmip::server::{Handler, PeerIdentity, ServerConfig, serve};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use ward_controller::api::types::VmView;
use ward_types::{Code, EventKind};

use crate::support::{Host, KeyServer, Ward, in_time};

#[derive(Clone, Copy)]
enum Death {
    /// The answer to Create is its last word.
    AfterTheKeyIsMade,
    /// It makes the key and does not come to answer.
    BeforeItAnswers,
    /// It refuses to make keys, and lives on.
    None,
}

/// A key server that dies at a certain moment. Its certificates are those of a real one.
struct Mortal {
    death: Death,
    end: CancellationToken,
    whole: OnceLock<AbortHandle>,
}

impl Handler for Mortal {
    async fn handle(&self, _: &PeerIdentity, request: RequestMessage) -> ResponseMessage {
        let mut items = Vec::new();
        for item in request.items {
            let payload = match item.payload {
                RequestPayload::DiscoverVersions(_) => ResponsePayload::DiscoverVersions(DiscoverVersionsResponse {
                    versions: ProtocolVersion::SUPPORTED.to_vec(),
                }),
                RequestPayload::Query(_) => ResponsePayload::Query(QueryResponse::default()),
                RequestPayload::Create(_) => match self.death {
                    Death::AfterTheKeyIsMade => {
                        self.end.cancel();
                        ResponsePayload::Create(CreateResponse {
                            object_type: ObjectType::SYMMETRIC_KEY,
                            unique_identifier: "the-key".into(),
                            attributes: vec![],
                        })
                    }
                    Death::BeforeItAnswers => {
                        self.whole.get().unwrap().abort();
                        std::future::pending().await
                    }
                    Death::None => {
                        let version = request.header.protocol_version;
                        let reason = kmip::names::ResultReason::PERMISSION_DENIED;
                        return ResponseMessage::failure(version, 0, reason, "not you".into());
                    }
                },
                other => panic!("{:?} was asked of the dead", other.operation()),
            };
            items.push(ResponseItem::success(item.unique_batch_item_id, payload));
        }
        ResponseMessage { header: ResponseHeader::new(request.header.protocol_version, 0), items }
    }
}

struct Scene {
    ward: Ward,
    host: Host,
    serving: JoinHandle<()>,
    _others: [KeyServer; 2],
}

async fn scene(death: Death) -> Scene {
    let files = KeyServer::stopped().await;
    let read = |file| fs::read(files.state(file)).unwrap();
    let config = ServerConfig::new(&read("server.pem"), &read("server.key"), &read("ca.pem")).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mortal = Arc::new(Mortal { death, end: CancellationToken::new(), whole: OnceLock::new() });
    let end = mortal.end.clone();
    let serving = tokio::spawn(serve(listener, config, Arc::clone(&mortal), async move { end.cancelled().await }));
    mortal.whole.set(serving.abort_handle()).unwrap();

    let ward = Ward::start().await;
    ward.datastore().await;
    let host = ward.host("h").await;
    let host_keys = ward.safe(["h"]).await;
    let mut provider = files.provider("kms");
    provider["servers"] = json!([address]);
    provider["default"] = json!(true);
    ward.api.post::<Value>("/providers", provider).await.unwrap();
    ward.vm("web").await;
    Scene { ward, host, serving, _others: [files, host_keys] }
}

impl Scene {
    async fn encrypting_fails(&self, code: Code) {
        let problem = self.ward.api.fails(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;
        assert_eq!(problem.code, code, "{problem}");
        assert!(self.host.keys().is_empty() && self.host.look(|inside| inside.jobs.is_empty()));
        let vm: VmView = self.ward.api.get("/vms/web").await.unwrap();
        assert_eq!((vm.encrypted, vm.task), (false, None));
        assert_eq!(self.ward.api.told(EventKind::TaskFailed).await.len(), 1);
        assert!(self.ward.api.told_of_vms(EventKind::KeyCreated).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_key_is_made() {
    let scene = scene(Death::AfterTheKeyIsMade).await;
    scene.encrypting_fails(Code::KeyServerUnreachable).await;
    in_time("the key server's end", scene.serving).await.unwrap();
    let unreachable = scene.ward.api.told(EventKind::KeyServerUnreachable).await;
    assert!(unreachable[0].message.contains("`kms`"), "{}", unreachable[0].message);
    let left = scene.ward.api.told(EventKind::KeyUnneeded).await;
    assert_eq!(left.len(), 1);
    assert!(left[0].message.contains("kms/the-key"), "{}", left[0].message);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_says_that_the_key_is_made() {
    let scene = scene(Death::BeforeItAnswers).await;
    scene.encrypting_fails(Code::KeyServerUnreachable).await;
    assert_eq!(scene.ward.api.told(EventKind::KeyServerUnreachable).await.len(), 1);
    // Under which name to look for it, since nobody knows its ID.
    let left = scene.ward.api.told(EventKind::KeyUnneeded).await;
    let failed = scene.ward.api.told(EventKind::TaskFailed).await;
    assert_eq!(left.len(), 1);
    let name = format!("ward-task-{}", failed[0].subject.task.unwrap());
    assert!(left[0].message.contains(&name) && left[0].message.contains("may"), "{}", left[0].message);
    assert_eq!(left[0].subject.provider.as_ref().unwrap().as_str(), "kms");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_key_that_was_surely_not_made_nothing_is_said() {
    let scene = scene(Death::None).await;
    scene.encrypting_fails(Code::KeyServerRefused).await;
    assert!(scene.ward.api.told(EventKind::KeyUnneeded).await.is_empty());
}
