//! Keys in the database.

use std::collections::HashMap;

use kmip::attribute::{Attribute, AttributeValue};
use sqlx::{Row, SqliteConnection};

use super::rows;
use crate::Error;
use crate::core::{Lifecycle, Object};

/// Puts a new key in. The client's attributes come with it.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    object: &Object,
    creator_fingerprint: &[u8],
    sealed: &[u8],
) -> Result<(), Error> {
    let dates = &object.lifecycle.dates;
    sqlx::query(
        "INSERT INTO object (id, owner, creator_fingerprint, algorithm, length, usage, state, initial_date, \
         last_change_date, activation_date, process_start_date, protect_stop_date, deactivation_date, digest, sealed) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&object.id)
    .bind(&object.owner)
    .bind(creator_fingerprint)
    .bind(i64::from(object.shape.algorithm.0))
    .bind(object.shape.length)
    .bind(object.shape.usage.0)
    .bind(i64::from(object.lifecycle.state.0))
    .bind(dates.initial)
    .bind(dates.last_change)
    .bind(dates.activation)
    .bind(dates.process_start)
    .bind(dates.protect_stop)
    .bind(dates.deactivation)
    .bind(&object.digest)
    .bind(sealed)
    .execute(&mut *connection)
    .await?;
    for attribute in &object.given {
        insert_row(connection, object, attribute).await?;
    }
    Ok(())
}

/// Adds an attribute to a key that is there.
pub(crate) async fn insert_attribute(
    connection: &mut SqliteConnection,
    object: &Object,
    attribute: &Attribute,
    now: i64,
) -> Result<(), Error> {
    insert_row(connection, object, attribute).await?;
    changed(connection, object, now).await
}

/// Puts an attribute in the place of one.
pub(crate) async fn replace_attribute(
    connection: &mut SqliteConnection,
    object: &Object,
    (old, new): (&Attribute, &Attribute),
    now: i64,
) -> Result<(), Error> {
    delete_row(connection, object, old).await?;
    insert_row(connection, object, new).await?;
    changed(connection, object, now).await
}

/// Takes attributes away from a key.
pub(crate) async fn delete_attributes(
    connection: &mut SqliteConnection,
    object: &Object,
    attributes: &[&Attribute],
    now: i64,
) -> Result<(), Error> {
    for attribute in attributes {
        delete_row(connection, object, attribute).await?;
    }
    changed(connection, object, now).await
}

async fn changed(connection: &mut SqliteConnection, object: &Object, now: i64) -> Result<(), Error> {
    sqlx::query("UPDATE object SET last_change_date = ? WHERE id = ?")
        .bind(now)
        .bind(&object.id)
        .execute(connection)
        .await?;
    Ok(())
}

async fn delete_row(connection: &mut SqliteConnection, object: &Object, attribute: &Attribute) -> Result<(), Error> {
    if let AttributeValue::Name(name) = &attribute.value {
        sqlx::query("DELETE FROM object_name WHERE owner = ? AND value = ? AND object = ?")
            .bind(&object.owner)
            .bind(&name.value)
            .bind(&object.id)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("DELETE FROM attribute WHERE object = ? AND name = ? AND idx = ?")
        .bind(&object.id)
        .bind(attribute.attribute_name().as_str())
        .bind(attribute.index_or_zero())
        .execute(connection)
        .await?;
    Ok(())
}

/// One attribute; a name also where names are unique.
async fn insert_row(connection: &mut SqliteConnection, object: &Object, attribute: &Attribute) -> Result<(), Error> {
    if let AttributeValue::Name(name) = &attribute.value {
        let inserted =
            sqlx::query("INSERT INTO object_name (owner, value, object) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(&object.owner)
                .bind(&name.value)
                .bind(&object.id)
                .execute(&mut *connection)
                .await?;
        if inserted.rows_affected() == 0 {
            return Err(Error::NameTaken { name: name.value.clone() });
        }
    }
    let bytes = attribute
        .to_bytes()
        .map_err(|error| Error::Corrupt { id: object.id.clone(), what: format!("an attribute: {error}") })?;
    sqlx::query("INSERT INTO attribute (object, name, idx, value) VALUES (?, ?, ?, ?)")
        .bind(&object.id)
        .bind(attribute.attribute_name().as_str())
        .bind(attribute.index_or_zero())
        .bind(bytes)
        .execute(connection)
        .await?;
    Ok(())
}

/// A key of this owner and its sealed bytes, which are none once it is destroyed. Another's key is as if it were not there.
pub(crate) async fn by_id(
    connection: &mut SqliteConnection,
    owner: &str,
    id: &str,
) -> Result<Option<(Object, Option<Vec<u8>>)>, Error> {
    let row = sqlx::query("SELECT * FROM object WHERE id = ? AND owner = ?")
        .bind(id)
        .bind(owner)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let mut object = rows::object(&row)?;
    let attributes = sqlx::query("SELECT object, idx, value FROM attribute WHERE object = ? ORDER BY name, idx")
        .bind(id)
        .fetch_all(connection)
        .await?;
    for row in &attributes {
        object.given.push(rows::attribute(row)?.1);
    }
    Ok(Some((object, row.try_get("sealed")?)))
}

/// Every key of an owner in order of creation; only that of a name, if one is given.
pub(crate) async fn of_owner(
    connection: &mut SqliteConnection,
    owner: &str,
    name: Option<&str>,
) -> Result<Vec<Object>, Error> {
    if let Some(name) = name {
        let id: Option<String> = sqlx::query_scalar("SELECT object FROM object_name WHERE owner = ? AND value = ?")
            .bind(owner)
            .bind(name)
            .fetch_optional(&mut *connection)
            .await?;
        return match id {
            Some(id) => Ok(by_id(connection, owner, &id).await?.into_iter().map(|(object, _)| object).collect()),
            None => Ok(vec![]),
        };
    }
    let rows = sqlx::query("SELECT * FROM object WHERE owner = ? ORDER BY number")
        .bind(owner)
        .fetch_all(&mut *connection)
        .await?;
    let mut objects = rows.iter().map(rows::object).collect::<Result<Vec<_>, _>>()?;
    let places: HashMap<String, usize> =
        objects.iter().enumerate().map(|(place, object)| (object.id.clone(), place)).collect();
    let attributes = sqlx::query(
        "SELECT attribute.object, attribute.idx, attribute.value FROM attribute JOIN object ON object.id = attribute.object \
         WHERE object.owner = ? ORDER BY attribute.object, attribute.name, attribute.idx",
    )
    .bind(owner)
    .fetch_all(connection)
    .await?;
    for row in &attributes {
        let (id, attribute) = rows::attribute(row)?;
        if let Some(object) = places.get(&id).and_then(|place| objects.get_mut(*place)) {
            object.given.push(attribute);
        }
    }
    Ok(objects)
}

/// Writes down where a key now stands.
pub(crate) async fn update_lifecycle(
    connection: &mut SqliteConnection,
    id: &str,
    lifecycle: &Lifecycle,
) -> Result<(), Error> {
    let dates = &lifecycle.dates;
    let reason = lifecycle.revocation_reason.as_ref();
    sqlx::query(
        "UPDATE object SET state = ?, last_change_date = ?, activation_date = ?, process_start_date = ?, \
         protect_stop_date = ?, deactivation_date = ?, destroy_date = ?, compromise_occurrence_date = ?, compromise_date = ?, revocation_code = ?, \
         revocation_message = ? WHERE id = ?",
    )
    .bind(i64::from(lifecycle.state.0))
    .bind(dates.last_change)
    .bind(dates.activation)
    .bind(dates.process_start)
    .bind(dates.protect_stop)
    .bind(dates.deactivation)
    .bind(dates.destroy)
    .bind(dates.compromise_occurrence)
    .bind(dates.compromise)
    .bind(reason.map(|reason| i64::from(reason.code.0)))
    .bind(reason.and_then(|reason| reason.message.as_deref()))
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a key's sealed bytes away.
pub(crate) async fn wipe(connection: &mut SqliteConnection, id: &str) -> Result<(), Error> {
    sqlx::query("UPDATE object SET sealed = NULL WHERE id = ?").bind(id).execute(connection).await?;
    Ok(())
}
