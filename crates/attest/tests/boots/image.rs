use attest::hash::{Digest, HashAlg};
use attest::image::{BaseImage, Difference, EventDifference, ImageError, ImageId, Mode, Validity};
use attest::log::VerifiedLog;
use attest::tpm::PcrMask;
use jiff::{Timestamp, ToSpan};

use crate::common::{BOOTS, Log, quote};

fn verified(boot: &str) -> VerifiedLog {
    Log::of(boot).parse().verify(&quote(boot)).unwrap()
}

fn id(name: &str) -> ImageId {
    ImageId { name: name.parse().unwrap(), version: "1.0".parse().unwrap() }
}

const ALWAYS: Validity = Validity { from: Timestamp::UNIX_EPOCH, until: None };

fn capture(boot: &str, pcrs: &[u8]) -> Result<BaseImage, ImageError> {
    BaseImage::capture(&verified(boot), id(boot), PcrMask::of(pcrs.iter().copied()), ALWAYS, Mode::Enforce)
}

#[test]
fn a_boot_matches_the_image_taken_of_it_and_no_other() {
    for boot in BOOTS {
        let image = capture(boot, &[0, 2, 4, 7, 8, 9]).unwrap();
        assert_eq!(image.covers(), PcrMask::of([0, 2, 4, 7, 8, 9]));
        assert!(image.differences(&verified(boot)).is_empty());
        for other in BOOTS.into_iter().filter(|other| *other != boot) {
            assert!(!image.differences(&verified(other)).is_empty(), "{other} as {boot}");
        }
    }
}

#[test]
fn differences_name_the_pcr_and_the_event() {
    let image = capture("secureboot", &[2, 4, 7]).unwrap();
    let differences = image.differences(&verified("unsigned"));
    let [Difference::Pcr { pcr: 4, events: four, .. }, Difference::Pcr { pcr: 7, events: seven, .. }] =
        differences.as_slice()
    else {
        panic!("{differences:?}")
    };
    // Another image was booted, and it started its kernel by way of the firmware.
    let [EventDifference::Changed { .. }, EventDifference::Unexpected { .. }] = four.as_slice() else {
        panic!("{four:?}")
    };
    let changed = seven.iter().filter(|event| matches!(event, EventDifference::Changed { .. })).count();
    let missing = seven.iter().filter(|event| matches!(event, EventDifference::Missing { .. })).count();
    assert_eq!((seven.len(), changed, missing), (6, 5, 1), "{seven:?}");
    let text = differences[1].to_string();
    assert!(text.contains("event 4: expected EV_EFI_VARIABLE_DRIVER_CONFIG sha256:"), "{text}");
    assert!(text.contains("(SecureBoot), found EV_EFI_VARIABLE_DRIVER_CONFIG sha256:"), "{text}");
}

#[test]
fn an_image_is_the_same_when_it_was_stored() {
    let image = capture("ovmf", &[0, 4, 7, 8]).unwrap();
    let json = serde_json::to_string_pretty(&image).unwrap();
    assert_eq!(serde_json::from_str::<BaseImage>(&json).unwrap(), image);
    assert!(json.contains(r#""type": "EV_EFI_BOOT_SERVICES_APPLICATION""#), "{json}");

    let refused = |from: &str, to: &str| {
        assert!(json.contains(from), "{from}");
        serde_json::from_str::<BaseImage>(&json.replacen(from, to, 1)).unwrap_err().to_string()
    };
    assert!(refused(r#""format": 1"#, r#""format": 2"#).contains("format 2"));
    assert!(refused(r#""bank": "sha256""#, r#""bank": "sha1""#).contains("proves nothing"));
    assert!(refused(r#""bank": "sha256""#, r#""bank": "sha384""#).contains("not of its bank"));
    assert!(refused(r#""4": {"#, r#""24": {"#).contains("covers PCR 24"));
    assert!(refused("EV_SEPARATOR", "EV_SEPARATORS").contains("no event type"));
    assert!(refused(r#""name": "ovmf""#, r#""name": "../ovmf""#).contains("can't be used as a name"));
    assert!(refused(r#""mode": "enforce""#, r#""mode": "enforce", "sloppy": true"#).contains("unknown field"));
}

#[test]
fn images_that_make_no_sense_can_t_be_made() {
    assert_eq!(capture("ovmf", &[]), Err(ImageError::Empty));
    let not_quoted = capture("secureboot", &[7, 11]).unwrap_err();
    assert!(
        matches!(not_quoted, ImageError::NotQuoted { missing, .. } if missing == PcrMask::of([11])),
        "{not_quoted}"
    );
    let from = Timestamp::UNIX_EPOCH + 1.hour();
    let never = Validity { from, until: Some(from) };
    let error = capture("ovmf", &[0]).unwrap().with_validity(never).unwrap_err();
    assert!(matches!(error, ImageError::NeverValid { .. }));
}

/// Any digest of an image, changed in any way, no longer matches.
#[test]
fn every_digest_of_an_image_counts() {
    let image = capture("secureboot", &[0, 4, 7, 9]).unwrap();
    let log = verified("secureboot");
    let json = serde_json::to_value(&image).unwrap();
    let mut changed = 0;
    for (pcr, reference) in image.pcrs() {
        for at in 0..reference.events.len() {
            let mut other = json.clone();
            let digest = reference.events[at].digest.bytes();
            let flipped: Vec<u8> = digest.iter().enumerate().map(|(i, b)| b ^ u8::from(i == at % 32)).collect();
            let flipped = Digest::new(HashAlg::Sha256, &flipped).unwrap();
            other["pcrs"][pcr.to_string()]["events"][at]["digest"] = serde_json::to_value(&flipped).unwrap();
            let other: BaseImage = serde_json::from_value(other).unwrap();
            let differences = other.differences(&log);
            let [Difference::Pcr { events, .. }] = differences.as_slice() else { panic!("{differences:?}") };
            let [EventDifference::Changed { expected, .. }] = events.as_slice() else { panic!("{events:?}") };
            assert_eq!(expected.digest, flipped);
            changed += 1;
        }
    }
    assert!(changed > 15);
}
