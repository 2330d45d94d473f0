//! What each change does, without anything going wrong.

use luks2::{
    Device, Error, Health, KeyslotId, Priority, SectorSize, SegmentSize, Token, TokenChange, TokenId, VOLUME_KEY_LEN,
};
use serde_json::json;

use crate::image::{AREA, COPY, DATA, IMAGE, edit, formatted, metadata, open, opens, params, token, volume_key};
use crate::memory::Memory;

#[test]
fn a_formatted_device_opens() {
    let params = luks2::Params {
        label: "label".into(),
        subsystem: "subsystem".into(),
        tokens: vec![token("a", "1"), token("b", "2")],
        ..params()
    };
    let memory = Memory::zeros(IMAGE);
    Device::format(&memory, &params, &volume_key(), b"right").unwrap();
    let device = Device::open(&memory).unwrap();
    assert!(device.health().is_good());
    assert_eq!(device.uuid(), params.uuid);
    assert_eq!((device.label(), device.subsystem(), device.sequence()), ("label", "subsystem", 1));
    assert_eq!(opens(&device, "right"), Some(KeyslotId::new(0)));
    assert_eq!(opens(&device, "wrong"), None);
    device.verify_volume_key(&volume_key()).unwrap();
    assert!(matches!(device.verify_volume_key(&[1; VOLUME_KEY_LEN]), Err(Error::WrongVolumeKey)));

    let segment = device.data_segment().unwrap();
    assert_eq!((segment.offset, segment.len, segment.iv_tweak), (DATA as u64, 8192, 0));
    assert_eq!(segment.sector_size, SectorSize::B4096);
    for (number, (id, token)) in (0..).zip(device.tokens()) {
        assert_eq!(id, TokenId::new(number));
        assert!(token.keyslots.contains(&KeyslotId::new(0)));
    }
    assert_eq!(device.tokens_of("b").count(), 1);

    let keyslots = device.keyslots();
    assert_eq!(keyslots.len(), 1);
    assert_eq!((keyslots[0].kind.as_str(), keyslots[0].kdf.as_deref()), ("luks2", Some("pbkdf2")));
    assert!(keyslots[0].opens_data && keyslots[0].unsupported.is_none() && keyslots[0].priority == Priority::Normal);
}

#[test]
fn the_keyslots_area_is_noise() {
    let bytes = formatted("right");
    for sector in bytes[2 * COPY..2 * COPY + 4 * AREA].chunks(512) {
        let zeros = sector.iter().filter(|byte| **byte == 0).count();
        assert!(zeros < 40, "a sector with {zeros} zeros says that nothing was ever there");
    }
}

#[test]
fn the_secret_is_nowhere_in_the_image() {
    let bytes = formatted("a long passphrase");
    for secret in [&volume_key()[..16], b"a long passphrase"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[test]
fn formatting_forgets_older_headers() {
    // Larger copies first, then smaller ones: the second copy of the first header stands where nothing covers it.
    let memory = Memory::zeros(8 << 20);
    let large = luks2::Params { metadata_size: 2 << 20, data_offset: 6 << 20, ..params() };
    Device::format(&memory, &large, &volume_key(), b"older").unwrap();
    let small = luks2::Params { keyslots_size: AREA as u64, data_offset: 6 << 20, ..params() };
    Device::format(&memory, &small, &volume_key(), b"newer").unwrap();
    let mut bytes = memory.bytes();
    bytes[..2 * COPY].fill(0);
    assert!(matches!(open(&bytes), Err(Error::NotLuks2)));
}

#[test]
fn parameters_that_contradict_are_refused_before_anything_is_written() {
    type Change = fn(&mut luks2::Params);
    let changes: [Change; 14] = [
        |params| params.metadata_size = 24 << 10,
        |params| params.metadata_size = 8 << 10,
        |params| params.metadata_size = 8 << 20,
        |params| params.keyslots_size = 4096,
        |params| params.keyslots_size += 512,
        |params| params.keyslots_size = 1 << 40,
        |params| params.data_offset = 32 << 10,
        |params| params.data_offset += 512,
        |params| params.data_size = SegmentSize::Fixed(0),
        |params| params.data_size = SegmentSize::Fixed(4097),
        |params| params.data_size = SegmentSize::Fixed(u64::MAX - 4095),
        |params| params.label = "x".repeat(48),
        |params| params.subsystem = "a\0b".into(),
        |params| params.iterations = 999,
    ];
    for change in changes {
        let mut params = params();
        change(&mut params);
        let memory = Memory::zeros(IMAGE);
        let result = Device::format(&memory, &params, &volume_key(), b"right");
        assert!(matches!(result, Err(Error::Params(_))), "{params:?}");
        assert_eq!(memory.operations(), 0);
    }
    let refused = |params: &luks2::Params, key: &[u8; VOLUME_KEY_LEN], size: usize| {
        let memory = Memory::zeros(size);
        let error = Device::format(&memory, params, key, b"right").err().unwrap();
        assert_eq!(memory.operations(), 0);
        error
    };
    assert!(matches!(refused(&params(), &[7; VOLUME_KEY_LEN], IMAGE), Error::Params(_)));
    assert!(matches!(refused(&params(), &volume_key(), DATA - 1), Error::TooSmall { .. }));
    let fixed = luks2::Params { data_size: SegmentSize::Fixed(12288), ..params() };
    assert!(matches!(refused(&fixed, &volume_key(), IMAGE), Error::TooSmall { needed: 2_109_440, .. }));
    let large = luks2::Params { tokens: vec![token("large", &"x".repeat(COPY))], ..params() };
    assert!(matches!(refused(&large, &volume_key(), IMAGE), Error::NoMetadataSpace { .. }));
}

#[test]
fn the_data_follow_the_device() {
    let mut bytes = formatted("right");
    let len = |bytes: &[u8]| open(bytes).unwrap().data_segment().map(|segment| segment.len);
    bytes.resize(DATA + 3 * 4096 + 700, 0);
    assert_eq!(len(&bytes).unwrap(), 3 * 4096, "only whole sectors");
    bytes.truncate(DATA);
    assert_eq!(len(&bytes).unwrap(), 0);
    bytes.truncate(DATA - 512);
    assert!(matches!(len(&bytes), Err(Error::TooSmall { .. })));

    let fixed = edit(&formatted("right"), |json| {
        json["segments"]["0"]["size"] = json!("4096");
        json["segments"]["0"]["iv_tweak"] = json!("80");
    });
    let segment = open(&fixed).unwrap().data_segment().unwrap();
    assert_eq!((segment.len, segment.iv_tweak), (4096, 80));
    assert!(matches!(len(&fixed[..DATA + 512]), Err(Error::TooSmall { .. })));
}

#[test]
fn keyslots_come_and_go() {
    let mut device = open(&formatted("zero")).unwrap();
    for (number, passphrase) in (1..).zip(["one", "two", "three"]) {
        assert_eq!(device.add_keyslot(&volume_key(), passphrase.as_bytes(), &[]).unwrap(), KeyslotId::new(number));
    }
    let full = device.add_keyslot(&volume_key(), b"four", &[]);
    assert!(matches!(full, Err(Error::NoKeyslotSpace { needed }) if needed == AREA as u64));

    let before = device.io().bytes();
    device.remove_keyslot(KeyslotId::new(1)).unwrap();
    let after = device.io().bytes();
    let area = 2 * COPY + AREA..2 * COPY + 2 * AREA;
    let same = before[area.clone()].chunks(512).zip(after[area].chunks(512)).filter(|(a, b)| a == b).count();
    assert_eq!(same, 0, "all of the area must be overwritten");
    assert_eq!(opens(&device, "one"), None);

    // The gap is found again, in the midst of the others.
    assert_eq!(device.add_keyslot(&volume_key(), b"five", &[]).unwrap(), KeyslotId::new(1));
    let device = open(&device.io().bytes()).unwrap();
    for (number, passphrase) in [(0, "zero"), (1, "five"), (2, "two"), (3, "three")] {
        assert_eq!(opens(&device, passphrase), Some(KeyslotId::new(number)));
    }
}

#[test]
fn iterations_are_the_callers_choice() {
    let mut device = open(&formatted("zero")).unwrap();
    assert!(matches!(device.set_iterations(999), Err(Error::Params(_))));
    assert!(matches!(device.set_iterations(u32::MAX), Err(Error::Params(_))));
    device.set_iterations(1234).unwrap();
    let id = device.add_keyslot(&volume_key(), b"one", &[]).unwrap();
    assert_eq!(metadata(&device.io().bytes())["keyslots"][id.to_string()]["kdf"]["iterations"], json!(1234));
    assert_eq!(opens(&device, "one"), Some(id));
}

#[test]
fn the_last_keyslot_stays_unless_all_shall_go() {
    let mut device = open(&formatted("zero")).unwrap();
    let (zero, absent) = (KeyslotId::new(0), KeyslotId::new(9));
    assert!(matches!(device.remove_keyslot(zero), Err(Error::LastKeyslot(id)) if id == zero));
    assert!(matches!(device.remove_keyslot(absent), Err(Error::NoSuchKeyslot(id)) if id == absent));
    assert_eq!(opens(&device, "zero"), Some(zero));
    device.add_keyslot(&volume_key(), b"one", &[]).unwrap();
    device.erase_keyslots().unwrap();
    let device = open(&device.io().bytes()).unwrap();
    assert!(device.keyslots().is_empty() && device.unfinished_removals().is_empty());
    assert_eq!(opens(&device, "zero").or(opens(&device, "one")), None);
    // Who has the volume key can still make another.
    let mut device = device;
    device.add_keyslot(&volume_key(), b"again", &[]).unwrap();
    assert!(opens(&device, "again").is_some());
}

#[test]
fn a_keyslot_is_added_by_the_right_volume_key_only() {
    let mut device = open(&formatted("zero")).unwrap();
    let mut wrong = volume_key();
    wrong[63] ^= 1;
    let before = device.io().bytes();
    assert!(matches!(device.add_keyslot(&wrong, b"one", &[]), Err(Error::WrongVolumeKey)));
    assert!(matches!(device.swap_keyslot(KeyslotId::new(0), &wrong, b"one", &[]), Err(Error::WrongVolumeKey)));
    assert_eq!(device.io().bytes(), before);
}

#[test]
fn a_swap_changes_passphrase_and_token() {
    let mut device = open(&formatted("old")).unwrap();
    let mut bound = token("key", "old");
    bound.keyslots.insert(KeyslotId::new(0));
    let id = device.set_token(bound).unwrap();
    let changes = [TokenChange::Set(id, token("key", "new")), TokenChange::Add(token("note", "added"))];
    let new = device.swap_keyslot(KeyslotId::new(0), &volume_key(), b"new", &changes).unwrap();
    assert_ne!(new, KeyslotId::new(0));

    let mut device = open(&device.io().bytes()).unwrap();
    assert_eq!((opens(&device, "old"), opens(&device, "new")), (None, Some(new)));
    let tokens: Vec<_> = device.tokens().map(|(_, token)| token.clone()).collect();
    assert_eq!(tokens.len(), 2);
    assert_eq!((&tokens[0].fields["text"], &tokens[0].keyslots), (&json!("new"), &[new].into()));
    assert_eq!(device.keyslots().len(), 1);

    let before = device.io().bytes();
    assert_eq!(device.swap_keyslot(KeyslotId::new(0), &volume_key(), b"new", &changes).unwrap(), new, "again");
    assert!(matches!(
        device.swap_keyslot(KeyslotId::new(0), &volume_key(), b"third", &[]),
        Err(Error::NoSuchKeyslot(_))
    ));
    assert_eq!(device.io().bytes(), before);
}

#[test]
fn tokens_are_set_and_removed() {
    let mut device = open(&formatted("zero")).unwrap();
    let first = device.set_token(token("a", "1")).unwrap();
    let other = device.set_token(token("b", "1")).unwrap();
    assert_eq!(device.set_token(token("a", "2")).unwrap(), first, "one per type");
    let device_tokens: Vec<_> = device.tokens().map(|(id, token)| (id, token.fields["text"].clone())).collect();
    assert_eq!(device_tokens, [(first, json!("2")), (other, json!("1"))]);
    device.remove_token(first).unwrap();
    assert!(matches!(device.remove_token(first), Err(Error::NoSuchToken(_))));
    assert_eq!(open(&device.io().bytes()).unwrap().tokens().count(), 1);
}

#[test]
fn tokens_that_cannot_be_stored_are_refused() {
    let mut device = open(&formatted("zero")).unwrap();
    let mut deep = json!(1);
    for _ in 0..40 {
        deep = json!([deep]);
    }
    let mut dangling = token("a", "1");
    dangling.keyslots.insert(KeyslotId::new(3));
    let with = |name: &str, value| Token::new("a", serde_json::Map::from_iter([(name.to_owned(), value)]));
    for token in [with("deep", deep), with("type", json!("b")), with("keyslots", json!([])), token("", "1"), dangling] {
        assert!(matches!(device.set_token(token), Err(Error::Token(_))));
    }
    let far = TokenChange::Set(TokenId::new(32), token("a", "1"));
    assert!(matches!(device.change_tokens(&[far]), Err(Error::NoSuchToken(_))));
    let many = vec![TokenChange::Add(token("a", "1")); 33];
    assert!(matches!(device.change_tokens(&many), Err(Error::NoFreeToken(32))));
    let large = device.set_token(token("a", &"x".repeat(COPY)));
    assert!(matches!(large, Err(Error::NoMetadataSpace { .. })));
    assert_eq!(device.sequence(), 1, "nothing was written");
}

#[test]
fn what_is_not_known_survives_every_change() {
    let bytes = edit(&formatted("zero"), |json| {
        json["later"] = json!({"version": 3});
        json["config"]["flags"] = json!(["allow-discards"]);
        json["config"]["later"] = json!(1.1);
        json["segments"]["0"]["later"] = json!([null]);
        json["keyslots"]["0"]["later"] = json!(true);
        json["keyslots"]["0"]["kdf"]["later"] = json!("x");
        json["keyslots"]["0"]["area"]["later"] = json!("x");
        json["keyslots"]["0"]["af"]["later"] = json!("x");
        json["digests"]["0"]["later"] = json!(-1);
        json["tokens"]["3"] =
            json!({"type": "foreign", "keyslots": ["0"], "x": {"y": [1, 2.5, 18_446_744_073_709_551_615_u64]}});
        json["keyslots"]["5"] = json!({"type": "foreign", "key_size": 1, "later": {"a": 1},
            "area": {"type": "odd", "offset": (2 * COPY + AREA).to_string(), "size": "4096", "x": 1}});
    });
    let before = metadata(&bytes);
    let mut device = open(&bytes).unwrap();
    assert_eq!(metadata(&device.io().bytes()), before);
    // It keeps off the foreign area too.
    let id = device.add_keyslot(&volume_key(), b"one", &[]).unwrap();
    let offset = metadata(&device.io().bytes())["keyslots"][id.to_string()]["area"]["offset"].clone();
    assert_eq!(offset, json!((2 * COPY + AREA + 4096).to_string()));
    device.remove_keyslot(id).unwrap();
    let token = device.set_token(token("ours", "1")).unwrap();
    device.remove_token(token).unwrap();
    assert_eq!(metadata(&device.io().bytes()), before);

    let foreign = KeyslotId::new(5);
    for refused in [
        device.remove_keyslot(foreign),
        device.erase_keyslots(),
        device.swap_keyslot(foreign, &volume_key(), b"x", &[]).map(|_| ()),
        device.unlock_keyslot(foreign, b"x", &mut [0; VOLUME_KEY_LEN]).map(|()| panic!("it opened")),
    ] {
        assert!(matches!(refused, Err(Error::Unsupported(_) | Error::NoKeyslotOpens { .. })), "{refused:?}");
    }
    assert_eq!(metadata(&device.io().bytes()), before);
}

#[test]
fn keyslots_are_tried_by_priority() {
    let mut device = open(&formatted("same")).unwrap();
    device.add_keyslot(&volume_key(), b"same", &[]).unwrap();
    device.add_keyslot(&volume_key(), b"same", &[]).unwrap();
    let bytes = device.io().bytes();
    let with = |priorities: [u32; 3]| {
        let bytes = edit(&bytes, |json| {
            for (number, priority) in priorities.into_iter().enumerate() {
                json["keyslots"][number.to_string()]["priority"] = json!(priority);
            }
        });
        opens(&open(&bytes).unwrap(), "same").map(KeyslotId::number)
    };
    assert_eq!(with([1, 1, 1]), Some(0));
    assert_eq!(with([1, 2, 1]), Some(1));
    assert_eq!(with([0, 0, 1]), Some(2));
    assert_eq!(with([0, 0, 0]), None);
    let ignored = edit(&bytes, |json| json["keyslots"]["0"]["priority"] = json!(0));
    let mut key = [0; VOLUME_KEY_LEN];
    open(&ignored).unwrap().unlock_keyslot(KeyslotId::new(0), b"same", &mut key).unwrap();
    assert_eq!(key, volume_key(), "one that is asked for by number is tried whatever its priority");
}

#[test]
fn a_change_starts_from_what_is_on_the_device() {
    let memory = Memory::new(formatted("zero"));
    let mut first = Device::open(&memory).unwrap();
    let mut second = Device::open(&memory).unwrap();
    first.add_keyslot(&volume_key(), b"one", &[]).unwrap();
    second.add_keyslot(&volume_key(), b"two", &[]).unwrap();
    for passphrase in ["zero", "one", "two"] {
        assert!(opens(&second, passphrase).is_some(), "{passphrase}");
    }
    assert!(matches!(second.health(), Health::Good));
}
