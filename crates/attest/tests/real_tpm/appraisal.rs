use std::time::Duration;

use attest::appraisal::{Asked, Evidence, Fact, Failure, Gap, Policy, Standing, Verdict, appraise};
use attest::binding::CertThumbprint;
use attest::boot::{BootChain, Measured};
use attest::credential::{Challenge, ResidentAk};
use attest::ek::{EkProof, TpmCas, verify_certificate};
use attest::hash::HashAlg;
use attest::image::{BaseImage, ImageError, Mode, Validity};
use attest::log::{EventLog, EventType, LogError, VerifiedLog};
use attest::quote::{Nonce, QuoteError};
use attest::secure_boot::SecureBootError;
use attest::tpm::PcrMask;
use jiff::{Timestamp, ToSpan};

use crate::common::Log;
use crate::tpm::{Ca, Tpm, now};

const AK: [&str; 3] = ["ecc", "sha256", "ecdsa"];

/// A host that has booted as recorded.
pub(crate) struct Host {
    pub(crate) tpm: Tpm,
    pub(crate) ak: ResidentAk,
    pub(crate) log: Log,
    pub(crate) certificate: CertThumbprint,
}

impl Host {
    pub(crate) fn booted(log: Log) -> Self {
        Self::booted_on(Tpm::new(), log)
    }

    fn booted_on(tpm: Tpm, log: Log) -> Self {
        tpm.boot(&log);
        let ak = tpm.resident_ak("ak", AK);
        Self { tpm, ak, log, certificate: CertThumbprint::of(b"the host's certificate") }
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked { nonce: Nonce::generate().unwrap(), at: now(), certificate: self.certificate }
    }

    pub(crate) fn evidence(&self, asked: &Asked, policy: &Policy) -> Evidence {
        let request = policy.request(asked.nonce.clone(), asked.certificate).unwrap();
        Evidence { quote: self.tpm.quote("ak", &request), event_log: self.log.to_bytes() }
    }

    pub(crate) fn attest(&self, policy: &Policy) -> Verdict {
        let asked = self.asked();
        appraise(&self.ak, &asked, &self.evidence(&asked, policy), policy, now())
    }

    pub(crate) fn verified(&self, bank: HashAlg, pcrs: &[u8]) -> VerifiedLog {
        let policy = Policy { bank, ..policy(pcrs, vec![]) };
        let asked = self.asked();
        let request = policy.request(asked.nonce.clone(), asked.certificate).unwrap();
        let quote = request.verify(&self.ak, &self.evidence(&asked, &policy).quote).unwrap();
        self.log.parse().verify(&quote).unwrap()
    }

    pub(crate) fn image(&self, name: &str, pcrs: &[u8]) -> BaseImage {
        capture(&self.verified(HashAlg::Sha256, pcrs), name, pcrs).unwrap()
    }
}

pub(crate) fn capture(log: &VerifiedLog, name: &str, pcrs: &[u8]) -> Result<BaseImage, ImageError> {
    let id = serde_json::from_value(serde_json::json!({ "name": name, "version": "1" })).unwrap();
    let validity = Validity { from: Timestamp::UNIX_EPOCH, until: None };
    BaseImage::capture(log, id, PcrMask::of(pcrs.iter().copied()), validity, Mode::Enforce)
}

pub(crate) fn policy(required: &[u8], images: Vec<BaseImage>) -> Policy {
    Policy {
        name: "test".parse().unwrap(),
        bank: HashAlg::Sha256,
        required: PcrMask::of(required.iter().copied()),
        secure_boot: false,
        ek_certificate: false,
        nonce_lifetime: Duration::from_secs(60),
        images,
    }
}

pub(crate) const ALL: &[u8] = &[0, 2, 4, 7, 8, 9, 11, 12];
const FIRMWARE: &[u8] = &[0, 2, 7];
const SYSTEM: &[u8] = &[4, 8, 9, 11, 12];

fn failure(verdict: Verdict) -> Failure {
    let mut failures = verdict.outcome.unwrap_err();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(verdict.report.failures[0].code, failures[0].code());
    failures.remove(0)
}

#[test]
fn a_host_that_booted_what_was_captured_is_attested() {
    let host = Host::booted(Log::of("secureboot"));
    let images = vec![host.image("firmware", FIRMWARE), host.image("system", SYSTEM)];
    let policy = Policy { secure_boot: true, ..policy(ALL, images) };
    let verdict = host.attest(&policy);
    let attested = verdict.outcome.unwrap();
    assert_eq!((attested.ak(), attested.ek()), (&host.ak.name(), host.ak.ek()));
    assert_eq!(attested.certificate(), host.certificate);
    assert_eq!(attested.images().iter().map(ToString::to_string).collect::<Vec<_>>(), ["firmware/1", "system/1"]);
    assert_eq!(attested.vouched(), policy.required);

    let report = verdict.report;
    assert!(report.verified.contains(&Fact::SecureBootEnforced));
    assert!(report.verified.contains(&Fact::BoundTo { certificate: host.certificate }));
    assert!(report.verified.contains(&Fact::Vouched { pcrs: policy.required }));
    // What was not looked at is said too.
    assert!(report.not_verified.contains(&Gap::SinceBoot));
    assert!(report.not_verified.contains(&Gap::EkMaker { label: "under test".to_owned() }));
    assert!(report.not_verified.iter().any(|gap| matches!(gap, Gap::EventData { events } if *events > 5)));
    let Some(Gap::NotQuoted { pcrs, events }) =
        report.not_verified.iter().find(|gap| matches!(gap, Gap::NotQuoted { .. }))
    else {
        panic!("{:?}", report.not_verified)
    };
    assert!(pcrs.contains(5) && pcrs.contains(10) && *events > 5);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<attest::appraisal::Report>(&json).unwrap(), report);
}

#[test]
fn another_bank_serves_as_well_and_sha_1_never() {
    let host = Host::booted(Log::of("ovmf"));
    let log = host.verified(HashAlg::Sha384, FIRMWARE);
    let image = capture(&log, "firmware", FIRMWARE).unwrap();
    let sha384 = Policy { bank: HashAlg::Sha384, ..policy(FIRMWARE, vec![image.clone()]) };
    host.attest(&sha384).outcome.unwrap();
    let sha256 = Policy { bank: HashAlg::Sha256, ..sha384.clone() };
    let Failure::Unmatched { reasons, .. } = failure(host.attest(&sha256)) else { panic!("matched") };
    assert!(reasons[0].contains("bank sha384"), "{reasons:?}");

    // The host offers what it can: the policy of SHA-1 can't even be asked for.
    let asked = host.asked();
    let evidence = host.evidence(&asked, &sha256);
    let sha1 = Policy { bank: HashAlg::Sha1, ..sha384 };
    let error = failure(appraise(&host.ak, &asked, &evidence, &sha1, now()));
    assert_eq!(error, Failure::Quote(QuoteError::WeakBank(HashAlg::Sha1)));
    let nothing = policy(&[], vec![image]);
    assert_eq!(nothing.request(asked.nonce.clone(), asked.certificate), Err(QuoteError::NoPcrs));
}

#[test]
fn replayed_stale_and_borrowed_evidence_is_refused() {
    let host = Host::booted(Log::of("ovmf"));
    let policy = policy(FIRMWARE, vec![host.image("firmware", FIRMWARE)]);
    let asked = host.asked();
    let evidence = host.evidence(&asked, &policy);
    let judge = |asked: &Asked, now| appraise(&host.ak, asked, &evidence, &policy, now);
    judge(&asked, now()).outcome.unwrap();

    let again = host.asked();
    let replayed = failure(judge(&again, now()));
    assert_eq!(replayed.code(), "nonce-wrong", "{replayed}");
    let late = failure(judge(&asked, asked.at + 61.seconds()));
    assert!(matches!(late, Failure::StaleNonce { .. }), "{late}");
    let early = failure(judge(&asked, asked.at - 1.second()));
    assert!(matches!(early, Failure::NonceFromFuture { .. }), "{early}");
    // Somebody in between passes the good host's quote off as his own, in a session of his own.
    let between = Asked { certificate: CertThumbprint::of(b"another's certificate"), ..asked.clone() };
    let borrowed = failure(judge(&between, now()));
    assert_eq!(borrowed.code(), "nonce-wrong", "{borrowed}");
    assert!(borrowed.to_string().contains("bound to another certificate"));

    let other = Host::booted(Log::of("ovmf"));
    let foreign = failure(appraise(&other.ak, &asked, &evidence, &policy, now()));
    assert_eq!(foreign, Failure::Quote(QuoteError::Signature(other.ak.name())), "a quote from another TPM");
}

#[test]
fn a_changed_boot_is_refused_and_the_event_named() {
    let good = Host::booted(Log::of("secureboot"));
    let images = vec![good.image("firmware", FIRMWARE), good.image("system", SYSTEM)];
    let policy = Policy { secure_boot: true, ..policy(ALL, images) };

    // Another initrd in the unified kernel image.
    let mut log = Log::of("secureboot");
    let at = log.events.iter().rposition(|event| event.pcr == 11).unwrap();
    let event = log.events[at].clone();
    log.events[at] = Log::event(11, EventType::IPL, &event.data, b"another initrd");
    let host = Host::booted(log);
    let verdict = host.attest(&policy);
    let digest = HashAlg::Sha256.digest(&[b"another initrd"]);
    let system = &verdict.report.images[1];
    assert!(system.to_string().contains(&format!("found EV_IPL {digest} (.initrd)")), "{system}");
    let Failure::Unmatched { pcrs, reasons } = failure(verdict) else { panic!("matched") };
    assert_eq!(pcrs, PcrMask::of(SYSTEM.iter().copied()), "the firmware's image matches");
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].starts_with("base image system/1 does not match: PCR 11: expected"), "{reasons:?}");

    // Without Secure Boot two things are wrong, and both are told.
    let host = Host::booted(Log::of("unsigned"));
    let failures = host.attest(&policy).outcome.unwrap_err();
    assert!(failures.contains(&Failure::SecureBoot(SecureBootError::Off)), "{failures:?}");
    assert_eq!(failures.len(), 2);

    // A host that lies about it does not replay.
    let liar = Host { log: Log::of("secureboot"), ..host };
    let error = failure(liar.attest(&policy));
    assert!(matches!(error, Failure::Log(LogError::Replay { .. })), "{error}");
    assert_eq!(error.code(), "log-does-not-replay");
}

#[test]
fn damaged_logs_are_refused_with_their_reason() {
    let host = Host::booted(Log::of("ovmf"));
    let policy = policy(FIRMWARE, vec![host.image("firmware", FIRMWARE)]);
    let asked = host.asked();
    let evidence = host.evidence(&asked, &policy);
    let judge = |event_log: Vec<u8>| {
        failure(appraise(&host.ak, &asked, &Evidence { event_log, ..evidence.clone() }, &policy, now())).code()
    };
    let log = &host.log;
    assert_eq!(judge(evidence.event_log[..evidence.event_log.len() - 1].to_vec()), "log-truncated");
    let mut short = log.clone();
    short.events.truncate(5);
    assert_eq!(judge(short.to_bytes()), "log-truncated");
    let mut unknown = log.clone();
    unknown.events[0].event_type = EventType(0x77);
    assert_eq!(judge(unknown.to_bytes()), "log-unknown-event");
    let mut relabelled = log.clone();
    relabelled.events[0].event_type = EventType::EFI_VARIABLE_AUTHORITY;
    assert_eq!(judge(relabelled.to_bytes()), "log-relabelled");
    let mut changed = log.clone();
    changed.events[1].digests[1] = HashAlg::Sha256.digest(&[b"better firmware"]);
    assert_eq!(judge(changed.to_bytes()), "log-does-not-replay");
}

#[test]
fn dry_runs_expired_and_future_images_are_reported_and_have_no_say() {
    let host = Host::booted(Log::of("ovmf"));
    let image = host.image("firmware", FIRMWARE);
    let other = Host::booted(Log::of("secureboot")).image("next", FIRMWARE);
    let t = now();

    let trial = policy(FIRMWARE, vec![image.clone(), other.clone().with_mode(Mode::DryRun)]);
    let verdict = host.attest(&trial);
    assert!(verdict.outcome.is_ok(), "a dry run that fails keeps nobody out");
    let would_fail: Vec<_> = verdict.report.would_fail().map(ToString::to_string).collect();
    assert_eq!(would_fail.len(), 1);
    assert!(would_fail[0].starts_with("base image next/1 is a dry run; it would have failed: PCR "));
    assert!(would_fail[0].contains("event 4: expected EV_EFI_VARIABLE_DRIVER_CONFIG"), "{}", would_fail[0]);

    let only_trial = policy(FIRMWARE, vec![image.clone().with_mode(Mode::DryRun)]);
    let error = failure(host.attest(&only_trial)).to_string();
    assert!(error.contains("firmware/1 is a dry run; it would match"), "a dry run lets nobody in: {error}");

    let valid = |from, until| image.clone().with_validity(Validity { from, until }).unwrap();
    let expired = host.attest(&policy(FIRMWARE, vec![valid(Timestamp::UNIX_EPOCH, Some(t))]));
    assert_eq!(expired.report.images[0].standing, Standing::Expired);
    let error = failure(expired).to_string();
    assert!(error.contains("matches, but was valid until"), "{error}");
    let future = host.attest(&policy(FIRMWARE, vec![valid(t + 1.hour(), None)]));
    assert_eq!(future.report.images[0].standing, Standing::NotYet);
    assert!(failure(future).to_string().contains("matches, but is valid only from"));
    let old_and_new = policy(FIRMWARE, vec![valid(Timestamp::UNIX_EPOCH, Some(t)), other, image]);
    host.attest(&old_and_new).outcome.unwrap();

    let uncovered = failure(host.attest(&policy(FIRMWARE, vec![]))).to_string();
    assert!(uncovered.contains("PCRs 0,2,7 match no base image") && uncovered.contains("there is none"), "{uncovered}");
}

#[test]
fn a_policy_may_ask_for_the_maker_of_the_tpm() {
    let host = Host::booted(Log::of("ovmf"));
    let image = host.image("firmware", FIRMWARE);
    let strict = Policy { ek_certificate: true, ..policy(FIRMWARE, vec![image]) };
    let error = failure(host.attest(&strict));
    assert_eq!(error, Failure::EkWithoutCertificate(host.ak.ek().clone()));

    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let log = Log::of("ovmf");
    tpm.boot(&log);
    let mut cas = TpmCas::new();
    cas.add_root(&ca.root()).unwrap();
    cas.add_intermediate(&ca.intermediate()).unwrap();
    let ek = verify_certificate(&cas, &tpm.ek_certificate("rsa"), tpm.ek("rsa"), now()).unwrap();
    let ak = attest::ak::RestrictedAk::from_tpm2b(&tpm.ak("rsa", "ak", AK)).unwrap();
    let (challenge, blob) = Challenge::new(ek, ak).unwrap();
    let ak = challenge.confirm(&tpm.activate("rsa", "ak", &blob).unwrap(), now()).unwrap();
    let certified = Host { tpm, ak, ..host };
    let verdict = certified.attest(&strict);
    assert!(verdict.report.not_verified.contains(&Gap::EkRevocation));
    assert!(verdict.outcome.unwrap().ek_certified());

    let asked = certified.asked();
    let evidence = certified.evidence(&asked, &strict);
    let mut record = certified.ak.record();
    let EkProof::Certificate(certificate) = &mut record.ek_proof else { panic!("not by certificate") };
    certificate.not_after = now() - 1.hour();
    let outdated = ResidentAk::from_own_record(record).unwrap();
    let error = failure(appraise(&outdated, &asked, &evidence, &strict, now()));
    assert_eq!(error.code(), "ek-certificate-expired", "{error}");
}

#[test]
fn lines_of_grub_and_of_systemd_are_proven_and_sections_named() {
    let mut log = Log::of("secureboot");
    let line = "linux /vmlinuz root=/dev/sda1 ro";
    let wide: Vec<u8> = "extra=1\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    log.events.push(Log::event(8, EventType::IPL, format!("grub_cmd: {line}\0").as_bytes(), line.as_bytes()));
    log.events.push(Log::event(8, EventType::IPL, b"grub_cmd: harmless\0", b"harmful"));
    log.events.push(Log::event(9, EventType::IPL, b"(hd0,gpt1)/vmlinuz\0", b"a kernel"));
    log.events.push(Log::event(12, EventType::IPL, &wide, &wide));
    let host = Host::booted(log);
    let chain = BootChain::of(&host.verified(HashAlg::Sha256, &[4, 8, 9, 11, 12]));
    let sections: Vec<_> = chain
        .measured
        .iter()
        .filter_map(|measured| match measured {
            Measured::Section { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(sections, [".linux", ".osrel", ".cmdline", ".initrd"]);
    let texts: Vec<_> = chain
        .measured
        .iter()
        .filter_map(|measured| match measured {
            Measured::Line { pcr, about, text, .. } => Some((*pcr, about.as_str(), text.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(texts, [(8, "grub_cmd", line), (12, "", "extra=1")], "the line that was not measured is not believed");
    let others = chain.measured.iter().filter(|measured| matches!(measured, Measured::Other { .. })).count();
    assert_eq!(others, 2);
}

#[test]
fn the_startup_locality_is_what_pcr_0_begins_with() {
    let mut log = Log::of("ovmf");
    let from_0 = Host::booted(log.clone()).image("firmware", FIRMWARE);
    log.events.insert(0, Log::no_action(b"StartupLocality\0\x03"));
    let host = Host::booted_on(Tpm::started_from(3), log);
    host.attest(&policy(FIRMWARE, vec![host.image("firmware", FIRMWARE)])).outcome.unwrap();
    let error = failure(host.attest(&policy(FIRMWARE, vec![from_0]))).to_string();
    assert!(error.contains("by the same events: the TPM was started from another locality"), "{error}");
    let silent = Host { log: Log::of("ovmf"), ..host };
    let error = failure(silent.attest(&policy(FIRMWARE, vec![])));
    assert!(matches!(error, Failure::Log(LogError::Replay { pcr: 0, .. })), "{error}");
}

#[test]
fn evidence_travels_as_json() {
    let host = Host::booted(Log::of("seabios"));
    let policy = policy(&[0, 4], vec![host.image("bios", &[0, 4])]);
    let asked = host.asked();
    let json = serde_json::to_string(&host.evidence(&asked, &policy)).unwrap();
    let evidence: Evidence = serde_json::from_str(&json).unwrap();
    appraise(&host.ak, &asked, &evidence, &policy, now()).outcome.unwrap();
    EventLog::from_bytes(&evidence.event_log).unwrap();
}
