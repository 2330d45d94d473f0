//! Rows to what is known of a key.

use kmip::attribute::{Attribute, RevocationReason, UsageMask};
use kmip::names::{CryptographicAlgorithm, RevocationReasonCode, State};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Error;
use crate::core::{Dates, Lifecycle, Object, ObjectShape};

pub(super) fn object(row: &SqliteRow) -> Result<Object, Error> {
    let id: String = row.try_get("id")?;
    let number = |column: &str| -> Result<u32, Error> {
        u32::try_from(row.try_get::<i64, _>(column)?)
            .map_err(|_| Error::Corrupt { id: id.clone(), what: format!("{column} is no enumeration") })
    };
    let state = State(number("state")?);
    if state.name().is_none() {
        return Err(Error::Corrupt { id, what: format!("{state} is no state") });
    }
    let revocation_reason = match row.try_get::<Option<i64>, _>("revocation_code")? {
        Some(_) => Some(RevocationReason {
            code: RevocationReasonCode(number("revocation_code")?),
            message: row.try_get("revocation_message")?,
        }),
        None => None,
    };
    Ok(Object {
        owner: row.try_get("owner")?,
        shape: ObjectShape {
            algorithm: CryptographicAlgorithm(number("algorithm")?),
            length: row.try_get("length")?,
            usage: UsageMask(row.try_get("usage")?),
        },
        lifecycle: Lifecycle {
            state,
            dates: Dates {
                initial: row.try_get("initial_date")?,
                last_change: row.try_get("last_change_date")?,
                activation: row.try_get("activation_date")?,
                process_start: row.try_get("process_start_date")?,
                protect_stop: row.try_get("protect_stop_date")?,
                deactivation: row.try_get("deactivation_date")?,
                destroy: row.try_get("destroy_date")?,
                compromise_occurrence: row.try_get("compromise_occurrence_date")?,
                compromise: row.try_get("compromise_date")?,
            },
            revocation_reason,
        },
        digest: row.try_get("digest")?,
        given: vec![],
        id,
    })
}

pub(super) fn attribute(row: &SqliteRow) -> Result<(String, Attribute), Error> {
    let id: String = row.try_get("object")?;
    let bytes: &[u8] = row.try_get("value")?;
    match Attribute::from_bytes(bytes) {
        // The column counts: not every form of an attribute has an index.
        Ok(attribute) => Ok((id, Attribute { index: Some(row.try_get("idx")?), ..attribute })),
        Err(error) => Err(Error::Corrupt { id, what: format!("an attribute cannot be read: {error}") }),
    }
}
