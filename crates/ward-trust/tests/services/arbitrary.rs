//! Whatever is posted, signed, logged or written: it is read or refused, nothing panics, and what is not whole is let in
//! nowhere.

use std::ops::Range;

use attest::appraisal::{Asked, Evidence, Policy, appraise};
use attest::binding::CertThumbprint;
use attest::credential::ResidentAk;
use attest::hash::HashAlg;
use attest::image::{BaseImage, ImageId, Mode, Validity};
use attest::log::{Event, EventLog, EventType};
use attest::quote::{Nonce, QuoteRequest};
use attest::tpm::PcrMask;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use ward_rpc::CallError;
use ward_trust::api::{Attest, EnrolAnswer, Health};
use ward_trust::client::{Client, Identity};
use ward_trust::key_provider::WrappedKek;
use ward_trust::measure::{Boot, SimulatedHost};
use ward_trust::services::{ServiceAddress, Services};
use ward_trust::signed::{AdminKey, Content, Signed};
use ward_trust::{attestation, configuration, key_provider};
use ward_types::Code;

use crate::common::{BOOTS, Log};
use crate::likely::{cases, like, like_json};
use crate::scene::{Authority, Host, Second, attested, label, provider_name};
use crate::tpm::{Ca, Tpm};

/// Events of these PCRs as no firmware may ever have logged them, but measured as they stand: the log replays.
fn any_boot(pcrs: Range<u32>) -> impl Strategy<Value = (usize, Log)> {
    let kind = prop_oneof![4 => select(EventType::ALL.to_vec()), 1 => any::<u32>().prop_map(EventType)];
    let data = prop_oneof![
        3 => vec(any::<u8>(), 0..200),
        1 => select(vec![b"\0\0\0\0".to_vec(), b"StartupLocality\0\x03".to_vec(), b"ExitBootServices".to_vec()]),
    ];
    let change = (any::<Index>(), 0u8..6, kind, pcrs, data, vec((any::<Index>(), any::<u8>()), 0..4));
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

/// Whatever the firmware has measured: who makes the quotes is `evidence`'s to say.
fn firmware_logs(
    (count, pcrs): (u32, Range<u32>),
    ak: &ResidentAk,
    certificate: CertThumbprint,
    evidence: impl Fn(&QuoteRequest, &Log) -> Evidence,
) {
    const PCRS: [u8; 9] = BaseImage::USUAL_PCRS;
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
    let asked = Asked { nonce: Nonce::generate().unwrap(), at: Timestamp::now(), certificate };
    let request = policy(false, vec![]).request(asked.nonce.clone(), asked.certificate).unwrap();
    let verified = |log: &Log| {
        let evidence = evidence(&request, log);
        let quote = request.verify(ak, &evidence.quote).unwrap();
        (EventLog::from_bytes(&evidence.event_log).unwrap().verify(&quote), evidence)
    };
    let images: Vec<_> = BOOTS.iter().map(|boot| capture(&verified(&Log::of(boot)).0.unwrap()).unwrap()).collect();
    let [mut refused, mut good] = [0; 2].map(std::cell::Cell::new);
    cases(count, &(any_boot(pcrs), any::<bool>()), |((boot, log), secure_boot)| {
        let (read, evidence) = verified(&log);
        let policy = policy(secure_boot, vec![images[boot].clone()]);
        let verdict = appraise(ak, &asked, &evidence, &policy, asked.at);
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
    assert!(*refused.get_mut() > count / 20 && *good.get_mut() > count / 200, "both happen");
}

/// Many of them: the quotes are signed here, as no TPM is so quick.
#[test]
fn whatever_firmware_logs() {
    let host = SimulatedHost::new(1).unwrap();
    let ak = host.attestation_key().unwrap();
    firmware_logs((2000, 0..24), &ak, host.identity.thumbprint(), |request, log| {
        host.evidence(request, &Boot::replay(log.to_bytes()).unwrap()).unwrap()
    });
}

/// Those that firmware can measure into. The others are the processor's own.
const BOOT_PCRS: Range<u32> = 0..17;

/// Some of them, measured into a TPM that quotes them.
#[test]
fn whatever_firmware_measures_into_a_tpm() {
    let tpm = Tpm::new();
    let ak = tpm.resident_ak("ak", ["ecc", "sha256", "ecdsa"]);
    // It outlives a reboot.
    tpm.run("tpm2_evictcontrol", &["-C", "o", "-c", "ak.ctx", "-o", "ak.ctx", "0x81010100"]);
    let certificate = Identity::generate().unwrap().thumbprint();
    firmware_logs((60, BOOT_PCRS), &ak, certificate, |request, log| {
        tpm.reboot(log);
        Evidence { quote: tpm.quote("ak", request), event_log: log.to_bytes() }
    });
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

/// Whatever configuration was signed: it is refused as a whole, or the services can go by it.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_are_like_a_real_one() {
    let (authority, _server, keys, ..) = attested().await;
    // Two of each, where there can be several.
    let ca = Ca::new();
    let host = Host::on(Tpm::certified_by(&ca), Log::of("ovmf"));
    authority.admin.add_tpm_ca(&ca.root()).await.unwrap();
    authority.admin.add_tpm_ca(&ca.intermediate()).await.unwrap();
    authority.admin.import_ek(&host.ek.to_tpm2b(), &label("host-2")).await.unwrap();
    authority.admin.admit_host(&label("host-1")).await.unwrap();
    authority.capture("host-1", "also-good").await;
    authority.admin.set_policy(&label("other"), &attestation::PolicySettings::default()).await.unwrap();
    let further = Authority::new().await.admin.description().await.unwrap();
    keys.admin.trust_issuer(&further.issuer, &further.token_key).await.unwrap();
    let second = Second::new().await;
    let signed = configuration::export(authority.path(), keys.dir.path(), &second.key).await.unwrap();
    let real: Value =
        serde_json::from_str(serde_json::to_value(&signed).unwrap()["payload"].as_str().unwrap()).unwrap();
    second.import(&signed, Some(&second.key)).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let serial = std::cell::Cell::new(real["serial"].as_i64().unwrap());
    let [mut taken, mut refused] = [0; 2].map(std::cell::Cell::new);
    let fuzz = || {
        cases(300, &like_json(real), |mut value| {
            // Newer each time, whatever else it is.
            if value["serial"].is_i64() {
                serial.set(serial.get() + 1);
                value["serial"] = json!(serial.get());
            }
            let signed = second.key.sign(&As::<true>(value)).unwrap();
            runtime.block_on(async {
                let before = second.goes_by().await;
                if second.import(&signed, None).await.is_err() {
                    prop_assert_eq!(before, second.goes_by().await);
                    refused.set(refused.get() + 1);
                    return Ok(());
                }
                taken.set(taken.get() + 1);
                // As services do when they start.
                let local = ([127, 0, 0, 1], 0).into();
                let service = attestation::Service::start(&second.attestation(), local).await;
                prop_assert!(service.is_ok(), "{:?}", service.err());
                let service = key_provider::Service::start(&second.key_provider(), local).await;
                prop_assert!(service.is_ok(), "{:?}", service.err());
                Ok(())
            })
        });
    };
    tokio::task::block_in_place(fuzz);
    assert!(*taken.get_mut() > 20 && *refused.get_mut() > 20, "both happen: {taken:?}, {refused:?}");
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

/// Whatever is posted to whichever path: a refusal, and the service goes on. A host that posts what it should, in its own
/// session, is not refused; one that alters any of what matters is.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_posted() {
    let (authority, _server, keys, host, token) = attested().await;
    let clients: [Client; 2] = [authority.client(&host.identity).await, keys.client(&host.identity)];
    let (_, wrapped) = clients[1].make_kek(&token, &provider_name("vault")).await.unwrap();
    let paths =
        ["enrol", "enrol-answer", "ask", "attest", "describe", "health", "make-kek", "unwrap-kek", "show-token"];
    let runtime = tokio::runtime::Handle::current();
    // What the host would post there, of this very moment: questions can be answered once.
    let real = |path: &str| -> Value {
        let line = &clients[0];
        match path {
            "enrol" => json!(host.enrolment()),
            "enrol-answer" => {
                let challenge = runtime.block_on(line.call(host.enrolment())).unwrap();
                let secret = host.tpm.activate("rsa", "ak", &challenge.credential).unwrap();
                serde_json::to_value(EnrolAnswer { question: challenge.question, secret }).unwrap()
            }
            "ask" => json!(host.ask("test")),
            "attest" => {
                let question = runtime.block_on(line.call(host.ask("test"))).unwrap();
                json!(Attest { question: question.question, evidence: host.evidence(&question) })
            }
            "make-kek" => json!({ "provider": "vault" }),
            "unwrap-kek" => json!({ "provider": "vault", "wrapped": wrapped }),
            _ => json!({}),
        }
    };
    let bearer = prop_oneof![
        1 => Just(String::new()),
        6 => Just(token.clone()),
        1 => "[!-~]{0,40}",
        1 => like(token.clone().into_bytes())
            .prop_map(|bytes| { bytes.into_iter().filter(u8::is_ascii_graphic).map(char::from).collect() })
    ];
    let posted = (select(paths.to_vec()), select([paths.to_vec(), vec!["none", ""]].concat()), any::<u8>(), bearer);
    let answered = std::cell::RefCell::new(std::collections::BTreeMap::<&str, u32>::new());
    let altering = std::cell::RefCell::new(TestRunner::deterministic());
    let fuzz = || {
        cases(500, &posted, |(kind, elsewhere, how, bearer)| {
            // Now and then to another path, or to the other service.
            let path = if how % 8 == 0 { elsewhere } else { kind };
            let to_keys = path.ends_with("kek") || path == "show-token";
            let line = clients[usize::from(to_keys != (how % 16 == 1))].line();
            let real = real(kind);
            let body = like_json(real.clone()).new_tree(&mut altering.borrow_mut()).unwrap().current();
            let answer = runtime.block_on(line.ask_bytes(&format!("/v1/{path}"), Some(&bearer), &body));
            // What it means, whatever else stands there.
            let same = |read: fn(&Value) -> Option<Value>| read(&body).is_some() && read(&body) == read(&real);
            match answer {
                Ok(_) => {
                    prop_assert!(
                        path == kind || ["describe", "health", "show-token"].contains(&path),
                        "{kind} as {path}"
                    );
                    *answered.borrow_mut().entry(path).or_default() += 1;
                    match path {
                        "describe" | "health" | "ask" => {}
                        // What an EK and an AK are, others see to.
                        "enrol" => prop_assert!(same(|body| Some(json!([body["ek"], body["ak"]])))),
                        "enrol-answer" => prop_assert!(same(|body| Some(body.clone()))),
                        // Of the log not every byte is measured.
                        "attest" => {
                            let quoted = |body: &Value| {
                                let quote = serde_json::from_value::<Attest>(body.clone()).ok()?.evidence.quote;
                                Some(json!([body["question"], quote]))
                            };
                            prop_assert!(same(quoted));
                        }
                        "unwrap-kek" => prop_assert!(bearer == token && same(|body| Some(body["wrapped"].clone()))),
                        "make-kek" | "show-token" => prop_assert_eq!(&bearer, &token),
                        _ => prop_assert!(false, "{} is answered", path),
                    }
                }
                Err(CallError::Refused(problem)) if problem.code == Code::Internal => {
                    prop_assert!(problem.why.starts_with("HTTP status 4"), "{problem}");
                }
                Err(CallError::Refused(_)) => {}
                Err(error) => prop_assert!(false, "{path}: {error}"),
            }
            Ok(())
        });
        for client in &clients {
            runtime.block_on(client.call(Health {})).unwrap();
        }
    };
    tokio::task::block_in_place(fuzz);
    let answered = answered.into_inner();
    assert!(paths.iter().all(|path| answered.get(path).is_some_and(|times| *times > 1)), "{answered:?}");
}
