//! Trust between the controller and key servers, set up step by step.

use http::Method;
use jiff::{Timestamp, ToSpan as _};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ward_controller::api::types::{KnownBy, Light, ProviderView, ShownServer};
use ward_types::{Code, EventKind};

use crate::support::{KeyServer, Refusal, Ward};

async fn put<T: DeserializeOwned>(ward: &Ward, path: &str, body: Value) -> Result<T, Refusal> {
    ward.api.send(Method::PUT, path, Some(body)).await
}

async fn show(ward: &Ward) -> ProviderView {
    ward.api.get("/providers/kms").await.unwrap()
}

/// A provider of which nothing is known but where its server is.
async fn bare(ward: &Ward, server: &KeyServer) -> ProviderView {
    let request = json!({ "name": "kms", "servers": [server.address.to_string()] });
    ward.api.post("/providers", request).await.unwrap()
}

async fn identify(ward: &Ward, new: Value) -> Result<ProviderView, Refusal> {
    let answer: Result<Value, _> = ward.api.post("/providers/kms/identity", new).await;
    answer.map(|answer| {
        assert!(!answer.to_string().contains("PRIVATE KEY"), "{answer}");
        serde_json::from_value(answer).unwrap()
    })
}

async fn by_ca(ward: &Ward, server: &KeyServer) -> Result<ProviderView, Refusal> {
    let ca = std::fs::read_to_string(server.state("ca.pem")).unwrap();
    put(ward, "/providers/kms/trust", json!({ "by": "ca", "ca": ca })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn by_fingerprint_and_by_a_signed_request() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let added = bare(&ward, &server).await;
    assert_eq!((added.status, &added.servers[0].known), (Light::Red, &KnownBy::Nothing));

    // The server, by what it shows.
    let shown: Vec<ShownServer> = ward.api.get("/providers/kms/certificates").await.unwrap();
    let fingerprint = shown[0].certificates[0].fingerprint.clone();
    let accept = async |fingerprint: &str| {
        put::<ProviderView>(&ward, "/providers/kms/trust", json!({ "by": "fingerprint", "fingerprint": fingerprint }))
            .await
    };
    let other = if fingerprint.starts_with('0') { '1' } else { '0' }.to_string() + &fingerprint[1..];
    let refusal = accept(&other).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyServerTrust);
    assert!(refusal.0.why.contains(&fingerprint), "what it shows instead: {:?}", refusal.0);
    assert_eq!(accept("no fingerprint").await.unwrap_err().code(), Code::RequestInvalid);
    let accepted = accept(&fingerprint).await.unwrap();
    assert!(matches!(accepted.servers[0].known, KnownBy::Fingerprint { .. }), "{accepted:?}");
    assert_eq!(accepted.status, Light::Red, "one side is not enough");

    // Us, by requests of which the latest counts.
    let request = json!({ "method": "request", "subject": { "common_name": "ward", "country": "CH" } });
    let requested = async || identify(&ward, request.clone()).await.unwrap().pending.unwrap().request.unwrap();
    let (earlier, latest) = (requested().await, requested().await);
    let certify = async |certificate: String| {
        identify(&ward, json!({ "method": "certificate", "certificate": certificate })).await
    };
    let now = || (2024, 2049);
    let refused = [
        (server.sign(&earlier, now(), ClientAuth), Code::RequestInvalid, "latest request"),
        (server.sign(&latest, (2019, 2020), ClientAuth), Code::KeyServerTrust, "notAfter is 2020-01-01"),
        (server.sign(&latest, now(), ServerAuth), Code::KeyServerTrust, "lacks clientAuth"),
        ("no PEM".to_owned(), Code::RequestInvalid, "certificate"),
    ];
    for (certificate, code, why) in refused {
        let refusal = certify(certificate).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{why}");
        assert!(refusal.0.why.contains(why), "{:?}", refusal.0);
    }
    let foreign = KeyServer::stopped().await.sign(&latest, now(), ClientAuth);
    let refusal = certify(foreign).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyServerTrust, "{:?}", refusal.0);
    assert_eq!(show(&ward).await.certificate, None);
    let whole = certify(server.sign(&latest, now(), ClientAuth)).await.unwrap();
    assert_eq!(whole.status, Light::Green, "{whole:?}");
    assert!(whole.pending.is_none());
    let subject = whole.certificate.unwrap().subject;
    assert!(subject.contains("CN=ward") && subject.contains("C=CH"), "{subject}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_identity_does_not_replace_one_that_works_before_it_has_worked() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    let before = show(&ward).await.certificate.unwrap();
    let made = identify(&ward, json!({ "method": "self-signed" })).await.unwrap();
    let pending = made.pending.unwrap().certificate.unwrap();
    assert_eq!(made.certificate.as_ref(), Some(&before));
    let refusal = ward.api.post::<ProviderView>("/providers/kms/identity/try", json!({})).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeyServerTrust);
    assert!(refusal.0.remedy.contains("stays in use"), "{:?}", refusal.0);
    let (certificate, key) = KeyServer::stopped().await.issue(2024, 2049);
    let new = json!({ "method": "certificate-and-key", "certificate": certificate, "key": key });
    assert_eq!(identify(&ward, new).await.unwrap_err().code(), Code::KeyServerTrust);
    let shown = show(&ward).await;
    assert_eq!((shown.status, shown.certificate.as_ref()), (Light::Green, Some(&before)));
    ward.datastore().await;
    let _host = ward.host("h").await;
    ward.vm("web").await;
    ward.api.done(Method::POST, "/vms/web/encrypt", Some(json!({}))).await;

    let (certificate, key) = server.issue(2024, 2049);
    let new = json!({ "method": "certificate-and-key", "certificate": certificate, "key": key });
    let after = identify(&ward, new).await.unwrap();
    assert_eq!((after.status, after.pending.is_none()), (Light::Green, true));
    let after = after.certificate.unwrap();
    assert!(after.fingerprint != before.fingerprint && after.fingerprint != pending.fingerprint);
    assert_eq!(
        ward.api.post::<ProviderView>("/providers/kms/identity/try", json!({})).await.unwrap_err().code(),
        Code::RequestInvalid,
        "there is nothing to try"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_servers_certificate_is_said_by_its_field() {
    let ward = Ward::start().await;
    let mut server = KeyServer::start().await;
    ward.provider("kms", &server).await;
    let table = [
        ((2024, 2049), "other.example", ServerAuth, "other.example"),
        ((2019, 2020), "127.0.0.1", ServerAuth, "expired (Jan  1 00:00:00 2020"),
        ((2024, 2049), "127.0.0.1", ClientAuth, "extendedKeyUsage"),
    ];
    for (place, (years, name, purpose, why)) in table.into_iter().enumerate() {
        server.stop().await;
        server.certify(years, name, purpose);
        server.start_again().await;
        let shown = show(&ward).await;
        assert_eq!(shown.status, Light::Red, "{why}");
        let problem = shown.servers[0].server_trusted.problem().unwrap();
        assert_eq!(problem.code, Code::KeyServerTrust);
        assert!(problem.why.contains(why), "{problem}");
        assert!(!problem.remedy.is_empty());
        assert_eq!(ward.api.told(EventKind::KeyServerRed).await.len(), place + 1);
        server.stop().await;
        server.certify((2024, 2049), "127.0.0.1", ServerAuth);
        server.start_again().await;
        assert_eq!(show(&ward).await.status, Light::Green);
    }
    let stranger = KeyServer::stopped().await;
    let refusal = by_ca(&ward, &stranger).await.unwrap_err();
    assert!(refusal.0.why.contains("no authority that we trust"), "{:?}", refusal.0);
    assert_eq!(show(&ward).await.status, Light::Green, "what worked stays");
    assert_eq!(by_ca(&ward, &server).await.unwrap().status, Light::Green);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_about_to_expire_is_told_of_once() {
    let ward = Ward::start().await;
    let server = KeyServer::start().await;
    let end = jiff::tz::Offset::UTC.to_datetime(Timestamp::now() + (24 * 10).hours()).date();
    let (certificate, key) = server.issue_until(end);
    let mut request = server.provider("kms");
    request["certificate"] = certificate.into();
    request["key"] = key.into();
    let added: ProviderView = ward.api.post("/providers", request).await.unwrap();
    assert_eq!(added.status, Light::Yellow);
    assert!((8..=10).contains(&added.certificate.unwrap().days_left));
    show(&ward).await;
    let told = ward.api.told(EventKind::CertificateExpiring).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].message.contains("the controller's certificate"), "{}", told[0].message);
}
