//! Where key bytes are made, taken in, used, given out and taken away, and what is known of keys is written down.

use aws_lc_rs::digest::{SHA256, digest};
use kmip::SecretBytes;
use kmip::attribute::{Attribute, AttributeName, Name, UsageMask};
use kmip::names::{KeyFormatType, LinkType, ObjectType, ResultReason};
use kmip::object::{KeyBlock, KeyValue, ManagedObject};
use kmip::operation::{
    CreateRequest, CryptographicParameters, DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse,
    GetRequest, GetResponse, RegisterRequest, RekeyRequest,
};
use sqlx::SqliteConnection;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::operations::{Context, Failure};
use crate::Error;
use crate::core::{Algorithm, Change, Lifecycle, Link, NewObject, Object, ObjectShape, Refusal};
use crate::store;

pub(super) async fn create(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: CreateRequest,
) -> Result<String, Failure> {
    check_kind(request.object_type, &request.templates)?;
    let new = NewObject::from_attributes(request.attributes, (None, None), context.version)?;
    let key = random(&new.shape)?;
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
    let (object, sealed) = context.sealed(new, key)?;
    let fingerprint = &context.caller.fingerprint;
    // Without attributes it's one statement, which needs no savepoint to be whole.
    let kept = if object.given.is_empty() {
        store::insert(connection, &object, fingerprint, &sealed).await
    } else {
        let savepoint = Savepoint::set(connection).await?;
        let kept = store::insert(connection, &object, fingerprint, &sealed).await;
        savepoint.finish(connection, kept).await
    };
    kept.map_err(name_taken)?;
    Ok(object.id)
}

/// That a name is another's already is the client's fault, not ours.
fn name_taken(error: Error) -> Failure {
    match error {
        Error::NameTaken { .. } => Refusal::new(ResultReason::NON_UNIQUE_NAME_ATTRIBUTE, error.to_string()).into(),
        error => error.into(),
    }
}

/// Writes a change of an attribute down.
pub(super) async fn change(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    object: &Object,
    change: &Change,
) -> Result<(), Failure> {
    let savepoint = Savepoint::set(connection).await?;
    let changed = match change {
        Change::Added(attribute) => store::insert_attribute(connection, object, attribute, context.now).await,
        Change::Replaced(old, new) => store::replace_attribute(connection, object, (old, new), context.now).await,
        Change::Dated(lifecycle, _) => store::update_lifecycle(connection, &object.id, lifecycle).await,
    };
    savepoint.finish(connection, changed).await.map_err(name_taken)
}

/// Takes attributes away.
pub(super) async fn delete_attributes(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    object: &Object,
    attributes: &[&Attribute],
) -> Result<(), Failure> {
    let savepoint = Savepoint::set(connection).await?;
    let deleted = store::delete_attributes(connection, object, attributes, context.now).await;
    Ok(savepoint.finish(connection, deleted).await?)
}

/// Makes a key in the place of one, to which its names go over, and links the two.
pub(super) async fn rekey(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: RekeyRequest,
) -> Result<String, Failure> {
    check_kind(ObjectType::SYMMETRIC_KEY, &request.templates)?;
    let (old, _) = context.object(connection, request.unique_identifier).await?;
    let mut new = NewObject::in_place_of(&old, request.attributes, request.offset, context.now, context.version)?;
    let link = Link::new(LinkType::REPLACED_OBJECT_LINK, &old.id).to_attribute();
    new.given.push(Attribute { index: Some(0), ..link });
    let key = random(&new.shape)?;
    let names: Vec<_> =
        old.given.iter().filter(|attribute| attribute.attribute_name() == AttributeName::NAME).collect();

    let savepoint = Savepoint::set(connection).await?;
    let made = async {
        store::delete_attributes(connection, &old, &names, context.now).await?;
        let (object, sealed) = context.sealed(new, &key)?;
        store::insert(connection, &object, &context.caller.fingerprint, &sealed).await?;
        let link = Link::new(LinkType::REPLACEMENT_OBJECT_LINK, &object.id).to_attribute();
        // After those that the client made.
        let links = old.given.iter().filter(|attribute| attribute.attribute_name() == AttributeName::LINK);
        let index = links.map(|link| link.index_or_zero().saturating_add(1)).max().unwrap_or(0);
        let link = Attribute { index: Some(index), ..link };
        store::insert_attribute(connection, &old, &link, context.now).await?;
        Ok(object.id)
    }
    .await;
    savepoint.finish(connection, made).await.map_err(name_taken)
}

/// Encrypts with a key that stays here.
pub(super) async fn encrypt(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: EncryptRequest,
) -> Result<EncryptResponse, Failure> {
    let streams = request.correlation_value.is_some() || request.init_indicator.is_some();
    let (object, key) = context.usable(connection, request.unique_identifier, UsageMask::ENCRYPT).await?;
    object.lifecycle.may_protect(context.now)?;
    let algorithm = algorithm(&object, request.parameters.as_ref())?;
    let data = whole(request.data, streams || request.final_indicator == Some(false))?;
    let (iv, additional) = (request.iv_counter_nonce.as_deref(), request.additional_data.as_deref());
    let sealed = algorithm.encrypt(&key, data.expose(), iv, additional)?;
    Ok(EncryptResponse {
        unique_identifier: object.id,
        data: Some(SecretBytes::new(sealed.data)),
        iv_counter_nonce: sealed.iv,
        correlation_value: None,
        authentication_tag: sealed.tag,
    })
}

/// Decrypts with a key that stays here.
pub(super) async fn decrypt(
    context: &Context<'_>,
    connection: &mut SqliteConnection,
    request: DecryptRequest,
) -> Result<DecryptResponse, Failure> {
    let streams = request.correlation_value.is_some() || request.init_indicator.is_some();
    let (object, key) = context.usable(connection, request.unique_identifier, UsageMask::DECRYPT).await?;
    object.lifecycle.may_process(context.now)?;
    let algorithm = algorithm(&object, request.parameters.as_ref())?;
    let data = whole(request.data, streams || request.final_indicator == Some(false))?;
    let (iv, additional) = (request.iv_counter_nonce.as_deref(), request.additional_data.as_deref());
    let tag = request.authentication_tag.as_deref();
    let mut opened = algorithm.decrypt(&key, data.expose(), iv, additional, tag)?;
    Ok(DecryptResponse {
        unique_identifier: object.id,
        data: Some(SecretBytes::new(std::mem::take(&mut *opened))),
        correlation_value: None,
    })
}

fn algorithm(object: &Object, asked: Option<&CryptographicParameters>) -> Result<Algorithm, Refusal> {
    // In order of the index (KMIP 1.4 section 4.29).
    let own = object.given.iter().find_map(CryptographicParameters::of_attribute);
    Algorithm::new(object.shape.algorithm, asked, own.as_ref())
}

fn whole(data: Option<SecretBytes>, streams: bool) -> Result<SecretBytes, Refusal> {
    if streams {
        return Err(Refusal::new(ResultReason::FEATURE_NOT_SUPPORTED, "data are taken whole here, not in parts"));
    }
    data.ok_or_else(|| Refusal::new(ResultReason::MISSING_DATA, "there are no data in the request"))
}

fn random(shape: &ObjectShape) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let bytes = usize::try_from(shape.length / 8).map_err(|_| Refusal::invalid("the length is negative"))?;
    let mut key = Zeroizing::new(vec![0; bytes]);
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| Refusal::new(ResultReason::CRYPTOGRAPHIC_FAILURE, "the random number generator failed"))?;
    Ok(key)
}

impl Context<'_> {
    /// A key that may be used so, with its bytes.
    async fn usable(
        &self,
        connection: &mut SqliteConnection,
        id: Option<String>,
        usage: UsageMask,
    ) -> Result<(Object, Zeroizing<Vec<u8>>), Failure> {
        let (object, sealed) = self.object(connection, id).await?;
        if !object.shape.usage.contains(usage) {
            let message = "the key's usage mask does not allow this";
            return Err(Refusal::new(ResultReason::INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK, message).into());
        }
        let sealed = sealed.ok_or_else(|| destroyed(&object.id))?;
        let key = self.master.open(&object.id, &object.owner, &object.shape, sealed)?;
        Ok((object, key))
    }

    /// A key with its place in the world, and its sealed bytes.
    fn sealed(&self, new: NewObject, key: &[u8]) -> Result<(Object, Vec<u8>), Error> {
        let object = Object {
            // In order of time, so that the index grows at its end.
            id: Uuid::now_v7().to_string(),
            owner: self.caller.owner.clone(),
            shape: new.shape,
            lifecycle: Lifecycle::new(self.now, new.dates),
            digest: digest(&SHA256, key).as_ref().to_vec(),
            given: new.given,
        };
        let sealed = self.master.seal(&object.id, &object.owner, &object.shape, key)?;
        Ok((object, sealed))
    }
}

fn destroyed(id: &str) -> Refusal {
    Refusal::new(ResultReason::OBJECT_DESTROYED, format!("object {id} has been destroyed"))
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
        return Err(destroyed(&object.id).into());
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
    async fn finish<T>(self, connection: &mut SqliteConnection, done: Result<T, Error>) -> Result<T, Error> {
        if done.is_err() {
            sqlx::query("ROLLBACK TO operation").execute(&mut *connection).await?;
        }
        sqlx::query("RELEASE operation").execute(connection).await?;
        done
    }
}
