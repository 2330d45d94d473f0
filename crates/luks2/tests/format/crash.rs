//! The power goes at each write and each sync of each change, with the last write torn in several ways and with the
//! sectors that were not yet durable there or not. Whatever holds then, a repeat must be able to finish.

use luks2::{Device, Error, KeyslotId, TokenChange, TokenId};
use serde_json::Value;

use crate::image::{AREA, COPY, IMAGE, formatted, open, opens, params, token, volume_key};
use crate::memory::{Cut, Memory};

/// How many bytes of the last write get through. All of them is what the sync after it is cut with.
const TORN: [usize; 2] = [0, 5000];

/// Does `change` on `bytes`, with the power going at every possible moment, and hands each outcome to `check`.
fn at_every_cut(
    bytes: &[u8],
    torn: &[usize],
    change: impl Fn(&Memory) -> Result<(), Error>,
    mut check: impl FnMut(Vec<u8>, Cut),
) {
    let whole = Memory::new(bytes.to_vec());
    change(&whole).unwrap();
    for after in 0..whole.operations() {
        for torn in torn.iter().copied() {
            let cut = Cut { after, torn };
            let memory = Memory::cut(bytes.to_vec(), cut);
            assert!(change(&memory).is_err());
            assert!(memory.is_dead());
            // None of what was not synced, all of it, half of its sectors; and any one write without the others, or
            // the others without it, for a disk may reorder them.
            check(memory.after_power_cut(|_, _| false), cut);
            check(memory.after_power_cut(|_, _| true), cut);
            check(memory.after_power_cut(|_, sector| sector % 2 == 0), cut);
            for one in 0..memory.pending().min(3) {
                check(memory.after_power_cut(|write, _| write == one), cut);
                check(memory.after_power_cut(|write, _| write != one), cut);
            }
        }
    }
    check(whole.after_power_cut(|_, _| false), Cut { after: whole.operations(), torn: 0 });
}

/// What a keyslot's area held must be gone: no sector of `before` may be in it.
#[track_caller]
fn destroyed(before: &[u8], after: &[u8], slot: usize) {
    let area = 2 * COPY + slot * AREA..2 * COPY + (slot + 1) * AREA;
    let same = before[area.clone()].chunks(512).zip(after[area].chunks(512)).filter(|(a, b)| a == b).count();
    assert_eq!(same, 0, "{same} sectors of a keyslot that was removed are still there");
}

#[test]
fn formatting_a_blank_device() {
    let format = |memory: &Memory| Device::format(memory, &params(), &volume_key(), b"right").map(drop);
    at_every_cut(&vec![0; IMAGE], &TORN, format, |bytes, cut| {
        match open(&bytes) {
            Ok(device) => assert!(opens(&device, "right").is_some(), "{cut:?}"),
            Err(Error::NotLuks2 | Error::BothDamaged { .. }) => {}
            Err(other) => panic!("{cut:?}: {other}"),
        }
        let memory = Memory::new(bytes);
        format(&memory).unwrap();
        let device = open(&memory.bytes()).unwrap();
        assert!(device.health().is_good() && opens(&device, "right").is_some());
    });
}

#[test]
fn formatting_over_another_header() {
    let old = formatted("old");
    let format = |memory: &Memory| Device::format(memory, &params(), &volume_key(), b"new").map(drop);
    at_every_cut(&old, &TORN, format, |bytes, cut| {
        if let Ok(device) = open(&bytes) {
            let (old, new) = (opens(&device, "old"), opens(&device, "new"));
            assert!(old.is_some() != new.is_some(), "{cut:?}: a header without its keyslots");
        }
        let memory = Memory::new(bytes);
        format(&memory).unwrap();
        let device = open(&memory.bytes()).unwrap();
        assert!(opens(&device, "old").is_none() && opens(&device, "new").is_some());
    });
}

#[test]
fn adding_a_keyslot() {
    let add = |memory: &Memory| Device::open(memory)?.add_keyslot(&volume_key(), b"new", &[]).map(drop);
    at_every_cut(&formatted("old"), &TORN, add, |bytes, cut| {
        let mut device = open(&bytes).unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        assert!(opens(&device, "old").is_some(), "{cut:?}");
        let before = opens(&device, "new");
        device.repair().unwrap();
        assert_eq!(opens(&device, "new"), before, "a repair changes nothing");
        if before.is_none() {
            device.add_keyslot(&volume_key(), b"new", &[]).unwrap();
        }
        let device = open(&device.io().bytes()).unwrap();
        assert!(device.health().is_good());
        assert!(opens(&device, "old").is_some() && opens(&device, "new").is_some());
    });
}

#[test]
fn removing_a_keyslot() {
    let mut device = open(&formatted("stays")).unwrap();
    let id = device.add_keyslot(&volume_key(), b"goes", &[]).unwrap();
    let start = device.io().bytes();
    let remove = |memory: &Memory| Device::open(memory)?.remove_keyslot(id);
    at_every_cut(&start, &TORN, remove, |bytes, cut| {
        let mut device = open(&bytes).unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        assert!(opens(&device, "stays").is_some(), "{cut:?}");
        match device.remove_keyslot(id) {
            Ok(()) | Err(Error::NoSuchKeyslot(_)) => {}
            Err(other) => panic!("{cut:?}: {other}"),
        }
        let device = open(&device.io().bytes()).unwrap();
        assert!(device.health().is_good() && device.unfinished_removals().is_empty());
        assert!(opens(&device, "stays").is_some() && opens(&device, "goes").is_none());
        destroyed(&start, &device.io().bytes(), 1);
    });
}

/// The state that a swap starts from, and the swap.
fn before_swap() -> Vec<u8> {
    let mut device = open(&formatted("old")).unwrap();
    device.set_token(token("key", "old")).unwrap();
    device.into_io().bytes()
}

fn swap(memory: &Memory) -> Result<KeyslotId, Error> {
    let change = TokenChange::Set(TokenId::new(0), token("key", "new"));
    Device::open(memory)?.swap_keyslot(KeyslotId::new(0), &volume_key(), b"new", &[change])
}

/// Either the old passphrase opens the device, or the new one, and the token says which.
fn one_opens(device: &Device<Memory>, cut: Cut) {
    let says: Vec<&Value> = device.tokens_of("key").map(|(_, token)| &token.fields["text"]).collect();
    assert_eq!(says.len(), 1, "{cut:?}");
    match (opens(device, "old"), opens(device, "new")) {
        (Some(_), None) => assert_eq!(says[0], "old", "{cut:?}"),
        (None, Some(_)) => assert_eq!(says[0], "new", "{cut:?}"),
        other => panic!("{cut:?}: {other:?}"),
    }
}

fn swapped(start: &[u8], bytes: Vec<u8>, cut: Cut) {
    let memory = Memory::new(bytes);
    let id = swap(&memory).unwrap_or_else(|error| panic!("{cut:?}: {error}"));
    let device = open(&memory.bytes()).unwrap();
    assert!(device.health().is_good() && device.unfinished_removals().is_empty());
    assert_eq!((opens(&device, "old"), opens(&device, "new")), (None, Some(id)));
    assert_eq!(device.keyslots().len(), 1);
    destroyed(start, &device.io().bytes(), 0);
}

#[test]
fn swapping_a_keyslot() {
    let start = before_swap();
    at_every_cut(
        &start,
        &TORN,
        |memory| swap(memory).map(drop),
        |bytes, cut| {
            one_opens(&open(&bytes).unwrap_or_else(|error| panic!("{cut:?}: {error}")), cut);
            swapped(&start, bytes, cut);
        },
    );
}

/// The power goes during the swap and again during the repair.
#[test]
fn repairing_after_a_crash() {
    let start = before_swap();
    let whole = Memory::new(start.clone());
    swap(&whole).unwrap();
    for after in 0..whole.operations() {
        let memory = Memory::cut(start.clone(), Cut { after, torn: 4096 });
        swap(&memory).unwrap_err();
        let crashed = memory.after_power_cut(|_, _| true);
        let repair = |memory: &Memory| Device::open(memory)?.repair();
        at_every_cut(&crashed, &[5000], repair, |bytes, cut| {
            let mut device = open(&bytes).unwrap_or_else(|error| panic!("{after}, {cut:?}: {error}"));
            one_opens(&device, cut);
            device.repair().unwrap();
            assert!(device.health().is_good() && device.unfinished_removals().is_empty());
            one_opens(&device, cut);
            swapped(&start, device.into_io().bytes(), cut);
        });
    }
}

#[test]
fn changing_tokens() {
    let set = |memory: &Memory| Device::open(memory)?.set_token(token("key", "new")).map(drop);
    at_every_cut(&before_swap(), &TORN, set, |bytes, cut| {
        let device = open(&bytes).unwrap_or_else(|error| panic!("{cut:?}: {error}"));
        assert!(opens(&device, "old").is_some());
        let says: Vec<&Value> = device.tokens_of("key").map(|(_, token)| &token.fields["text"]).collect();
        assert!(says == ["old"] || says == ["new"], "{cut:?}: {says:?}");
    });
}
