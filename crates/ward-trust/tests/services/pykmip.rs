//! The key provider service on a key server that is not ours.

use ward_trust::key_provider::{self, Credentials, PrimaryUse, Provider, WrappedKek};
use ward_types::Code;
use zeroize::Zeroizing;

use crate::pykmip_server::PyKmip;
use crate::scene::{Authority, Host, KeyProvider, label, provider_name};

#[tokio::test(flavor = "multi_thread")]
async fn pykmip_keeps_the_primary_key_or_gives_it() {
    let mut server = PyKmip::start();
    let client = server.authority.client("trust");
    let credentials = Credentials { certificate: client.certificate, key: Zeroizing::new(client.key) };
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let keys = KeyProvider::bare(&authority).await;
    let token = host.attest(&authority, "test").await.unwrap().token;
    let hosts = keys.client(&host.identity);

    // Made beforehand; one that encrypts at the server, one that is fetched.
    let add = async |name: &str, primary_use| {
        let (name, at) = (provider_name(name), ("127.0.0.1", server.port));
        let made = key_provider::make_primary_key("test", &name, at, &server.authority.pem, &credentials);
        let provider = Provider {
            host: "127.0.0.1".to_owned(),
            port: server.port,
            ca: server.authority.pem.clone(),
            primary_key: made.await.unwrap(),
            primary_use,
            policies: vec![label("test")],
        };
        keys.admin.set_provider(&name, &provider, &credentials).await.unwrap();
        name
    };
    let vault = add("vault", PrimaryUse::AtServer).await;
    // The names of operations, whole: `Get` is not `GetAttributes`.
    let asked_since = |before: usize| -> Vec<String> {
        server.requests()[before..].iter().map(|operation| operation.replace(' ', "")).collect()
    };
    let asks = |asked: &[String], operation: &str| asked.iter().any(|name| name == operation);
    let before = server.requests().len();
    let (kek, wrapped) = hosts.make_kek(&token, &vault).await.unwrap();
    assert!(wrapped.to_string().starts_with("2/vault/"));
    assert!(hosts.unwrap_kek(&token, &wrapped).await.unwrap().same(&kek));
    let asked = asked_since(before);
    assert!(asks(&asked, "Encrypt") && asks(&asked, "Decrypt"), "{asked:?}");
    assert!(!asks(&asked, "Get"), "it stays: {asked:?}");

    let safe = add("safe", PrimaryUse::Fetched).await;
    let before = server.requests().len();
    let (held, wrapped_here) = hosts.make_kek(&token, &safe).await.unwrap();
    assert!(wrapped_here.to_string().starts_with("1/safe/"));
    assert!(hosts.unwrap_kek(&token, &wrapped_here).await.unwrap().same(&held));
    let asked = asked_since(before);
    assert!(asks(&asked, "Get") && !asks(&asked, "Encrypt") && !asks(&asked, "Decrypt"), "{asked:?}");

    // Every character of what was wrapped counts, at this server too.
    let text = wrapped.to_string();
    for at in ["2/vault/".len(), text.len() / 2, text.len() - 2] {
        let mut altered = text.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered: WrappedKek = String::from_utf8(altered).unwrap().parse().unwrap();
        let problem = hosts.unwrap_kek(&token, &altered).await.err().unwrap();
        assert_eq!(problem.code, Code::KeyWrong, "character {at}: {problem}");
    }
    let moved: WrappedKek = text.replace("/vault/", "/safe/").parse().unwrap();
    assert_eq!(hosts.unwrap_kek(&token, &moved).await.err().unwrap().code, Code::KeyWrong);

    // Away, and back with the same keys.
    server.stop();
    let problem = hosts.unwrap_kek(&token, &wrapped).await.err().unwrap();
    assert_eq!(problem.code, Code::KeyServerUnreachable, "{problem}");
    assert!(hosts.unwrap_kek(&token, &wrapped_here).await.unwrap().same(&held), "that one is held");
    server.restart();
    assert!(hosts.unwrap_kek(&token, &wrapped).await.unwrap().same(&kek));
    let audit = keys.admin.audit(100).await.unwrap();
    assert!(audit.iter().all(|entry| entry.host == "host-1"));
    assert_eq!(audit.iter().filter(|entry| entry.result == "ok").count(), 6);
}
