//! What may be changed of a key and done with it, at versions old and new.
#![allow(clippy::unwrap_used)]

mod support;

use kmip::ProtocolVersion;
use kmip::SecretBytes;
use kmip::attribute::{Attribute, AttributeName, AttributeValue, Name, RevocationReason, UsageMask};
use kmip::client::{Client, ClientError, Filter};
use kmip::names::{
    BlockCipherMode, Operation, PaddingMethod, QueryFunction, ResultReason, RevocationReasonCode, State, Tag,
};
use kmip::object::KeyBlock;
use kmip::operation::*;
use kmip::ttlv::{Item, Value};
use support::Running;

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V1_2, ProtocolVersion::V1_4, ProtocolVersion::V2_1];

/// The reason of a refusal, as KMIP 1.4 has it.
fn reason<T>(result: Result<T, ClientError>) -> Option<ResultReason> {
    let error = result.err()?;
    let reason = error.result_reason().unwrap_or_else(|| panic!("{error}"));
    Some(reason.for_version(ProtocolVersion::V1_4))
}

async fn text(client: &Client, id: &str, name: &str) -> Vec<String> {
    let attributes = client.get_attributes(id, &[name.into()]).await.unwrap();
    attributes
        .into_iter()
        .map(|attribute| match attribute.value {
            AttributeValue::Custom(_, value) => value.as_text().unwrap().to_owned(),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn custom_attributes_are_added_changed_and_taken_away() {
    let server = Running::start().await;
    for version in VERSIONS {
        let client = server.client_at("alice", version);
        assert_eq!(client.version().await.unwrap(), version);
        let id = client.create_aes256(&[Attribute::custom_text("x-Component", "Host")]).await.unwrap().id;
        client.add_attribute(&id, Attribute::custom_text("x-Component", "Second")).await.unwrap();
        assert_eq!(text(&client, &id, "x-Component").await, ["Host", "Second"], "{version}");
        assert_eq!(
            client
                .locate(Filter {
                    maximum_items: None,
                    attributes: vec![Attribute::custom_text("x-Component", "Second"),]
                })
                .await
                .unwrap(),
            std::slice::from_ref(&id)
        );

        let second = || Attribute::custom_text("x-Component", "Second");
        let new = Attribute { index: Some(1), ..Attribute::custom_text("x-Component", "Changed") };
        client.modify_attribute(&id, Some(second()), new).await.unwrap();
        assert_eq!(text(&client, &id, "x-Component").await, ["Host", "Changed"], "{version}");
        client.delete_attribute(&id, "x-Component".into()).await.unwrap();
        // All of them in KMIP 2, the first before.
        let left = text(&client, &id, "x-Component").await;
        assert_eq!(left.len(), if version < ProtocolVersion::V2_0 { 1 } else { 0 }, "{version}");
        assert_eq!(reason(client.delete_attribute(&id, "x-None".into()).await), Some(ResultReason::ITEM_NOT_FOUND));
        assert_eq!(
            reason(client.delete_attribute(&id, AttributeName::STATE).await),
            Some(ResultReason::PERMISSION_DENIED)
        );
        client.destroy(&id).await.unwrap();
    }
    server.stop().await;
}

/// A name is free again once it was taken away or changed.
#[tokio::test]
async fn names_move() {
    let server = Running::start().await;
    let client = server.client_at("alice", ProtocolVersion::V2_1);
    let first = client.create_aes256(&[Attribute::name("a")]).await.unwrap().id;
    let second = client.create_aes256(&[]).await.unwrap().id;
    assert_eq!(reason(client.add_attribute(&second, Attribute::name("a")).await), Some(ResultReason::INVALID_FIELD));
    client.modify_attribute(&first, None, Attribute::name("b")).await.unwrap();
    client.add_attribute(&second, Attribute::name("a")).await.unwrap();
    assert_eq!(client.locate(Filter::by_name("a")).await.unwrap(), std::slice::from_ref(&second));
    assert_eq!(client.locate(Filter::by_name("b")).await.unwrap(), std::slice::from_ref(&first));
    // What could not be done changed nothing.
    assert!(client.modify_attribute(&first, None, Attribute::name("a")).await.is_err());
    assert_eq!(client.locate(Filter::by_name("b")).await.unwrap(), std::slice::from_ref(&first));
    client.delete_attribute(&first, AttributeName::NAME).await.unwrap();
    assert_eq!(client.locate(Filter::by_name("b")).await.unwrap(), [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn attributes_of_one_instance_are_set() {
    let server = Running::start().await;
    let client = server.client_at("alice", ProtocolVersion::V2_1);
    let id = client.create_aes256(&[]).await.unwrap().id;
    let set = async |value| {
        let (unique_identifier, attribute) = (Some(id.clone()), Attribute::new(value));
        client.request(RequestPayload::SetAttribute(SetAttributeRequest { unique_identifier, attribute })).await
    };
    for text in ["first", "second"] {
        set(AttributeValue::Description(text.into())).await.unwrap();
        let read = client.get_attributes(&id, &[AttributeName::DESCRIPTION]).await.unwrap();
        assert_eq!(read, [Attribute::new(AttributeValue::Description(text.into()))]);
    }
    set(AttributeValue::ActivationDate(1)).await.unwrap();
    assert_eq!(client.state(&id).await.unwrap(), State::ACTIVE);
    assert!(set(AttributeValue::State(State::DESTROYED)).await.is_err());
    assert!(set(AttributeValue::Name(Name::text("may have several"))).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn a_vendors_attributes_are_kept_whole() {
    let server = Running::start().await;
    let client = server.client_at("alice", ProtocolVersion::V2_1);
    let name = AttributeName::of_vendor("Example, Inc.", "Colour");
    let colour = |text: &str| {
        let value = kmip::attribute::CustomValue(Value::TextString(text.into()));
        Attribute::new(AttributeValue::Custom(name.clone(), value))
    };
    let id = client.create_aes256(&[colour("red")]).await.unwrap().id;
    client.add_attribute(&id, colour("blue")).await.unwrap();
    let read = client.get_attributes(&id, std::slice::from_ref(&name)).await.unwrap();
    assert_eq!(read, [colour("red"), colour("blue")]);
    // KMIP 1.x has no way to say it.
    let old = server.client_at("alice", ProtocolVersion::V1_4);
    assert!(!old.get_attribute_list(&id).await.unwrap().contains(&name));
    assert!(client.get_attribute_list(&id).await.unwrap().contains(&name));
    server.stop().await;
}

#[tokio::test]
async fn a_key_is_replaced_once_and_its_names_go_over() {
    let server = Running::start().await;
    for version in VERSIONS {
        let client = server.client_at("alice", version);
        let name = format!("key of {version}");
        let attributes = [Attribute::name(&name), Attribute::custom_text("x-Product", "Ward")];
        let old = client.create_aes256(&attributes).await.unwrap().id;
        client.activate(&old).await.unwrap();
        let new = client.rekey(&old).await.unwrap();
        assert_ne!(old, new);
        assert!(client.get_key(&old).await.unwrap() != client.get_key(&new).await.unwrap());
        assert_eq!(client.locate(Filter::by_name(&name)).await.unwrap(), std::slice::from_ref(&new));
        assert_eq!(client.state(&new).await.unwrap(), State::ACTIVE);
        assert_eq!(text(&client, &new, "x-Product").await, ["Ward"]);
        for (id, other) in [(&old, &new), (&new, &old)] {
            let links = client.get_attributes(id, &[AttributeName::LINK]).await.unwrap();
            assert!(format!("{links:?}").contains(other.as_str()), "{links:?}");
        }
        assert_eq!(reason(client.rekey(&old).await), Some(ResultReason::PERMISSION_DENIED));
        client.rekey(&new).await.unwrap();
    }
    server.stop().await;
}

fn gcm() -> CryptographicParameters {
    CryptographicParameters { block_cipher_mode: Some(BlockCipherMode::GCM), ..CryptographicParameters::default() }
}

fn encrypt(id: &str, parameters: CryptographicParameters, data: &[u8]) -> EncryptRequest {
    EncryptRequest {
        unique_identifier: Some(id.to_owned()),
        parameters: Some(parameters),
        data: Some(SecretBytes::copy_of(data)),
        ..EncryptRequest::default()
    }
}

/// What a trust authority does with its primary key: wrap, and unwrap again, for as long as the key is there.
#[tokio::test]
async fn a_key_that_never_leaves_wraps_others() {
    let server = Running::start().await;
    for version in [ProtocolVersion::V1_4, ProtocolVersion::V2_1] {
        let client = server.client_at("alice", version);
        let id = client.create_aes256(&[Attribute::new(AttributeValue::Extractable(false))]).await.unwrap().id;
        let kek = [0xA5; 32];
        let wrap = || EncryptRequest { additional_data: Some(b"provider".to_vec()), ..encrypt(&id, gcm(), &kek) };
        assert_eq!(reason(client.encrypt(wrap()).await), Some(ResultReason::PERMISSION_DENIED), "not active yet");
        client.activate(&id).await.unwrap();
        assert_eq!(reason(client.get_key(&id).await), Some(ResultReason::NOT_EXTRACTABLE));

        let wrapped = client.encrypt(wrap()).await.unwrap();
        let unwrap = || DecryptRequest {
            unique_identifier: Some(id.clone()),
            parameters: Some(gcm()),
            data: wrapped.data.as_ref().map(|data| SecretBytes::copy_of(data.expose())),
            iv_counter_nonce: wrapped.iv_counter_nonce.clone(),
            additional_data: Some(b"provider".to_vec()),
            authentication_tag: wrapped.authentication_tag.clone(),
            ..DecryptRequest::default()
        };
        assert!(wrapped.data.as_ref().is_some_and(|data| data.expose() != kek));
        assert_eq!(client.decrypt(unwrap()).await.unwrap().data.unwrap().expose(), kek);
        let another = DecryptRequest { additional_data: Some(b"another".to_vec()), ..unwrap() };
        assert_eq!(reason(client.decrypt(another).await), Some(ResultReason::CRYPTOGRAPHIC_FAILURE));
        // Two wraps of the same are not the same.
        assert_ne!(client.encrypt(wrap()).await.unwrap().iv_counter_nonce, wrapped.iv_counter_nonce);

        // A key that is taken out of use still opens what it closed; nobody else's does.
        let code = RevocationReasonCode::CESSATION_OF_OPERATION;
        client.revoke(&id, RevocationReason { code, message: None }, None).await.unwrap();
        assert_eq!(reason(client.encrypt(wrap()).await), Some(ResultReason::PERMISSION_DENIED));
        assert_eq!(client.decrypt(unwrap()).await.unwrap().data.unwrap().expose(), kek);
        let mallory = server.client_at("mallory", version);
        assert_eq!(reason(mallory.decrypt(unwrap()).await), Some(ResultReason::ITEM_NOT_FOUND));
        client.destroy(&id).await.unwrap();
        assert_eq!(reason(client.decrypt(unwrap()).await), Some(ResultReason::ITEM_NOT_FOUND));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_key_says_how_it_is_used() {
    let server = Running::start().await;
    let client = server.client_at("alice", ProtocolVersion::V1_2);
    let parameters = CryptographicParameters {
        block_cipher_mode: Some(BlockCipherMode::CBC),
        padding_method: Some(PaddingMethod::PKCS5),
        random_iv: Some(true),
        ..CryptographicParameters::default()
    };
    let active = Attribute::new(AttributeValue::ActivationDate(1));
    let id = client.create_aes256(&[parameters.to_attribute(), active.clone()]).await.unwrap().id;
    let request = EncryptRequest { parameters: None, ..encrypt(&id, gcm(), b"seven") };
    let sealed = client.encrypt(request).await.unwrap();
    let opened = client
        .decrypt(DecryptRequest {
            unique_identifier: Some(id.clone()),
            data: sealed.data,
            iv_counter_nonce: sealed.iv_counter_nonce,
            ..DecryptRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(opened.data.unwrap().expose(), b"seven");

    // Without any, a mode is not guessed.
    let bare = client.create_aes256(std::slice::from_ref(&active)).await.unwrap().id;
    let guess = EncryptRequest { parameters: None, ..encrypt(&bare, gcm(), b"seven") };
    assert_eq!(reason(client.encrypt(guess).await), Some(ResultReason::INVALID_FIELD));
    let stream = EncryptRequest { init_indicator: Some(true), ..encrypt(&bare, gcm(), b"seven") };
    let newer = server.client_at("alice", ProtocolVersion::V1_4);
    assert_eq!(reason(newer.encrypt(stream).await), Some(ResultReason::FEATURE_NOT_SUPPORTED));

    // Nor does a key do what it isn't for.
    let block = KeyBlock::raw_aes(SecretBytes::copy_of(&[7; 32])).unwrap();
    let usage = Attribute::new(AttributeValue::CryptographicUsageMask(UsageMask::DECRYPT));
    let only_decrypts = client.register_key(block, vec![usage, active]).await.unwrap();
    let refused = newer.encrypt(encrypt(&only_decrypts, gcm(), b"seven")).await;
    assert_eq!(reason(refused), Some(ResultReason::PERMISSION_DENIED));
    server.stop().await;
}

#[tokio::test]
async fn a_use_is_checked_before_it_is_tried() {
    let server = Running::start().await;
    for version in VERSIONS {
        let client = server.client_at("alice", version);
        let id = client.create_aes256(&[]).await.unwrap().id;
        let check = async |mask| {
            let request = CheckRequest {
                unique_identifier: Some(id.clone()),
                cryptographic_usage_mask: Some(mask),
                ..CheckRequest::default()
            };
            client.request(RequestPayload::Check(request)).await
        };
        let allowed = CheckResponse { unique_identifier: Some(id.clone()), ..CheckResponse::default() };
        assert_eq!(check(UsageMask::ENCRYPT).await.unwrap(), ResponsePayload::Check(allowed));
        let denied = check(UsageMask::WRAP_KEY).await;
        if version < ProtocolVersion::V2_0 {
            let told =
                CheckResponse { cryptographic_usage_mask: Some(UsageMask::WRAP_KEY), ..CheckResponse::default() };
            assert_eq!(denied.unwrap(), ResponsePayload::Check(told));
        } else {
            let reason = denied.unwrap_err().result_reason();
            assert_eq!(reason, Some(ResultReason::INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK));
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_server_tells_what_it_can_do() {
    let server = Running::start().await;
    for version in [ProtocolVersion::V1_3, ProtocolVersion::V1_4, ProtocolVersion::V2_0, ProtocolVersion::V2_1] {
        let client = server.client_at("alice", version);
        let functions =
            vec![QueryFunction::QUERY_OPERATIONS, QueryFunction::QUERY_PROFILES, QueryFunction::QUERY_CAPABILITIES];
        let answer = client.request(RequestPayload::Query(QueryRequest { functions })).await.unwrap();
        let ResponsePayload::Query(answer) = answer else { panic!("{answer:?}") };
        let new = version >= ProtocolVersion::V2_0;
        assert_eq!(answer.operations.contains(&Operation::SET_ATTRIBUTE), new);
        assert!(answer.operations.contains(&Operation::ENCRYPT));
        let tags: Vec<_> = answer.more.iter().map(|item: &Item| item.tag).collect();
        assert_eq!(tags, [Tag::PROFILE_INFORMATION, Tag::CAPABILITY_INFORMATION]);
    }
    let versions = server.client_at("alice", ProtocolVersion::V2_1).discover().await.unwrap();
    assert_eq!(versions, ProtocolVersion::SUPPORTED);
    server.stop().await;
}
