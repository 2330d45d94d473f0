//! Whatever is posted, signed, logged or written: it is read or refused, nothing panics, and what is not whole is let in
//! nowhere.

use std::sync::Arc;

use attest::appraisal::{Asked, Policy, appraise};
use attest::hash::HashAlg;
use attest::image::{BaseImage, ImageId, Mode, Validity};
use attest::log::{Event, EventLog, EventType};
use attest::quote::Nonce;
use attest::tpm::PcrMask;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::{Value, json};
use ward_rpc::CallError;
use ward_trust::api::{Ask, Attest, Enrol, EnrolAnswer, Health};
use ward_trust::client::{Client, Identity};
use ward_trust::key_provider::WrappedKek;
use ward_trust::measure::{Boot, SimulatedHost};
use ward_trust::services::{ServiceAddress, Services};
use ward_trust::signed::{AdminKey, Content, Signed};
use ward_trust::{attestation, configuration, key_provider};
use ward_types::Code;

use crate::common::{BOOTS, Log};
use crate::likely::{like, like_json};
use crate::scene::{Authority, Host, KeyProvider, KeyServer, label};
use crate::tls;

fn cases<S: Strategy>(count: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) };
    TestRunner::new(config).run(strategy, test).unwrap();
}

/// Events as no firmware may ever have logged them, but measured as they stand: the log replays.
fn any_boot() -> impl Strategy<Value = (usize, Log)> {
    let kind = prop_oneof![4 => select(EventType::ALL.to_vec()), 1 => any::<u32>().prop_map(EventType)];
    let data = prop_oneof![
        3 => vec(any::<u8>(), 0..200),
        1 => select(vec![b"\0\0\0\0".to_vec(), b"StartupLocality\0\x03".to_vec(), b"ExitBootServices".to_vec()]),
    ];
    let change = (any::<Index>(), 0u8..6, kind, 0u32..24, data, vec((any::<Index>(), any::<u8>()), 0..4));
    (0..BOOTS.len(), vec(change, 0..5)).prop_map(|(boot, changes)| {
        let mut log = Log::of(BOOTS[boot]);
        for (at, what, kind, pcr, data, bytes) in changes {
            let at = at.index(log.events.len());
            let event = &mut log.events[at];
            match what {
                // Another content of the same kind, near to what it was.
                0 | 1 => {
                    let mut changed = event.data.clone();
                    for (at, byte) in bytes.iter().filter(|_| !event.data.is_empty()) {
                        let at = at.index(changed.len());
                        changed[at] = *byte;
                    }
                    *event = measured(event.pcr, event.event_type, &changed);
                }
                2 => *event = measured(event.pcr, event.event_type, &data),
                3 => *event = measured(pcr, kind, &data),
                4 => log.events.insert(at, measured(pcr, kind, &data)),
                _ => drop(log.events.remove(at)),
            }
            if log.events.is_empty() {
                break;
            }
        }
        (boot, log)
    })
}

fn measured(pcr: u32, kind: EventType, data: &[u8]) -> Event {
    if kind == EventType::NO_ACTION { Log::no_action(data) } else { Log::event(pcr, kind, data, data) }
}

#[test]
fn whatever_firmware_logs() {
    const PCRS: [u8; 9] = BaseImage::USUAL_PCRS;
    let host = SimulatedHost::new(1).unwrap();
    let ak = host.attestation_key().unwrap();
    let validity = Validity { from: Timestamp::UNIX_EPOCH, until: None };
    let id = || ImageId { name: label("recorded"), version: label("1") };
    let capture =
        |log: &attest::log::VerifiedLog| BaseImage::capture(log, id(), PcrMask::of(PCRS), validity, Mode::Enforce);
    let policy = |secure_boot, images| Policy {
        name: label("test"),
        bank: HashAlg::Sha256,
        required: PcrMask::of(PCRS),
        secure_boot,
        ek_certificate: false,
        nonce_lifetime: std::time::Duration::from_secs(60),
        images,
    };
    let asked =
        Asked { nonce: Nonce::generate().unwrap(), at: Timestamp::now(), certificate: host.identity.thumbprint() };
    let request = policy(false, vec![]).request(asked.nonce.clone(), asked.certificate).unwrap();
    let verified = |log: &Log| {
        let evidence = host.evidence(&request, &Boot::replay(log.to_bytes()).unwrap()).unwrap();
        let quote = request.verify(&ak, &evidence.quote).unwrap();
        (EventLog::from_bytes(&evidence.event_log).unwrap().verify(&quote), evidence)
    };
    let images: Vec<_> = BOOTS.iter().map(|boot| capture(&verified(&Log::of(boot)).0.unwrap()).unwrap()).collect();
    let [mut refused, mut good] = [0; 2].map(std::cell::Cell::new);
    cases(2000, &(any_boot(), any::<bool>()), |((boot, log), secure_boot)| {
        let (read, evidence) = verified(&log);
        let policy = policy(secure_boot, vec![images[boot].clone()]);
        let verdict = appraise(&ak, &asked, &evidence, &policy, asked.at);
        let _ = serde_json::to_string(&verdict.report).unwrap();
        let told = |log: &Log| -> Vec<_> {
            let events = log.events.iter().filter(|event| PCRS.iter().any(|pcr| u32::from(*pcr) == event.pcr));
            let measured = events.filter(|event| event.event_type != EventType::NO_ACTION);
            measured.map(|event| (event.pcr, event.event_type, event.digest(HashAlg::Sha256).cloned())).collect()
        };
        let per_pcr =
            |log: &Log| PCRS.map(|pcr| told(log).into_iter().filter(|it| it.0 == u32::from(pcr)).collect::<Vec<_>>());
        let same = per_pcr(&log) == per_pcr(&Log::of(BOOTS[boot]));
        if verdict.outcome.is_ok() {
            prop_assert!(same && (!secure_boot || BOOTS[boot] == "secureboot"));
            good.set(good.get() + 1);
        } else {
            refused.set(refused.get() + 1);
        }
        // Whatever it has booted can be captured, and matches itself.
        if let Ok(read) = read {
            prop_assert!(capture(&read).unwrap().differences(&read).is_empty());
        }
        Ok(())
    });
    assert!(*refused.get_mut() > 100 && *good.get_mut() > 10, "both happen");
}

fn services() -> Services {
    let address = || ServiceAddress { address: "localhost:1".to_owned(), certificate: "PEM".to_owned() };
    Services {
        version: 1,
        serial: 7,
        name: label("trust"),
        policy: label("default"),
        attestation: vec![address(), address()],
        key_providers: vec![address()],
        providers: vec!["vault".parse().unwrap()],
    }
}

/// A kind of content that any JSON is of: signed as if it were another.
#[derive(serde::Serialize, serde::Deserialize)]
struct As<const CONFIGURATION: bool>(Value);

impl<const CONFIGURATION: bool> Content for As<CONFIGURATION> {
    const PURPOSE: &'static str = if CONFIGURATION { configuration::Configuration::PURPOSE } else { Services::PURPOSE };
}

#[test]
fn descriptions_that_are_like_a_signed_one() {
    let dir = tempfile::tempdir().unwrap();
    let key = AdminKey::create(&dir.path().join("a")).unwrap();
    let signed = key.sign(&services()).unwrap();
    let file = serde_json::to_value(&signed).unwrap();
    cases(2000, &(like(signed.to_string().into_bytes()), like_json(file)), |(bytes, file)| {
        let texts = [String::from_utf8(bytes).ok(), Some(file.to_string())];
        for text in texts.into_iter().flatten() {
            let Ok(read) = Signed::parse(&text) else { continue };
            let opened = read.open::<Services>(key.public());
            let whole = serde_json::to_value(&read).unwrap() == serde_json::to_value(&signed).unwrap();
            // Hexadecimal digits may be small or large.
            prop_assert!(opened.is_ok() == whole || opened == Ok(services()));
        }
        Ok(())
    });
    // By the administrators' own hand.
    cases(2000, &like_json(serde_json::to_value(services()).unwrap()), |value| {
        let signed = key.sign(&As::<false>(value)).unwrap();
        if let Ok(read) = signed.open::<Services>(key.public()) {
            prop_assert_eq!(key.sign(&read).unwrap().open::<Services>(key.public()), Ok(read));
        }
        Ok(())
    });
}

/// Whatever configuration was signed: it is refused as a whole, or the service can go by it.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_are_like_a_real_one() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let server = KeyServer::start().await;
    let keys = KeyProvider::new(&authority, &server).await;
    let dir = tempfile::tempdir().unwrap();
    let key = AdminKey::create(&dir.path().join("admin")).unwrap();
    let signed = configuration::export(authority.path(), keys.dir.path(), &key).await.unwrap();
    let real: Value =
        serde_json::from_str(serde_json::to_value(&signed).unwrap()["payload"].as_str().unwrap()).unwrap();
    let (second, vault) = (dir.path().join("attestation"), dir.path().join("key-provider"));
    attestation::init(&second, &label("trust"), &[]).await.unwrap();
    key_provider::init(&vault, &label("trust"), &[]).await.unwrap();
    let admin = attestation::Admin::open(&second).await.unwrap();
    let theirs = key_provider::Admin::open(&vault).await.unwrap();
    let signer = Some(key.public().clone());
    configuration::import(&second, &vault, &signed, signer.clone()).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let fuzz = || {
        cases(300, &like_json(real), |mut value| {
            // Newer each time, whatever else it is.
            if value["serial"].is_i64() {
                value["serial"] = json!(i64::MAX);
            }
            let signed = key.sign(&As::<true>(value)).unwrap();
            runtime.block_on(async {
                let before = (admin.description().await.unwrap(), theirs.providers().await.unwrap());
                let imported = configuration::import(&second, &vault, &signed, signer.clone()).await;
                let after = (admin.description().await, theirs.providers().await, theirs.issuers().await);
                let after = (after.0.unwrap(), after.1.unwrap(), after.2.unwrap());
                let images = admin.images().await.unwrap();
                if imported.is_err() {
                    prop_assert_eq!(before, (after.0, after.1));
                    return Ok(());
                }
                // As a service does when it starts.
                prop_assert!(admin.policies().await.is_ok() && admin.tpm_cas().await.is_ok() && images.len() < 9);
                let server = attestation::Service::start(&second, ([127, 0, 0, 1], 0).into()).await;
                prop_assert!(server.is_ok(), "{:?}", server.err());
                Ok(())
            })
        });
    };
    tokio::task::block_in_place(fuzz);
}

proptest! {
    #[test]
    fn wrapped_keys_are_read_back_as_they_were(text in "[12x]?/?[a-z]{0,5}/?[A-Za-z0-9_=-]{0,60}", noise in "\\PC{0,80}") {
        for text in [text, noise] {
            if let Ok(wrapped) = text.parse::<WrappedKek>() {
                prop_assert_eq!(wrapped.to_string(), text);
                prop_assert!(wrapped.to_key().is_ok());
            }
        }
    }
}

/// Whatever is posted to whichever path: a refusal, and the service goes on.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_posted() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let server = KeyServer::start().await;
    let keys = KeyProvider::new(&authority, &server).await;
    let identity = Identity::generate().unwrap();
    let token = host.attest(&authority, "test").await.unwrap().token;
    let question = authority.client(&host.identity).await.call(host.ask("test")).await.unwrap();
    let attest = Attest { question: question.question, evidence: host.evidence(&question) };
    let requests = json!({
        "enrol": serde_json::to_value(host.enrolment()).unwrap(),
        "enrol-answer": { "question": question.question, "secret": "AAAA" },
        "ask": serde_json::to_value(host.ask("test")).unwrap(),
        "attest": serde_json::to_value(attest).unwrap(),
        "describe": {}, "health": {},
        "make-kek": { "provider": "vault" },
        "unwrap-kek": { "provider": "vault", "wrapped": "2/vault/AAAA" },
    });
    // They are what the services read.
    assert!(serde_json::from_value::<Enrol>(requests["enrol"].clone()).is_ok());
    assert!(serde_json::from_value::<EnrolAnswer>(requests["enrol-answer"].clone()).is_ok());
    assert!(serde_json::from_value::<Ask>(requests["ask"].clone()).is_ok());

    let certificates = [authority.admin.description().await.unwrap().certificate, keys.admin.certificate().unwrap()];
    let addresses = [authority.service.address, keys.service.address];
    let line = |at: usize| {
        let tls = Arc::new(tls::client(tls::TLS_1_3, true, &certificates[at]));
        ward_rpc::Client::new(tls, "localhost", addresses[at]).unwrap()
    };
    let lines = [line(0), line(1)];
    let paths = ["enrol", "enrol-answer", "ask", "attest", "describe", "health", "make-kek", "unwrap-kek", "none", ""];
    let runtime = tokio::runtime::Handle::current();
    let bearer = prop_oneof![
        Just(String::new()),
        Just(token.clone()),
        "[!-~]{0,40}",
        like(token.into_bytes())
            .prop_map(|bytes| { bytes.into_iter().filter(u8::is_ascii_graphic).map(char::from).collect() })
    ];
    let posted = (select(paths.to_vec()), like_json(requests), any::<bool>(), bearer);
    let clients: [Client; 2] = [authority.client(&identity).await, keys.client(&identity)];
    let fuzz = || {
        cases(500, &posted, |(path, requests, to_keys, bearer)| {
            let line = &lines[usize::from(to_keys)];
            let body = requests.get(path).cloned().unwrap_or(requests);
            let answer = runtime.block_on(line.fetch_key(&format!("/v1/{path}"), &bearer, &body));
            match answer {
                // What says no secret.
                Ok(_) => prop_assert!(["describe", "health", "enrol", "ask"].contains(&path), "{path}"),
                Err(CallError::Refused(problem)) if problem.code == Code::Internal => {
                    prop_assert!(problem.why.starts_with("HTTP status 4"), "{problem}");
                }
                Err(CallError::Refused(_)) => {}
                Err(error) => prop_assert!(false, "{path}: {error}"),
            }
            Ok(())
        });
        for client in clients {
            runtime.block_on(client.call(Health {})).unwrap();
        }
    };
    tokio::task::block_in_place(fuzz);
}
