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
    pub(crate) major_version: i32,
    pub(crate) item: Item,
}

struct Element {
    name: String,
    kind: Option<String>,
    value: String,
    children: Vec<Element>,
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
    let major_version = find(element, "ProtocolVersionMajor").unwrap().value.parse().unwrap();
    found.push(Message { is_request, major_version, item: item(element, None) });
}

fn find<'a>(element: &'a Element, name: &str) -> Option<&'a Element> {
    if element.name == name {
        return Some(element);
    }
    element.children.iter().find_map(|child| find(child, name))
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
    Element {
        name: start.name().as_ref().to_owned(),
        kind: attribute("type"),
        value: attribute("value").unwrap_or_default(),
        children: vec![],
    }
}

/// Names are compared by letters and digits only: the XML form leaves the rest out in more than one way.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// A number for a name that we have none for: the codec passes such numbers through.
fn made_up(name: &str, base: u32) -> u32 {
    base + name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte))) % 0xFFFF
}

fn item(element: &Element, attribute_name: Option<&str>) -> Item {
    static TAGS: LazyLock<HashMap<String, Tag>> =
        LazyLock::new(|| Tag::NAMED.iter().map(|tag| (plain(tag.name().unwrap()), *tag)).collect());
    let tag = TAGS.get(&plain(&element.name)).copied().unwrap_or_else(|| Tag(made_up(&element.name, 0x54_0000)));
    let within = element.children.iter().find(|child| child.name == "AttributeName").map(|child| child.value.as_str());
    let value = &element.value;
    Item::new(
        tag,
        match element.kind.as_deref().unwrap_or("Structure") {
            "Structure" => Value::Structure(element.children.iter().map(|child| item(child, within)).collect()),
            "Integer" => Value::Integer(number(value).and_then(|number| i32::try_from(number).ok()).unwrap_or(12)),
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
            // Times depend on the run: any will do.
            "DateTime" | "DateTimeExtended" => Value::DateTime(1_335_514_346),
            "Interval" => Value::Interval(value.parse().unwrap_or(0)),
            other => panic!("{other} is no type"),
        },
    )
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
    among!(BatchErrorContinuationOption CryptographicAlgorithm HashingAlgorithm KeyFormatType NameType ObjectGroupMember
        ObjectType Operation QueryFunction ResultReason ResultStatus RevocationReasonCode State);
    match number(value) {
        Some(number) => u32::try_from(number).unwrap(),
        None => made_up(value, 0x8000_0000),
    }
}
