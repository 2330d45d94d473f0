//! KMIP's XML form (KMIP profiles, "XML encoding"), as far as the test cases use it.

use std::collections::HashMap;
use std::sync::LazyLock;

use kmip::SecretBytes;
use kmip::names::*;
use kmip::ttlv::{Item, Value};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// A message of a test case.
pub(crate) struct Message {
    pub(crate) is_request: bool,
    pub(crate) element: Element,
}

#[derive(Clone)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) value: String,
    pub(crate) children: Vec<Element>,
}

pub(crate) fn messages(text: &str) -> Vec<Message> {
    let mut found = Vec::new();
    collect(&parse(text), &mut found);
    found
}

fn collect(element: &Element, found: &mut Vec<Message>) {
    let is_request = element.name == "RequestMessage";
    if !is_request && element.name != "ResponseMessage" {
        element.children.iter().for_each(|child| collect(child, found));
        return;
    }
    found.push(Message { is_request, element: element.clone() });
}

fn parse(text: &str) -> Element {
    let mut reader = Reader::from_str(text);
    let mut open = vec![Element { name: String::new(), kind: None, value: String::new(), children: vec![] }];
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => open.push(element(&start)),
            Event::Empty(start) => {
                let empty = element(&start);
                open.last_mut().unwrap().children.push(empty);
            }
            Event::End(_) => {
                let closed = open.pop().unwrap();
                open.last_mut().unwrap().children.push(closed);
            }
            Event::Eof => return open.pop().unwrap(),
            _ => {}
        }
    }
}

fn element(start: &BytesStart<'_>) -> Element {
    let attribute = |name: &str| {
        start
            .attributes()
            .map(Result::unwrap)
            .find(|attribute| attribute.key.as_ref() == name)
            .map(|attribute| quick_xml::escape::unescape(&attribute.value).unwrap().into_owned())
    };
    let name = start.name().as_ref().to_owned();
    let mut value = attribute("value").unwrap_or_default();
    if name == "AttributeName" {
        // Some files were broken into lines within names.
        value = value.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    Element { name, kind: attribute("type"), value, children: vec![] }
}

/// Names are compared by letters and digits only: the XML form leaves the rest out in more than one way.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// A number for a name that we have none for: the codec passes such numbers through.
fn made_up(name: &str, base: u32) -> u32 {
    base + name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 0xFFFF
}

pub(crate) fn tag(name: &str) -> Tag {
    static TAGS: LazyLock<HashMap<String, Tag>> =
        LazyLock::new(|| Tag::NAMED.iter().map(|tag| (plain(tag.name().unwrap()), *tag)).collect());
    TAGS.get(&plain(name)).copied().unwrap_or_else(|| Tag(made_up(name, 0x54_0000)))
}

/// The item that an element stands for; `attribute_name` is that of the attribute whose value it may be.
pub(crate) fn item(element: &Element, attribute_name: Option<&str>) -> Item {
    let tag = tag(&element.name);
    let within = element.children.iter().find(|child| child.name == "AttributeName").map(|child| child.value.as_str());
    let value = &element.value;
    Item::new(
        tag,
        match element.kind.as_deref().unwrap_or("Structure") {
            "Structure" => Value::Structure(element.children.iter().map(|child| item(child, within)).collect()),
            "Integer" => {
                Value::Integer(number(value).map_or_else(|| mask(value), |number| i32::try_from(number).unwrap()))
            }
            "LongInteger" => Value::LongInteger(number(value).unwrap()),
            "BigInteger" => Value::BigInteger(SecretBytes::new(big(value))),
            "Enumeration" => {
                let kind = attribute_name.filter(|_| tag == Tag::ATTRIBUTE_VALUE).unwrap_or(&element.name);
                Value::Enumeration(enumeration(kind, value))
            }
            "Boolean" => Value::Boolean(value == "true"),
            "TextString" => Value::TextString(value.clone()),
            "ByteString" => {
                Value::ByteString(SecretBytes::new(hex::decode(value).unwrap_or_else(|_| value.as_bytes().to_vec())))
            }
            // Times depend on the run, where it has not put them in: any will do.
            "DateTime" | "DateTimeExtended" => Value::DateTime(number(value).unwrap_or(1_335_514_346)),
            "Interval" => Value::Interval(value.parse().unwrap_or(0)),
            other => panic!("{other} is no type"),
        },
    )
}

/// Uses of a key, by their names.
fn mask(names: &str) -> i32 {
    let bit = |name: &str| match plain(name).as_str() {
        "sign" => 0x1,
        "verify" => 0x2,
        "encrypt" => 0x4,
        "decrypt" => 0x8,
        "wrapkey" => 0x10,
        "unwrapkey" => 0x20,
        "export" => 0x40,
        "macgenerate" => 0x80,
        "macverify" => 0x100,
        "derivekey" => 0x200,
        "contentcommitment" => 0x400,
        "keyagreement" => 0x800,
        "certificatesign" => 0x1000,
        "crlsign" => 0x2000,
        // What is stored where, and what else has bits: any will do.
        _ => 0x4000_0000,
    };
    names.split_whitespace().map(bit).fold(0, std::ops::BitOr::bitor)
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn big(text: &str) -> Vec<u8> {
    let bytes = hex::decode(text.trim_start_matches("0x")).unwrap_or_default();
    let mut padded = vec![0; bytes.len().next_multiple_of(8).max(8) - bytes.len()];
    padded.extend(bytes);
    padded
}

fn enumeration(kind: &str, value: &str) -> u32 {
    macro_rules! among {
        ($($type:ident)*) => {
            $(if plain(kind) == plain(stringify!($type)) {
                let named = $type::NAMED.iter().find(|known| plain(known.name().unwrap()) == plain(value));
                if let Some(named) = named {
                    return named.0;
                }
            })*
        };
    }
    among!(AsynchronousIndicator BatchErrorContinuationOption BlockCipherMode CryptographicAlgorithm HashingAlgorithm
        KeyFormatType LinkType NameType ObjectGroupMember ObjectType Operation PaddingMethod QueryFunction ResultReason
        ResultStatus RevocationReasonCode State);
    if kind == "AttributeReference" {
        return tag(value).0;
    }
    match number(value) {
        Some(number) => u32::try_from(number).unwrap(),
        None => made_up(value, 0x8000_0000),
    }
}
