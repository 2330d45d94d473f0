//! What the trust administrators say by their commands, on a whole system whose key server is PyKMIP's. The host is one whose
//! TPM no maker has certified: it is trusted by its key alone.

use std::fs;

use attest::appraisal::Report;
use attest::image::{BaseImage, Mode};
use attest::label::Label;
use attest::log::EventType;
use attest::token::TokenPublicKey;
use kmip::attribute::{Attribute, AttributeValue, UsageMask};
use kmip::client::Client;
use kmip::names::{CryptographicAlgorithm, ObjectType};
use kmip::operation::{CreateRequest, RequestPayload, ResponsePayload};
use serde_json::Value;
use ward_controller::api::types::{TrustServiceView, TrustState, TrustedHostView, VmView};
use ward_types::{Code, Power, Problem};

use crate::authority::{Authority, Machine, blocking, command, import, join, remediate};
use crate::common::Log;
use crate::support::{System, eventually, text};

const POLICY: &str = "VM Encryption Policy";

/// Why the host gets no key.
fn kept_out(system: &System, code: Code, why: &str) -> Problem {
    let view = remediate(system, "h0");
    assert_eq!(view.state, TrustState::NotAttested, "{view:?}");
    let trouble = view.trouble.unwrap();
    assert_eq!(trouble.code, code, "{trouble:?}");
    assert!(trouble.why.contains(why), "{trouble:?}");
    trouble
}

fn let_in(system: &System) -> TrustedHostView {
    let view = remediate(system, "h0");
    assert_eq!(view.state, TrustState::Healthy, "{view:?}");
    view
}

fn services(system: &System) -> Vec<TrustServiceView> {
    let status: Value = system.json(&["trust", "status"]);
    serde_json::from_value(status["services"].clone()).unwrap()
}

/// What the attestation service found last.
fn report(authority: &Authority) -> Report {
    let shown: Value = authority.json(&["host", "show", "h1"]);
    serde_json::from_value(shown["report"].clone()).unwrap()
}

/// A key that may do nothing but be fetched.
async fn make_key_to_fetch(client: Client) -> String {
    let attributes = [
        AttributeValue::CryptographicAlgorithm(CryptographicAlgorithm::AES),
        AttributeValue::CryptographicLength(256),
        AttributeValue::CryptographicUsageMask(UsageMask::EXPORT),
    ];
    let attributes = attributes.into_iter().map(Attribute::new).collect();
    let request = CreateRequest { object_type: ObjectType::SYMMETRIC_KEY, templates: vec![], attributes };
    let ResponsePayload::Create(made) = client.request(RequestPayload::Create(request)).await.unwrap() else {
        panic!()
    };
    client.activate(&made.unique_identifier).await.unwrap();
    made.unique_identifier
}

#[test]
fn what_the_administrators_say_counts_and_what_they_take_back_does_not() {
    let machine = Machine::booted();
    let mut authority = Authority::on_pykmip(&machine);
    let ek = authority.path("h1.ek");
    command(&["trust", "ek", "export", "--tpm", &machine.tpm.tcti(), "--out", text(&ek)]);
    let mut system = System::start(0);
    join(&mut system, "default", &machine, &authority);
    import(&system, &authority);

    // The CAs of TPM makers: root first in, last out.
    let cas: Value = authority.json(&["tpm-ca", "ls"]);
    let [root, issuer] = [0, 1].map(|number| cas[number]["sha256"].as_str().unwrap());
    assert_eq!((&cas[0]["root"], &cas[1]["root"]), (&Value::Bool(true), &Value::Bool(false)));
    authority.refused(Code::InUse, &["tpm-ca", "rm", root]);
    authority.trust(&["tpm-ca", "rm", issuer]);
    authority.trust(&["tpm-ca", "rm", root]);
    authority.refused(Code::NotFound, &["tpm-ca", "rm", root]);
    assert_eq!(authority.json::<Value>(&["tpm-ca", "ls"]), Value::Array(vec![]));
    // It had enrolled by its certificate, perhaps, and that counts no more.
    kept_out(&system, Code::EnrolmentRefused, "");

    // A bare key, where the policy takes one.
    authority.trust(&["ek", "import", text(&ek), "--name", "h1"]);
    let eks: Vec<(String, String)> = authority.json(&["ek", "ls"]);
    let [(name, _)] = &eks[..] else { panic!("{eks:?}") };
    kept_out(&system, Code::AttestationFailed, "[ek-without-certificate]");
    authority.trust(&["policy", "set", "other", "--pcrs", "0,7", "--bank", "sha384"]);
    authority.trust(&["policy", "set", "default", "--bare-eks"]);
    let policies = authority.trust(&["policy", "ls"]);
    assert!(policies.contains("other") && policies.contains("sha384"), "{policies}");
    authority.trust(&["policy", "rm", "other"]);
    authority.refused(Code::NotFound, &["policy", "rm", "other"]);
    assert!(!authority.trust(&["policy", "ls"]).contains("other"));
    kept_out(&system, Code::AttestationFailed, "[base-image-unmatched]");

    // A base image as a dry run has no say; taken in without that it has.
    let file = authority.path("good.json");
    let capture = |image: &str, further: &[&str]| {
        authority.trust(&[&["base-image", "capture", "h1", "--image", image, "--version", "1"], further].concat());
    };
    capture("good", &["--dry-run", "--out", text(&file)]);
    let images = || authority.json::<Vec<BaseImage>>(&["base-image", "ls"]);
    assert_eq!(images().iter().map(BaseImage::mode).collect::<Vec<_>>(), [Mode::DryRun]);
    kept_out(&system, Code::AttestationFailed, "[base-image-unmatched]");
    let shown = authority.trust(&["host", "show", "h1"]);
    assert!(shown.contains("base image good/1 is a dry run; it would match"), "{shown}");
    authority.trust(&["base-image", "import", text(&file)]);
    assert_eq!(images().iter().map(BaseImage::mode).collect::<Vec<_>>(), [Mode::Enforce]);
    let_in(&system);
    authority.trust(&["base-image", "import", text(&file), "--dry-run"]);
    kept_out(&system, Code::AttestationFailed, "[base-image-unmatched]");
    // Nor has one before its time or after it.
    capture("later", &["--from", "2100-01-01T00:00:00Z"]);
    capture("earlier", &["--from", "2020-01-01T00:00:00Z", "--until", "2021-01-01T00:00:00Z"]);
    kept_out(&system, Code::AttestationFailed, "[base-image-unmatched]");
    let shown = authority.trust(&["host", "show", "h1"]);
    for said in ["is valid only from 2100-01-01", "was valid until 2021-01-01"] {
        assert!(shown.contains(said), "{shown}");
    }
    for image in ["later", "earlier"] {
        authority.trust(&["base-image", "rm", image, "1"]);
    }
    authority.refused(Code::NotFound, &["base-image", "rm", "later", "1"]);
    authority.trust(&["base-image", "import", text(&file)]);
    let_in(&system);

    // An update: what a dry run of the old one tells of it, and the new one beside it.
    let mut updated = Log::of("secureboot");
    let command = b"grub_cmd: linux /vmlinuz-2";
    updated.events.push(Log::event(8, EventType::IPL, command, command));
    machine.boots(&updated);
    let trouble = kept_out(&system, Code::AttestationFailed, "PCR 8");
    authority.trust(&["base-image", "import", text(&file), "--dry-run"]);
    let told = kept_out(&system, Code::AttestationFailed, "[base-image-unmatched]");
    assert_ne!(told.why, trouble.why, "a dry run is no reason");
    let [image] = &report(&authority).images[..] else { panic!() };
    assert!(!image.matches() && image.to_string().contains("it would have failed: PCR 8"), "{image}");
    capture("updated", &[]);
    let_in(&system);
    authority.trust(&["base-image", "import", text(&file)]);
    machine.boots(&machine.log);
    let_in(&system);

    // Nobody has signed that yet.
    let states = |state| {
        eventually("the services' states", || services(&system).iter().all(|it| it.state == state).then_some(()))
    };
    states(TrustState::NotSigned);
    authority.share();
    states(TrustState::Healthy);
    // Setting up again changes nothing of it.
    authority.trust(&["init"]);
    states(TrustState::Healthy);

    // It is the default provider: a storage policy encrypts with it, and so does a vTPM.
    system.plain_vm("web-1");
    system.ward(&["vm", "set-policy", "web-1", "--home", POLICY, "--all-disks", POLICY]);
    let created = ["vm", "create", "web-2", "--size", "1M", "--memory", "64", "--firmware", "uefi", "--tpm"];
    system.ward(&created);
    for name in ["web-1", "web-2"] {
        let vm: VmView = system.json(&["vm", "show", name]);
        assert!(vm.encrypted && vm.keys.iter().all(|key| key.provider.as_str() == "vault"), "{vm:?}");
        system.ward(&["vm", "start", name]);
        assert_eq!(system.json::<VmView>(&["vm", "show", name]).power, Power::On);
        system.ward(&["vm", "stop", name, "--force"]);
    }

    // A primary key that may not encrypt is fetched. One that is in use is not replaced by mistake.
    let fetched = blocking(make_key_to_fetch(authority.key_server()));
    let added = authority.add_provider(0, "safe", &["--primary-key", &fetched]);
    assert!(added.contains("in memory here"), "{added}");
    let problem = authority.provider_refused(Code::Exists, "safe", &["--make"]);
    assert!(problem.why.contains(&fetched), "{problem:?}");

    // Tokens: whose are taken, and from when on.
    let vm_starts = || {
        system.ward(&["vm", "start", "web-1"]);
        system.ward(&["vm", "stop", "web-1", "--force"]);
    };
    let issuers: Vec<(Label, TokenPublicKey)> = authority.json(&["issuer", "ls"]);
    let [(_, key)] = &issuers[..] else { panic!("{issuers:?}") };
    let token_key = authority.path("token.pub");
    fs::write(&token_key, authority.trust(&["token-key"])).unwrap();
    authority.trust(&["issuer", "rm", &key.id()]);
    authority.refused(Code::NotFound, &["issuer", "rm", &key.id()]);
    kept_out(&system, Code::TokenRefused, "");
    system.refused(Code::TokenRefused, &["vm", "start", "web-1"]);
    authority.trust(&["issuer", "add", text(&token_key)]);
    let_in(&system);
    vm_starts();
    authority.trust(&["deny-before", "2100-01-01T00:00:00Z"]);
    kept_out(&system, Code::TokenRefused, "[token-before-cut-off]");
    system.refused(Code::TokenRefused, &["vm", "start", "web-1"]);
    authority.trust(&["deny-before", "never"]);
    let_in(&system);
    vm_starts();

    // A provider that is removed opens nothing, and opens all again once its primary key is named.
    let primary = authority.primary_key();
    authority.trust(&["provider", "rm", "vault"]);
    authority.refused(Code::NotFound, &["provider", "rm", "vault"]);
    machine.tamper();
    kept_out(&system, Code::AttestationFailed, "PCR 4");
    machine.tpm.reboot(&machine.log);
    let_in(&system);
    system.refused_any(&["vm", "start", "web-1"]);
    authority.add_provider(0, "vault", &["--primary-key", &primary]);
    vm_starts();

    // A newer description; the older one does not come back.
    authority.describe("newer.json");
    let describe = |file: &str| {
        [
            "trust".to_owned(),
            "import-description".to_owned(),
            "vault".to_owned(),
            text(&authority.path(file)).to_owned(),
        ]
    };
    let newer = describe("newer.json");
    system.ward(&newer.each_ref().map(String::as_str));
    let older = describe("services.json");
    let problem = system.refused_any(&older.each_ref().map(String::as_str));
    assert!(problem.why.contains("older"), "{problem:?}");
    eventually("the host goes by it", || {
        let view = remediate(&system, "h0");
        (view.state == TrustState::Healthy && view.applied == view.desired).then_some(())
    });

    // A host that is removed stays out, though its agent tries; one whose key is trusted no longer too.
    authority.trust(&["host", "rm", "h1"]);
    authority.refused(Code::NotFound, &["ek", "rm", name]);
    kept_out(&system, Code::EnrolmentRefused, "");
    system.refused(Code::EnrolmentRefused, &["vm", "start", "web-1"]);
    authority.trust(&["ek", "import", text(&ek), "--name", "h1"]);
    let_in(&system);
    authority.trust(&["ek", "rm", name]);
    kept_out(&system, Code::EnrolmentRefused, "");
}
