#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn key(seed: u8) -> [u8; KEY_LEN] {
    std::array::from_fn(|i| seed.wrapping_add(u8::try_from(i).unwrap()))
}

/// IEEE 1619-2018 annex B, vector 10 (AES-256-XTS, data unit 0xff, 512 bytes 00 01 .. ff 00 ..).
#[test]
fn ieee_1619_vector_10() {
    let mut key = [0u8; KEY_LEN];
    key[..32]
        .copy_from_slice(&hex::decode("2718281828459045235360287471352662497757247093699959574966967627").unwrap());
    key[32..]
        .copy_from_slice(&hex::decode("3141592653589793238462643383279502884197169399375105820974944592").unwrap());
    let plain: Vec<u8> = (0..512u32).map(|i| i.to_le_bytes()[0]).collect();
    let mut buffer = plain.clone();
    let mut xts = Xts::new(&key).unwrap();
    xts.encrypt(SectorSize::B512, 0xff, &mut buffer).unwrap();
    assert_eq!(hex::encode(&buffer[..32]), "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
    assert_eq!(hex::encode(&buffer[496..]), "c4f36ffda9fcea70b9c6e693e148c151");
    xts.decrypt(SectorSize::B512, 0xff, &mut buffer).unwrap();
    assert_eq!(buffer, plain);
}

#[test]
fn tweak_counts_512_byte_units_at_both_sector_sizes() {
    let mut xts = Xts::new(&key(1)).unwrap();
    let mut whole = vec![7u8; 4096 * 3];
    xts.encrypt(SectorSize::B4096, 80, &mut whole).unwrap();
    for (index, expected) in whole.chunks(4096).enumerate() {
        let mut sector = vec![7u8; 4096];
        xts.encrypt(SectorSize::B4096, 80 + 8 * index as u64, &mut sector).unwrap();
        assert_eq!(sector, expected);
    }
}

#[test]
fn refuses_weak_keys_and_partial_sectors_unchanged() {
    assert_eq!(Xts::new(&[9; KEY_LEN]).err(), Some(XtsError::WeakKey));
    let mut xts = Xts::new(&key(1)).unwrap();
    let mut partial = [5u8; 4095];
    assert_eq!(xts.encrypt(SectorSize::B4096, 0, &mut partial), Err(XtsError::NotWholeSectors(4095)));
    assert_eq!(partial, [5u8; 4095]);
}

proptest! {
    #[test]
    fn round_trip(seed: u8, iv: u64, sectors in 0usize..6, fill: u8, large: bool) {
        let size = if large { SectorSize::B4096 } else { SectorSize::B512 };
        let plain: Vec<u8> = (0..sectors * size.bytes()).map(|i| fill ^ i.to_le_bytes()[0]).collect();
        let mut xts = Xts::new(&key(seed)).unwrap();
        let mut copied = vec![0; plain.len()];
        xts.encrypt_to(size, iv, &plain, &mut copied).unwrap();
        let mut buffer = plain.clone();
        xts.encrypt(size, iv, &mut buffer).unwrap();
        prop_assert_eq!(&buffer, &copied);
        prop_assert!(sectors == 0 || buffer != plain);
        xts.decrypt(size, iv, &mut buffer).unwrap();
        prop_assert_eq!(buffer, plain);
    }
}
