//! Numbers of keyslots, tokens, digests and segments: the names of the members of their JSON objects.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};

macro_rules! id {
    ($(#[$doc:meta])* $vis:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name(u32);

        impl $name {
            /// The object of that number.
            #[must_use]
            $vis const fn new(number: u32) -> Self {
                Self(number)
            }

            /// The number.
            #[must_use]
            #[allow(dead_code)]
            $vis const fn number(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                decimal(&<std::borrow::Cow<'de, str>>::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
            }
        }
    };
}

id! {
    /// The number of a keyslot, 0 to 31 as cryptsetup counts.
    pub KeyslotId
}
id! {
    /// The number of a token, 0 to 31 as cryptsetup counts.
    pub TokenId
}
id! {
    /// The number of a digest.
    pub(crate) DigestId
}
id! {
    /// The number of a segment.
    pub(crate) SegmentId
}

/// One spelling per number, so that no two members of an object mean the same.
fn decimal(text: &str) -> Result<u32, &'static str> {
    let number = text.parse::<u32>().map_err(|_| "an object number is not a decimal number")?;
    if text.starts_with('+') || (text.starts_with('0') && text.len() > 1) {
        return Err("an object number is not in its shortest spelling");
    }
    Ok(number)
}
