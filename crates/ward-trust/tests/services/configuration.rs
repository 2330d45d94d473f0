use serde_json::{Value, json};
use ward_trust::Error;
use ward_trust::api::{Applied, Health};
use ward_trust::client::Identity;
use ward_trust::configuration::{self, Configuration};
use ward_trust::key_provider::TrustSettings;
use ward_trust::signed::{AdminKey, Content, Signed};

use crate::scene::{Host, Second, attested, label};

/// A configuration that its administrators have signed by hand.
#[derive(serde::Serialize, serde::Deserialize)]
struct ByHand(Value);

impl Content for ByHand {
    const PURPOSE: &'static str = Configuration::PURPOSE;
}

fn payload(signed: &Signed) -> Value {
    serde_json::from_str(serde_json::to_value(signed).unwrap()["payload"].as_str().unwrap()).unwrap()
}

fn refused(result: Result<(), Error>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_by_one_signed_configuration() {
    let (authority, _server, keys, ..) = attested().await;
    let second = Second::new().await;
    let key = &second.key;
    let elsewhere = tempfile::tempdir().unwrap();
    let other_key = AdminKey::create(&elsewhere.path().join("other")).unwrap();
    for home in [authority.path(), keys.dir.path()] {
        configuration::set_signer(home, key.public()).await.unwrap();
    }
    let export = async |key| configuration::export(authority.path(), keys.dir.path(), key).await.unwrap();
    let old = export(key).await;

    assert!(refused(second.import(&old, None).await).contains("key is not known here"));
    let forged = export(&other_key).await;
    assert!(refused(second.import(&forged, Some(key)).await).contains("only"));
    second.import(&old, Some(key)).await.unwrap();
    assert!(refused(second.import(&forged, Some(&other_key)).await).contains("goes by"));
    assert_eq!(second.admin.images().await.unwrap(), authority.admin.images().await.unwrap());
    assert_eq!(second.admin.policies().await.unwrap(), authority.admin.policies().await.unwrap());
    assert_eq!(second.admin.eks().await.unwrap(), authority.admin.eks().await.unwrap());
    assert_eq!(second.keys.providers().await.unwrap(), keys.admin.providers().await.unwrap());
    assert_eq!(second.keys.issuers().await.unwrap(), keys.admin.issuers().await.unwrap());

    // A newer one takes its place, and the older one does not come back.
    let settings = keys.admin.settings().await.unwrap();
    let denying = TrustSettings { refuse_issued_before: Some(jiff::Timestamp::now()), ..settings };
    keys.admin.set_settings(&denying).await.unwrap();
    let new = export(key).await;
    second.import(&new, None).await.unwrap();
    assert_eq!(second.keys.settings().await.unwrap(), denying);
    assert!(refused(second.import(&old, None).await).contains("older"));
    // Doing it again mends what was left half done, or changed since.
    second.admin.remove_policy(&label("test")).await.unwrap();
    second.import(&new, None).await.unwrap();
    assert_eq!(second.admin.policies().await.unwrap().len(), 1);

    // Where there is nothing, nothing goes by it.
    let nowhere = elsewhere.path();
    let imported =
        configuration::import(&nowhere.join("a"), &nowhere.join("b"), &new, Some(key.public().clone())).await;
    assert!(matches!(imported, Err(Error::NotInitialized { .. })), "{imported:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serials_count_up_and_one_serial_is_one_configuration() {
    let (authority, _server, keys, host, _) = attested().await;
    let second = Second::new().await;
    let key = &second.key;
    let export = async || configuration::export(authority.path(), keys.dir.path(), key).await.unwrap();
    let serial = |signed: &Signed| payload(signed)["serial"].as_i64().unwrap();
    let first = export().await;
    let again = export().await;
    assert!(serial(&again) > serial(&first));
    // Of the same moment, or by a clock that was set back.
    second.import(&first, Some(key)).await.unwrap();
    let mut other = payload(&first);
    other["settings"]["token_seconds"] = json!(7);
    let twin = key.sign(&ByHand(other.clone())).unwrap();
    assert!(refused(second.import(&twin, None).await).contains("has the serial of the one"));
    second.import(&first, None).await.unwrap();
    let far = serial(&first) + 1_000_000_000;
    other["serial"] = json!(far);
    let ahead = key.sign(&ByHand(other)).unwrap();
    configuration::import(authority.path(), keys.dir.path(), &ahead, Some(key.public().clone())).await.unwrap();
    let goes_by = async || {
        let client = authority.client(&Identity::generate().unwrap()).await;
        client.call(Health {}).await.unwrap().configuration
    };
    assert_eq!(goes_by().await, Some(Applied { digest: ahead.digest(), serial: far }));
    assert_eq!(serial(&export().await), far + 1);
    // The descriptions' serials are their own.
    let described = authority.admin.next_description().await.unwrap();
    assert!(authority.admin.next_description().await.unwrap() > described);
    assert!(goes_by().await.is_some());

    // What changes nothing leaves it signed; what changes something does not.
    keys.admin.trust_issuer(&label("trust"), &authority.admin.description().await.unwrap().token_key).await.unwrap();
    authority.admin.remove_policy(&label("none")).await.unwrap_err();
    assert!(goes_by().await.is_some());
    let on_keys = keys.client(&host.identity).call(Health {}).await.unwrap();
    assert!(on_keys.configuration.is_some());
    authority.admin.remove_policy(&label("test")).await.unwrap();
    assert_eq!(goes_by().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_names_something_twice_changes_nothing_anywhere() {
    let (authority, _server, keys, ..) = attested().await;
    let ca = crate::tpm::Ca::new();
    let host = Host::on(crate::tpm::Tpm::certified_by(&ca), crate::common::Log::of("ovmf"));
    authority.admin.add_tpm_ca(&ca.root()).await.unwrap();
    authority.admin.import_ek(&host.ek.to_tpm2b(), &label("host-2")).await.unwrap();
    authority.admin.admit_host(&label("host-1")).await.unwrap();
    let second = Second::new().await;
    let export = async || configuration::export(authority.path(), keys.dir.path(), &second.key).await.unwrap();
    second.import(&export().await, Some(&second.key)).await.unwrap();
    let before = second.goes_by().await;
    authority.admin.remove_ek(&host.ek.name()).await.unwrap();
    let newer = payload(&export().await);
    for list in ["tpm_cas", "eks", "policies", "base_images", "decisions", "issuers", "providers"] {
        let mut twice = newer.clone();
        let one = twice[list][0].clone();
        assert!(!one.is_null(), "{list}");
        twice[list].as_array_mut().unwrap().push(one);
        let signed = second.key.sign(&ByHand(twice)).unwrap();
        let why = refused(second.import(&signed, None).await);
        assert!(why.contains("twice"), "{list}: {why}");
        assert_eq!(second.goes_by().await, before, "{list}");
    }
    // Nor does one that the second service could not go by, whichever is asked first.
    let mut unlikely = newer.clone();
    unlikely["providers"][0][1] = json!({});
    second.import(&second.key.sign(&ByHand(unlikely)).unwrap(), None).await.unwrap_err();
    assert_eq!(second.goes_by().await, before);
    second.import(&second.key.sign(&ByHand(newer)).unwrap(), None).await.unwrap();
    assert_ne!(second.goes_by().await, before);
}
