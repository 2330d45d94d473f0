//! Whether an answer is the one a test case expects, as far as it can be: a server chooses identifiers, times, random
//! bytes and words of its own.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use kmip::names::Tag;
use kmip::ttlv::{Item, Value, encode};

use crate::xml::{Element, item, tag};

/// One test case as it goes on: what its variables stand for.
pub(crate) struct Play {
    now: i64,
    variables: HashMap<String, String>,
    /// Whether the case let the server choose a key or an IV: then no bytes that come of it are those of the case.
    made_here: bool,
}

impl Default for Play {
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { now: i64::try_from(now).unwrap(), variables: HashMap::new(), made_here: false }
    }
}

/// What a server says in its own way: that it is there is all that is compared.
const OWN: [&str; 11] = [
    "DigestValue",
    "InitialDate",
    "IVCounterNonce",
    "LastChangeDate",
    "MessageExtension",
    "OriginalCreationDate",
    "ResultMessage",
    "ServerInformation",
    "TimeStamp",
    "UniqueBatchItemID",
    "VendorIdentification",
];

/// What may be there or not.
const MAY_BE_TOLD: [&str; 3] = ["ClientCorrelationValue", "LocatedItems", "ServerCorrelationValue"];

/// Operations whose answers say what the server is.
const OWN_ANSWERS: [&str; 2] = ["DiscoverVersions", "Query"];

impl Play {
    /// The request, with what the variables stand for.
    pub(crate) fn request(&mut self, element: &Element) -> Vec<u8> {
        let filled = self.filled(element);
        if mentions(&filled, "Operation", &["Create", "ReKey"]) || mentions(&filled, "RandomIV", &["true"]) {
            self.made_here = true;
        }
        encode(&item(&filled, None)).unwrap().to_vec()
    }

    fn filled(&self, element: &Element) -> Element {
        let value = match element.value.strip_prefix("$NOW") {
            Some("") => self.now.to_string(),
            Some(offset) => (self.now + offset.parse::<i64>().unwrap()).to_string(),
            None => self.variables.get(&element.value).unwrap_or(&element.value).clone(),
        };
        let children = element.children.iter().map(|child| self.filled(child)).collect();
        Element { name: element.name.clone(), kind: element.kind.clone(), value, children }
    }

    /// Compares an answer; what it says where the case has a variable is what that stands for from now on.
    pub(crate) fn compare(&mut self, expected: &Element, answer: &Item) -> Result<(), String> {
        self.element(expected, answer, None)
    }

    fn element(&mut self, expected: &Element, answer: &Item, attribute: Option<&str>) -> Result<(), String> {
        if tag(&expected.name) != answer.tag {
            return Err(format!("{} instead of {}", answer.tag, expected.name));
        }
        if expected.value.starts_with('$') && !expected.value.starts_with("$NOW") {
            return self.variable(expected, answer);
        }
        if OWN.contains(&expected.name.as_str()) && expected.children.is_empty() {
            return Ok(());
        }
        if expected.value.starts_with("$NOW") {
            return match answer.value {
                Value::DateTime(_) => Ok(()),
                _ => Err(format!("{} is no time", expected.name)),
            };
        }
        if let Value::Structure(children) = &answer.value {
            return self.children(expected, children).map_err(|difference| format!("{}: {difference}", expected.name));
        }
        // Bytes that come of a key made here are as many, but others.
        if self.made_here
            && ["KeyMaterial", "Data"].contains(&expected.name.as_str())
            && let Value::ByteString(bytes) = &answer.value
        {
            let length = expected.value.len() / 2;
            return same(&expected.name, &bytes.len(), &length);
        }
        let wanted = item(&self.filled(expected), attribute);
        same(&expected.name, &answer.value, &wanted.value)
    }

    fn variable(&mut self, expected: &Element, answer: &Item) -> Result<(), String> {
        let text = match &answer.value {
            Value::TextString(text) => text.clone(),
            Value::ByteString(bytes) => hex::encode(bytes.expose()),
            other => return Err(format!("{} is {other:?}", expected.name)),
        };
        let known = self.variables.entry(expected.value.clone()).or_insert_with(|| text.clone());
        same(&format!("{} ({})", expected.name, expected.value), &text, known)
    }

    fn children(&mut self, expected: &Element, answer: &[Item]) -> Result<(), String> {
        let attribute = expected.children.iter().find(|child| child.name == "AttributeName");
        let attribute = attribute.map(|name| name.value.as_str());
        // What a server can do, and which versions it speaks, is its own affair.
        let is_own = |child: &&Element| child.name == "Operation" && OWN_ANSWERS.contains(&child.value.as_str());
        if expected.name == "BatchItem" && expected.children.iter().any(|child| is_own(&child)) {
            let compared = ["Operation", "UniqueBatchItemID", "ResultStatus", "ResultReason"];
            let mut wanted = expected.children.iter().filter(|child| compared.contains(&child.name.as_str()));
            let found = |name: &str| answer.iter().find(|item| item.tag == tag(name));
            return wanted.try_for_each(|element| match found(&element.name) {
                Some(item) => self.element(element, item, None),
                None => Err(format!("{} is missing", element.name)),
            });
        }
        // The first instance of an attribute may say so or not.
        let is_first = |item: &Item| item.tag == Tag::ATTRIBUTE_INDEX && item.value == Value::Integer(0);
        // May be told or not.
        let is_told = |item: &Item| MAY_BE_TOLD.iter().any(|name| tag(name) == item.tag);
        let answer: Vec<&Item> = answer.iter().filter(|item| !is_first(item) && !is_told(item)).collect();
        let wanted: Vec<&Element> = expected
            .children
            .iter()
            .filter(|child| !(child.name == "AttributeIndex" && child.value == "0"))
            .filter(|child| !MAY_BE_TOLD.contains(&child.name.as_str()))
            .collect();

        let is_list =
            |name: &str| ["Attribute", "AttributeName", "AttributeReference", "UniqueIdentifier"].contains(&name);
        let unordered = expected.name == "Attributes"
            || (expected.name == "ResponsePayload" && wanted.iter().skip(1).any(|child| is_list(&child.name)));
        if wanted.len() != answer.len() {
            let names = |names: Vec<String>| names.join(", ");
            return Err(format!(
                "[{}] instead of [{}]",
                names(answer.iter().map(|item| label_of_item(item)).collect()),
                names(wanted.iter().map(|element| label(element)).collect())
            ));
        }
        if !unordered {
            return wanted.iter().zip(answer).try_for_each(|(element, item)| self.element(element, item, attribute));
        }
        // Attributes have no order; each one that is wanted has to be there.
        let mut left = answer;
        for element in wanted {
            let found = left.iter().position(|item| {
                let mut trial = Self { now: self.now, variables: self.variables.clone(), made_here: self.made_here };
                trial.element(element, item, attribute).is_ok()
            });
            let Some(found) = found else {
                let others: Vec<_> = left.iter().map(|item| label_of_item(item)).collect();
                return Err(format!("{} is not among [{}]", label(element), others.join(", ")));
            };
            self.element(element, left.remove(found), attribute)?;
        }
        Ok(())
    }
}

/// What an element is, for humans: an attribute by its name.
fn label(element: &Element) -> String {
    let name = element.children.iter().find(|child| child.name == "AttributeName");
    match name.map_or(element.value.as_str(), |name| name.value.as_str()) {
        "" => element.name.clone(),
        more => format!("{} {more}", element.name),
    }
}

fn label_of_item(item: &Item) -> String {
    let name = match &item.value {
        Value::Structure(items) => items.iter().find(|item| item.tag == Tag::ATTRIBUTE_NAME).map(|item| &item.value),
        Value::Enumeration(number) if item.tag == Tag::ATTRIBUTE_REFERENCE => return format!("{}", Tag(*number)),
        value => Some(value),
    };
    match name {
        Some(Value::TextString(text)) => format!("{} {text}", item.tag),
        _ => item.tag.to_string(),
    }
}

pub(crate) fn mentions(element: &Element, name: &str, values: &[&str]) -> bool {
    (element.name == name && values.contains(&element.value.as_str()))
        || element.children.iter().any(|child| mentions(child, name, values))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?} instead of {wanted:?}")) }
}
