//! Anything at all in the place of a header: no panic, and no more read than a header can be long.

use luks2::{Device, VOLUME_KEY_LEN};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use crate::image::{COPY, HEAD, edit, formatted, metadata, open, opens, seal, set_json, token};
use crate::memory::Memory;

/// All that can be asked of a device that opens, but for its passphrase.
fn exercise(bytes: Vec<u8>) {
    let memory = Memory::new(bytes);
    if let Ok(mut device) = Device::open(&memory) {
        let _ = (device.data_segment(), device.keyslots(), device.unfinished_removals());
        let _ = device.tokens().count();
        if device.repair().is_ok() && device.set_token(token("any", "thing")).is_ok() {
            let again = Device::open(&memory).unwrap();
            assert!(again.health().is_good());
            assert_eq!(again.tokens_of("any").count(), 1);
        }
    }
    // Both copies of each size that there is, twice over.
    assert!(memory.bytes_read() < 64 << 20);
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(|number| Value::from(number.to_string())),
        prop::sample::select(vec!["0", "1", "luks2", "crypt", "dynamic", "pbkdf2", "4096", "32768", ""])
            .prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,6}", inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The paths of all members of a value.
fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    if let Value::Object(members) = value {
        for (name, value) in members {
            let path = format!("{at}/{name}");
            paths(value, &path, all);
            all.push(path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes(head in vec(any::<u8>(), 0..20_000)) {
        exercise(head);
    }

    #[test]
    fn bytes_behind_a_right_checksum(json in vec(any::<u8>(), 0..2000), head in vec((6usize..HEAD, any::<u8>()), 0..4)) {
        let mut bytes = formatted("right");
        set_json(&mut bytes, &json);
        for (offset, byte) in head {
            bytes[offset] = byte;
        }
        seal(&mut bytes[..COPY]);
        exercise(bytes);
    }

    /// Any member replaced by anything, or gone: the nearest to what a fuzzer would find.
    #[test]
    fn metadata_with_any_member_replaced(changes in vec((any::<prop::sample::Index>(), prop::option::of(json())), 1..4)) {
        let bytes = edit(&formatted("right"), |value| {
            value["tokens"]["0"] = serde_json::json!({"type": "a", "keyslots": ["0"]});
            for (index, change) in changes {
                let mut all = Vec::new();
                paths(value, "", &mut all);
                if all.is_empty() {
                    return;
                }
                let path = index.get(&all).clone();
                let (parent, name) = path.rsplit_once('/').unwrap();
                match (value.pointer_mut(parent), change) {
                    (Some(Value::Object(members)), Some(change)) => drop(members.insert(name.to_owned(), change)),
                    (Some(Value::Object(members)), None) => drop(members.remove(name)),
                    _ => {}
                }
            }
        });
        exercise(bytes);
    }

    #[test]
    fn what_is_written_is_read_back(
        kind in "[a-z][a-z0-9-]{0,20}",
        fields in vec(("[a-z]{1,8}", json()), 0..5),
        label in "[a-zA-Z0-9 äß]{0,20}",
        passphrase in vec(any::<u8>(), 0..100),
        key in vec(any::<u8>(), VOLUME_KEY_LEN),
    ) {
        let key: [u8; VOLUME_KEY_LEN] = key.try_into().unwrap();
        prop_assume!(key[..32] != key[32..]);
        let fields = fields.into_iter().filter(|(name, _)| name != "type" && name != "keyslots").collect();
        let token = luks2::Token::new(kind, fields);
        let params = luks2::Params { label: label.clone(), tokens: vec![token.clone()], ..crate::image::params() };
        let memory = Memory::zeros(crate::image::IMAGE);
        Device::format(&memory, &params, &key, &passphrase).unwrap();
        let device = Device::open(&memory).unwrap();
        prop_assert_eq!(device.label(), label);
        let (_, stored) = device.tokens().next().unwrap();
        prop_assert_eq!((&stored.kind, &stored.fields), (&token.kind, &token.fields));
        let mut opened = [0; VOLUME_KEY_LEN];
        device.unlock(&passphrase, &mut opened).unwrap();
        prop_assert_eq!(opened, key);
    }

    /// Any sequence of changes leaves a device that opens with those passphrases that it should.
    #[test]
    fn any_sequence_of_changes(steps in vec((0u8..3, 0usize..4), 1..8)) {
        let mut device = open(&formatted("p0")).unwrap();
        let mut live: Vec<(luks2::KeyslotId, String)> = vec![(luks2::KeyslotId::new(0), "p0".into())];
        for (number, (step, which)) in steps.into_iter().enumerate() {
            let passphrase = format!("p{}", number + 1);
            let chosen = live[which % live.len()].clone();
            match step {
                0 => if let Ok(id) = device.add_keyslot(&crate::image::volume_key(), passphrase.as_bytes(), &[]) {
                    live.push((id, passphrase));
                } else {
                    prop_assert_eq!(live.len(), 4);
                },
                1 => match device.remove_keyslot(chosen.0) {
                    Ok(()) => live.retain(|slot| *slot != chosen),
                    Err(_) => prop_assert_eq!(live.len(), 1),
                },
                _ => if let Ok(id) = device.swap_keyslot(chosen.0, &crate::image::volume_key(), passphrase.as_bytes(), &[]) {
                    live.retain(|slot| *slot != chosen);
                    live.push((id, passphrase));
                } else {
                    prop_assert_eq!(live.len(), 4);
                },
            }
        }
        let device = open(&device.io().bytes()).unwrap();
        prop_assert!(device.health().is_good());
        prop_assert_eq!(device.keyslots().len(), live.len());
        for (id, passphrase) in &live {
            prop_assert_eq!(opens(&device, passphrase), Some(*id));
        }
        prop_assert_eq!(metadata(&device.io().bytes())["digests"].as_object().unwrap().len(), 1);
    }
}
