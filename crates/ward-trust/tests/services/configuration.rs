use ward_trust::key_provider::TrustSettings;
use ward_trust::signed::AdminKey;
use ward_trust::{attestation, configuration, key_provider};

use crate::scene::{Authority, Host, KeyProvider, KeyServer, label};

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_by_one_signed_configuration() {
    let host = Host::booted("ovmf");
    let authority = Authority::trusting(&host).await;
    let server = KeyServer::start().await;
    let keys = KeyProvider::new(&authority, &server).await;
    let dir = tempfile::tempdir().unwrap();
    let key = AdminKey::create(&dir.path().join("admin")).unwrap();
    let other_key = AdminKey::create(&dir.path().join("other")).unwrap();
    for home in [authority.path(), keys.dir.path()] {
        configuration::set_signer(home, key.public()).await.unwrap();
    }
    let old = configuration::export(authority.path(), keys.dir.path(), &key).await.unwrap();

    // Another instance of both.
    let (second, vault) = (dir.path().join("attestation"), dir.path().join("key-provider"));
    attestation::init(&second, &label("trust"), &[]).await.unwrap();
    key_provider::init(&vault, &label("trust"), &[]).await.unwrap();
    let import = async |signed, signer| configuration::import(&second, &vault, signed, signer).await;
    let refused = |error: ward_trust::Error| error.to_string();
    assert!(refused(import(&old, None).await.unwrap_err()).contains("key is not known here"));
    let forged = configuration::export(authority.path(), keys.dir.path(), &other_key).await.unwrap();
    assert!(refused(import(&forged, Some(key.public().clone())).await.unwrap_err()).contains("only"));
    import(&old, Some(key.public().clone())).await.unwrap();
    assert!(refused(import(&forged, Some(other_key.public().clone())).await.unwrap_err()).contains("goes by"));
    let admin = attestation::Admin::open(&second).await.unwrap();
    assert_eq!(admin.images().await.unwrap(), authority.admin.images().await.unwrap());
    assert_eq!(admin.policies().await.unwrap(), authority.admin.policies().await.unwrap());
    assert_eq!(admin.eks().await.unwrap(), authority.admin.eks().await.unwrap());
    let theirs = key_provider::Admin::open(&vault).await.unwrap();
    assert_eq!(theirs.providers().await.unwrap(), keys.admin.providers().await.unwrap());
    assert_eq!(theirs.issuers().await.unwrap(), keys.admin.issuers().await.unwrap());

    // A newer one takes its place, and the older one does not come back.
    let settings = keys.admin.settings().await.unwrap();
    let denying = TrustSettings { refuse_issued_before: Some(jiff::Timestamp::now()), ..settings };
    keys.admin.set_settings(&denying).await.unwrap();
    let new = configuration::export(authority.path(), keys.dir.path(), &key).await.unwrap();
    import(&new, None).await.unwrap();
    assert_eq!(theirs.settings().await.unwrap(), denying);
    assert!(refused(import(&old, None).await.unwrap_err()).contains("older"));
}
