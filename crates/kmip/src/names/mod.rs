//! The protocol's own names: tags and enumerations, each with the version that brought it.

mod enumerations;
mod tag;

pub use enumerations::{
    BatchErrorContinuationOption, CryptographicAlgorithm, HashingAlgorithm, KeyFormatType, NameType, ObjectGroupMember,
    ObjectType, Operation, QueryFunction, ResultReason, ResultStatus, RevocationReasonCode, State,
};
pub use tag::Tag;

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
