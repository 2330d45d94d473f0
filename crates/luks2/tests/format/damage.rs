//! Damage to one copy, and to both.

use luks2::{Damage, Device, Error, Health};

use crate::image::{COPY, HEAD, formatted, open, opens, seal, token};
use crate::memory::Memory;

/// Offsets within a copy: every byte that a field has, and a sample of the padding and of the JSON. A SHA-256 checksum
/// leaves the second half of its field, from byte 480 on, unused.
fn samples() -> impl Iterator<Item = usize> {
    (0..264).chain(440..480).chain((HEAD..HEAD + 1200).step_by(7)).chain([600, HEAD - 1, COPY - 1])
}

#[test]
fn any_byte_of_one_copy() {
    let good = formatted("right");
    for copy in [0, COPY] {
        for offset in samples() {
            let mut bytes = good.clone();
            bytes[copy + offset] ^= 0x10;
            let mut device = match open(&bytes) {
                Ok(device) => device,
                Err(error) => panic!("byte {offset} of the copy at {copy}: {error}"),
            };
            match device.health() {
                Health::PrimaryDamaged(_) => assert_eq!(copy, 0, "byte {offset}"),
                Health::SecondaryDamaged(_) => assert_eq!(copy, COPY, "byte {offset}"),
                other => panic!("byte {offset} of the copy at {copy}: {other:?}"),
            }
            assert_eq!(device.io().operations(), 0, "opening must not write");
            if offset % 16 == 0 {
                assert!(opens(&device, "right").is_some());
            }
            device.repair().unwrap();
            assert!(open(&device.io().bytes()).unwrap().health().is_good());
            let before = device.io().operations();
            device.repair().unwrap();
            assert_eq!(device.io().operations(), before, "nothing is left to repair");
        }
    }
}

#[test]
fn both_copies() {
    let mut bytes = formatted("right");
    bytes[20] ^= 1;
    bytes[COPY + HEAD] ^= 1;
    let before = bytes.clone();
    let error = open(&bytes).err().unwrap();
    assert!(matches!(error, Error::BothDamaged { primary: Damage::Checksum, secondary: Damage::Checksum }));
    assert_eq!(
        error.to_string(),
        "both copies of the LUKS2 header are damaged: the primary: its checksum does not match; the secondary: its \
         checksum does not match"
    );
    assert_eq!(bytes, before);

    bytes[..6].fill(0);
    assert!(matches!(open(&bytes), Err(Error::BothDamaged { primary: Damage::NoMagic, secondary: Damage::Checksum })));
    bytes[COPY..COPY + 6].fill(0);
    assert!(matches!(open(&bytes), Err(Error::NotLuks2)));
}

#[test]
fn a_stale_copy() {
    let old = formatted("right");
    let mut device = open(&old).unwrap();
    device.set_token(token("key", "new")).unwrap();
    let new = device.into_io().bytes();
    for (stale_first, range) in [(true, 0..COPY), (false, COPY..2 * COPY)] {
        let mut bytes = new.clone();
        bytes[range.clone()].copy_from_slice(&old[range]);
        let mut device = open(&bytes).unwrap();
        match device.health() {
            Health::PrimaryStale => assert!(stale_first),
            Health::SecondaryStale => assert!(!stale_first),
            other => panic!("{other:?}"),
        }
        assert_eq!(device.tokens().count(), 1, "the newer one counts");
        device.repair().unwrap();
        let device = open(&device.io().bytes()).unwrap();
        assert!(device.health().is_good());
        assert_eq!(device.tokens().count(), 1);
    }
}

#[test]
fn a_change_repairs_first() {
    let mut bytes = formatted("right");
    bytes[COPY + 5000] ^= 1;
    let mut device = open(&bytes).unwrap();
    device.set_token(token("key", "new")).unwrap();
    assert!(open(&device.io().bytes()).unwrap().health().is_good());
}

#[test]
fn copies_of_the_same_age_that_differ() {
    let mut bytes = formatted("right");
    bytes[COPY + 24..COPY + 29].copy_from_slice(b"other");
    seal(&mut bytes[COPY..2 * COPY]);
    let device = open(&bytes).unwrap();
    assert!(matches!(device.health(), Health::SecondaryStale));
    assert_eq!(device.label(), "", "the first counts");
}

#[test]
fn a_device_that_is_something_else() {
    for bytes in [Vec::new(), vec![0; 100], vec![0; 1 << 20], vec![0xff; 1 << 20]] {
        assert!(matches!(open(&bytes), Err(Error::NotLuks2)));
    }
    let mut luks1 = vec![0; 1 << 20];
    luks1[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    assert!(matches!(open(&luks1), Err(Error::Luks1)));
    // Someone has made it LUKS1 since: what is left of LUKS2 must not come back.
    let mut bytes = formatted("right");
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    assert!(matches!(open(&bytes), Err(Error::Luks1)));
}

#[test]
fn a_device_that_fails() {
    struct Failing(Memory);

    impl luks2::Io for Failing {
        fn size(&self) -> std::io::Result<u64> {
            self.0.size()
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            if offset < COPY as u64 {
                Err(std::io::Error::other("bad sector"))
            } else {
                self.0.read_exact_at(buffer, offset)
            }
        }

        fn write_all_at(&self, buffer: &[u8], offset: u64) -> std::io::Result<()> {
            self.0.write_all_at(buffer, offset)
        }

        fn sync(&self) -> std::io::Result<()> {
            self.0.sync()
        }
    }

    let device = Device::open(Failing(Memory::new(formatted("right")))).unwrap();
    assert!(matches!(device.health(), Health::PrimaryDamaged(Damage::Unreadable(_))));
    assert!(opens(&device, "right").is_some());
}
