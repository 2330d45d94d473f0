//! Columns read and written as what they are.

use std::fmt::Display;
use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::any::AnyRow;
use sqlx::{Any, Decode, Row as _, Type};

use super::{Result, StoreError};

/// A row, column by column.
pub(crate) struct Cells<'r>(pub(crate) &'r AnyRow);

impl Cells<'_> {
    fn get<'r, T: Decode<'r, Any> + Type<Any>>(&'r self, column: &str) -> Result<T> {
        self.0.try_get(column).map_err(|error| match error {
            sqlx::Error::ColumnDecode { source, .. } => corrupt(column, source),
            error => error.into(),
        })
    }

    pub(crate) fn text(&self, column: &str) -> Result<String> {
        self.get(column)
    }

    pub(crate) fn text_or_null(&self, column: &str) -> Result<Option<String>> {
        self.get(column)
    }

    pub(crate) fn int(&self, column: &str) -> Result<i64> {
        self.get(column)
    }

    pub(crate) fn flag(&self, column: &str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T> {
        let value = self.int(column)?;
        T::try_from(value).map_err(|_| corrupt(column, format!("{value}")))
    }

    pub(crate) fn number_or_null<T: TryFrom<i64>>(&self, column: &str) -> Result<Option<T>> {
        let value: Option<i64> = self.0.try_get(column)?;
        value.map(|value| T::try_from(value).map_err(|_| corrupt(column, format!("{value}")))).transpose()
    }

    pub(crate) fn parsed<T: FromStr<Err: Display>>(&self, column: &str) -> Result<T> {
        self.text(column)?.parse().map_err(|error| corrupt(column, error))
    }

    pub(crate) fn parsed_or_null<T: FromStr<Err: Display>>(&self, column: &str) -> Result<Option<T>> {
        let text = self.text_or_null(column)?;
        text.map(|text| text.parse().map_err(|error| corrupt(column, error))).transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| corrupt(column, error))
    }

    pub(crate) fn json_or_null<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>> {
        let text = self.text_or_null(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| corrupt(column, error))).transpose()
    }

    /// A word that stands for a variant.
    pub(crate) fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T> {
        serde_json::from_value(self.text(column)?.into()).map_err(|error| corrupt(column, error))
    }

    pub(crate) fn time(&self, column: &str) -> Result<Timestamp> {
        Timestamp::from_microsecond(self.int(column)?).map_err(|error| corrupt(column, error))
    }

    pub(crate) fn time_or_null(&self, column: &str) -> Result<Option<Timestamp>> {
        let micros: Option<i64> = self.get(column)?;
        micros.map(|micros| Timestamp::from_microsecond(micros).map_err(|error| corrupt(column, error))).transpose()
    }
}

fn corrupt(column: &str, why: impl Display) -> StoreError {
    StoreError::Corrupt { column: column.to_owned(), why: why.to_string() }
}

/// A value as JSON text.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt("(written)", error))
}

/// The word that stands for a variant.
pub(crate) fn word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        Ok(other) => Err(corrupt("(written)", format!("{other}, which is no word"))),
        Err(error) => Err(corrupt("(written)", error)),
    }
}

/// Now, as it is stored.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_microsecond()
}
