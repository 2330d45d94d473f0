//! Names that people give, valid by construction.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a text is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// No characters or too many.
    #[error("a name has 1 to 80 characters, `{0}` has {len}", len = .0.chars().count())]
    Length(String),
    /// A character that is not allowed where it stands.
    #[error(
        "a policy's name is made of letters, digits, spaces, `.`, `_` and `-`, and starts and ends with a letter or a \
             digit; `{0}` does not"
    )]
    Policy(String),
    /// A character that is not allowed where it stands.
    #[error("a name is made of letters, digits, `.`, `_` and `-`, and starts with a letter or a digit; `{0}` does not")]
    Characters(String),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.chars().count() > 80 {
        return Err(NameError::Length(text.to_owned()));
    }
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        Ok(())
    } else {
        Err(NameError::Characters(text.to_owned()))
    }
}

macro_rules! name {
    ($($(#[$meta:meta])* $name:ident)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length = 1, max_length = 80)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )*};
}

name! {
    /// The name of a VM, host, cluster, datastore, user or group. It is safe as the name of a file.
    Name
    /// The name of a key provider. It is the provider's identity: a rebuilt controller that knows a provider of the
    /// same name, with the same keys behind it, can open what was encrypted before.
    ProviderName
    /// The name of a role.
    RoleName
    /// The name of a file directly in a VM home; never hidden, never a path.
    FileName
}

impl FileName {
    /// The name of a plain disk's file.
    #[must_use]
    pub fn of_disk(disk: crate::DiskId, format: crate::PlainFormat) -> Self {
        Self(format!("{disk}.{format}"))
    }

    /// The name of the file with plain UEFI variables.
    #[must_use]
    pub fn nvram() -> Self {
        Self("nvram.raw".into())
    }
}

/// The name of a storage policy. Other than names of things that lie in files it may have spaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct PolicyName(String);

impl PolicyName {
    /// The policy under which a component is encrypted unless another is named.
    #[must_use]
    pub fn encryption() -> Self {
        Self("VM Encryption Policy".into())
    }

    /// The policy under which a component is plain unless another is named.
    #[must_use]
    pub fn plain() -> Self {
        Self("No Encryption Policy".into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PolicyName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if text.is_empty() || text.chars().count() > 80 {
            return Err(NameError::Length(text));
        }
        let at_ends = |c: char| c.is_ascii_alphanumeric();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
        if text.starts_with(at_ends) && text.ends_with(at_ends) && text.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err(NameError::Policy(text))
        }
    }
}

impl FromStr for PolicyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.to_owned().try_into()
    }
}

impl From<PolicyName> for String {
    fn from(name: PolicyName) -> Self {
        name.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_is_safe_as_a_file_name() {
        for good in ["a", "web-1", "9", "A.b_c-d", &"x".repeat(80)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".hidden", "-x", "_x", "a/b", "a b", "a\0", "é", "a\n", &"x".repeat(81)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
            assert!(serde_json::from_value::<FileName>(bad.into()).is_err(), "{bad:?}");
        }
    }
}
