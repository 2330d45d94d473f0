//! What is known of a key, apart from its bytes.

use kmip::attribute::{Attribute, AttributeName, AttributeValue, CustomValue, Digest, UsageMask};
use kmip::names::{CryptographicAlgorithm, HashingAlgorithm, KeyFormatType, LinkType, ObjectType, Tag};
use kmip::ttlv::{Item, Value};

use super::Lifecycle;

/// What a key is for, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectShape {
    pub(crate) algorithm: CryptographicAlgorithm,
    /// In bits.
    pub(crate) length: i32,
    pub(crate) usage: UsageMask,
}

/// How a key belongs to another (KMIP 1.4 section 3.35).
pub(crate) struct Link {
    kind: LinkType,
    to: String,
}

impl Link {
    pub(crate) fn new(kind: LinkType, to: &str) -> Self {
        Self { kind, to: to.to_owned() }
    }

    pub(crate) fn to_attribute(&self) -> Attribute {
        let value = Value::Structure(vec![
            Item::new(Tag::LINK_TYPE, Value::Enumeration(self.kind.0)),
            Item::new(Tag::LINKED_OBJECT_IDENTIFIER, Value::TextString(self.to.clone())),
        ]);
        Attribute::new(AttributeValue::Other(AttributeName::LINK, CustomValue(value)))
    }

    fn of_attribute(attribute: &Attribute) -> Option<Self> {
        let AttributeValue::Other(name, CustomValue(Value::Structure(items))) = &attribute.value else {
            return None;
        };
        match items.as_slice() {
            [Item { value: Value::Enumeration(kind), .. }, Item { value: Value::TextString(to), .. }]
                if *name == AttributeName::LINK =>
            {
                Some(Self { kind: LinkType(*kind), to: to.clone() })
            }
            _ => None,
        }
    }

    fn replacement(self) -> Option<String> {
        (self.kind == LinkType::REPLACEMENT_OBJECT_LINK).then_some(self.to)
    }
}

/// What is known of a key, apart from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) id: String,
    pub(crate) owner: String,
    pub(crate) shape: ObjectShape,
    pub(crate) lifecycle: Lifecycle,
    /// SHA-256 of the key's bytes.
    pub(crate) digest: Vec<u8>,
    /// What the client said of it, with indices: names, custom attributes and the like.
    pub(crate) given: Vec<Attribute>,
}

impl Object {
    /// Every attribute it has, in a fixed order.
    pub(crate) fn attributes(&self) -> Vec<Attribute> {
        use AttributeValue as V;

        let dates = &self.lifecycle.dates;
        let always = [
            V::UniqueIdentifier(self.id.clone()),
            V::ObjectType(ObjectType::SYMMETRIC_KEY),
            V::CryptographicAlgorithm(self.shape.algorithm),
            V::CryptographicLength(self.shape.length),
            V::CryptographicUsageMask(self.shape.usage),
            V::Digest(Digest {
                hashing_algorithm: HashingAlgorithm::SHA_256,
                value: self.digest.clone(),
                key_format_type: Some(KeyFormatType::RAW),
            }),
            V::State(self.lifecycle.state),
            V::InitialDate(dates.initial),
            V::LastChangeDate(dates.last_change),
        ];
        let sometimes = [
            dates.activation.map(V::ActivationDate),
            dates.process_start.map(V::ProcessStartDate),
            dates.protect_stop.map(V::ProtectStopDate),
            dates.deactivation.map(V::DeactivationDate),
            dates.destroy.map(V::DestroyDate),
            dates.compromise_occurrence.map(V::CompromiseOccurrenceDate),
            dates.compromise.map(V::CompromiseDate),
            self.lifecycle.revocation_reason.clone().map(V::RevocationReason),
        ];
        always
            .into_iter()
            .chain(sometimes.into_iter().flatten())
            .map(Attribute::new)
            .chain(self.given.iter().cloned())
            .collect()
    }

    /// Every attribute's name, once.
    pub(crate) fn attribute_names(&self) -> Vec<AttributeName> {
        let mut names: Vec<AttributeName> = Vec::new();
        for attribute in self.attributes() {
            let name = attribute.attribute_name();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The key that came in its place, if one did.
    pub(crate) fn replaced_by(&self) -> Option<String> {
        self.given.iter().find_map(|attribute| Link::of_attribute(attribute).and_then(Link::replacement))
    }

    /// Whether a flag that a client may set on its key says so.
    fn flag(&self, flag: impl Fn(&AttributeValue) -> Option<bool>) -> Option<bool> {
        self.given.iter().find_map(|attribute| flag(&attribute.value))
    }

    /// Whether the key may leave the server only wrapped (KMIP 1.4 section 3.46).
    pub(crate) fn is_sensitive(&self) -> bool {
        self.flag(|value| match value {
            AttributeValue::Sensitive(flag) => Some(*flag),
            _ => None,
        }) == Some(true)
    }

    /// Whether the key may leave the server at all (KMIP 1.4 section 3.48).
    pub(crate) fn is_extractable(&self) -> bool {
        self.flag(|value| match value {
            AttributeValue::Extractable(flag) => Some(*flag),
            _ => None,
        }) != Some(false)
    }
}
