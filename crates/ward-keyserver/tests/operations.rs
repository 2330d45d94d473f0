//! What clients may ask and what they are told.
#![allow(clippy::unwrap_used)]

mod support;

use kmip::ProtocolVersion;
use kmip::SecretBytes;
use kmip::attribute::{Attribute, AttributeName, AttributeValue, CustomValue, RevocationReason};
use kmip::client::{ClientError, Filter};
use kmip::names::{ObjectType, Operation, ResultReason, RevocationReasonCode, State};
use kmip::object::{KeyBlock, ManagedObject};
use kmip::operation::{
    ActivateRequest, CreateRequest, DestroyRequest, GetRequest, LocateRequest, RegisterRequest, RequestPayload,
    ResponsePayload,
};
use kmip::ttlv::Value;
use support::Running;
use ward_keyserver::{Error, init, issue_client};

fn reason<T>(result: Result<T, ClientError>) -> Option<ResultReason> {
    match result {
        Ok(_) => None,
        Err(error) => Some(error.result_reason().unwrap_or_else(|| panic!("{error}"))),
    }
}

fn because(code: RevocationReasonCode) -> RevocationReason {
    RevocationReason { code, message: None }
}

#[tokio::test]
async fn a_client_sees_its_own_keys_and_no_others() {
    let server = Running::start().await;
    let (alice, mallory) = (server.client("alice"), server.client("mallory"));
    let id = alice.create_aes256(&[Attribute::name("secret")]).await.unwrap().id;

    // As if it were not there, whatever is asked.
    let not_found = Some(ResultReason::ITEM_NOT_FOUND);
    assert_eq!(reason(mallory.get_key(&id).await), not_found);
    assert_eq!(reason(mallory.get_attributes(&id, &[]).await), not_found);
    assert_eq!(reason(mallory.get_attribute_list(&id).await), not_found);
    assert_eq!(reason(mallory.add_attribute(&id, Attribute::custom_text("x-a", "b")).await), not_found);
    assert_eq!(reason(mallory.activate(&id).await), not_found);
    assert_eq!(reason(mallory.revoke(&id, because(RevocationReasonCode::KEY_COMPROMISE), None).await), not_found);
    assert_eq!(reason(mallory.destroy(&id).await), not_found);
    assert_eq!(mallory.locate(Filter::default()).await.unwrap(), [""; 0]);
    assert_eq!(mallory.locate(Filter::by_name("secret")).await.unwrap(), [""; 0]);
    // Nor does a name that is taken tell of it.
    mallory.create_aes256(&[Attribute::name("secret")]).await.unwrap();

    assert_eq!(alice.state(&id).await.unwrap(), State::PRE_ACTIVE);
    assert_eq!(alice.get_key(&id).await.unwrap().len(), 32);
    server.stop().await;
}

#[tokio::test]
async fn custom_attributes_keep_type_and_index() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let created = alice.create_aes256(&[Attribute::custom_text("x-Component", "Virtual Machine")]).await.unwrap();
    assert_eq!(created.refused_attributes, []);

    let number =
        |number| Attribute::new(AttributeValue::Custom("x-Number".into(), CustomValue(Value::LongInteger(number))));
    assert_eq!(alice.add_attribute(&created.id, number(7)).await.unwrap().index, Some(0));
    assert_eq!(alice.add_attribute(&created.id, number(8)).await.unwrap().index, Some(1));
    let read = alice.get_attributes(&created.id, &["x-Number".into()]).await.unwrap();
    assert_eq!(read, [Attribute { index: Some(0), ..number(7) }, Attribute { index: Some(1), ..number(8) }]);

    // A value of another type is another value.
    let found = async |attribute| {
        let filter = Filter { maximum_items: None, attributes: vec![attribute] };
        alice.locate(filter).await.unwrap().len()
    };
    assert_eq!(found(number(8)).await, 1);
    assert_eq!(found(number(9)).await, 0);
    assert_eq!(found(Attribute::custom_text("x-Number", "8")).await, 0);

    let add = async |value| reason(alice.add_attribute(&created.id, Attribute::new(value)).await);
    let denied = Some(ResultReason::PERMISSION_DENIED);
    assert_eq!(add(AttributeValue::State(State::ACTIVE)).await, denied);
    assert_eq!(add(AttributeValue::UniqueIdentifier("mine".into())).await, denied);
    assert_eq!(add(AttributeValue::Custom("y-Server".into(), CustomValue(Value::Integer(1)))).await, denied);
    assert_eq!(add(AttributeValue::Comment("first".into())).await, None);
    assert_eq!(add(AttributeValue::Comment("second".into())).await, Some(ResultReason::ILLEGAL_OPERATION));
    server.stop().await;
}

#[tokio::test]
async fn a_name_is_given_once() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let first = alice.create_aes256(&[Attribute::name("one")]).await.unwrap().id;
    assert_eq!(reason(alice.create_aes256(&[Attribute::name("one")]).await), Some(ResultReason::INVALID_FIELD));
    let second = alice.create_aes256(&[Attribute::name("two")]).await.unwrap().id;
    let added = alice.add_attribute(&second, Attribute::name("one")).await;
    assert_eq!(reason(added), Some(ResultReason::INVALID_FIELD));
    // What was refused left nothing behind.
    assert_eq!(alice.locate(Filter::default()).await.unwrap(), [first.clone(), second]);
    assert_eq!(alice.locate(Filter::by_name("one")).await.unwrap(), [first]);
    server.stop().await;
}

#[tokio::test]
async fn every_condition_counts() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let mut ids = Vec::new();
    for number in 0..4 {
        let attributes = [
            Attribute::name(&format!("key {number}")),
            Attribute::custom_text("x-Parity", ["even", "odd"][number % 2]),
        ];
        ids.push(alice.create_aes256(&attributes).await.unwrap().id);
    }
    alice.activate(&ids[1]).await.unwrap();
    alice.activate(&ids[2]).await.unwrap();

    let odd = || Attribute::custom_text("x-Parity", "odd");
    let active = || Attribute::new(AttributeValue::State(State::ACTIVE));
    let located = async |attributes, maximum_items| alice.locate(Filter { maximum_items, attributes }).await.unwrap();
    assert_eq!(located(vec![], None).await, ids);
    assert_eq!(located(vec![], Some(3)).await, ids[..3]);
    assert_eq!(located(vec![odd()], None).await, [ids[1].clone(), ids[3].clone()]);
    assert_eq!(located(vec![active()], None).await, [ids[1].clone(), ids[2].clone()]);
    assert_eq!(located(vec![odd(), active()], None).await, [ids[1].clone()]);
    assert_eq!(located(vec![odd(), active(), Attribute::name("key 3")], None).await, [""; 0]);
    assert_eq!(located(vec![Attribute::custom_text("x-None", "odd")], None).await, [""; 0]);

    // The number of all that match, and a page of them.
    let request = LocateRequest { maximum_items: Some(1), offset_items: Some(1), ..LocateRequest::default() };
    match alice.request(RequestPayload::Locate(request)).await.unwrap() {
        ResponsePayload::Locate(response) => {
            assert_eq!((response.located_items, response.unique_identifiers), (Some(4), vec![ids[1].clone()]));
        }
        other => panic!("{other:?}"),
    }

    // A destroyed key is found only by who asks for its state.
    alice.destroy(&ids[3]).await.unwrap();
    assert_eq!(located(vec![], None).await, ids[..3]);
    let destroyed = Attribute::new(AttributeValue::State(State::DESTROYED));
    assert_eq!(located(vec![destroyed], None).await, ids[3..]);
    server.stop().await;
}

fn create(attributes: &[AttributeValue]) -> RequestPayload {
    use kmip::attribute::UsageMask;
    use kmip::names::CryptographicAlgorithm;
    let aes = [
        AttributeValue::CryptographicAlgorithm(CryptographicAlgorithm::AES),
        AttributeValue::CryptographicLength(256),
        AttributeValue::CryptographicUsageMask(UsageMask::ENCRYPT),
    ];
    let attributes = aes.into_iter().chain(attributes.iter().cloned()).map(Attribute::new).collect();
    RequestPayload::Create(CreateRequest { object_type: ObjectType::SYMMETRIC_KEY, templates: vec![], attributes })
}

#[tokio::test]
async fn a_batch_hands_its_object_on() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let batch = vec![
        create(&[]),
        RequestPayload::Activate(ActivateRequest::default()),
        RequestPayload::Get(GetRequest::default()),
        // Active, so it's refused, and what follows is not done.
        RequestPayload::Destroy(DestroyRequest::default()),
        create(&[]),
    ];
    let mut answers = alice.batch(batch).await.unwrap();
    assert_eq!(answers.len(), 4);
    assert_eq!(reason(answers.pop().unwrap()), Some(ResultReason::PERMISSION_DENIED));
    let ResponsePayload::Get(got) = answers.pop().unwrap().unwrap() else { panic!() };
    let ManagedObject::SymmetricKey(block) = got.object else { panic!() };
    let id = got.unique_identifier;
    assert!(block.into_bytes().unwrap() == alice.get_key(&id).await.unwrap());
    assert_eq!(alice.locate(Filter::by_state(State::ACTIVE)).await.unwrap(), std::slice::from_ref(&id));
    assert_eq!(alice.locate(Filter::default()).await.unwrap(), [id]);
    // Without an object before it there is none to hand on.
    assert_eq!(
        reason(alice.request(RequestPayload::Get(GetRequest::default())).await),
        Some(ResultReason::ITEM_NOT_FOUND)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_key_made_elsewhere_is_kept() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let register = |bytes: &[u8], attributes: Vec<AttributeValue>| {
        let block = KeyBlock::raw_aes(SecretBytes::copy_of(bytes)).unwrap();
        RequestPayload::Register(RegisterRequest {
            object_type: ObjectType::SYMMETRIC_KEY,
            templates: vec![],
            attributes: attributes.into_iter().map(Attribute::new).collect(),
            object: Some(ManagedObject::SymmetricKey(block)),
        })
    };
    let usage = || AttributeValue::CryptographicUsageMask(kmip::attribute::UsageMask::DECRYPT);
    let answer = alice.request(register(&[7; 32], vec![usage()])).await.unwrap();
    let ResponsePayload::Register(registered) = answer else { panic!() };
    assert_eq!(alice.get_key(&registered.unique_identifier).await.unwrap().expose(), [7; 32]);
    // Contradictions are refused.
    let wrong = vec![usage(), AttributeValue::CryptographicLength(128)];
    assert_eq!(reason(alice.request(register(&[7; 32], wrong)).await), Some(ResultReason::INVALID_FIELD));
    assert_eq!(reason(alice.request(register(&[7; 31], vec![usage()])).await), Some(ResultReason::INVALID_FIELD));
    server.stop().await;
}

#[tokio::test]
async fn states_follow_operations_and_dates() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let id = |answer| match answer {
        ResponsePayload::Create(created) => created.unique_identifier,
        other => panic!("{other:?}"),
    };
    let at_once = id(alice.request(create(&[AttributeValue::ActivationDate(1)])).await.unwrap());
    assert_eq!(alice.state(&at_once).await.unwrap(), State::ACTIVE);
    let later = id(alice.request(create(&[AttributeValue::ActivationDate(i64::MAX)])).await.unwrap());
    assert_eq!(alice.state(&later).await.unwrap(), State::PRE_ACTIVE);
    let over = [AttributeValue::ActivationDate(1), AttributeValue::DeactivationDate(2)];
    let over = id(alice.request(create(&over)).await.unwrap());
    assert_eq!(alice.state(&over).await.unwrap(), State::DEACTIVATED);

    alice.revoke(&at_once, because(RevocationReasonCode::KEY_COMPROMISE), Some(5)).await.unwrap();
    assert_eq!(alice.state(&at_once).await.unwrap(), State::COMPROMISED);
    let dates = alice.get_attributes(&at_once, &[AttributeName::COMPROMISE_OCCURRENCE_DATE]).await.unwrap();
    assert_eq!(dates, [Attribute::new(AttributeValue::CompromiseOccurrenceDate(5))]);
    // Compromised data must still be readable: the key is given out until it is destroyed.
    assert_eq!(alice.get_key(&at_once).await.unwrap().len(), 32);
    alice.destroy(&at_once).await.unwrap();
    assert_eq!(alice.state(&at_once).await.unwrap(), State::DESTROYED_COMPROMISED);
    assert_eq!(reason(alice.get_key(&at_once).await), Some(ResultReason::ITEM_NOT_FOUND));
    assert_eq!(reason(alice.destroy(&at_once).await), Some(ResultReason::ITEM_NOT_FOUND));
    server.stop().await;
}

#[tokio::test]
async fn a_key_that_may_not_leave_does_not() {
    let server = Running::start().await;
    let alice = server.client("alice");
    for (attribute, expected) in [
        (AttributeValue::Extractable(false), ResultReason::NOT_EXTRACTABLE),
        (AttributeValue::Sensitive(true), ResultReason::SENSITIVE),
    ] {
        let id = alice.create_aes256(&[Attribute::new(attribute)]).await.unwrap().id;
        assert_eq!(reason(alice.get_key(&id).await), Some(expected));
        // To an old client the same refusal comes in words that it knows.
        let old = server.client_at("alice", ProtocolVersion::V1_1);
        assert_eq!(reason(old.get_key(&id).await), Some(ResultReason::GENERAL_FAILURE));
        assert!(
            !old.get_attribute_list(&id).await.unwrap().iter().any(|name| !name.is_known_to(ProtocolVersion::V1_1))
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_done_here_is_refused() {
    let server = Running::start().await;
    let alice = server.client("alice");
    let query = alice.query().await.unwrap();
    assert!(query.operations.contains(&Operation::ADD_ATTRIBUTE) && !query.operations.contains(&Operation::ARCHIVE));
    let payload = kmip::ttlv::Item::structure(kmip::names::Tag::REQUEST_PAYLOAD, vec![]);
    let archive = alice.request(RequestPayload::Other(Operation::ARCHIVE, payload)).await;
    assert_eq!(reason(archive), Some(ResultReason::OPERATION_NOT_SUPPORTED));
    let wrong = [AttributeValue::CryptographicLength(255)];
    assert_eq!(reason(alice.request(create(&wrong)).await), Some(ResultReason::INVALID_FIELD));
    assert_eq!(alice.locate(Filter::default()).await.unwrap(), [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn setting_up_twice_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    assert!(matches!(issue_client(&state_dir, "alice"), Err(Error::NotInitialized { .. })));
    init(&state_dir, &["kms.example".into()]).await.unwrap();
    let files = issue_client(&state_dir, "alice").unwrap();
    let contents = || {
        let mut paths: Vec<_> =
            ["ca.pem", "ca.key", "server.pem", "server.key", "master.key"].map(|name| state_dir.join(name)).to_vec();
        paths.extend([files.ca.clone(), files.certificate.clone(), files.key.clone()]);
        paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let before = contents();
    init(&state_dir, &[]).await.unwrap();
    assert_eq!(issue_client(&state_dir, "alice").unwrap(), files);
    assert!(contents() == before);

    // Only its owner may look in.
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state_dir), 0o700);
    for name in ["ca.key", "server.key", "master.key", "keys.db"] {
        assert_eq!(mode(&state_dir.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&files.key), 0o600);
    for bad in ["", ".", "..", "../alice", "a/b", "a\0b", "ä"] {
        assert!(matches!(issue_client(&state_dir, bad), Err(Error::ClientName(_))), "{bad:?}");
    }
}
