//! The JSON metadata (specification 3) as types.
//!
//! Each object keeps the members that it doesn't know, so that a rewrite loses nothing that others have stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::id::{DigestId, KeyslotId, SegmentId, TokenId};
use crate::params::SegmentSize;
use crate::token::Token;

/// The whole JSON area.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Metadata {
    #[serde(deserialize_with = "objects")]
    pub(crate) keyslots: BTreeMap<KeyslotId, Keyslot>,
    #[serde(deserialize_with = "objects")]
    pub(crate) tokens: BTreeMap<TokenId, Token>,
    #[serde(deserialize_with = "objects")]
    pub(crate) segments: BTreeMap<SegmentId, Segment>,
    #[serde(deserialize_with = "objects")]
    pub(crate) digests: BTreeMap<DigestId, Digest>,
    pub(crate) config: Config,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A keyslot (specification 3.2).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Keyslot {
    Luks2(Box<Luks2Keyslot>),
    Other(OtherKeyslot),
}

/// A keyslot that holds a key behind a passphrase.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Luks2Keyslot {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) key_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    pub(crate) af: AntiForensic,
    pub(crate) area: RawArea,
    pub(crate) kdf: Kdf,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A keyslot of another type: only its area matters, which must not be overwritten.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct OtherKeyslot {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) area: OtherArea,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct AntiForensic {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) stripes: u32,
    pub(crate) hash: String,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct RawArea {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(with = "text_u64")]
    pub(crate) offset: u64,
    #[serde(with = "text_u64")]
    pub(crate) size: u64,
    pub(crate) encryption: String,
    pub(crate) key_size: u32,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct OtherArea {
    #[serde(with = "text_u64")]
    pub(crate) offset: u64,
    #[serde(with = "text_u64")]
    pub(crate) size: u64,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A key derivation function with the parameters of any.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Kdf {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) salt: Base64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iterations: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) time: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpus: Option<u32>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A segment (specification 3.3).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Segment {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(with = "text_u64")]
    pub(crate) offset: u64,
    #[serde(with = "segment_size")]
    pub(crate) size: SegmentSize,
    #[serde(default, with = "optional_text_u64", skip_serializing_if = "Option::is_none")]
    pub(crate) iv_tweak: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) encryption: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sector_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) integrity: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flags: Option<Vec<String>>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A digest (specification 3.4).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Digest {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) keyslots: BTreeSet<KeyslotId>,
    pub(crate) segments: BTreeSet<SegmentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iterations: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) salt: Option<Base64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Base64>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// The configuration (specification 3.6).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Config {
    #[serde(with = "text_u64")]
    pub(crate) json_size: u64,
    #[serde(with = "text_u64")]
    pub(crate) keyslots_size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) requirements: Option<Requirements>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Requirements {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) mandatory: Vec<String>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Keyslot {
    /// What the specification calls the keyslot that the `luks2` type stands for.
    pub(crate) const LUKS2: &str = "luks2";

    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Luks2(slot) => &slot.kind,
            Self::Other(slot) => &slot.kind,
        }
    }

    /// The offset and size of its area.
    pub(crate) const fn area(&self) -> (u64, u64) {
        match self {
            Self::Luks2(slot) => (slot.area.offset, slot.area.size),
            Self::Other(slot) => (slot.area.offset, slot.area.size),
        }
    }
}

impl<'de> Deserialize<'de> for Keyslot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.get("type").and_then(Value::as_str) == Some(Self::LUKS2) {
            Luks2Keyslot::deserialize(value).map(Box::new).map(Self::Luks2).map_err(D::Error::custom)
        } else {
            OtherKeyslot::deserialize(value).map(Self::Other).map_err(D::Error::custom)
        }
    }
}

/// Bytes as base64 text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| D::Error::custom("a member is not base64"))
    }
}

/// A number that stands as text, as those of 64 bits do (specification 3.1).
mod text_u64 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    pub(super) fn parse(text: &str) -> Result<u64, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("a 64-bit number is not in decimal digits");
        }
        text.parse().map_err(|_| "a number does not fit in 64 bits")
    }
}

mod optional_text_u64 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        number.map(|number| number.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        text_u64::deserialize(deserializer).map(Some)
    }
}

mod segment_size {
    use super::*;

    pub(super) fn serialize<S: Serializer>(size: &SegmentSize, serializer: S) -> Result<S::Ok, S::Error> {
        match size {
            SegmentSize::Dynamic => serializer.serialize_str("dynamic"),
            SegmentSize::Fixed(bytes) => serializer.collect_str(bytes),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentSize, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "dynamic" => Ok(SegmentSize::Dynamic),
            text => text_u64::parse(text).map(SegmentSize::Fixed).map_err(D::Error::custom),
        }
    }
}

/// An object of numbered objects. Unlike serde's own maps it refuses a number that comes twice.
fn objects<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    struct Objects<K, V>(PhantomData<(K, V)>);

    impl<'de, K: Deserialize<'de> + Ord, V: Deserialize<'de>> Visitor<'de> for Objects<K, V> {
        type Value = BTreeMap<K, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of numbered objects")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = access.next_entry()? {
                if map.insert(key, value).is_some() {
                    return Err(A::Error::custom("an object number comes twice"));
                }
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Objects(PhantomData))
}
