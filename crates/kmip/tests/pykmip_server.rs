//! Our client against PyKMIP's server.
#![allow(clippy::unwrap_used)]

mod support;

use kmip::attribute::{Attribute, AttributeName, AttributeValue, RevocationReason};
use kmip::client::{Client, ClientConfig, ClientError, Filter};
use kmip::names::{BlockCipherMode, CryptographicAlgorithm, Operation, ResultReason, RevocationReasonCode, State};
use kmip::operation::{CryptographicParameters, DecryptRequest, EncryptRequest};
use kmip::{ProtocolVersion, SecretBytes};
use support::pki::Identity;
use support::pykmip::PyKmip;

fn config(server: &PyKmip, client: &Identity) -> ClientConfig {
    ClientConfig::new(
        "127.0.0.1",
        server.port,
        server.authority.pem.as_bytes(),
        client.certificate.as_bytes(),
        client.key.as_bytes(),
    )
    .unwrap()
}

fn client(server: &PyKmip) -> Client {
    Client::new(config(server, &server.authority.client("alice")))
}

fn ended() -> RevocationReason {
    RevocationReason { code: RevocationReasonCode::CESSATION_OF_OPERATION, message: Some("test".into()) }
}

/// All that both speak.
const VERSIONS: [ProtocolVersion; 5] =
    [ProtocolVersion::V1_1, ProtocolVersion::V1_2, ProtocolVersion::V1_3, ProtocolVersion::V1_4, ProtocolVersion::V2_0];

/// A key that stays at the server wraps another.
#[tokio::test]
async fn encrypting_with_a_key_that_stays() {
    let server = PyKmip::start();
    let alice = server.authority.client("alice");
    for version in [ProtocolVersion::V1_4, ProtocolVersion::V2_0] {
        let client = Client::new(config(&server, &alice).with_highest_version(version));
        let id = client.create_aes256(&[]).await.unwrap().id;
        client.activate(&id).await.unwrap();
        let parameters = || {
            Some(CryptographicParameters {
                block_cipher_mode: Some(BlockCipherMode::GCM),
                cryptographic_algorithm: Some(CryptographicAlgorithm::AES),
                tag_length: Some(16),
                ..CryptographicParameters::default()
            })
        };
        let kek = [0xA5; 32];
        let sealed = client
            .encrypt(EncryptRequest {
                unique_identifier: Some(id.clone()),
                parameters: parameters(),
                data: Some(SecretBytes::copy_of(&kek)),
                iv_counter_nonce: Some(vec![7; 12]),
                additional_data: Some(b"provider".to_vec()),
                ..EncryptRequest::default()
            })
            .await
            .unwrap();
        let open = async |additional_data: &[u8]| {
            let request = DecryptRequest {
                unique_identifier: Some(id.clone()),
                parameters: parameters(),
                data: sealed.data.as_ref().map(|data| SecretBytes::copy_of(data.expose())),
                iv_counter_nonce: Some(vec![7; 12]),
                additional_data: Some(additional_data.to_vec()),
                authentication_tag: sealed.authentication_tag.clone(),
                ..DecryptRequest::default()
            };
            client.decrypt(request).await
        };
        assert_eq!(open(b"provider").await.unwrap().data.unwrap().expose(), kek, "{version}");
        assert!(open(b"another").await.is_err(), "{version}");
    }
}

/// A key's whole life, at every version.
#[tokio::test]
async fn a_keys_life_at_every_version() {
    let server = PyKmip::start();
    let alice = server.authority.client("alice");
    for version in VERSIONS {
        let client = Client::new(config(&server, &alice).with_highest_version(version));
        assert_eq!(client.version().await.unwrap(), version);
        let name = format!("key at {version}");

        let created = client.create_aes256(&[Attribute::name(&name)]).await.unwrap();
        assert_eq!(created.refused_attributes, []);
        let id = created.id;
        assert_eq!(client.state(&id).await.unwrap(), State::PRE_ACTIVE);
        client.activate(&id).await.unwrap();
        assert_eq!(client.state(&id).await.unwrap(), State::ACTIVE);

        let key = client.get_key(&id).await.unwrap();
        assert_eq!(key.len(), 32);
        assert!(key.expose().iter().any(|byte| *byte != 0));
        assert!(client.get_key(&id).await.unwrap() == key);

        assert_eq!(client.locate(Filter::by_name(&name)).await.unwrap(), std::slice::from_ref(&id));
        assert_eq!(client.locate(Filter::by_state(State::ACTIVE)).await.unwrap(), std::slice::from_ref(&id));
        let attributes = client.get_attributes(&id, &[AttributeName::NAME]).await.unwrap();
        assert!(
            matches!(&attributes[..], [Attribute { value: AttributeValue::Name(found), .. }] if found.value == name)
        );
        assert!(client.get_attribute_list(&id).await.unwrap().contains(&AttributeName::STATE));

        let error = client.destroy(&id).await.unwrap_err();
        assert_eq!(error.result_reason(), Some(ResultReason::PERMISSION_DENIED), "{error}");
        client.revoke(&id, ended(), None).await.unwrap();
        assert_eq!(client.state(&id).await.unwrap(), State::DEACTIVATED);
        client.destroy(&id).await.unwrap();
        let error = client.get_key(&id).await.err().unwrap();
        assert_eq!(error.result_reason(), Some(ResultReason::ITEM_NOT_FOUND), "{error}");
    }
}

#[tokio::test]
async fn a_server_without_custom_attributes_still_makes_the_key() {
    let server = PyKmip::start();
    let client = client(&server);
    let asked =
        [Attribute::name("tagged"), Attribute::custom_text("x-Product", "Ward"), Attribute::custom_text("x-VM", "a")];
    let created = client.create_aes256(&asked).await.unwrap();
    assert_eq!(created.refused_attributes, [AttributeName::from("x-Product"), AttributeName::from("x-VM")]);
    assert_eq!(client.get_key(&created.id).await.unwrap().len(), 32);
    // One key and not two, and the name that the server does take is on it.
    assert_eq!(client.locate(Filter::by_name("tagged")).await.unwrap(), std::slice::from_ref(&created.id));
    assert_eq!(client.locate(Filter::default()).await.unwrap(), [created.id]);
}

#[tokio::test]
async fn what_the_server_is() {
    let server = PyKmip::start();
    let client = client(&server);
    let versions = client.discover().await.unwrap();
    assert!(versions.contains(&ProtocolVersion::V1_1) && versions.contains(&ProtocolVersion::V1_4), "{versions:?}");
    let information = client.query().await.unwrap();
    assert!(information.vendor.unwrap().contains("PyKMIP"));
    assert!(information.operations.contains(&Operation::CREATE));
    assert!(!information.operations.contains(&Operation::ADD_ATTRIBUTE));
}

#[tokio::test]
async fn a_key_that_is_not_there() {
    let server = PyKmip::start();
    let client = client(&server);
    match client.get_key("4711").await.err().unwrap() {
        ClientError::Server { operation: Operation::GET, reason: ResultReason::ITEM_NOT_FOUND, message, .. } => {
            assert!(message.contains("4711"), "{message}");
        }
        other => panic!("{other}"),
    }
    // The connection is as good as before.
    client.create_aes256(&[]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_back() {
    let mut server = PyKmip::start();
    let client = client(&server);
    let id = client.create_aes256(&[]).await.unwrap().id;
    server.restart();
    assert_eq!(client.get_key(&id).await.unwrap().len(), 32);
    server.restart();
    // That the server had hung up was there to be seen before anything was sent.
    client.activate(&id).await.unwrap();

    server.stop();
    match client.get_key(&id).await.err().unwrap() {
        error @ ClientError::Unreachable { .. } => assert!(error.is_server_unavailable()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_clients_certificate() {
    let server = PyKmip::start();
    let stranger = support::pki::Authority::new("another authority").client("alice");
    for identity in [stranger, server.authority.expired_client("alice")] {
        let error = Client::new(config(&server, &identity)).version().await.unwrap_err();
        match &error {
            ClientError::Tls { fault, .. } => assert!(fault.is_about_client_certificate(), "{error}"),
            other => panic!("{other}"),
        }
    }
}

/// Many keys in few messages; what is refused of one is told of that one.
#[tokio::test]
async fn many_keys_at_once() {
    let server = PyKmip::start();
    let client = client(&server);
    let mut ids = Vec::new();
    for _ in 0..70 {
        ids.push(client.create_aes256(&[]).await.unwrap().id);
    }
    client.activate(&ids[3]).await.unwrap();
    let mut asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    asked.insert(10, "no-such-key");
    let keys = client.get_keys(&asked).await.unwrap();
    let states = client.states(&asked).await.unwrap();
    assert_eq!((keys.len(), states.len()), (71, 71));
    for (n, (key, state)) in keys.iter().zip(&states).enumerate() {
        match n {
            10 => {
                assert_eq!(key.as_ref().err().unwrap().result_reason(), Some(ResultReason::ITEM_NOT_FOUND));
                assert!(state.is_err());
            }
            _ => {
                let alone = client.get_key(asked[n]).await.unwrap();
                assert_eq!(key.as_ref().unwrap().expose(), alone.expose());
                let wanted = if n == 3 { State::ACTIVE } else { State::PRE_ACTIVE };
                assert_eq!(*state.as_ref().unwrap(), wanted);
            }
        }
    }
}
