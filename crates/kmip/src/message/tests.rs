//! Every message, at every version: what is written is read.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::attribute::{Attribute, AttributeName, AttributeValue, CustomValue, Name, RevocationReason, UsageMask};
use crate::names::*;
use crate::object::{KeyBlock, KeyMaterial, KeyValue, ManagedObject};
use crate::operation::*;
use crate::secret::SecretBytes;
use crate::ttlv::{EncodeError, Limits, Value};

fn version() -> impl Strategy<Value = ProtocolVersion> {
    prop::sample::select(ProtocolVersion::SUPPORTED)
}

fn text() -> impl Strategy<Value = String> {
    "[ -~äß漢]{0,12}"
}

/// Attributes that a peer of the version knows.
fn attribute(version: ProtocolVersion) -> impl Strategy<Value = Attribute> {
    use AttributeValue as V;
    let name = (text(), any::<u32>()).prop_map(|(value, number)| Name { value, name_type: NameType(number) });
    let reason = (any::<u32>(), of(text()))
        .prop_map(|(code, message)| RevocationReason { code: RevocationReasonCode(code), message });
    let digest = (any::<u32>(), vec(any::<u8>(), 0..40), of(any::<u32>())).prop_map(|(hash, value, format)| {
        V::Digest(crate::attribute::Digest {
            hashing_algorithm: HashingAlgorithm(hash),
            value,
            key_format_type: format.map(KeyFormatType),
        })
    });
    let custom = ("[xy]-[a-z]{1,8}", any::<i64>(), 0..4)
        .prop_map(|(name, number, kind)| {
            let value = match kind {
                0 => Value::LongInteger(number),
                1 => Value::TextString(number.to_string()),
                2 => Value::ByteString(SecretBytes::new(number.to_be_bytes().to_vec())),
                _ => Value::Structure(vec![Item::new(Tag::NONCE_ID, Value::DateTime(number))]),
            };
            V::Custom(AttributeName::from(name), CustomValue(value))
        })
        .boxed();
    let value = prop_oneof![
        any::<i64>().prop_map(V::ActivationDate),
        any::<i64>().prop_map(V::InitialDate),
        any::<i64>().prop_map(V::OriginalCreationDate),
        any::<bool>().prop_map(V::Fresh),
        any::<bool>().prop_map(V::Sensitive),
        any::<bool>().prop_map(V::NeverExtractable),
        any::<u32>().prop_map(|number| V::CryptographicAlgorithm(CryptographicAlgorithm(number))),
        any::<i32>().prop_map(V::CryptographicLength),
        any::<i32>().prop_map(|mask| V::CryptographicUsageMask(UsageMask(mask))),
        any::<u32>().prop_map(|number| V::State(State(number))),
        any::<u32>().prop_map(V::LeaseTime),
        text().prop_map(V::ObjectGroup),
        text().prop_map(V::Description),
        text().prop_map(V::UniqueIdentifier),
        name.prop_map(V::Name),
        reason.prop_map(V::RevocationReason),
        digest,
        custom,
    ];
    // KMIP 2 numbers no instances.
    (of(0..=i32::MAX), value)
        .prop_map(move |(index, value)| Attribute { index: index.filter(|_| !version.is_2()), value })
        .prop_filter("not of this version", move |attribute| attribute.attribute_name().is_known_to(version))
}

fn attributes(version: ProtocolVersion) -> BoxedStrategy<Vec<Attribute>> {
    vec(attribute(version), 0..5).boxed()
}

fn names() -> impl Strategy<Value = Vec<AttributeName>> {
    vec(prop_oneof![Just(AttributeName::STATE), Just(AttributeName::from("x-Some"))], 0..4)
}

fn object(version: ProtocolVersion) -> impl Strategy<Value = ManagedObject> {
    let bytes = vec(any::<u8>(), 0..48);
    (bytes, 0..4, any::<u32>(), of(any::<u32>()), of(any::<i32>()), attributes(version)).prop_map(
        |(bytes, kind, format, algorithm, length, attributes)| {
            let bytes = SecretBytes::new(bytes);
            let key_value = match kind {
                0 => None,
                1 => Some(KeyValue::Wrapped(bytes)),
                2 => Some(KeyValue::Plain { material: KeyMaterial::Bytes(bytes), attributes }),
                _ => Some(KeyValue::Plain {
                    material: KeyMaterial::Transparent(vec![Item::new(Tag::KEY, Value::ByteString(bytes))]),
                    attributes,
                }),
            };
            ManagedObject::SymmetricKey(KeyBlock {
                key_format_type: KeyFormatType(format),
                key_compression_type: None,
                key_value,
                cryptographic_algorithm: algorithm.map(CryptographicAlgorithm),
                cryptographic_length: length,
                key_wrapping_data: (kind == 1).then(|| Item::structure(Tag::KEY_WRAPPING_DATA, vec![])),
            })
        },
    )
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn parameters() -> impl Strategy<Value = CryptographicParameters> {
    (of(any::<u32>()), of(any::<u32>()), of(any::<bool>()), of(any::<i32>())).prop_map(
        |(mode, padding, random, length)| CryptographicParameters {
            block_cipher_mode: mode.map(BlockCipherMode),
            padding_method: padding.map(PaddingMethod),
            random_iv: random,
            tag_length: length,
            ..CryptographicParameters::default()
        },
    )
}

fn request_payload(version: ProtocolVersion) -> BoxedStrategy<RequestPayload> {
    use RequestPayload as P;
    let id = || of(text());
    let some_versions = vec((any::<i32>(), any::<i32>()), 0..4);
    let discover = some_versions.prop_map(|versions| {
        let versions = versions.into_iter().map(|(major, minor)| ProtocolVersion { major, minor }).collect();
        P::DiscoverVersions(DiscoverVersionsRequest { versions })
    });
    let functions = QueryFunction::NAMED.iter().copied().filter(|function| function.since() <= Some(version));
    let query = vec(prop::sample::select(functions.collect::<Vec<_>>()), 0..4)
        .prop_map(|functions| P::Query(QueryRequest { functions }));
    let create = attributes(version).prop_map(move |attributes| {
        let templates = if version.is_2() { vec![] } else { vec![Name::text("template")] };
        P::Create(CreateRequest { object_type: ObjectType::SYMMETRIC_KEY, templates, attributes })
    });
    let register = (attributes(version), of(object(version))).prop_map(|(attributes, object)| {
        P::Register(RegisterRequest { object_type: ObjectType(2), templates: vec![], attributes, object })
    });
    let get = (id(), of(any::<u32>()), of(any::<u32>())).prop_map(move |(id, format, wrap)| {
        P::Get(GetRequest {
            unique_identifier: id,
            key_format_type: format.map(KeyFormatType),
            key_wrap_type: wrap.filter(|_| version >= ProtocolVersion::V1_4),
            key_compression_type: wrap,
            key_wrapping_specification: format.map(|_| Item::structure(Tag::KEY_WRAPPING_SPECIFICATION, vec![])),
        })
    });
    let locate =
        (of(any::<i32>()), of(any::<u32>()), attributes(version)).prop_map(move |(number, member, attributes)| {
            P::Locate(LocateRequest {
                maximum_items: number,
                offset_items: number.filter(|_| version >= ProtocolVersion::V1_3),
                storage_status_mask: number,
                object_group_member: member.map(ObjectGroupMember).filter(|_| version >= ProtocolVersion::V1_1),
                attributes,
            })
        });
    let revoke = (id(), any::<u32>(), of(text()), of(any::<i64>())).prop_map(|(id, code, message, date)| {
        P::Revoke(RevokeRequest {
            unique_identifier: id,
            revocation_reason: RevocationReason { code: RevocationReasonCode(code), message },
            compromise_occurrence_date: date,
        })
    });
    let other = (any::<u32>(), any::<i32>())
        .prop_map(|(operation, number)| {
            let item = Item::structure(Tag::REQUEST_PAYLOAD, vec![Item::new(Tag::OFFSET, Value::Integer(number))]);
            P::Other(Operation(operation | 0x8000_0000), item)
        })
        .boxed();
    prop_oneof![
        discover,
        query,
        create,
        register,
        get,
        locate,
        revoke,
        other,
        id().prop_map(|unique_identifier| P::Activate(ActivateRequest { unique_identifier })),
        id().prop_map(|unique_identifier| P::Destroy(DestroyRequest { unique_identifier })),
        id().prop_map(|unique_identifier| P::GetAttributeList(GetAttributeListRequest { unique_identifier })),
        (id(), names())
            .prop_map(|(unique_identifier, names)| P::GetAttributes(GetAttributesRequest { unique_identifier, names })),
        (id(), attribute(version)).prop_map(|(unique_identifier, attribute)| {
            P::AddAttribute(AddAttributeRequest { unique_identifier, attribute })
        }),
        (id(), attribute(version)).prop_map(|(unique_identifier, attribute)| {
            P::SetAttribute(SetAttributeRequest { unique_identifier, attribute })
        }),
        (id(), attribute(version), of(attribute(version))).prop_map(move |(unique_identifier, attribute, current)| {
            let current = current.filter(|_| version.is_2());
            P::ModifyAttribute(ModifyAttributeRequest { unique_identifier, current, attribute })
        }),
        (id(), attribute(version), any::<bool>()).prop_map(move |(unique_identifier, attribute, by_value)| {
            P::DeleteAttribute(DeleteAttributeRequest {
                unique_identifier,
                name: attribute.attribute_name(),
                index: attribute.index,
                current: Some(attribute).filter(|_| by_value && version.is_2()),
            })
        }),
        (id(), of(any::<u32>()), attributes(version)).prop_map(|(unique_identifier, offset, attributes)| {
            P::Rekey(RekeyRequest { unique_identifier, offset, templates: vec![], attributes })
        }),
        (id(), of(any::<i64>()), of(any::<i32>()), of(any::<u32>())).prop_map(|(id, count, mask, lease)| {
            P::Check(CheckRequest {
                unique_identifier: id,
                usage_limits_count: count,
                cryptographic_usage_mask: mask.map(UsageMask),
                lease_time: lease,
            })
        }),
        (id(), of(parameters()), of(bytes()), of(bytes()), of(any::<bool>())).prop_map(
            move |(unique_identifier, parameters, data, nonce, flag)| {
                P::Encrypt(EncryptRequest {
                    unique_identifier,
                    parameters,
                    data: data.map(SecretBytes::new),
                    iv_counter_nonce: nonce.clone(),
                    init_indicator: flag.filter(|_| version >= ProtocolVersion::V1_3),
                    additional_data: nonce.filter(|_| version >= ProtocolVersion::V1_4),
                    ..EncryptRequest::default()
                })
            }
        ),
        (id(), of(parameters()), of(bytes()), of(bytes())).prop_map(
            move |(unique_identifier, parameters, data, nonce)| {
                P::Decrypt(DecryptRequest {
                    unique_identifier,
                    parameters,
                    data: data.map(SecretBytes::new),
                    iv_counter_nonce: nonce.clone(),
                    authentication_tag: nonce.filter(|_| version >= ProtocolVersion::V1_4),
                    ..DecryptRequest::default()
                })
            }
        ),
    ]
    .prop_filter("not of this version", move |payload| payload.operation().since().is_none_or(|since| since <= version))
    .boxed()
}

/// What KMIP 1.x has a place for in the answer to Create and its like.
fn told(version: ProtocolVersion) -> impl Strategy<Value = Vec<Attribute>> {
    attributes(version).prop_map(move |attributes| if version.is_2() { vec![] } else { attributes })
}

fn response_payload(version: ProtocolVersion) -> BoxedStrategy<ResponsePayload> {
    use ResponsePayload as P;
    let since = move |since: Option<ProtocolVersion>| since <= Some(version);
    let operations: Vec<_> = Operation::NAMED.iter().copied().filter(|operation| since(operation.since())).collect();
    let query = (vec(prop::sample::select(operations), 0..5), of(text())).prop_map(|(operations, vendor)| {
        P::Query(QueryResponse {
            operations,
            object_types: vec![ObjectType::SYMMETRIC_KEY],
            vendor_identification: vendor,
            server_information: Some(Item::structure(Tag::SERVER_INFORMATION, vec![])),
            application_namespaces: vec!["a".into()],
            more: vec![],
        })
    });
    let get = (text(), object(version)).prop_map(|(unique_identifier, object)| {
        P::Get(GetResponse { object_type: ObjectType::SYMMETRIC_KEY, unique_identifier, object })
    });
    let locate = (vec(text(), 0..4), of(any::<i32>())).prop_map(move |(unique_identifiers, located)| {
        let located_items = located.filter(|_| version >= ProtocolVersion::V1_3);
        P::Locate(LocateResponse { located_items, unique_identifiers })
    });
    prop_oneof![
        query,
        get,
        locate,
        (text(), told(version)).prop_map(|(unique_identifier, attributes)| {
            P::Create(CreateResponse { object_type: ObjectType::SYMMETRIC_KEY, unique_identifier, attributes })
        }),
        (text(), told(version)).prop_map(|(unique_identifier, attributes)| {
            P::Register(RegisterResponse { unique_identifier, attributes })
        }),
        (text(), told(version))
            .prop_map(|(unique_identifier, attributes)| P::Rekey(RekeyResponse { unique_identifier, attributes })),
        (text(), attributes(version)).prop_map(|(unique_identifier, attributes)| {
            P::GetAttributes(GetAttributesResponse { unique_identifier, attributes })
        }),
        (text(), attribute(version), 0..3).prop_map(move |(unique_identifier, attribute, operation)| {
            let attribute = Some(attribute).filter(|_| !version.is_2());
            match operation {
                0 => P::AddAttribute(AddAttributeResponse { unique_identifier, attribute }),
                1 => P::ModifyAttribute(ModifyAttributeResponse { unique_identifier, attribute }),
                _ => P::DeleteAttribute(DeleteAttributeResponse { unique_identifier, attribute }),
            }
        }),
        (of(text()), of(any::<i32>()), of(any::<u32>())).prop_map(|(unique_identifier, mask, lease_time)| {
            let cryptographic_usage_mask = mask.map(UsageMask);
            P::Check(CheckResponse {
                unique_identifier,
                usage_limits_count: None,
                cryptographic_usage_mask,
                lease_time,
            })
        }),
        (text(), bytes(), of(bytes())).prop_map(move |(unique_identifier, data, nonce)| {
            P::Encrypt(EncryptResponse {
                unique_identifier,
                data: Some(SecretBytes::new(data)),
                iv_counter_nonce: nonce.clone(),
                correlation_value: None,
                authentication_tag: nonce.filter(|_| version >= ProtocolVersion::V1_4),
            })
        }),
        (text(), bytes()).prop_map(|(unique_identifier, data)| {
            let data = Some(SecretBytes::new(data));
            P::Decrypt(DecryptResponse { unique_identifier, data, correlation_value: None })
        }),
        text().prop_map(|unique_identifier| P::SetAttribute(SetAttributeResponse { unique_identifier })),
        (text(), names()).prop_map(|(unique_identifier, names)| {
            P::GetAttributeList(GetAttributeListResponse { unique_identifier, names })
        }),
        text().prop_map(|unique_identifier| P::Activate(ActivateResponse { unique_identifier })),
        text().prop_map(|unique_identifier| P::Revoke(RevokeResponse { unique_identifier })),
        text().prop_map(|unique_identifier| P::Destroy(DestroyResponse { unique_identifier })),
        Just(()).prop_map(|()| {
            P::DiscoverVersions(DiscoverVersionsResponse { versions: ProtocolVersion::SUPPORTED.to_vec() })
        }),
    ]
    .boxed()
}

fn request() -> impl Strategy<Value = RequestMessage> {
    version().prop_flat_map(|version| {
        let item = (request_payload(version), of(vec(any::<u8>(), 0..9))).prop_map(|(payload, id)| RequestItem {
            ephemeral: None,
            unique_batch_item_id: id,
            payload,
            message_extension: None,
        });
        (vec(item, 0..4), of(any::<i32>()), of(any::<bool>()), of(any::<i64>()), of(text())).prop_map(
            move |(items, number, flag, time, text)| {
                let header = RequestHeader {
                    maximum_response_size: number,
                    client_correlation_value: text.clone().filter(|_| version >= ProtocolVersion::V1_4),
                    server_correlation_value: text.filter(|_| version >= ProtocolVersion::V1_4),
                    asynchronous_indicator: flag.map(|later| match (later, version.is_2()) {
                        (false, _) => AsynchronousIndicator::PROHIBITED,
                        (true, false) => AsynchronousIndicator::OPTIONAL,
                        (true, true) => AsynchronousIndicator::MANDATORY,
                    }),
                    attestation_capable_indicator: flag.filter(|_| version >= ProtocolVersion::V1_2),
                    attestation_types: vec![],
                    authentication: flag.map(|_| Item::structure(Tag::AUTHENTICATION, vec![])),
                    batch_error_continuation_option: flag.map(|_| BatchErrorContinuationOption::CONTINUE),
                    batch_order_option: flag,
                    time_stamp: time,
                    ..RequestHeader::new(version)
                };
                RequestMessage { header, items }
            },
        )
    })
}

fn response() -> impl Strategy<Value = ResponseMessage> {
    version().prop_flat_map(|version| {
        let success = (response_payload(version), of(vec(any::<u8>(), 0..9)))
            .prop_map(|(payload, id)| ResponseItem::success(id, payload));
        let known: Vec<_> =
            ResultReason::NAMED.iter().copied().filter(|reason| reason.since() <= Some(version)).collect();
        let failure = (of(any::<u32>()), prop::sample::select(known), text())
            .prop_map(|(operation, reason, text)| ResponseItem::failure(operation.map(Operation), None, reason, text));
        (vec(prop_oneof![success, failure], 0..4), any::<i64>())
            .prop_map(move |(items, time)| ResponseMessage { header: ResponseHeader::new(version, time), items })
    })
}

proptest! {
    #[test]
    fn requests_are_read_as_written(request in request()) {
        let bytes = request.encode().unwrap();
        prop_assert_eq!(RequestMessage::decode(&bytes, &Limits::default()).unwrap(), request);
    }

    #[test]
    fn responses_are_read_as_written(response in response()) {
        let bytes = response.encode().unwrap();
        prop_assert_eq!(ResponseMessage::decode(&bytes, &Limits::default()).unwrap(), response);
    }

    /// One byte of a good message is spoilt: it may mean something else now, but nothing must break.
    #[test]
    fn spoilt_messages_break_nothing(request in request(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = request.encode().unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = RequestMessage::decode(&bytes, &Limits::default()) {
            let _ = format!("{read:?}");
            match read.encode() {
                Ok(again) => prop_assert_eq!(again.as_slice(), bytes.as_slice()),
                // What can only be read; what is newer than the version it now claims.
                Err(EncodeError::Unreadable | EncodeError::NotInVersion { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn answer(version: ProtocolVersion, payload: ResponsePayload) -> Vec<u8> {
    let header = ResponseHeader::new(version, 0);
    ResponseMessage { header, items: vec![ResponseItem::success(None, payload)] }.encode().unwrap().to_vec()
}

/// For every attribute of the standard and every version: an old client is told what it knows and nothing else.
#[test]
fn no_client_is_told_an_attribute_newer_than_its_version() {
    let all = || {
        AttributeName::STANDARD.iter().map(|name| {
            let value = CustomValue(Value::TextString(String::new()));
            Attribute::new(AttributeValue::Other(name.clone(), value))
        })
    };
    for version in ProtocolVersion::SUPPORTED {
        let listed = ResponsePayload::GetAttributeList(GetAttributeListResponse {
            unique_identifier: "1".into(),
            names: AttributeName::STANDARD.to_vec(),
        });
        let read = ResponseMessage::decode(&answer(*version, listed), &Limits::default()).unwrap();
        let Some(ResponsePayload::GetAttributeList(read)) = &read.items[0].payload else { panic!("{read:?}") };
        let known: Vec<_> = AttributeName::STANDARD.iter().filter(|name| name.is_known_to(*version)).collect();
        assert!(known.iter().all(|name| name.since() <= Some(*version)));
        assert_eq!(read.names.iter().collect::<Vec<_>>(), known);

        let told = ResponsePayload::GetAttributes(GetAttributesResponse {
            unique_identifier: "1".into(),
            attributes: all().collect(),
        });
        let told = crate::ttlv::decode(&answer(*version, told), &Limits::default()).unwrap();
        assert_eq!(attribute_names(&told), known.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>());
    }
    let count =
        |version: ProtocolVersion| AttributeName::STANDARD.iter().filter(|name| name.is_known_to(version)).count();
    let counts: Vec<_> = ProtocolVersion::SUPPORTED.iter().map(|version| count(*version)).collect();
    // Falling with every version: the table does tell them apart.
    assert!(counts.windows(2).all(|pair| pair[0] > pair[1]), "{counts:?}");
}

fn attribute_names(item: &Item) -> Vec<String> {
    match &item.value {
        Value::Structure(items) if item.tag == Tag::ATTRIBUTES => {
            items.iter().map(|item| item.tag.name().unwrap().to_owned()).collect()
        }
        Value::Structure(items) => items.iter().flat_map(attribute_names).collect(),
        Value::TextString(text) if item.tag == Tag::ATTRIBUTE_NAME => vec![text.clone()],
        _ => vec![],
    }
}

#[test]
fn no_client_is_told_an_operation_or_reason_newer_than_its_version() {
    for version in ProtocolVersion::SUPPORTED {
        let query = ResponsePayload::Query(QueryResponse {
            operations: Operation::NAMED.to_vec(),
            object_types: ObjectType::NAMED.to_vec(),
            ..QueryResponse::default()
        });
        let read = ResponseMessage::decode(&answer(*version, query), &Limits::default()).unwrap();
        let Some(ResponsePayload::Query(read)) = &read.items[0].payload else { panic!("{read:?}") };
        assert!(read.operations.iter().all(|operation| operation.since() <= Some(*version)));
        assert!(read.object_types.iter().all(|object_type| object_type.since() <= Some(*version)));

        for reason in ResultReason::NAMED {
            let message = ResponseMessage::failure(*version, 0, *reason, String::new()).encode().unwrap();
            let read = ResponseMessage::decode(&message, &Limits::default()).unwrap();
            let told = read.items[0].result_reason.unwrap();
            assert!(told.since() <= Some(*version), "{reason} became {told}");
            assert!(told == *reason || reason.since() > Some(*version));
        }
    }
}

#[test]
fn a_request_that_its_version_cannot_say_is_refused() {
    let create = |attribute| {
        RequestPayload::Create(CreateRequest {
            object_type: ObjectType::SYMMETRIC_KEY,
            templates: vec![],
            attributes: vec![Attribute::new(attribute)],
        })
    };
    let description = || create(AttributeValue::Description("new in 1.4".into()));
    assert!(RequestMessage::single(ProtocolVersion::V1_4, description()).encode().is_ok());
    let refused = RequestMessage::single(ProtocolVersion::V1_3, description()).encode().unwrap_err();
    assert!(matches!(refused, EncodeError::NotInVersion { .. }), "{refused}");
    let policy = || create(AttributeValue::OperationPolicyName("gone in 2.0".into()));
    assert!(RequestMessage::single(ProtocolVersion::V1_4, policy()).encode().is_ok());
    assert!(RequestMessage::single(ProtocolVersion::V2_0, policy()).encode().is_err());
    let discover = || RequestPayload::DiscoverVersions(DiscoverVersionsRequest::default());
    assert!(RequestMessage::single(ProtocolVersion::V1_1, discover()).encode().is_ok());
    assert!(RequestMessage::single(ProtocolVersion::V1_0, discover()).encode().is_err());
}

#[test]
fn a_version_not_spoken_here_is_told_from_nonsense() {
    let mut bytes = RequestMessage::single(ProtocolVersion::V1_4, RequestPayload::Activate(ActivateRequest::default()))
        .encode()
        .unwrap()
        .to_vec();
    // The major version's place: message and header, the version's header, the field's header.
    assert_eq!(bytes[35], 1);
    bytes[35] = 2;
    let expected = ProtocolVersion { major: 2, minor: 4 };
    assert_eq!(RequestMessage::decode(&bytes, &Limits::default()), Err(RequestError::UnsupportedVersion(expected)));
}

/// The rest of a batch can be answered though one item can't be understood.
#[test]
fn one_item_that_cannot_be_understood_spoils_no_other() {
    let header = |count| {
        Builder::new(Tag::REQUEST_HEADER)
            .item(protocol_version_to_item(ProtocolVersion::V1_2))
            .field(Tag::BATCH_COUNT, &count)
            .build()
    };
    let item = |operation: Operation, payload| {
        Builder::new(Tag::BATCH_ITEM)
            .field(Tag::OPERATION, &operation)
            .item(Item::structure(Tag::REQUEST_PAYLOAD, payload))
            .build()
    };
    let message = |count| {
        let items = vec![
            header(count),
            item(Operation::CREATE, vec![]),
            item(Operation::GET, vec![Item::new(Tag::UNIQUE_IDENTIFIER, Value::TextString("1".into()))]),
        ];
        crate::ttlv::encode(&Item::structure(Tag::REQUEST_MESSAGE, items)).unwrap()
    };
    let read = RequestMessage::decode(&message(2), &Limits::default()).unwrap();
    assert!(matches!(read.items[0].payload, RequestPayload::Malformed(Operation::CREATE, _)));
    assert!(
        matches!(&read.items[1].payload, RequestPayload::Get(get) if get.unique_identifier.as_deref() == Some("1"))
    );
    assert!(RequestMessage::decode(&message(3), &Limits::default()).is_err());
}

/// A client's own attribute is the same attribute, however the version writes it.
#[test]
fn custom_attributes_in_both_forms() {
    let attribute = Attribute::custom_text("x-Product", "Ward");
    for version in ProtocolVersion::SUPPORTED {
        let payload =
            RequestPayload::AddAttribute(AddAttributeRequest { unique_identifier: None, attribute: attribute.clone() });
        let bytes = RequestMessage::single(*version, payload).encode().unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert_eq!(has(b"x-Product"), !version.is_2());
        let read = RequestMessage::decode(&bytes, &Limits::default()).unwrap();
        let RequestPayload::AddAttribute(read) = &read.items[0].payload else { panic!("{read:?}") };
        assert_eq!(read.attribute, attribute);
    }
}

/// KMIP 2 can name the ID placeholder.
#[test]
fn the_id_placeholder_by_number() {
    let payload = vec![Item::new(Tag::UNIQUE_IDENTIFIER, Value::Enumeration(1))];
    let item = Builder::new(Tag::BATCH_ITEM)
        .field(Tag::OPERATION, &Operation::ACTIVATE)
        .item(Item::structure(Tag::REQUEST_PAYLOAD, payload))
        .build();
    let header = Builder::new(Tag::REQUEST_HEADER)
        .item(protocol_version_to_item(ProtocolVersion::V2_1))
        .field(Tag::BATCH_COUNT, &1)
        .build();
    let bytes = crate::ttlv::encode(&Item::structure(Tag::REQUEST_MESSAGE, vec![header, item])).unwrap();
    let read = RequestMessage::decode(&bytes, &Limits::default()).unwrap();
    assert_eq!(read.items[0].payload, RequestPayload::Activate(ActivateRequest { unique_identifier: None }));
}
