use attest::tpm::PcrMask;
use ward_trust::api::{Attest, Describe, EnrolAnswer};
use ward_trust::attestation::{PolicySettings, Settings};
use ward_trust::client::Identity;
use ward_types::Code;

use crate::common::Log;
use crate::scene::{Authority, Host, label};
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
    let borrowed = Attest { question: question.question, evidence: host.evidence(&question) };
    let problem = thief_client.call(borrowed).await.unwrap_err();
    assert!(problem.why.contains("[nonce-wrong]"), "{problem}");

    let unknown = Host::booted("seabios");
    let problem = unknown.attest(&authority, "test").await.unwrap_err();
    assert_eq!(problem.code, Code::NotFound);
    let problem = host.attest(&authority, "none").await.unwrap_err();
    assert!(problem.why.contains("no attestation policy `none`"), "{problem}");
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
