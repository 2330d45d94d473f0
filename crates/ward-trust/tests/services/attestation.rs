use attest::tpm::PcrMask;
use ward_trust::api::{Attest, Describe, EnrolAnswer};
use ward_trust::attestation::{PolicySettings, Settings};
use ward_trust::client::Identity;
use ward_trust::configuration;
use ward_types::Code;

use crate::common::Log;
use crate::scene::{Authority, Host, KeyProvider, KeyServer, Second, label};
use crate::tpm::{Ca, Tpm};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_enrolled_attested_and_refused_once_it_boots_something_else() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let token = host.attest(&authority, "test").await.unwrap();
    assert!(token.report.failures.is_empty() && !token.report.not_verified.is_empty());

    // The same machine, its TPM reset, boots another image.
    let description = authority.client(&host.identity).await.call(Describe {}).await.unwrap();
    assert_eq!(description, authority.admin.description().await.unwrap());
    let tampered = Host::booted("unsigned");
    authority.admin.import_ek(&tampered.ek.to_tpm2b(), &label("host-2")).await.unwrap();
    assert!(tampered.enrol(&authority).await.unwrap().admitted);
    let problem = tampered.attest(&authority, "test").await.unwrap_err();
    assert_eq!(problem.code, Code::AttestationFailed);
    assert!(problem.why.contains("[base-image-unmatched]") && problem.why.contains("PCR 4: expected"), "{problem}");

    let hosts = authority.admin.hosts().await.unwrap();
    assert_eq!(hosts.iter().map(|host| host.label.as_str()).collect::<Vec<_>>(), ["host-1", "host-2"]);
    assert!(hosts[0].attested.is_some() && hosts[1].attested.is_none());
    assert_eq!(hosts[1].report.as_ref().unwrap().failures.len(), 1);
    // Remediated: what it has booted was wanted after all.
    authority.capture("host-2", "also-good").await;
    tampered.attest(&authority, "test").await.unwrap();

    let audit = authority.admin.audit(100).await.unwrap();
    let told: Vec<_> = audit.iter().map(|entry| (entry.host.as_str(), entry.operation.as_str())).collect();
    let (enrol, attest) = ("enrol", "attest");
    let first = [("host-1", enrol), ("host-1", attest), ("host-1", attest)];
    assert_eq!(told[..3], first);
    assert_eq!(told[3..], [("host-2", enrol), ("host-2", attest), ("host-2", attest)]);
    assert!(audit[4].result.starts_with("attestation.failed: [base-image-unmatched]"), "{}", audit[4].result);
    assert_eq!(audit[5].result, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn tpms_of_a_trusted_ca_wait_to_be_let_in() {
    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let certificate = tpm.ek_certificate("rsa");
    // As it lies in NV memory.
    let padded = [&certificate[..], &[0xff; 100]].concat();
    let host = Host { ek_certificate: Some(padded), ..Host::on(tpm, Log::of("ovmf")) };
    let authority = Authority::new().await;
    let refused = host.enrol(&authority).await.unwrap_err();
    assert_eq!(refused.code, Code::EnrolmentRefused);
    assert!(refused.why.contains("does not lead to a trusted TPM CA"), "{refused}");

    let error = authority.admin.add_tpm_ca(&ca.intermediate()).await.unwrap_err();
    assert!(error.to_string().contains("import the root first"), "{error}");
    let root = authority.admin.add_tpm_ca(&ca.root()).await.unwrap();
    authority.admin.add_tpm_ca(&ca.intermediate()).await.unwrap();
    let enrolled = host.enrol(&authority).await.unwrap();
    assert!(!enrolled.admitted);
    assert!(enrolled.host.as_str().starts_with("ek-"));

    let settings = PolicySettings { required: PcrMask::of([0]), secure_boot: false, ..PolicySettings::default() };
    authority.admin.set_policy(&label("test"), &settings).await.unwrap();
    let waits = host.attest(&authority, "test").await.unwrap_err();
    assert_eq!(waits.code, Code::HostNotAdmitted);
    assert!(waits.remedy.contains(enrolled.host.as_str()));
    authority.admin.admit_host(&enrolled.host).await.unwrap();
    let unmatched = host.attest(&authority, "test").await.unwrap_err();
    assert_eq!(unmatched.code, Code::AttestationFailed);
    // Whom an administrator let in stays in.
    assert!(host.enrol(&authority).await.unwrap().admitted);

    // A CA can't go while it is needed; once it is gone, its hosts are out.
    let error = authority.admin.remove_tpm_ca(&root.sha256).await.unwrap_err();
    assert!(error.to_string().contains("is needed"), "{error}");
    for ca in authority.admin.tpm_cas().await.unwrap().iter().rev() {
        authority.admin.remove_tpm_ca(&ca.sha256).await.unwrap();
    }
    let out = host.attest(&authority, "test").await.unwrap_err();
    assert_eq!(out.code, Code::EnrolmentRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_keys_are_trusted_only_where_they_may_be() {
    let (host, stranger) = (Host::booted("ovmf"), Host::booted("ovmf"));
    let authority = Authority::trusting(&host).await;
    let refused = stranger.enrol(&authority).await.unwrap_err();
    assert!(refused.why.contains("was not imported"), "{refused}");
    // The imported key, with an attestation key of another TPM: the credential does not open there.
    let client = authority.client(&stranger.identity).await;
    let mixed = ward_trust::api::Enrol { ek: host.ek.to_tpm2b(), ..stranger.enrolment() };
    let challenge = client.call(mixed).await.unwrap();
    stranger.tpm.activate("rsa", "ak", &challenge.credential).unwrap_err();
    let answer = EnrolAnswer { question: challenge.question, secret: vec![0; 32] };
    let problem = client.call(answer).await.unwrap_err();
    assert!(problem.why.contains("the credential was not activated"), "{problem}");

    let settings = Settings { bare_eks: false, ..authority.admin.settings().await.unwrap() };
    authority.admin.set_settings(&settings).await.unwrap();
    let out = host.attest(&authority, "test").await.unwrap_err();
    assert!(out.why.contains("keys without one are not accepted"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_once_and_from_whom_it_was_asked() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let client = authority.client(&host.identity).await;
    let question = client.call(host.ask("test")).await.unwrap();
    let answer = || Attest { question: question.question, evidence: host.evidence(&question) };

    let thief = Identity::generate().unwrap();
    let problem = authority.client(&thief).await.call(answer()).await.unwrap_err();
    assert!(problem.why.contains("no open question of this TLS session"), "{problem}");
    client.call(answer()).await.unwrap();
    let problem = client.call(answer()).await.unwrap_err();
    assert_eq!(problem.code, Code::TokenRefused, "a replayed answer");

    // A thief that asks himself, and has the good host's TPM quote his nonce: the host binds its own certificate.
    let thief_client = authority.client(&thief).await;
    let question = thief_client.call(host.ask("test")).await.unwrap();
    let stands = async || serde_json::to_value(authority.admin.hosts().await.unwrap()).unwrap();
    let before = stands().await;
    let borrowed = Attest { question: question.question, evidence: host.evidence(&question) };
    let problem = thief_client.call(borrowed).await.unwrap_err();
    assert!(problem.why.contains("[nonce-wrong]"), "{problem}");
    // Nor does it stain the good one: the refusal is in the log, as of nobody who has proven anything.
    assert_eq!(stands().await, before);
    let audit = authority.admin.audit(100).await.unwrap();
    let told: Vec<_> = audit.iter().map(|entry| (entry.proven, entry.result == "ok")).collect();
    assert_eq!(told[told.len() - 2..], [(true, true), (false, false)], "{audit:?}");

    let unknown = Host::booted("seabios");
    let problem = unknown.attest(&authority, "test").await.unwrap_err();
    assert_eq!(problem.code, Code::HostNotEnrolled);
    let problem = host.attest(&authority, "none").await.unwrap_err();
    assert_eq!(problem.code, Code::NotFound, "which is not for a host to mend by enrolling");
    assert!(problem.why.contains("no attestation policy `none`"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_too_late_is_refused() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let (name, settings) = authority.admin.policies().await.unwrap().remove(0);
    authority.admin.set_policy(&name, &PolicySettings { nonce_seconds: 1, ..settings }).await.unwrap();
    let client = authority.client(&host.identity).await;
    let question = client.call(host.ask(name.as_str())).await.unwrap();
    let asked = std::time::Instant::now();
    let answer = Attest { question: question.question, evidence: host.evidence(&question) };
    while asked.elapsed() <= std::time::Duration::from_secs(1) {
        tokio::task::yield_now().await;
    }
    let problem = client.call(answer).await.unwrap_err();
    assert_eq!(problem.code, Code::AttestationFailed);
    assert!(problem.why.contains("[nonce-stale]"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_can_t_make_a_policy_that_proves_nothing() {
    let authority = Authority::new().await;
    let refused =
        async |settings: PolicySettings| authority.admin.set_policy(&label("x"), &settings).await.unwrap_err();
    refused(PolicySettings { required: PcrMask::default(), ..PolicySettings::default() }).await;
    refused(PolicySettings { bank: attest::hash::HashAlg::Sha1, ..PolicySettings::default() }).await;
    refused(PolicySettings { nonce_seconds: 0, ..PolicySettings::default() }).await;
    let settings = authority.admin.settings().await.unwrap();
    authority.admin.set_settings(&Settings { token_seconds: 0, ..settings }).await.unwrap_err();

    // Without its root key the database is worth nothing.
    let key = authority.path().join("root.key");
    std::fs::write(&key, "00".repeat(32)).unwrap();
    let error = ward_trust::attestation::Admin::open(authority.path()).await.err().unwrap();
    assert!(error.to_string().contains("not the key that this database was sealed under"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_send_is_not_kept() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let junk = |length| Host { ek_certificate: Some(vec![7; length]), ..Host::booted("ovmf") };
    let long = junk((16 << 10) + 1);
    let refused = long.enrol(&authority).await.unwrap_err();
    assert_eq!(refused.code, Code::EnrolmentRefused);
    assert!(refused.why.contains("certificate is longer than 16384 bytes"), "{refused}");
    let endless = junk(1 << 20).enrol(&authority).await.unwrap_err();
    // It may end the connection before all of that is sent.
    assert!(endless.why.contains("HTTP status 413") || endless.code == Code::TrustUnreachable, "{endless}");
    // A key that was imported needs none, and what nobody has certified is thrown away.
    let other = junk(1000);
    authority.admin.import_ek(&other.ek.to_tpm2b(), &label("host-2")).await.unwrap();
    other.enrol(&authority).await.unwrap();
    assert_eq!(authority.kept_certificate("host-2").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_removed_stays_out_until_it_is_let_in_again() {
    let ca = Ca::new();
    let tpm = Tpm::certified_by(&ca);
    let certificate = Some([tpm.ek_certificate("rsa"), vec![0xff; 100]].concat());
    let host = Host { ek_certificate: certificate.clone(), ..Host::on(tpm, Log::of("ovmf")) };
    let authority = Authority::new().await;
    // By its key alone: that is trusted no longer.
    authority.admin.import_ek(&host.ek.to_tpm2b(), &label("host-1")).await.unwrap();
    assert!(host.enrol(&authority).await.unwrap().admitted);
    authority.admin.remove_host(&label("host-1")).await.unwrap();
    let settings = PolicySettings { required: PcrMask::of([0]), secure_boot: false, ..PolicySettings::default() };
    authority.admin.set_policy(&label("test"), &settings).await.unwrap();
    let attest = async || host.attest(&authority, "test").await.unwrap_err().code;
    assert_eq!(attest().await, Code::HostNotEnrolled);
    assert_eq!(host.enrol(&authority).await.unwrap_err().code, Code::EnrolmentRefused);

    // By a trusted CA, where every TPM of that is let in: this one is not.
    for der in [ca.root(), ca.intermediate()] {
        authority.admin.add_tpm_ca(&der).await.unwrap();
    }
    let settings = Settings { admit_by_hand: false, ..authority.admin.settings().await.unwrap() };
    authority.admin.set_settings(&settings).await.unwrap();
    let enrolled = host.enrol(&authority).await.unwrap();
    assert!(!enrolled.admitted);
    let kept = authority.kept_certificate(enrolled.host.as_str()).await;
    assert_eq!(
        kept.as_deref(),
        certificate.as_ref().map(|padded| &padded[..padded.len() - 100]),
        "without its padding"
    );
    assert_eq!(attest().await, Code::HostNotAdmitted);
    // Nor at another instance, where it was let in before.
    let server = KeyServer::start().await;
    let keys = KeyProvider::new(&authority, &server).await;
    let second = Second::new().await;
    let share = async || {
        let signed = configuration::export(authority.path(), keys.dir.path(), &second.key).await.unwrap();
        second.import(&signed, Some(&second.key)).await.unwrap();
        second.admin.decisions().await.unwrap()
    };
    assert_eq!(share().await, [(host.ek.name().to_string(), false)]);

    authority.admin.admit_host(&enrolled.host).await.unwrap();
    assert_eq!(attest().await, Code::AttestationFailed, "there is no base image, but it is let in");
    assert_eq!(share().await, [(host.ek.name().to_string(), true)]);
    authority.admin.remove_host(&enrolled.host).await.unwrap();
    assert!(!host.enrol(&authority).await.unwrap().admitted);
    // Whoever imports its key lets it in.
    authority.admin.import_ek(&host.ek.to_tpm2b(), &label("host-1")).await.unwrap();
    assert!(host.enrol(&authority).await.unwrap().admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_mainboard_takes_the_name_of_the_one_before() {
    let (old, new) = (Host::booted("ovmf"), Host::booted("ovmf"));
    let authority = Authority::trusting(&old).await;
    let refused = authority.admin.import_ek(&new.ek.to_tpm2b(), &label("host-1")).await.unwrap_err();
    assert!(refused.to_string().contains("already"), "{refused}");
    authority.admin.remove_ek(&old.ek.name()).await.unwrap();
    authority.admin.import_ek(&new.ek.to_tpm2b(), &label("host-1")).await.unwrap();
    assert_eq!(new.enrol(&authority).await.unwrap().host, label("host-1"));
    new.attest(&authority, "test").await.unwrap();
    let hosts = authority.admin.hosts().await.unwrap();
    assert_eq!(hosts.iter().map(|host| host.ek.clone()).collect::<Vec<_>>(), [new.ek.name().to_string()]);
    assert_eq!(old.attest(&authority, "test").await.unwrap_err().code, Code::HostNotEnrolled);
}
