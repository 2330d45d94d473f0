//! Whatever may come from outside, near enough to what is expected that it gets far into whoever reads it.

#![allow(dead_code)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::Value;

/// So many cases, where what they are about lives as long as all of them.
pub(crate) fn cases<S: Strategy>(count: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(count) };
    TestRunner::new(config).run(strategy, test).unwrap();
}

/// Real bytes with some of them changed, and some cut off or added: gets further into a parser than noise does.
pub(crate) fn like(real: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<Index>(), any::<u8>()), 0..6);
    (Just(real), changes, 0usize..16, vec(any::<u8>(), 0..4)).prop_map(|(mut bytes, changes, cut, added)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Most often the end stays where it is.
        let cut = cut.saturating_sub(10);
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if cut > 0 {
            bytes.extend(added);
        }
        bytes
    })
}

/// Any JSON, with values that mean something here.
fn json() -> impl Strategy<Value = Value> {
    let words =
        ["", "sha1", "sha256", "EV_IPL", "EV_SEPARATOR", "enforce", "AA==", "a", "2026-01-01T00:00:00Z", "../x"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u8..30).prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        vec(any::<u8>(), 0..40)
            .prop_map(|bytes| Value::from(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec(("\\PC{0,6}", inner), 0..3).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Everything inside a value, by JSON pointers.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut inside = |name: String, value: &Value| {
        let name = name.replace('~', "~0").replace('/', "~1");
        let pointer = format!("{at}/{name}");
        pointers(value, &pointer, all);
        all.push(pointer);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| inside(name.clone(), value)),
        Value::Array(values) => values.iter().enumerate().for_each(|(at, value)| inside(at.to_string(), value)),
        _ => {}
    }
}

/// A real value in which some things are another, or gone.
pub(crate) fn like_json(real: Value) -> impl Strategy<Value = Value> {
    let changes = vec((any::<Index>(), prop::option::weighted(0.8, json())), 0..4);
    (Just(real), changes).prop_map(|(mut value, changes)| {
        for (at, change) in changes {
            let mut all = Vec::new();
            pointers(&value, "", &mut all);
            let Some(pointer) = (!all.is_empty()).then(|| all.swap_remove(at.index(all.len()))) else { continue };
            match change {
                Some(change) => *value.pointer_mut(&pointer).unwrap() = change,
                None => {
                    let (parent, name) = pointer.rsplit_once('/').unwrap();
                    match value.pointer_mut(parent).unwrap() {
                        Value::Object(members) => drop(members.remove(&name.replace("~1", "/").replace("~0", "~"))),
                        Value::Array(values) => drop(values.remove(name.parse().unwrap())),
                        _ => {}
                    }
                }
            }
        }
        value
    })
}
