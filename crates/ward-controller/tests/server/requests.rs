//! What can't be understood is refused, with a problem, and nothing is done.

use http::header::{CONNECTION, CONTENT_TYPE};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use ward_controller::api::types::{DatastoreView, HostView, ProviderView, TaskView, VmView};
use ward_types::Code;

use crate::access::{Endpoint, endpoints};
use crate::postgres;
use crate::support::{Refusal, Ward, in_time};

async fn nothing_was_done(ward: &Ward, events: usize) {
    assert!(ward.api.get::<Vec<VmView>>("/vms").await.unwrap().is_empty());
    assert!(ward.api.get::<Vec<TaskView>>("/tasks").await.unwrap().is_empty());
    assert!(ward.api.get::<Vec<HostView>>("/hosts").await.unwrap().is_empty());
    assert!(ward.api.get::<Vec<ProviderView>>("/providers").await.unwrap().is_empty());
    assert!(ward.api.get::<Vec<DatastoreView>>("/datastores").await.unwrap().is_empty());
    assert_eq!(ward.api.events().await.len(), events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_body_is_refused_everywhere() {
    let ward = Ward::start().await;
    let events = ward.api.events().await.len();
    let deep = "[".repeat(100_000);
    let bodies: [(&str, Vec<u8>); 10] = [
        ("nothing", vec![]),
        ("half", b"{".to_vec()),
        ("no JSON", b"name=x".to_vec()),
        ("no UTF-8", b"{\"name\":\"\xff\"}".to_vec()),
        ("a number", b"7".to_vec()),
        ("a text", b"\"x\"".to_vec()),
        ("null", b"null".to_vec()),
        ("two", b"{}{}".to_vec()),
        ("deep", deep.into_bytes()),
        ("too much", vec![b' '; 3 << 20]),
    ];
    let (endpoints, _) = endpoints(&ward.api).await;
    let mut tried = 0;
    // These can do without a body.
    let optional = |path: &str| ["/decrypt", "/recrypt"].iter().any(|verb| path.ends_with(verb));
    let takes_one = |endpoint: &&Endpoint| endpoint.body.is_some() && !optional(&endpoint.path);
    for endpoint in endpoints.iter().filter(takes_one) {
        for (what, body) in &bodies {
            let request = ward.api.request(endpoint.method.clone(), &endpoint.path);
            let mut request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
            if *what == "too much" {
                // The controller hangs up on it: nothing else is to come over that connection.
                request = request.header(CONNECTION, "close");
            }
            // Of too much the rest need not be read.
            let Ok(answer) = in_time(what, request.send()).await else {
                assert_eq!(*what, "too much");
                continue;
            };
            let code = if *what == "too much" { Code::RequestTooLarge } else { Code::RequestInvalid };
            assert_eq!(Refusal::of(answer).await.code(), code, "{} {} {what}", endpoint.method, endpoint.path);
            tried += 1;
        }
        let untyped = ward.api.request(endpoint.method.clone(), &endpoint.path).body("{}");
        let answer = in_time("no type", untyped.send()).await.unwrap();
        assert_eq!(Refusal::of(answer).await.code(), Code::RequestMediaType, "{}", endpoint.path);
    }
    assert!(tried >= 60, "only {tried} were tried");
    nothing_was_done(&ward, events).await;
}

/// A field of another type, or one that the API does not know: a slip in a request must not become another request.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_wrong_is_refused_everywhere() {
    let ward = Ward::start().await;
    let events = ward.api.events().await.len();
    let (endpoints, description) = endpoints(&ward.api).await;
    let mut tried = 0;
    for endpoint in &endpoints {
        let Some(schema) = &endpoint.body else { continue };
        let reference = schema["$ref"].as_str().unwrap().trim_start_matches('#');
        let schema = description.pointer(reference).unwrap();
        // A request of one of several kinds has a schema for each.
        let kinds = schema["oneOf"].as_array().map_or_else(|| std::slice::from_ref(schema), Vec::as_slice);
        let properties = kinds.iter().flat_map(|kind| kind["properties"].as_object().unwrap().keys());
        let unknown = "keyid".to_owned();
        for field in properties.chain([&unknown]) {
            let wrong = json!({ field: { "wrong": [1] } });
            let request = ward.api.request(endpoint.method.clone(), &endpoint.path).json(&wrong);
            let answer = in_time(field, request.send()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{} {field}", endpoint.path);
            let problem = Refusal::of(answer).await.0;
            assert_eq!(problem.code, Code::RequestInvalid);
            tried += 1;
        }
    }
    assert!(tried > 20, "only {tried} were tried");
    nothing_was_done(&ward, events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_says_why() {
    let ward = Ward::start().await;
    let events = ward.api.events().await.len();
    let disk = |size: Value| json!({ "source": "blank", "size": size, "format": "raw" });
    let table = [
        ("/datastores", json!({ "name": "../x", "directory": "/x" }), Code::RequestInvalid, "`../x`"),
        ("/datastores", json!({ "name": "x", "directory": "x" }), Code::RequestInvalid, "absolute"),
        ("/datastores", json!({ "name": "x", "directory": "/x", "cluster": "no" }), Code::NotFound, "`no`"),
        ("/hosts", json!({ "cluster": "no" }), Code::NotFound, "`no`"),
        ("/hosts", json!({ "minutes": -1 }), Code::RequestInvalid, "-1"),
        ("/vms", json!({ "name": "x".repeat(81) }), Code::RequestInvalid, "80"),
        ("/vms", json!({ "name": "x" }), Code::RequestInvalid, "neither"),
        ("/vms", json!({ "name": "x", "disks": [disk(json!(1))] }), Code::RequestInvalid, "1 bytes"),
        ("/vms", json!({ "name": "x", "disks": [disk(json!(-4096))] }), Code::RequestInvalid, "-4096"),
        ("/vms", json!({ "name": "x", "disks": [disk(json!(4096))] }), Code::RequestInvalid, "no datastore"),
        ("/vms", json!({ "name": "x", "disks": [{ "source": "moon" }] }), Code::RequestInvalid, "moon"),
        ("/vms/x/encrypt", json!({ "key_id": "" }), Code::RequestInvalid, "1 to 80"),
        ("/vms/x/encrypt", json!({}), Code::NotFound, "`x`"),
        ("/vms/x/decrypt", json!({}), Code::NotFound, "`x`"),
        ("/vms/x/start", json!({}), Code::NotFound, "`x`"),
        ("/vms/x/stop", json!({}), Code::NotFound, "`x`"),
        ("/tasks/x/cancel", json!({}), Code::NotFound, "`x`"),
    ];
    for (path, body, code, why) in table {
        let refusal = ward.api.post::<Value>(path, body).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{path}");
        assert!(refusal.0.why.contains(why) || refusal.0.what.contains(why), "{path}: {:?}", refusal.0);
    }
    nothing_was_done(&ward, events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let ward = Ward::start().await;
    let paths = [
        "/api/v1/vms/x",
        "/api/v1/vms/%2e%2e",
        "/api/v1/hosts/x",
        "/api/v1/providers/x",
        "/api/v1/providers/a%2Fb",
        "/api/v1/tasks/x",
        "/api/v1/tasks/00000000-0000-0000-0000-000000000000",
        "/api/v1/vms/x/console",
        "/api/v1/nothing",
        "/api/v1",
        "/api/v1/",
        "/api/v2/vms",
        "/nothing",
        "/api/v1/vms/x/y/z",
        "/api/v1/vms/x%00",
    ];
    for path in paths {
        let answer = in_time(path, ward.api.request(Method::GET, path).send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(Refusal::of(answer).await.code(), Code::NotFound, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_is_refused_with_a_problem() {
    let ward = Ward::start().await;
    let table = [
        (Method::PATCH, "/api/v1/vms", Code::RequestMethod),
        (Method::PUT, "/api/v1/session", Code::RequestMethod),
        (Method::POST, "/api/openapi.json", Code::RequestMethod),
        (Method::GET, "/api/v1/vms/%ff", Code::RequestInvalid),
        (Method::GET, "/api/v1/providers/%ff", Code::RequestInvalid),
        (Method::GET, "/api/v1/events?after=x", Code::RequestInvalid),
        (Method::GET, "/api/v1/events?limit=-1", Code::RequestInvalid),
        (Method::GET, "/api/v1/events?after=99999999999999999999", Code::RequestInvalid),
        (Method::GET, "/api/v1/tasks?open=perhaps", Code::RequestInvalid),
    ];
    for (method, path, code) in table {
        let answer = in_time(path, ward.api.request(method, path).send()).await.unwrap();
        assert_eq!(Refusal::of(answer).await.code(), code, "{path}");
    }
    // Numbers at the ends of their ranges.
    for path in ["/events?after=-9223372036854775808", "/events?after=9223372036854775807", "/events?limit=4294967295"]
    {
        ward.api.get::<Vec<ward_types::Event>>(path).await.unwrap();
    }
    ward.api.get::<Vec<TaskView>>("/tasks?limit=4294967295").await.unwrap();
}

/// PostgreSQL keeps no text with a zero in it: that is the user's slip, and not the database's failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_zero_in_a_text_is_refused_on_postgresql_too() {
    let ward = Ward::start_on(Some(postgres::database().await)).await;
    let events = ward.api.events().await.len();
    let table = [
        ("/hosts", json!({ "cluster": "a\0" })),
        ("/datastores", json!({ "name": "x", "directory": "/x\0" })),
        ("/datastores", json!({ "name": "x", "directory": "/x", "cluster": "\0" })),
        ("/vms", json!({ "name": "x", "disks": [{ "source": "copy", "path": "/x\0" }] })),
    ];
    for (path, body) in table {
        let refusal = ward.api.post::<Value>(path, body).await.unwrap_err();
        assert_eq!(refusal.code(), Code::RequestInvalid, "{path}: {:?}", refusal.0);
    }
    nothing_was_done(&ward, events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_not_spoken() {
    let ward = Ward::start().await;
    let address = ward.api.base.trim_start_matches("https://").to_owned();
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Cut off, or told in TLS that it was no TLS.
    let _ = in_time("the end", plain.read_to_end(&mut answer)).await;
    assert!(!answer.windows(5).any(|window| window == b"HTTP/"), "{answer:?}");
    // Nor does a client that trusts another CA speak with it.
    let other = ward_rpc::Authority::generate().unwrap();
    let tls = ward_rpc::client_config(other.certificate(), None).unwrap();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
        .no_proxy()
        .build()
        .unwrap();
    in_time("an answer", client.get(format!("https://{address}/")).send()).await.unwrap_err();
}
