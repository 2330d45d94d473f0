//! The protocol's own names: tags and enumerations, each with the version that brought it.

mod enumerations;
mod tag;

pub use enumerations::{
    AsynchronousIndicator, BatchErrorContinuationOption, BlockCipherMode, CryptographicAlgorithm, HashingAlgorithm,
    KeyFormatType, LinkType, NameType, ObjectGroupMember, ObjectType, Operation, PaddingMethod, QueryFunction,
    ResultReason, ResultStatus, RevocationReasonCode, State,
};
pub use tag::Tag;

use crate::ProtocolVersion;

impl ResultReason {
    /// The reason in the words of a version: where that doesn't have it, the nearest it has.
    #[must_use]
    pub fn for_version(self, version: ProtocolVersion) -> Self {
        if self.since().is_none_or(|since| since <= version) {
            return self;
        }
        match self {
            Self::ATTRIBUTE_INSTANCE_NOT_FOUND
            | Self::ATTRIBUTE_NOT_FOUND
            | Self::OBJECT_DESTROYED
            | Self::OBJECT_NOT_FOUND => Self::ITEM_NOT_FOUND,
            Self::ATTRIBUTE_SINGLE_VALUED => Self::ILLEGAL_OPERATION,
            Self::ATTRIBUTE_READ_ONLY
            | Self::INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK
            | Self::NOT_AUTHORISED
            | Self::READ_ONLY_ATTRIBUTE
            | Self::WRONG_KEY_LIFECYCLE_STATE => Self::PERMISSION_DENIED,
            Self::BAD_CRYPTOGRAPHIC_PARAMETERS
            | Self::INVALID_ATTRIBUTE
            | Self::INVALID_ATTRIBUTE_VALUE
            | Self::MULTI_VALUED_ATTRIBUTE
            | Self::NON_UNIQUE_NAME_ATTRIBUTE
            | Self::UNSUPPORTED_ATTRIBUTE
            | Self::UNSUPPORTED_CRYPTOGRAPHIC_PARAMETERS => Self::INVALID_FIELD,
            Self::MISSING_INITIALIZATION_VECTOR => Self::INVALID_MESSAGE,
            _ => Self::GENERAL_FAILURE,
        }
    }
}

/// A 32-bit number with names for the values the specification knows.
///
/// A struct over the number rather than an `enum`: a value that no one has told us about survives being read and
/// written again, and is one value, not two.
macro_rules! names {
    (
        $(#[$meta:meta])*
        pub struct $type:ident {
            $($constant:ident = $value:literal, $name:literal, $since:ident;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub u32);

        impl $type {
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $constant: Self = Self($value);
            )*

            /// Every value with a name.
            pub const NAMED: &'static [Self] = &[$(Self::$constant),*];

            /// The specification's name for it, if it has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)*
                    _ => None,
                }
            }

            /// The first protocol version that has it; `None` for a value without a name.
            #[must_use]
            pub const fn since(self) -> Option<ProtocolVersion> {
                match self.0 {
                    $($value => Some(ProtocolVersion::$since),)*
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#010X}", self.0),
                }
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}
use names;
