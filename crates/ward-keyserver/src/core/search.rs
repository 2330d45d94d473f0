//! What Locate finds: the objects that match every condition exactly (KMIP 1.4 section 4.9).

use kmip::attribute::{Attribute, AttributeName, AttributeValue};
use kmip::names::ObjectGroupMember;

use super::{Object, Refusal};

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Search {
    conditions: Vec<Attribute>,
    limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    offset: usize,
    maximum: usize,
    online: bool,
}

impl Search {
    pub(crate) fn new(request: kmip::operation::LocateRequest) -> Result<Self, Refusal> {
        let positive = |number: Option<i32>, otherwise: usize, what: &str| match number {
            None => Ok(otherwise),
            Some(number) => {
                usize::try_from(number).map_err(|_| Refusal::invalid(format!("{what} must not be negative")))
            }
        };
        // Every object here is like every other: no group has a default member.
        if request.object_group_member == Some(ObjectGroupMember::GROUP_MEMBER_DEFAULT) {
            return Err(Refusal::invalid("groups have no default member here"));
        }
        Ok(Self {
            limits: Limits {
                offset: positive(request.offset_items, 0, "Offset Items")?,
                maximum: positive(request.maximum_items, usize::MAX, "Maximum Items")?,
                online: request.storage_status_mask.is_none_or(|mask| mask & 1 != 0),
            },
            conditions: request.attributes,
        })
    }

    /// The name it asks for, if it does: for the store to look up.
    pub(crate) fn name(&self) -> Option<&str> {
        self.conditions.iter().find_map(|condition| match &condition.value {
            AttributeValue::Name(name) => Some(name.value.as_str()),
            _ => None,
        })
    }

    /// The identifiers of what matches, of objects in a fixed order, and how many match whatever the maximum.
    pub(crate) fn run<'a>(&self, objects: impl IntoIterator<Item = &'a Object>) -> (Vec<String>, usize) {
        let matching: Vec<&str> =
            objects.into_iter().filter(|object| self.matches(object)).map(|object| object.id.as_str()).collect();
        let page = matching.iter().skip(self.limits.offset).take(self.limits.maximum);
        (page.map(|id| (*id).to_owned()).collect(), matching.len())
    }

    fn matches(&self, object: &Object) -> bool {
        // Nothing is archived here.
        if !self.limits.online {
            return false;
        }
        // What was destroyed is no longer in on-line storage; only who asks for the state gets to see it.
        let asks_for_state = self.conditions.iter().any(|condition| condition.attribute_name() == AttributeName::STATE);
        if object.lifecycle.is_destroyed() && !asks_for_state {
            return false;
        }
        let attributes = object.attributes();
        self.conditions.iter().all(|condition| satisfied(condition, &self.conditions, &attributes))
    }
}

/// Two conditions on one date are a range, both ends included (KMIP 1.4 section 4.9).
fn satisfied(condition: &Attribute, conditions: &[Attribute], attributes: &[Attribute]) -> bool {
    let name = condition.attribute_name();
    let mut of_object = attributes.iter().filter(|attribute| attribute.attribute_name() == name);
    if let Some(date) = date(&condition.value) {
        let same: Vec<i64> = conditions
            .iter()
            .filter(|other| other.attribute_name() == name)
            .filter_map(|other| self::date(&other.value))
            .collect();
        let from = same.iter().copied().min().unwrap_or(date);
        let to = same.iter().copied().max().unwrap_or(date);
        return of_object.any(|attribute| self::date(&attribute.value).is_some_and(|date| (from..=to).contains(&date)));
    }
    of_object.any(|attribute| match (&condition.value, &attribute.value) {
        // Every use asked for, not exactly those.
        (AttributeValue::CryptographicUsageMask(wanted), AttributeValue::CryptographicUsageMask(mask)) => {
            mask.contains(*wanted)
        }
        (wanted, value) => wanted == value,
    })
}

fn date(value: &AttributeValue) -> Option<i64> {
    use AttributeValue as V;
    match value {
        V::ActivationDate(date)
        | V::ArchiveDate(date)
        | V::CompromiseDate(date)
        | V::CompromiseOccurrenceDate(date)
        | V::DeactivationDate(date)
        | V::DestroyDate(date)
        | V::InitialDate(date)
        | V::LastChangeDate(date)
        | V::OriginalCreationDate(date)
        | V::ProcessStartDate(date)
        | V::ProtectStopDate(date) => Some(*date),
        _ => None,
    }
}

/// The attributes asked for: those named, or all.
pub(crate) fn wanted(object: &Object, names: &[AttributeName]) -> Vec<Attribute> {
    let mut attributes = object.attributes();
    if !names.is_empty() {
        attributes.retain(|attribute| names.contains(&attribute.attribute_name()));
    }
    attributes
}

#[cfg(test)]
mod tests;
