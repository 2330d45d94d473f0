use attest::hash::{Digest, HashAlg};
use attest::image::{BaseImage, Mode, Validity};
use attest::log::{EventLog, EventType, LogError, MAX_LOG_LEN};
use attest::tpm::PcrMask;
use jiff::Timestamp;

use crate::common::{BOOTS, Log, pcrs, quote, read};

#[test]
fn recorded_logs_replay_to_what_the_guest_read() {
    for boot in BOOTS {
        let log = EventLog::from_bytes(&read(boot, "log")).unwrap().verify(&quote(boot)).unwrap();
        let all = pcrs(boot, HashAlg::Sha256);
        assert!(log.values().iter().all(|(pcr, value)| all[&pcr] == *value), "{boot}");
        assert!(log.events().len() >= 13, "{boot}");
        assert!(log.events().iter().all(|event| event.pcr() <= 9));
        // Everything that the firmware says of itself and of Secure Boot is covered by a digest.
        assert!(log.of_pcr(7).all(|event| event.proven()), "{boot}");
    }
    let unified = EventLog::from_bytes(&read("secureboot", "log")).unwrap().verify(&quote("secureboot")).unwrap();
    assert_eq!(unified.left_out(), 8, "what systemd's stub measured into PCR 11, which was not quoted");
}

#[test]
fn the_log_of_another_boot_does_not_replay() {
    for boot in BOOTS {
        for other in BOOTS.into_iter().filter(|other| *other != boot) {
            let error = Log::of(other).parse().verify(&quote(boot)).unwrap_err();
            assert!(matches!(error, LogError::Replay { after: None, .. }), "{other} for {boot}: {error}");
        }
    }
}

#[test]
fn a_log_that_ends_anywhere_early_is_refused() {
    for boot in BOOTS {
        let (bytes, quote) = (read(boot, "log"), quote(boot));
        for len in 0..bytes.len() {
            match EventLog::from_bytes(&bytes[..len]) {
                Err(LogError::CutShort { .. }) => {}
                Err(other) => panic!("{boot} cut at {len}: {other}"),
                Ok(short) => {
                    let error = short.verify(&quote).unwrap_err();
                    let known = matches!(error, LogError::Replay { .. } | LogError::NoSeparator { .. });
                    assert!(known, "{boot} cut at {len}: {error}");
                }
            }
        }
    }
}

#[test]
fn events_that_are_missing_doubled_or_swapped_are_noticed() {
    for boot in BOOTS {
        let (log, quote) = (Log::of(boot), quote(boot));
        let quoted = |at: usize| log.events[at].pcr <= 9;
        for at in (0..log.events.len()).filter(|&at| quoted(at)) {
            let mut without = log.clone();
            without.events.remove(at);
            let error = without.parse().verify(&quote).unwrap_err();
            let known = matches!(error, LogError::Replay { .. } | LogError::NoSeparator { .. });
            assert!(known, "{boot} without {at}: {error}");

            let mut doubled = log.clone();
            doubled.events.insert(at, log.events[at].clone());
            let error = doubled.parse().verify(&quote).unwrap_err();
            let known = matches!(error, LogError::Replay { .. } | LogError::SecondSeparator { .. });
            assert!(known, "{boot} with {at} twice: {error}");

            let next = (at + 1..log.events.len()).find(|&next| log.events[next].pcr == log.events[at].pcr);
            if let Some(next) = next {
                let mut swapped = log.clone();
                swapped.events.swap(at, next);
                let error = swapped.parse().verify(&quote).unwrap_err();
                assert!(matches!(error, LogError::Replay { .. }), "{boot}, {at} and {next} swapped: {error}");
            }
        }
    }
}

#[test]
fn what_was_added_behind_the_quoted_state_is_called_so() {
    let mut log = Log::of("ovmf");
    let events = u32::try_from(log.events.iter().filter(|event| event.pcr == 4).count()).unwrap();
    log.events.push(Log::event(4, EventType::EFI_ACTION, b"Later", b"Later"));
    let error = log.parse().verify(&quote("ovmf")).unwrap_err();
    let LogError::Replay { pcr: 4, after: Some(after), .. } = error else { panic!("{error}") };
    assert_eq!(u32::try_from(after).unwrap(), events);
    assert!(error.to_string().contains("was never measured"), "{error}");
}

/// The type of an event is in no digest: each event gets each other type.
#[test]
fn relabelled_events_are_refused_or_noticed() {
    for boot in BOOTS {
        let (log, quote) = (Log::of(boot), quote(boot));
        let image = capture(&log, &quote);
        let mut passed = 0;
        for at in (0..log.events.len()).filter(|&at| log.events[at].pcr <= 9) {
            for &other in EventType::ALL.iter().filter(|&&other| other != log.events[at].event_type) {
                let mut relabelled = log.clone();
                relabelled.events[at].event_type = other;
                match relabelled.parse().verify(&quote) {
                    Err(
                        LogError::Misplaced { .. }
                        | LogError::OtherData { .. }
                        | LogError::Malformed { .. }
                        | LogError::SeparatorValue { .. }
                        | LogError::SecondSeparator { .. }
                        | LogError::NoSeparator { .. }
                        | LogError::MeasuredNoAction { .. },
                    ) => {}
                    Err(error) => panic!("{boot}, {at} as {other}: {error}"),
                    Ok(verified) => {
                        passed += 1;
                        // A base image compares types too.
                        let differences = image.differences(&verified);
                        let text = differences.iter().map(ToString::to_string).collect::<String>();
                        assert!(text.contains(&other.to_string()), "{boot}, {at} as {other}: {text}");
                    }
                }
            }
        }
        assert!(passed > 0, "{boot}: some can be told by comparison only, such as the two kinds of firmware blob");
    }
}

#[test]
fn in_pcr_7_only_what_covers_its_data_is_let_in() {
    let (log, quote) = (Log::of("ovmf"), quote("ovmf"));
    let at = log.position(|event| event.pcr == 7);
    let relabel = |event_type| {
        let mut log = log.clone();
        log.events[at].event_type = event_type;
        log.parse().verify(&quote).unwrap_err()
    };
    for elsewhere in [EventType::EVENT_TAG, EventType::EFI_PLATFORM_FIRMWARE_BLOB, EventType::EFI_HANDOFF_TABLES] {
        assert!(matches!(relabel(elsewhere), LogError::Misplaced { pcr: 7, .. }));
    }
    let mut on = log.clone();
    // "SecureBoot" is 0 in this boot; a liar writes 1.
    *on.events[at].data.last_mut().unwrap() = 1;
    assert!(matches!(on.parse().verify(&quote).unwrap_err(), LogError::OtherData { pcr: 7, .. }));
}

#[test]
fn unknown_types_fail() {
    let (log, quote) = (Log::of("ovmf"), quote("ovmf"));
    for unknown in [0x0, 0x2, 0x14, 0x400, 0x8000_000e, 0x8000_00ff, 0xffff_ffff] {
        let mut changed = log.clone();
        let at = changed.position(|event| event.event_type == EventType::EFI_PLATFORM_FIRMWARE_BLOB);
        changed.events[at].event_type = EventType(unknown);
        let error = changed.parse().verify(&quote).unwrap_err();
        assert!(matches!(error, LogError::UnknownType { event_type: EventType(t), .. } if t == unknown), "{error}");
    }
    for known in EventType::ALL {
        assert_eq!(known.to_string().parse::<EventType>().as_ref(), Ok(known));
    }
}

#[test]
fn a_log_of_the_old_kind_is_refused() {
    let mut old = Vec::new();
    for (event_type, data) in [(8u32, b"\0\0".as_slice()), (4, &[0; 4])] {
        old.extend(0u32.to_le_bytes());
        old.extend(event_type.to_le_bytes());
        old.extend(HashAlg::Sha1.digest(&[data]).bytes());
        old.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        old.extend(data);
    }
    assert_eq!(EventLog::from_bytes(&old), Err(LogError::Legacy));
    let mut older = read("ovmf", "log");
    older[32 + 14] = b'2';
    assert_eq!(EventLog::from_bytes(&older), Err(LogError::Legacy), "Spec ID Event02");
    assert!(matches!(EventLog::from_bytes(&[]), Err(LogError::CutShort { event: 0, .. })));
    assert!(matches!(EventLog::from_bytes(&vec![0; MAX_LOG_LEN + 1]), Err(LogError::TooLong { .. })));
}

#[test]
fn a_log_without_the_quoted_bank_is_refused() {
    let mut log = Log::of("ovmf");
    // Announces SHA-1 only, and has only that.
    let announced = [&log.header[..32 + 24], &1u32.to_le_bytes(), &[4, 0, 20, 0], &[0]].concat();
    log.header = announced;
    let len = u32::try_from(log.header.len() - 32).unwrap();
    log.header[28..32].copy_from_slice(&len.to_le_bytes());
    for event in &mut log.events {
        event.digests.truncate(1);
    }
    let error = log.parse().verify(&quote("ovmf")).unwrap_err();
    assert!(matches!(error, LogError::NoBank { wanted: HashAlg::Sha256, .. }), "{error}");
}

#[test]
fn the_spec_id_event_must_be_well_formed() {
    let good = read("ovmf", "log");
    let with = |at: usize, value: u8| {
        let mut changed = good.clone();
        changed[at] = value;
        EventLog::from_bytes(&changed).unwrap_err().to_string()
    };
    assert!(with(0, 1).contains("pcrIndex"));
    assert!(with(8, 1).contains("pcrIndex"), "its digest is zeros");
    assert!(with(32 + 16, 2).contains("platformClass"));
    assert!(with(32 + 21, 1).contains("specVersionMajor"));
    assert!(with(32 + 24, 0).contains("numberOfAlgorithms"));
    assert!(with(32 + 24, 17).contains("numberOfAlgorithms"));
    assert!(with(32 + 32, 0x04).contains("a second TPM_ALG_SHA1"));
    assert!(with(32 + 30, 32).contains("digestSize"));
    assert!(with(32 + 40, 1).contains("vendorInfo"));
}

#[test]
fn separators_must_be_good() {
    let (log, quote) = (Log::of("ovmf"), quote("ovmf"));
    let at = log.position(|event| event.event_type == EventType::SEPARATOR);
    let mut failed = log.clone();
    let pcr = failed.events[at].pcr;
    failed.events[at] = Log::event(pcr, EventType::SEPARATOR, &[1, 0, 0, 0], &[1, 0, 0, 0]);
    let error = failed.parse().verify(&quote).unwrap_err();
    assert!(matches!(error, LogError::SeparatorValue { .. }), "{error}");
}

#[test]
fn the_startup_locality_must_come_first_and_once() {
    let (log, quote) = (Log::of("ovmf"), quote("ovmf"));
    let with = |places: &[(usize, &[u8])]| {
        let mut log = log.clone();
        for (at, data) in places {
            log.events.insert(*at, Log::no_action(data));
        }
        log.parse().verify(&quote)
    };
    with(&[(0, b"StartupLocality\0\0")]).unwrap();
    with(&[(0, b"SP800-155 Event\0 and so on")]).unwrap();
    let error = with(&[(0, b"StartupLocality\0\x03")]).unwrap_err();
    assert!(matches!(error, LogError::Replay { pcr: 0, .. }), "started from 0: {error}");
    for bad in [&b"StartupLocality\0\x01"[..], b"StartupLocality\0", b"StartupLocality\0\0\0"] {
        let error = with(&[(0, bad)]).unwrap_err();
        assert!(matches!(error, LogError::StartupLocality { .. }), "{error}");
    }
    let error = with(&[(0, b"StartupLocality\0\0"), (1, b"StartupLocality\0\0")]).unwrap_err();
    assert!(error.to_string().contains("before"), "{error}");
    let error = with(&[(2, b"StartupLocality\0\0")]).unwrap_err();
    assert!(error.to_string().contains("after what was measured"), "{error}");
}

#[test]
fn an_event_can_t_be_hidden_as_no_action() {
    let (mut log, quote) = (Log::of("ovmf"), quote("ovmf"));
    log.events[3].event_type = EventType::NO_ACTION;
    assert_eq!(log.parse().verify(&quote), Err(LogError::MeasuredNoAction { event: 4 }));
    for digest in &mut log.events[3].digests {
        *digest = Digest::filled(digest.alg(), 0);
    }
    assert!(matches!(log.parse().verify(&quote), Err(LogError::Replay { .. })));
}

/// Whatever bit is flipped: the log is refused, or only that has changed which nobody is told to rely on.
#[test]
fn flipped_bits_are_noticed_wherever_it_matters() {
    for boot in ["seabios", "secureboot"] {
        let (bytes, quote) = (read(boot, "log"), quote(boot));
        let good = EventLog::from_bytes(&bytes).unwrap().verify(&quote).unwrap();
        let image = capture(&Log::of(boot), &quote);
        for at in 0..bytes.len() {
            for bit in [at % 8, 7 - at % 8] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let Ok(log) = EventLog::from_bytes(&flipped) else { continue };
                let Ok(log) = log.verify(&quote) else { continue };
                assert_eq!(log.events().len(), good.events().len());
                for (event, original) in log.events().iter().zip(good.events()) {
                    let same = (event.pcr(), event.digest()) == (original.pcr(), original.digest());
                    assert!(same, "{boot}, byte {at}: another digest was let in");
                    assert!(
                        !event.proven() || event.data() == original.data(),
                        "{boot}, byte {at}: proven data changed"
                    );
                }
                let types_differ = log
                    .events()
                    .iter()
                    .zip(good.events())
                    .any(|(event, original)| event.event_type() != original.event_type());
                assert_eq!(types_differ, !image.differences(&log).is_empty(), "{boot}, byte {at}");
            }
        }
    }
}

fn capture(log: &Log, quote: &attest::quote::VerifiedQuote) -> BaseImage {
    let verified = log.parse().verify(quote).unwrap();
    let validity = Validity { from: Timestamp::UNIX_EPOCH, until: None };
    let id = serde_json::from_str(r#"{"name":"recorded","version":"1"}"#).unwrap();
    BaseImage::capture(&verified, id, PcrMask::of(0..=9), validity, Mode::Enforce).unwrap()
}
