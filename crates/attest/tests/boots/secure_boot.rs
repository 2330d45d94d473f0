use attest::boot::{BootChain, Measured};
use attest::hash::HashAlg;
use attest::log::VerifiedLog;
use attest::secure_boot::{SecureBoot, SecureBootError};

use crate::common::{Log, quote};

fn verified(boot: &str) -> VerifiedLog {
    Log::of(boot).parse().verify(&quote(boot)).unwrap()
}

#[test]
fn secure_boot_is_on_only_where_it_was() {
    let on = SecureBoot::of(&verified("secureboot")).unwrap();
    assert!(on.on && !on.debug && !on.dma_protection_off);
    assert_eq!(on.pk.certificates.len(), 1);
    assert!(on.pk.certificates[0].contains("O=SnakeOil"), "{:?}", on.pk);
    assert_eq!((on.kek.certificates.len(), on.db.certificates.len()), (1, 1));
    assert_eq!((on.dbx.certificates.len(), on.dbx.others), (0, 1));
    let [authority] = on.authorities.as_slice() else { panic!("{:?}", on.authorities) };
    assert_eq!((authority.variable.as_str(), authority.after_firmware), ("db", true));
    assert_eq!(authority.certificate.as_ref(), Some(&on.db.certificates[0]));
    on.enforced().unwrap();

    for boot in ["ovmf", "unsigned"] {
        let off = SecureBoot::of(&verified(boot)).unwrap();
        assert!(!off.on && off.pk.len == 0 && off.authorities.is_empty(), "{boot}");
        assert_eq!(off.enforced(), Err(SecureBootError::Off));
    }
    assert_eq!(SecureBoot::of(&verified("seabios")), Err(SecureBootError::Missing("SecureBoot")));
}

#[test]
fn each_thing_that_secure_boot_lacks_is_named() {
    let good = SecureBoot::of(&verified("secureboot")).unwrap();
    let lacks = |change: fn(&mut SecureBoot)| {
        let mut state = good.clone();
        change(&mut state);
        state.enforced().unwrap_err()
    };
    assert_eq!(lacks(|state| state.on = false), SecureBootError::Off);
    assert_eq!(lacks(|state| state.pk.len = 0), SecureBootError::NoPlatformKey);
    assert_eq!(lacks(|state| state.debug = true), SecureBootError::Debug);
    assert_eq!(lacks(|state| state.authorities.clear()), SecureBootError::NothingChecked);
    assert_eq!(lacks(|state| state.authorities[0].after_firmware = false), SecureBootError::NothingChecked);
}

#[test]
fn the_boot_chain_is_what_was_booted() {
    let direct = BootChain::of(&verified("ovmf"));
    assert_eq!(direct.images.len(), 1, "the kernel that was given to QEMU");
    assert_eq!(direct.images[0].path.as_deref(), Some("kernel"));
    assert!(direct.images[0].application && direct.images[0].pcr == 4);
    let kinds = |chain: &BootChain| match chain.measured.as_slice() {
        [Measured::LoadOptions { digest }, Measured::Initrd { .. }] => digest.clone(),
        other => panic!("{other:?}"),
    };
    // The EFI stub measures the command line as UTF-16, with its NUL; QEMU adds the initrd's name.
    let options = |text: &str| {
        let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        HashAlg::Sha256.digest(&[&units])
    };
    const LINE: &str = "console=ttyS0 quiet mitigations=off tsc=reliable no_timer_check";
    assert_eq!(kinds(&direct), options(&format!("{LINE} initrd=initrd")));

    let unified = BootChain::of(&verified("secureboot"));
    assert_eq!(unified.images.len(), 1);
    assert_eq!(unified.images[0].path.as_deref(), Some(r"\EFI\BOOT\BOOTX64.EFI"));
    assert_eq!(kinds(&unified), options(LINE));
    // Without Secure Boot systemd's stub starts the kernel by way of the firmware, which measures it a second time.
    let unsigned = BootChain::of(&verified("unsigned"));
    let paths: Vec<_> = unsigned.images.iter().map(|image| image.path.as_deref()).collect();
    assert_eq!(paths, [Some(r"\EFI\BOOT\BOOTX64.EFI"), None]);
    assert!(BootChain::of(&verified("seabios")).images.is_empty());
}
