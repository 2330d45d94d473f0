//! Headers with a right checksum and wrong contents.

use luks2::{Damage, Error, Invalid, KeyslotId, Unsupported};
use serde_json::{Value, json};

use crate::image::{AREA, COPY, DATA, HEAD, edit, formatted, metadata, open, opens, seal, set_json, volume_key};

#[track_caller]
fn invalid(change: impl FnOnce(&mut Value)) -> Invalid {
    match open(&edit(&formatted("right"), change)) {
        Err(Error::BothDamaged { primary: Damage::Invalid(primary), secondary: Damage::Invalid(secondary) }) => {
            assert_eq!(primary, secondary);
            primary
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[track_caller]
fn unsupported(change: impl FnOnce(&mut Value)) -> Unsupported {
    match open(&edit(&formatted("right"), change)) {
        Err(Error::Unsupported(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

/// Why the only keyslot cannot be opened.
#[track_caller]
fn skipped(change: impl FnOnce(&mut Value)) -> Unsupported {
    let device = open(&edit(&formatted("right"), change)).unwrap();
    let listed = device.keyslots().remove(0).unsupported;
    match device.unlock(b"right", &mut [0; 64]) {
        Err(Error::NoKeyslotOpens { tried: 0, mut skipped }) => {
            let (_, why) = skipped.remove(0);
            assert_eq!(listed.as_ref(), Some(&why));
            why
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn no_json(json: &[u8]) -> String {
    let mut bytes = formatted("right");
    set_json(&mut bytes, json);
    match open(&bytes) {
        Err(Error::BothDamaged { primary: Damage::Json(why), .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn areas() {
    let area = |offset: u64, size: u64| {
        move |json: &mut Value| {
            let area = &mut json["keyslots"]["0"]["area"];
            (area["offset"], area["size"]) = (json!(offset.to_string()), json!(size.to_string()));
        }
    };
    let (id, (copy, size)) = (KeyslotId::new(0), (COPY as u64, AREA as u64));
    assert_eq!(invalid(area(2 * copy - 512, size)), Invalid::AreaOutside(id));
    assert_eq!(invalid(area(0, size)), Invalid::AreaOutside(id));
    assert_eq!(invalid(area(2 * copy + 3 * size + 512, size)), Invalid::AreaOutside(id));
    assert_eq!(invalid(area(DATA as u64, size)), Invalid::AreaOutside(id));
    assert_eq!(invalid(area(u64::MAX, size)), Invalid::AreaOutside(id));
    assert_eq!(invalid(area(2 * copy, u64::MAX)), Invalid::AreaOutside(id));
    assert_eq!(invalid(area(2 * copy + 1, size)), Invalid::AreaMisaligned(id));
    assert_eq!(invalid(area(2 * copy, 255_488)), Invalid::AreaTooSmall(id));
    assert_eq!(invalid(area(2 * copy, 0)), Invalid::AreaTooSmall(id));
    let overlap = |json: &mut Value| {
        json["keyslots"]["1"] = json["keyslots"]["0"].clone();
        json["keyslots"]["1"]["area"]["offset"] = json!((2 * COPY + AREA - 512).to_string());
        json["digests"]["0"]["keyslots"] = json!(["0", "1"]);
    };
    assert_eq!(invalid(overlap), Invalid::AreasOverlap(id, KeyslotId::new(1)));
}

#[test]
fn references_and_numbers() {
    assert_eq!(
        invalid(|json| json["tokens"]["0"] = json!({"type": "x", "keyslots": ["4"]})),
        Invalid::DanglingKeyslot("token", 0)
    );
    assert_eq!(
        invalid(|json| json["digests"]["0"]["keyslots"] = json!(["0", "4"])),
        Invalid::DanglingKeyslot("digest", 0)
    );
    assert_eq!(invalid(|json| json["digests"]["0"]["segments"] = json!(["1"])), Invalid::DanglingSegment(0));
    let too_many = |what: &'static str, limit| Invalid::TooMany { what, limit };
    let token = json!({"type": "x", "keyslots": []});
    assert_eq!(invalid(|json| json["tokens"]["32"] = token), too_many("tokens", 32));
    assert_eq!(invalid(|json| json["digests"]["8"] = json["digests"]["0"].clone()), too_many("digests", 8));
    assert_eq!(
        invalid(|json| json["keyslots"]["4294967295"] = json["keyslots"]["0"].clone()),
        too_many("keyslots", 32)
    );
    assert!(matches!(invalid(|json| json["digests"]["0"]["keyslots"] = json!([])), Invalid::Keyslot { .. }));
    assert!(matches!(invalid(|json| json["digests"]["1"] = json["digests"]["0"].clone()), Invalid::Keyslot { .. }));
}

#[test]
fn sizes() {
    assert_eq!(
        invalid(|json| json["config"]["json_size"] = json!("12287")),
        Invalid::JsonSize { claimed: 12287, actual: 12288 }
    );
    for size in [4095u64, 1 << 40, u64::MAX] {
        let change = |json: &mut Value| json["config"]["keyslots_size"] = json!(size.to_string());
        assert_eq!(invalid(change), Invalid::KeyslotsSize(size));
    }
}

#[test]
fn keyslots_and_digests() {
    assert!(matches!(invalid(|json| json["keyslots"]["0"]["priority"] = json!(3)), Invalid::Keyslot { .. }));
    assert!(matches!(invalid(|json| json["keyslots"]["0"]["key_size"] = json!(0)), Invalid::Keyslot { .. }));
    assert!(matches!(invalid(|json| json["keyslots"]["0"]["area"]["type"] = json!("cooked")), Invalid::Keyslot { .. }));
    let huge = |json: &mut Value| {
        json["keyslots"]["0"]["key_size"] = json!(u32::MAX);
        json["keyslots"]["0"]["af"]["stripes"] = json!(u32::MAX);
    };
    assert_eq!(invalid(huge), Invalid::AreaTooSmall(KeyslotId::new(0)));
    for name in ["hash", "salt", "digest", "iterations"] {
        let without = |json: &mut Value| drop(json["digests"]["0"].as_object_mut().unwrap().remove(name));
        assert!(matches!(invalid(without), Invalid::Digest { .. }), "{name}");
    }
    assert!(matches!(invalid(|json| json["digests"]["0"]["iterations"] = json!(0)), Invalid::Digest { .. }));
}

#[test]
fn segments() {
    let segment = |name: &'static str, value: Value| move |json: &mut Value| json["segments"]["0"][name] = value;
    for (name, value) in [
        ("offset", json!("2097153")),
        ("size", json!("0")),
        ("size", json!("4097")),
        ("size", json!("18446744073709547520")),
        ("sector_size", json!(8192)),
        ("sector_size", json!(0)),
        ("sector_size", json!(u64::MAX)),
        ("sector_size", Value::Null),
        ("encryption", Value::Null),
    ] {
        let text = format!("{name} {value}");
        assert!(matches!(invalid(segment(name, value)), Invalid::Segment { .. }), "{text}");
    }
    assert_eq!(invalid(|json| json["segments"] = json!({})), Invalid::DanglingSegment(0));

    assert_eq!(unsupported(segment("type", json!("linear"))), Unsupported::SegmentType("linear".into()));
    assert_eq!(unsupported(segment("type", json!("hw-opal"))), Unsupported::SegmentType("hw-opal".into()));
    assert_eq!(unsupported(segment("integrity", json!({"type": "aead"}))), Unsupported::Integrity);
    assert_eq!(unsupported(segment("sector_size", json!(1024))), Unsupported::SectorSize(1024));
    assert_eq!(unsupported(segment("offset", json!("0"))), Unsupported::DetachedHeader);
    assert_eq!(unsupported(segment("flags", json!(["backup-final"]))), Unsupported::Reencryption);
    assert_eq!(
        unsupported(segment("encryption", json!("serpent-xts-plain64"))),
        Unsupported::Cipher { what: "its data", cipher: "serpent-xts-plain64".into() }
    );
    let two = |json: &mut Value| json["segments"]["1"] = json["segments"]["0"].clone();
    assert_eq!(unsupported(two), Unsupported::Segments(2));
    assert_eq!(unsupported(|json| json["digests"]["0"]["type"] = json!("other")), Unsupported::Digest);
    assert_eq!(unsupported(|json| json["digests"]["0"]["segments"] = json!([])), Unsupported::Digest);
}

#[test]
fn requirements() {
    let require = |names: Value| move |json: &mut Value| json["config"]["requirements"] = json!({"mandatory": names});
    assert_eq!(unsupported(require(json!(["online-reencrypt-v2"]))), Unsupported::Reencryption);
    assert_eq!(unsupported(require(json!(["x", "offline-reencrypt"]))), Unsupported::Reencryption);
    let why = unsupported(require(json!(["from-the-future"])));
    assert_eq!(why, Unsupported::Requirement("from-the-future".into()));
    assert_eq!(why.to_string(), "it requires \"from-the-future\", which is not known");
    open(&edit(&formatted("right"), require(json!([])))).unwrap();
}

/// A device that isn't supported is not written to, whatever its health.
#[test]
fn what_is_not_supported_is_not_repaired() {
    let mut bytes = formatted("right");
    let mut device = open(&bytes).unwrap();
    bytes = edit(&bytes, |json| json["config"]["requirements"] = json!({"mandatory": ["x"]}));
    bytes[COPY] ^= 1;
    luks2::Io::write_all_at(device.io(), &bytes[..2 * COPY], 0).unwrap();
    let before = device.io().bytes();
    assert!(matches!(device.repair(), Err(Error::Unsupported(_))));
    assert!(matches!(device.add_keyslot(&volume_key(), b"x", &[]), Err(Error::Unsupported(_))));
    assert_eq!(device.io().bytes(), before);
}

#[test]
fn keyslots_that_cannot_be_opened() {
    let slot = |pointer: &'static str, value: Value| {
        move |json: &mut Value| *json["keyslots"]["0"].pointer_mut(pointer).unwrap() = value
    };
    assert_eq!(skipped(slot("/kdf/type", json!("scrypt"))), Unsupported::Kdf("scrypt".into()));
    assert_eq!(skipped(slot("/kdf/hash", json!("whirlpool"))), Unsupported::Hash("whirlpool".into()));
    assert_eq!(skipped(slot("/af/hash", json!("ripemd160"))), Unsupported::Hash("ripemd160".into()));
    assert_eq!(skipped(slot("/kdf/iterations", json!(0))), Unsupported::KdfParameters);
    assert_eq!(skipped(slot("/kdf/iterations", json!(u32::MAX))), Unsupported::KdfCost("iterations"));
    assert_eq!(skipped(slot("/af/stripes", json!(3999))), Unsupported::AntiForensic("luks1 of 3999 stripes".into()));
    assert_eq!(
        skipped(slot("/area/key_size", json!(32))),
        Unsupported::KeySize { what: "the key of its area", bytes: 32 }
    );
    assert!(matches!(skipped(slot("/area/encryption", json!("aes-cbc-plain64"))), Unsupported::Cipher { .. }));

    let argon2 = |memory: u32, time: u32, cpus: u32| {
        move |json: &mut Value| {
            json["keyslots"]["0"]["kdf"] = json!({"type": "argon2id", "salt": "AAAAAAAAAAAAAAAAAAAAAA==",
                "memory": memory, "time": time, "cpus": cpus});
        }
    };
    assert_eq!(skipped(argon2((4 << 20) + 1, 4, 4)), Unsupported::KdfCost("memory"));
    assert_eq!(skipped(argon2(u32::MAX, u32::MAX, u32::MAX)), Unsupported::KdfCost("memory"));
    assert_eq!(skipped(argon2(1 << 20, 5000, 4)), Unsupported::KdfCost("time"));
    assert_eq!(skipped(argon2(1, 4, 4)), Unsupported::KdfParameters);
    assert_eq!(skipped(argon2(64, 0, 1)), Unsupported::KdfParameters);
    assert_eq!(skipped(argon2(64, 4, 0)), Unsupported::KdfParameters);
    assert_eq!(skipped(argon2(64, 4, u32::MAX)), Unsupported::KdfParameters);
    let short = |json: &mut Value| {
        json["keyslots"]["0"]["kdf"] = json!({"type": "argon2i", "salt": "AAAA", "memory": 64, "time": 4, "cpus": 1});
    };
    assert_eq!(skipped(short), Unsupported::KdfParameters);
}

/// A digest cut short would be met by many keys.
#[test]
fn a_short_digest_verifies_nothing() {
    for (name, value) in [("digest", json!("")), ("digest", json!("AAAA")), ("hash", json!("sha512"))] {
        let bytes = edit(&formatted("right"), |json| json["digests"]["0"][name] = value);
        let device = open(&bytes).unwrap();
        assert!(matches!(device.verify_volume_key(&volume_key()), Err(Error::Unsupported(Unsupported::Digest))));
        assert!(device.unlock(b"right", &mut [0; 64]).is_err());
    }
    let zeros = edit(&formatted("right"), |json| json["digests"]["0"]["digest"] = json!("A".repeat(43) + "="));
    let device = open(&zeros).unwrap();
    assert!(device.unfinished_removals().is_empty(), "a data digest of zeros does not make its keyslots removable");
    assert_eq!(opens(&device, "right"), None);
}

#[test]
fn text_that_is_no_metadata() {
    assert!(no_json(b"").contains("EOF"));
    assert!(no_json(b"{}").contains("missing field"));
    assert!(no_json(&[b'['; 10_000]).contains("invalid type"));
    assert!(no_json(br#"{"a":"#.repeat(2000).as_slice()).contains("recursion limit"));
    assert!(no_json(b"\xff\xfe").contains("expected value"));
    let good = String::from_utf8(serde_json::to_vec(&metadata(&formatted("right"))).unwrap()).unwrap();
    no_json(format!("{good} {{}}").as_bytes());
    for (from, to) in [
        (r#""tokens":{"#, r#""tokens":{"0":{"type":"a","keyslots":[]},"0":{"type":"b","keyslots":[]}"#),
        (r#""keyslots":{"0""#, r#""keyslots":{"00""#),
        (r#""keyslots":{"0""#, r#""keyslots":{"+0""#),
        (r#""keyslots":{"0""#, r#""keyslots":{"99999999999""#),
        (r#""json_size":"12288""#, r#""json_size":12288"#),
        (r#""json_size":"12288""#, r#""json_size":"+12288""#),
        (r#""json_size":"12288""#, r#""json_size":"99999999999999999999999""#),
        (r#""key_size":64"#, r#""key_size":-1"#),
        (r#""stripes":4000"#, r#""stripes":4000.5"#),
        (r#""salt":""#, r#""salt":"*"#),
        (r#""size":"dynamic""#, r#""size":"endless""#),
    ] {
        assert!(good.contains(from), "{from}");
        no_json(good.replacen(from, to, 1).as_bytes());
    }
}

#[test]
fn binary_headers() {
    type Expect = fn(&Damage) -> bool;
    let cases: [(usize, &[u8], Expect); 9] = [
        (7, &[3], |damage| matches!(damage, Damage::Version(3))),
        (8, &[0; 8], |damage| matches!(damage, Damage::Size(0))),
        (8, &[0xff; 8], |damage| matches!(damage, Damage::Size(u64::MAX))),
        (16, &[0xff; 8], |damage| matches!(damage, Damage::Field("sequence number"))),
        (24, &[b'x'; 48], |damage| matches!(damage, Damage::Field("label"))),
        (72, b"md5\0\0\0", |damage| matches!(damage, Damage::ChecksumAlgorithm(name) if name == "md5")),
        (168, b"no uuid\0", |damage| matches!(damage, Damage::Field("UUID"))),
        (208, b"\xff", |damage| matches!(damage, Damage::Field("subsystem"))),
        (256, &[0, 0, 0, 0, 0, 0, 0x10, 0], |damage| matches!(damage, Damage::Offset { claimed: 4096, actual: 0 })),
    ];
    for (offset, value, expect) in cases {
        let mut bytes = formatted("right");
        bytes[offset..offset + value.len()].copy_from_slice(value);
        seal(&mut bytes[..COPY]);
        match open(&bytes).unwrap().health() {
            luks2::Health::PrimaryDamaged(damage) => assert!(expect(damage), "{offset}: {damage:?}"),
            other => panic!("{offset}: {other:?}"),
        }
    }
    // Something hidden behind the JSON, under a right checksum.
    let mut bytes = formatted("right");
    bytes[COPY - 1] = 1;
    seal(&mut bytes[..COPY]);
    assert!(matches!(open(&bytes).unwrap().health(), luks2::Health::PrimaryDamaged(Damage::Json(_))));
    bytes[HEAD..COPY].fill(b' ');
    seal(&mut bytes[..COPY]);
    assert!(matches!(open(&bytes).unwrap().health(), luks2::Health::PrimaryDamaged(Damage::Json(_))));
}
