use attest::tpm::PcrMask;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ward_trust::attestation::{PolicySettings, Settings};
use ward_trust::client::{Client, Identity};
use ward_trust::configuration;
use ward_trust::key_provider::{PrimaryUse, Provider, TrustSettings, WrappedKek};
use ward_types::Code;

use crate::scene::{Authority, Second, attested, label, provider_name};

#[tokio::test(flavor = "multi_thread")]
async fn an_attested_host_gets_a_key_and_gets_it_again() {
    let (authority, mut server, keys, host, token) = attested().await;
    let client = keys.client(&host.identity);
    let (kek, wrapped) = client.make_kek(&token, &provider_name("vault")).await.unwrap();
    assert_eq!(wrapped.to_string().parse::<WrappedKek>().unwrap(), wrapped);
    assert!(client.unwrap_kek(&token, &wrapped).await.unwrap().same(&kek));
    let (other, _) = client.make_kek(&token, &provider_name("vault")).await.unwrap();
    assert!(!other.same(&kek));
    // The key server has the primary key and nothing of the host's.
    assert_eq!(server.client().locate(kmip::client::Filter::default()).await.unwrap().len(), 1);

    // The primary key never leaves its server: without that there are no keys.
    server.stop().await;
    let problem = client.unwrap_kek(&token, &wrapped).await.err().unwrap();
    assert_eq!(problem.code, Code::KeyServerUnreachable);

    let audit = keys.admin.audit(100).await.unwrap();
    let told: Vec<_> = audit.iter().map(|entry| (entry.operation.as_str(), entry.result.as_str())).collect();
    assert_eq!(told[..3], [("make-kek", "ok"), ("unwrap-kek", "ok"), ("make-kek", "ok")]);
    assert!(told[3].1.starts_with("key.server-unreachable"), "{told:?}");
    assert!(audit.iter().all(|entry| entry.host == "host-1" && entry.object == "vault"));
    assert!(audit.iter().all(|entry| entry.certificate == host.identity.thumbprint().to_string()));

    // Nothing of the KEK, plain, is in the state of either service.
    for dir in [keys.dir.path(), authority.path()] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(32).any(|window| window == kek.expose()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_for_this_session_there_is_no_key() {
    let (authority, _server, keys, host, token) = attested().await;
    let vault = provider_name("vault");
    let refused = async |identity: &Identity, token: &str| {
        let problem = keys.client(identity).make_kek(token, &vault).await.err().unwrap();
        assert_eq!(problem.code, Code::TokenRefused);
        problem.why
    };
    let thief = Identity::generate().unwrap();
    assert!(refused(&thief, &token).await.contains("[token-of-another-host]"));
    assert!(refused(&host.identity, "").await.contains("no attestation token"));
    assert!(refused(&host.identity, "x").await.contains("[token-malformed]"));
    assert!(refused(&host.identity, &format!("{token}x")).await.contains("[token-"));

    // Another attestation service, which nobody trusts, attests the same host.
    let other = Authority::trusting(&host).await;
    let strange = host.attest(&other, "test").await.unwrap().token;
    assert!(refused(&host.identity, &strange).await.contains("[token-issuer]"));

    // All that were issued before now are refused; a new one is good.
    let settings = keys.admin.settings().await.unwrap();
    // Tokens have whole seconds.
    let cut_off = Timestamp::from_second(Timestamp::now().as_second() + 1).unwrap();
    let denying = TrustSettings { refuse_issued_before: Some(cut_off), ..settings };
    keys.admin.set_settings(&denying).await.unwrap();
    assert!(refused(&host.identity, &token).await.contains("[token-before-cut-off]"));
    while Timestamp::now() < cut_off {
        tokio::task::yield_now().await;
    }
    let fresh = host.attest(&authority, "test").await.unwrap().token;
    keys.client(&host.identity).make_kek(&fresh, &vault).await.unwrap();

    // One that has had its time.
    let settings = authority.admin.settings().await.unwrap();
    authority.admin.set_settings(&Settings { token_seconds: 1, ..settings }).await.unwrap();
    let short = host.attest(&authority, "test").await.unwrap();
    while Timestamp::now() <= short.expires {
        tokio::task::yield_now().await;
    }
    assert!(refused(&host.identity, &short.token).await.contains("[token-expired]"));

    let key = &keys.admin.issuers().await.unwrap()[0].1;
    keys.admin.distrust_issuer(&key.id()).await.unwrap();
    assert!(refused(&host.identity, &fresh).await.contains("[token-issuer]"));
    let audit = keys.admin.audit(100).await.unwrap();
    assert_eq!(audit.iter().filter(|entry| entry.result.starts_with("attestation.token-refused")).count(), 8);
    assert_eq!(audit[0].host, "?", "who it is, only a good token says");
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_serve_their_own_clusters_and_their_own_keys() {
    let (authority, server, keys, host, token) = attested().await;
    let client = keys.client(&host.identity);
    let (vault, safe) = (provider_name("vault"), provider_name("safe"));
    let other = server.provider(&["other"]).await;
    keys.admin.set_provider(&safe, &other, &server.credentials()).await.unwrap();

    let problem = client.make_kek(&token, &safe).await.err().unwrap();
    assert_eq!(problem.code, Code::ProviderNotAllowed);
    assert!(problem.why.contains("under policy test"), "{problem}");
    let problem = client.make_kek(&token, &provider_name("none")).await.err().unwrap();
    assert_eq!(problem.code, Code::NotFound);

    // Under the other policy the host may use the other provider, but not with the first one's keys.
    let settings = PolicySettings {
        required: PcrMask::of([0]),
        secure_boot: false,
        ek_certificate: false,
        ..PolicySettings::default()
    };
    authority.admin.set_policy(&label("other"), &settings).await.unwrap();
    let (_, wrapped) = client.make_kek(&token, &vault).await.unwrap();
    let other_token = host.attest(&authority, "other").await.unwrap().token;
    client.make_kek(&other_token, &safe).await.unwrap();
    let forged: WrappedKek = wrapped.to_string().replace("/vault/", "/safe/").parse().unwrap();
    let problem = client.unwrap_kek(&other_token, &forged).await.err().unwrap();
    assert_eq!(problem.code, Code::KeyWrong);
    assert!(problem.why.contains("wrapped under another key"), "{problem}");

    // Asked for with the name of one provider and the key of another.
    let call = serde_json::json!({ "provider": "safe", "wrapped": wrapped });
    let call: ward_trust::api::UnwrapKek = serde_json::from_value(call).unwrap();
    assert_ne!(&call.provider, call.wrapped.provider());
    let problem = client.unwrap_kek_of(&other_token, &call).await.err().unwrap();
    assert!(problem.why.contains("it was wrapped by key provider `vault`"), "{problem}");

    // Every bit counts: of IV, tag and ciphertext, of the method and of the provider's name.
    let text = wrapped.to_string();
    let (head, ciphertext) = text.rsplit_once('/').unwrap();
    let ciphertext = URL_SAFE_NO_PAD.decode(ciphertext).unwrap();
    for bit in 0..ciphertext.len() * 8 {
        let mut altered = ciphertext.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let altered: WrappedKek = format!("{head}/{}", URL_SAFE_NO_PAD.encode(altered)).parse().unwrap();
        let problem = client.unwrap_kek(&token, &altered).await.err().unwrap();
        assert_eq!(problem.code, Code::KeyWrong, "bit {bit}");
    }
    for bit in 0..head.len() * 8 {
        let mut altered = text.clone().into_bytes();
        altered[bit / 8] ^= 1 << (bit % 8);
        let altered = String::from_utf8(altered).ok().and_then(|text| text.parse::<WrappedKek>().ok());
        let Some(altered) = altered else { continue };
        let problem = client.unwrap_kek(&token, &altered).await.err().unwrap();
        assert!([Code::KeyWrong, Code::NotFound, Code::ProviderNotAllowed].contains(&problem.code), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_key_must_be_there_and_active() {
    let (_authority, server, keys, host, token) = attested().await;
    let vault = provider_name("vault");
    let good = server.provider(&["test"]).await;
    let set = async |provider: &Provider| keys.admin.set_provider(&vault, provider, &server.credentials()).await;
    let id = server.client().create_aes256(&[]).await.unwrap().id;
    let inactive = Provider { primary_key: id.try_into().unwrap(), ..good.clone() };
    let problem = set(&inactive).await.unwrap_err();
    assert_eq!(problem.code, Code::KeyNotUsable, "{problem}");
    let missing = Provider { primary_key: "none".to_owned().try_into().unwrap(), ..good.clone() };
    assert_eq!(set(&missing).await.unwrap_err().code, Code::KeyMissing);
    let away = Provider { port: 1, ..good.clone() };
    assert_eq!(set(&away).await.unwrap_err().code, Code::KeyServerUnreachable);

    // A provider that was set anew uses its new key at once.
    let client = keys.client(&host.identity);
    let (_, wrapped) = client.make_kek(&token, &vault).await.unwrap();
    set(&good).await.unwrap();
    let problem = client.unwrap_kek(&token, &wrapped).await.err().unwrap();
    assert_eq!(problem.code, Code::KeyWrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_server_that_does_not_encrypt_gives_its_primary_key() {
    let (_authority, mut server, keys, host, token) = attested().await;
    let (vault, safe) = (provider_name("vault"), provider_name("safe"));
    let fetched = Provider { primary_use: PrimaryUse::Fetched, ..server.provider(&["test"]).await };
    keys.admin.set_provider(&safe, &fetched, &server.credentials()).await.unwrap();
    let client = keys.client(&host.identity);
    let (kek, wrapped) = client.make_kek(&token, &safe).await.unwrap();
    let (_, at_server) = client.make_kek(&token, &vault).await.unwrap();
    assert!(wrapped.to_string().starts_with("1/safe/") && at_server.to_string().starts_with("2/vault/"));
    // What was wrapped in one way does not pass for the other.
    for (text, provider) in [(at_server.to_string(), "safe"), (wrapped.to_string(), "vault")] {
        let (method, rest) = text.split_once('/').unwrap();
        let (_, ciphertext) = rest.split_once('/').unwrap();
        let moved: WrappedKek = format!("{method}/{provider}/{ciphertext}").parse().unwrap();
        assert_eq!(client.unwrap_kek(&token, &moved).await.err().unwrap().code, Code::KeyWrong);
    }
    // It is held, and serves while the key server is away.
    server.stop().await;
    assert!(client.unwrap_kek(&token, &wrapped).await.unwrap().same(&kek));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_be_shown_without_asking_for_anything() {
    let (_authority, _server, keys, host, token) = attested().await;
    let client = keys.client(&host.identity);
    client.show_token(&token).await.unwrap();
    let thief = keys.client(&Identity::generate().unwrap());
    assert_eq!(thief.show_token(&token).await.unwrap_err().code, Code::TokenRefused);
    let settings = keys.admin.settings().await.unwrap();
    let cut_off = Timestamp::from_second(Timestamp::now().as_second() + 1).unwrap();
    keys.admin.set_settings(&TrustSettings { refuse_issued_before: Some(cut_off), ..settings }).await.unwrap();
    let denied = client.show_token(&token).await.unwrap_err();
    assert!(denied.why.contains("[token-before-cut-off]"), "{denied}");
    let audit = keys.admin.audit(100).await.unwrap();
    assert!(audit.iter().all(|entry| entry.operation == "show-token" && !entry.proven), "{audit:?}");
    assert_eq!(audit.len(), 2, "only refusals: nothing is given for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_can_t_fill_the_audit_log_nor_hide_a_host_in_it() {
    let (_authority, _server, keys, host, token) = attested().await;
    let vault = provider_name("vault");
    let stranger = keys.client(&Identity::generate().unwrap());
    let begun = std::time::Instant::now();
    for _ in 0..150 {
        stranger.make_kek("", &vault).await.err().unwrap();
    }
    keys.client(&host.identity).make_kek(&token, &vault).await.unwrap();
    let most = 100 + usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let audit = keys.admin.audit(1000).await.unwrap();
    let (proven, others): (Vec<_>, Vec<_>) = audit.iter().partition(|entry| entry.proven);
    assert_eq!(proven.iter().map(|entry| entry.host.as_str()).collect::<Vec<_>>(), ["host-1"]);
    assert!((100..=most).contains(&others.len()), "{}", others.len());
}

/// No key is given without a record of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_recorded_is_not_given() {
    let (_authority, _server, keys, host, token) = attested().await;
    let vault = provider_name("vault");
    let client = keys.client(&host.identity);
    let (_, wrapped) = client.make_kek(&token, &vault).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(keys.dir.path().join("key-provider.db"));
    let pool = sqlx::sqlite::SqlitePool::connect_with(options).await.unwrap();
    let refuse = "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(FAIL, 'the disk is full'); END";
    sqlx::query(refuse).execute(&pool).await.unwrap();
    for problem in [client.make_kek(&token, &vault).await.err(), client.unwrap_kek(&token, &wrapped).await.err()] {
        let problem = problem.unwrap();
        assert_eq!(problem.code, Code::Internal);
        assert!(problem.what.contains("no key is given without a record of it"), "{problem}");
    }
    sqlx::query("DROP TRIGGER full").execute(&pool).await.unwrap();
    client.unwrap_kek(&token, &wrapped).await.unwrap();
    assert_eq!(keys.admin.audit(100).await.unwrap().len(), 2);
}

/// Two instances that share their configuration deny the same tokens.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_denies_the_others_deny_too() {
    let (authority, server, keys, host, token) = attested().await;
    let second = Second::new().await;
    let share = async || {
        let signed = configuration::export(authority.path(), keys.dir.path(), &second.key).await.unwrap();
        second.import(&signed, Some(&second.key)).await.unwrap();
    };
    share().await;
    let vault = provider_name("vault");
    let provider = keys.admin.providers().await.unwrap()[&vault].clone();
    second.keys.set_provider(&vault, &provider, &server.credentials()).await.unwrap();
    let running = second.start_key_provider().await;
    let certificate = second.keys.certificate().unwrap();
    let other = Client::new(&host.identity, &certificate, "localhost", running.address).unwrap();
    let (kek, wrapped) = keys.client(&host.identity).make_kek(&token, &vault).await.unwrap();
    assert!(other.unwrap_kek(&token, &wrapped).await.unwrap().same(&kek));

    let settings = keys.admin.settings().await.unwrap();
    let cut_off = Timestamp::from_second(Timestamp::now().as_second() + 1).unwrap();
    keys.admin.set_settings(&TrustSettings { refuse_issued_before: Some(cut_off), ..settings }).await.unwrap();
    other.unwrap_kek(&token, &wrapped).await.unwrap();
    share().await;
    let denied = other.unwrap_kek(&token, &wrapped).await.err().unwrap();
    assert!(denied.why.contains("[token-before-cut-off]"), "{denied}");
    while Timestamp::now() < cut_off {
        tokio::task::yield_now().await;
    }
    let fresh = host.attest(&authority, "test").await.unwrap().token;
    assert!(other.unwrap_kek(&fresh, &wrapped).await.unwrap().same(&kek));
}
