//! Where key bytes are made, taken in, given out and taken away.

use aws_lc_rs::digest::{SHA256, digest};
use kmip::SecretBytes;
use kmip::attribute::{Attribute, Name};
use kmip::names::{KeyFormatType, ObjectType, ResultReason};
use kmip::object::{KeyBlock, KeyValue, ManagedObject};
use kmip::operation::{CreateRequest, GetRequest, GetResponse, RegisterRequest};
use sqlx::SqliteConnection;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::operations::{Context, Failure};
use crate::Error;
use crate::core::{Lifecycle, NewObject, Object, Refusal};
use crate::store;

pub(super) async fn create(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: CreateRequest,
) -> Result<String, Failure> {
    check_kind(request.object_type, &request.templates)?;
    let new = NewObject::from_attributes(request.attributes, (None, None), context.version)?;
    let bytes = usize::try_from(new.shape.length / 8).map_err(|_| Refusal::invalid("the length is negative"))?;
    let mut key = Zeroizing::new(vec![0; bytes]);
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| Refusal::new(ResultReason::CRYPTOGRAPHIC_FAILURE, "the random number generator failed"))?;
    keep(context, connection, new, &key).await
}

pub(super) async fn register(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: RegisterRequest,
) -> Result<String, Failure> {
    check_kind(request.object_type, &request.templates)?;
    let block = match request.object {
        Some(ManagedObject::SymmetricKey(block)) => block,
        Some(_) => return Err(Refusal::invalid("the object is no symmetric key").into()),
        None => return Err(Refusal::invalid("there is no object to register").into()),
    };
    if block.key_wrapping_data.is_some() || matches!(block.key_value, Some(KeyValue::Wrapped(_))) {
        return Err(Refusal::new(ResultReason::FEATURE_NOT_SUPPORTED, "wrapped keys are not kept here").into());
    }
    if !matches!(block.key_format_type, KeyFormatType::RAW | KeyFormatType::TRANSPARENT_SYMMETRIC_KEY) {
        return Err(Refusal::new(ResultReason::KEY_FORMAT_TYPE_NOT_SUPPORTED, "only raw keys are kept here").into());
    }
    let known = (block.cryptographic_algorithm, block.cryptographic_length);
    let key = block.into_bytes().ok_or_else(|| Refusal::invalid("the object has no key bytes"))?;
    let new = NewObject::from_attributes(request.attributes, known, context.version)?;
    if i32::try_from(key.len() * 8) != Ok(new.shape.length) {
        return Err(Refusal::invalid("the key's bytes are not as many as its length says").into());
    }
    keep(context, connection, new, key.expose()).await
}

fn check_kind(object_type: ObjectType, templates: &[Name]) -> Result<(), Refusal> {
    if object_type != ObjectType::SYMMETRIC_KEY {
        return Err(Refusal::invalid(format!("objects of type {object_type} are not kept here")));
    }
    match templates.first() {
        Some(name) => Err(Refusal::new(ResultReason::ITEM_NOT_FOUND, format!("there is no template {:?}", name.value))),
        None => Ok(()),
    }
}

/// Seals a key and puts it in.
async fn keep(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    new: NewObject,
    key: &[u8],
) -> Result<String, Failure> {
    let object = Object {
        // In order of time, so that the index grows at its end.
        id: Uuid::now_v7().to_string(),
        owner: context.caller.owner.clone(),
        shape: new.shape,
        lifecycle: Lifecycle::new(context.now, new.dates),
        digest: digest(&SHA256, key).as_ref().to_vec(),
        given: new.given,
    };
    let sealed = context.master.seal(&object.id, &object.owner, &object.shape, key)?;
    let fingerprint = &context.caller.fingerprint;
    // Without attributes it's one statement, which needs no savepoint to be whole.
    let kept = if object.given.is_empty() {
        store::insert(connection, &object, fingerprint, &sealed).await
    } else {
        let savepoint = Savepoint::set(connection).await?;
        let kept = store::insert(connection, &object, fingerprint, &sealed).await;
        savepoint.finish(connection, kept).await
    };
    match kept {
        Ok(()) => Ok(object.id),
        Err(error @ Error::NameTaken { .. }) => Err(Refusal::invalid(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn add_attribute(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    object: &Object,
    attribute: &Attribute,
) -> Result<(), Failure> {
    let savepoint = Savepoint::set(connection).await?;
    let added = store::insert_attribute(connection, object, attribute, context.now).await;
    match savepoint.finish(connection, added).await {
        Ok(()) => Ok(()),
        Err(error @ Error::NameTaken { .. }) => {
            Err(Refusal::new(ResultReason::ILLEGAL_OPERATION, error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn destroy(connection: &mut SqliteConnection, object: &Object) -> Result<(), Failure> {
    let savepoint = Savepoint::set(connection).await?;
    let destroyed = async {
        store::wipe(connection, &object.id).await?;
        store::update_lifecycle(connection, &object.id, &object.lifecycle).await
    }
    .await;
    Ok(savepoint.finish(connection, destroyed).await?)
}

pub(super) async fn get(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: GetRequest,
) -> Result<GetResponse, Failure> {
    let (object, sealed) = context.object(connection, request.unique_identifier).await?;
    if request.key_format_type.is_some_and(|format| format != KeyFormatType::RAW) {
        return Err(Refusal::new(ResultReason::KEY_FORMAT_TYPE_NOT_SUPPORTED, "keys are given out raw only").into());
    }
    if request.key_compression_type.is_some() {
        let message = "a symmetric key cannot be compressed";
        return Err(Refusal::new(ResultReason::KEY_COMPRESSION_TYPE_NOT_SUPPORTED, message).into());
    }
    if request.key_wrapping_specification.is_some() {
        return Err(Refusal::new(ResultReason::FEATURE_NOT_SUPPORTED, "keys are not wrapped here").into());
    }
    if !object.is_extractable() {
        return Err(Refusal::new(ResultReason::NOT_EXTRACTABLE, "the key may not leave the server").into());
    }
    if object.is_sensitive() {
        return Err(Refusal::new(ResultReason::SENSITIVE, "the key may leave the server only wrapped").into());
    }
    let Some(sealed) = sealed else {
        let message = format!("object {} has been destroyed", object.id);
        return Err(Refusal::new(ResultReason::ITEM_NOT_FOUND, message).into());
    };

    let mut key = context.master.open(&object.id, &object.owner, &object.shape, sealed)?;
    let block = KeyBlock {
        key_format_type: KeyFormatType::RAW,
        key_compression_type: None,
        key_value: Some(KeyValue::Plain {
            material: kmip::object::KeyMaterial::Bytes(SecretBytes::new(std::mem::take(&mut *key))),
            attributes: vec![],
        }),
        cryptographic_algorithm: Some(object.shape.algorithm),
        cryptographic_length: Some(object.shape.length),
        key_wrapping_data: None,
    };
    Ok(GetResponse {
        object_type: ObjectType::SYMMETRIC_KEY,
        unique_identifier: object.id,
        object: ManagedObject::SymmetricKey(block),
    })
}

/// Statements that belong together within the writer's transaction: all or none, whatever else is in it.
struct Savepoint;

impl Savepoint {
    async fn set(connection: &mut SqliteConnection) -> Result<Self, Error> {
        sqlx::query("SAVEPOINT operation").execute(connection).await?;
        Ok(Self)
    }

    /// Keeps what was done since, if it was done whole.
    async fn finish(self, connection: &mut SqliteConnection, done: Result<(), Error>) -> Result<(), Error> {
        if done.is_err() {
            sqlx::query("ROLLBACK TO operation").execute(&mut *connection).await?;
        }
        sqlx::query("RELEASE operation").execute(connection).await?;
        done
    }
}
