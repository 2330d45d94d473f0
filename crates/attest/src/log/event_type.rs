//! Event types: which there are, into which PCRs they go, and what their digests are of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What an event's digest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    /// All of the event's data: so the data is proven too.
    Data,
    /// A UEFI variable: the data of the variable alone, or all of the event's data. Firmware does either.
    Variable,
    /// Something that is not in the log: code, a table, a file. The event's data only says what, and is not proven.
    Elsewhere,
    /// Nothing: the event was not extended into a PCR.
    Nothing,
}

/// What the *PC Client Platform Firmware Profile* has to say about a type.
pub(super) struct Rule {
    pub(super) covers: Covers,
    pub(super) pcrs: &'static [u8],
}

/// The type of an event. TCG PC Client Platform Firmware Profile 1.06, section 10.4.1.
///
/// No digest covers it: whoever holds the log can write another type over it. What tells is that each type has its PCRs
/// and its way to make the digest; see [`super`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

macro_rules! event_types {
    ($($name:ident = $value:literal, $covers:ident, $pcrs:expr;)*) => {
        impl EventType {
            $(#[doc = concat!("EV_", stringify!($name))] pub const $name: Self = Self($value);)*

            /// All that are known.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("EV_", stringify!($name))),)*
                    _ => None,
                }
            }

            /// `None` for a type that is not known.
            pub(super) fn rule(self) -> Option<Rule> {
                match self.0 {
                    $($value => Some(Rule { covers: Covers::$covers, pcrs: &$pcrs }),)*
                    _ => None,
                }
            }
        }
    };
}

// PCR 7 takes only types whose digests cover their data: what it says of Secure Boot can't be mislabelled.
event_types! {
    POST_CODE = 0x0000_0001, Elsewhere, [0, 2];
    NO_ACTION = 0x0000_0003, Nothing, [];
    SEPARATOR = 0x0000_0004, Data, [0, 1, 2, 3, 4, 5, 6, 7];
    ACTION = 0x0000_0005, Data, [0, 1, 2, 3, 4, 5, 6, 7];
    EVENT_TAG = 0x0000_0006, Elsewhere, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    S_CRTM_CONTENTS = 0x0000_0007, Elsewhere, [0];
    S_CRTM_VERSION = 0x0000_0008, Data, [0];
    CPU_MICROCODE = 0x0000_0009, Elsewhere, [0, 1];
    PLATFORM_CONFIG_FLAGS = 0x0000_000a, Elsewhere, [1, 3, 5];
    TABLE_OF_DEVICES = 0x0000_000b, Elsewhere, [1];
    COMPACT_HASH = 0x0000_000c, Elsewhere, [4, 5, 6];
    IPL = 0x0000_000d, Elsewhere, [4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    IPL_PARTITION_DATA = 0x0000_000e, Elsewhere, [5];
    NONHOST_CODE = 0x0000_000f, Elsewhere, [0, 2];
    NONHOST_CONFIG = 0x0000_0010, Elsewhere, [1, 3];
    NONHOST_INFO = 0x0000_0011, Elsewhere, [0, 1, 2, 3];
    OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012, Data, [4];
    POST_CODE2 = 0x0000_0013, Elsewhere, [0];
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001, Data, [1, 3, 5, 7];
    EFI_VARIABLE_BOOT = 0x8000_0002, Variable, [1, 5];
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003, Elsewhere, [2, 4];
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004, Elsewhere, [0, 2, 4];
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005, Elsewhere, [0, 2, 4];
    EFI_GPT_EVENT = 0x8000_0006, Data, [5];
    EFI_ACTION = 0x8000_0007, Data, [1, 2, 3, 4, 5, 6, 7];
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008, Elsewhere, [0, 2, 4];
    EFI_HANDOFF_TABLES = 0x8000_0009, Elsewhere, [1];
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a, Elsewhere, [0, 2, 4];
    EFI_HANDOFF_TABLES2 = 0x8000_000b, Elsewhere, [1];
    EFI_VARIABLE_BOOT2 = 0x8000_000c, Data, [1];
    EFI_GPT_EVENT2 = 0x8000_000d, Elsewhere, [5];
    EFI_HCRTM_EVENT = 0x8000_0010, Elsewhere, [0];
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0, Data, [7];
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1, Elsewhere, [2];
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2, Elsewhere, [3];
    EFI_SPDM_DEVICE_POLICY = 0x8000_00e3, Data, [7];
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4, Data, [7];
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is not the name of an event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no event type: it must be a TCG name such as EV_SEPARATOR")]
pub struct EventTypeSyntax(String);

impl FromStr for EventType {
    type Err = EventTypeSyntax;

    fn from_str(text: &str) -> Result<Self, EventTypeSyntax> {
        let known = Self::ALL.iter().find(|known| known.name() == Some(text));
        known.copied().ok_or_else(|| EventTypeSyntax(text.chars().take(60).collect()))
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
