//! `vm.toml`: text and back, and the code at its end by which an encrypted home shows that Ward wrote it.
//!
//! `docs/home-format.md` is the format. Pure. A [`VerifiedHome`] is made here only, and only of a description that may be believed.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ward_secret::{HomeKey, TpmKey, WrappedKey};
use ward_types::{Boot, Code, FileName, HomeCrypto, VmConfig, WrappedHomeKey, WrappedTpmKey};

use super::{JOB_JSON, VM_TOML};
use crate::fault::{Fault, Result};
use crate::keys::ResolvedKek;

/// What the code is made for.
const PURPOSE: &str = "ward vm home v1";
/// What stands before the code, on the last line.
const TRAILER: &str = "# ward-mac: ";
/// As many as find room on the machine's bus beside what else is there.
const MAX_DISKS: usize = 24;
const MAX_CPUS: u16 = 255;
const MAX_MEMORY_MIB: u32 = 16 << 20;
/// What finds room below the end of 32-bit addresses, where firmware looks for its variables.
pub(crate) const MAX_NVRAM: u64 = 4 << 20;

/// Endings of names that jobs use for files in a home.
pub(crate) const PART: &str = ".part";
pub(crate) const CHECKPOINT: &str = ".checkpoint";

/// A description as it was read: sound, but perhaps not Ward's.
pub(crate) struct Described {
    config: VmConfig,
    /// What is authenticated, and the code.
    seal: Option<(Vec<u8>, Vec<u8>)>,
}

/// A description that may be believed: that of a plain home, or one whose code was right.
pub(crate) struct VerifiedHome {
    config: VmConfig,
    key: Option<HomeKey>,
}

impl VerifiedHome {
    pub(crate) fn config(&self) -> &VmConfig {
        &self.config
    }

    /// The home's key, if it is encrypted.
    pub(crate) fn key(&self) -> Option<&HomeKey> {
        self.key.as_ref()
    }
}

impl Described {
    /// What it says, whoever wrote it.
    pub(crate) fn unverified(&self) -> &VmConfig {
        &self.config
    }

    /// Makes sure that Ward wrote it. `kek` is asked for where the home is encrypted.
    pub(crate) fn verify<'a>(
        self,
        kek: impl FnOnce(&ward_types::KeyRef) -> Result<&'a ResolvedKek>,
    ) -> Result<VerifiedHome> {
        let HomeCrypto::Encrypted { key: reference, wrapped_key } = &self.config.home else {
            return Ok(VerifiedHome { config: self.config, key: None });
        };
        let key = unwrap(wrapped_key, kek(reference)?)?;
        // `decode` lets no encrypted home without a code through.
        let (body, code) = self.seal.as_ref().ok_or_else(unsigned)?;
        if !key.verify(PURPOSE, body, code) {
            return Err(Fault::tampered(format!("{VM_TOML} was changed by something that is not Ward")));
        }
        Ok(VerifiedHome { config: self.config, key: Some(key) })
    }
}

/// A new home key, wrapped.
pub(crate) fn wrap(key: &HomeKey, kek: &ResolvedKek) -> Result<WrappedHomeKey> {
    Ok(WrappedHomeKey(STANDARD.encode(kek.kek().wrap_home_key(key)?.as_bytes())))
}

/// Opens a wrapped home key.
pub(crate) fn unwrap(wrapped: &WrappedHomeKey, kek: &ResolvedKek) -> Result<HomeKey> {
    match kek.kek().unwrap_home_key(&ciphertext(&wrapped.0)?) {
        Err(ward_secret::SecretError::Unwrap) => Err(Fault::key_wrong("the VM home", kek.reference())),
        opened => Ok(opened?),
    }
}

/// The key of a vTPM, wrapped.
pub(crate) fn wrap_tpm(key: &TpmKey, kek: &ResolvedKek) -> Result<WrappedTpmKey> {
    Ok(WrappedTpmKey(STANDARD.encode(kek.kek().wrap_tpm_key(key)?.as_bytes())))
}

/// Opens the wrapped key of a vTPM.
pub(crate) fn unwrap_tpm(wrapped: &WrappedTpmKey, kek: &ResolvedKek) -> Result<TpmKey> {
    match kek.kek().unwrap_tpm_key(&ciphertext(&wrapped.0)?) {
        Err(ward_secret::SecretError::Unwrap) => Err(Fault::key_wrong("the key of the vTPM", kek.reference())),
        opened => Ok(opened?),
    }
}

fn ciphertext(text: &str) -> Result<WrappedKey> {
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|_| Fault::tampered(format!("a wrapped key in {VM_TOML} is no base64 text")))?;
    Ok(WrappedKey::from_bytes(bytes))
}

/// The file's content. `key` must be the home's where it is encrypted.
pub(crate) fn encode(config: &VmConfig, key: Option<&HomeKey>) -> Result<Vec<u8>> {
    check(config)?;
    if config.tpm.is_some() && config.home == HomeCrypto::Plain {
        return Err(Fault::home_invalid("there is a vTPM, which needs an encrypted home"));
    }
    let mut text =
        toml::to_string(config).map_err(|error| Fault::internal(format!("cannot write {VM_TOML}: {error}")))?;
    match (&config.home, key) {
        (HomeCrypto::Plain, None) => {}
        (HomeCrypto::Encrypted { .. }, Some(key)) => {
            let code = key.authenticate(PURPOSE, text.as_bytes())?;
            text.push_str(&format!("{TRAILER}{}\n", hex::encode(code)));
        }
        _ => return Err(Fault::internal("a home key goes with an encrypted home, and only with one")),
    }
    Ok(text.into_bytes())
}

/// Reads the file's content.
pub(crate) fn decode(content: &[u8]) -> Result<Described> {
    let invalid = |why: String| Fault::home_invalid(format!("{VM_TOML} makes no sense: {why}"));
    let text = std::str::from_utf8(content).map_err(|_| invalid("it is no text".into()))?;
    // The version first, by itself: what another version says need not make sense here.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| invalid(error.message().to_owned()))?;
    match table.get("version").and_then(toml::Value::as_integer) {
        Some(version) if version == i64::from(VmConfig::VERSION) => {}
        Some(version) => {
            return Err(Fault::home_invalid(format!(
                "{VM_TOML} is of version {version}, and this agent knows version {}",
                VmConfig::VERSION
            )));
        }
        None => return Err(invalid("it says no version".into())),
    }
    let config: VmConfig = table.try_into().map_err(|error: toml::de::Error| invalid(error.message().to_owned()))?;
    check(&config)?;
    let seal = seal(text);
    match (&config.home, &seal) {
        (HomeCrypto::Encrypted { .. }, None) => return Err(unsigned()),
        (HomeCrypto::Plain, Some(_)) => {
            return Err(Fault::tampered(format!(
                "{VM_TOML} says that the home is plain, but was written as encrypted"
            )));
        }
        // Else whoever can write to the storage could have an encrypted disk run under a description of his own.
        (HomeCrypto::Plain, None) if config.is_encrypted() || config.tpm.is_some() => {
            let why = "a disk is encrypted or there is a vTPM, and the home is plain, which Ward never writes";
            return Err(Fault::tampered(why));
        }
        _ => {}
    }
    Ok(Described { config, seal })
}

fn unsigned() -> Fault {
    Fault::tampered(format!("{VM_TOML} says that the home is encrypted, but lacks Ward's authentication code"))
}

/// Splits the trailer off: what it authenticates, and the code. Other than exactly one whole last line is none.
fn seal(text: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let line = text.strip_suffix('\n')?;
    let start = line.rfind('\n').map_or(0, |at| at + 1);
    let code = hex::decode(line[start..].strip_prefix(TRAILER)?).ok()?;
    Some((text.as_bytes()[..start].to_vec(), code))
}

/// Whether a description makes sense by itself.
fn check(config: &VmConfig) -> Result<()> {
    let invalid = |why: String| Err(Fault::home_invalid(why));
    if config.version != VmConfig::VERSION {
        return invalid(format!("version {} of {VM_TOML} is unknown", config.version));
    }
    if !(1..=MAX_CPUS).contains(&config.cpus) {
        return invalid(format!("a VM has 1 to {MAX_CPUS} processors, not {}", config.cpus));
    }
    if !(1..=MAX_MEMORY_MIB).contains(&config.memory_mib) {
        return invalid(format!("a VM has 1 to {MAX_MEMORY_MIB} MiB of memory, not {}", config.memory_mib));
    }
    if config.disks.len() > MAX_DISKS {
        return invalid(format!("a VM has at most {MAX_DISKS} disks, not {}", config.disks.len()));
    }
    if let Some(key) = config.keys().into_iter().find(|key| key.bound_to().is_some_and(|vm| vm != config.id)) {
        return Err(Fault::new(
            Code::KeyTampered,
            format!("{VM_TOML} of VM {} names the key {key}, which was made for another VM", config.id),
            "find out who changed it; restore vm.toml from a backup",
        ));
    }
    let (mut ids, mut files) = (BTreeSet::new(), BTreeSet::new());
    for disk in &config.disks {
        if !ids.insert(disk.id) {
            return invalid(format!("there are two disks {}", disk.id));
        }
        if disk.size == 0 || disk.size % 512 != 0 || disk.size > 1 << 60 {
            return invalid(format!("{} has {} bytes, which is no size of a disk", disk.id, disk.size));
        }
    }
    if let Some(nvram) = config.firmware.nvram()
        && (nvram.size == 0 || nvram.size % 4096 != 0 || nvram.size > MAX_NVRAM)
    {
        return invalid(format!("UEFI variables have no room of {} bytes", nvram.size));
    }
    if config.tpm.is_some() && config.firmware.is_bios() {
        return invalid("there is a vTPM, which needs UEFI".into());
    }
    let tpm = config.tpm.iter().map(|tpm| &tpm.state);
    let boot: Vec<&FileName> = match &config.boot {
        Boot::Disk => Vec::new(),
        Boot::Kernel { kernel, initrd, .. } => std::iter::once(kernel).chain(initrd).collect(),
    };
    for file in boot.into_iter().chain(config.volumes().map(|volume| volume.file)).chain(tpm) {
        if !files.insert(file) {
            return invalid(format!("the file {file} is named twice"));
        }
        if is_reserved(file) {
            return invalid(format!("the file name {file} is Ward's own"));
        }
    }
    Ok(())
}

/// Whether a name could be that of a file that Ward itself makes in a home.
fn is_reserved(file: &FileName) -> bool {
    let name = file.as_str();
    [VM_TOML, JOB_JSON].contains(&name) || [PART, CHECKPOINT, ".new"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use ward_secret::Kek;
    use ward_types::{DiskConfig, DiskCrypto, DiskId, Firmware, KeyId, KeyRef, Nvram, PlainFormat, VirtualTpm, VmId};

    use super::*;
    use crate::keys::KeyCache;

    fn reference() -> KeyRef {
        KeyRef::standard("kms".parse().unwrap(), KeyId::try_from("42".to_owned()).unwrap())
    }

    fn resolved(kek: Kek) -> ResolvedKek {
        let mut cache = KeyCache::default();
        cache.insert(reference(), kek);
        cache.resolve(&reference()).unwrap()
    }

    fn plain() -> VmConfig {
        VmConfig {
            version: 1,
            id: VmId::new(),
            name: "web-1".parse().unwrap(),
            cpus: 2,
            memory_mib: 512,
            boot: Boot::Kernel {
                kernel: "vmlinuz".parse().unwrap(),
                initrd: Some("initrd".parse().unwrap()),
                command_line: "quiet \"x\" # no\n".into(),
            },
            home: HomeCrypto::Plain,
            disks: vec![DiskConfig {
                id: DiskId(0),
                file: "disk-0.raw".parse().unwrap(),
                size: 1 << 20,
                plain_format: PlainFormat::Raw,
                crypto: DiskCrypto::Plain,
                attached: true,
            }],
            firmware: Firmware::Bios,
            tpm: None,
        }
    }

    fn encrypted(kek: &ResolvedKek) -> (VmConfig, HomeKey) {
        let key = HomeKey::generate().unwrap();
        let mut config = plain();
        config.home = HomeCrypto::Encrypted { key: reference(), wrapped_key: wrap(&key, kek).unwrap() };
        config.disks[0].crypto = DiskCrypto::Encrypted { key: reference() };
        let nvram = Nvram { file: "nvram.luks".parse().unwrap(), size: 540_672 };
        config.firmware = Firmware::Uefi { secure_boot: true, nvram };
        let wrapped_key = wrap_tpm(&TpmKey::generate().unwrap(), kek).unwrap();
        config.tpm = Some(VirtualTpm { state: "tpm".parse().unwrap(), wrapped_key, endorsement: None });
        (config, key)
    }

    /// The document's test vectors, which Python's `cryptography` made.
    #[test]
    fn does_as_the_document_says() {
        let text = include_str!("../../../../docs/home-format.vectors");
        let mut seen = Vec::new();
        for vector in text.split("\n\n").filter(|vector| vector.contains("outcome = ")) {
            let field = |name: &str| {
                let prefix = format!("{name} = ");
                vector.lines().find_map(|line| line.strip_prefix(&prefix))
            };
            let bytes = |name: &str| hex::decode(field(name).unwrap_or_else(|| panic!("no {name}"))).unwrap();
            let lines = vector.lines().filter_map(|line| line.strip_prefix('|'));
            let content: String = lines.flat_map(|line| [line.strip_prefix(' ').unwrap_or(line), "\n"]).collect();
            let described = decode(content.as_bytes()).unwrap();
            let mut cache = KeyCache::default();
            let reference = described.unverified().home.key().unwrap().clone();
            cache.insert(reference.clone(), Kek::take(&mut bytes("kek")).unwrap());
            let kek = cache.resolve(&reference).unwrap();
            let outcome = match described.verify(|_| Ok(&kek)) {
                Ok(home) => {
                    let key = HomeKey::take(&mut bytes("home-key")).unwrap();
                    assert!(home.key().unwrap().same(&key));
                    // Byte for byte what is written here too, wrapped keys and code included.
                    let HomeCrypto::Encrypted { wrapped_key, .. } = &home.config().home else { unreachable!() };
                    assert_eq!(&wrap(&key, &kek).unwrap(), wrapped_key);
                    if let Some(tpm) = &home.config().tpm {
                        let key = TpmKey::take(&mut bytes("tpm-key")).unwrap();
                        assert!(unwrap_tpm(&tpm.wrapped_key, &kek).unwrap().same(&key));
                    }
                    assert_eq!(String::from_utf8(encode(home.config(), Some(&key)).unwrap()).unwrap(), content);
                    "accepted".to_owned()
                }
                Err(fault) => fault.code.to_string(),
            };
            assert_eq!(Some(outcome.as_str()), field("outcome"), "{content}");
            seen.push(outcome);
        }
        seen.sort();
        let tampered = "vm.home-tampered";
        let accepted = "accepted";
        assert_eq!(seen, [accepted, accepted, accepted, "key.wrong", tampered, tampered, tampered, tampered]);
    }

    /// A description that was written before there was firmware or a vTPM.
    #[test]
    fn an_old_description_is_read_as_before() {
        let text = r#"
version = 1
id = "01890a5d-ac96-774b-bcce-b302099a8057"
name = "web-1"
cpus = 2
memory_mib = 512

[boot]
from = "disk"

[home]
state = "plain"

[[disk]]
id = 0
file = "disk-0.raw"
size = 1048576
plain_format = "raw"

[disk.crypto]
state = "plain"
"#;
        let read = decode(text.as_bytes()).unwrap();
        assert_eq!((&read.unverified().firmware, &read.unverified().tpm), (&Firmware::Bios, &None));
        assert_eq!(String::from_utf8(encode(read.unverified(), None).unwrap()).unwrap().trim(), text.trim());
    }

    #[test]
    fn a_vtpm_needs_uefi_and_an_encrypted_home() {
        let kek = resolved(Kek::generate().unwrap());
        let (config, key) = encrypted(&kek);
        let tpm_key = unwrap_tpm(&config.tpm.as_ref().unwrap().wrapped_key, &kek);
        assert!(tpm_key.is_ok());
        let other = resolved(Kek::generate().unwrap());
        let fault = unwrap_tpm(&config.tpm.as_ref().unwrap().wrapped_key, &other).err().unwrap();
        assert_eq!(fault.code, Code::KeyWrong);
        let refused = |config: VmConfig, key: Option<&HomeKey>| encode(&config, key).err().unwrap().why;
        let bios = VmConfig { firmware: Firmware::Bios, ..config.clone() };
        assert!(refused(bios, Some(&key)).contains("UEFI"));
        let mut bare = VmConfig { home: HomeCrypto::Plain, ..config.clone() };
        bare.disks.clear();
        assert!(refused(bare, None).contains("encrypted home"));
        for (file, size) in
            [("tpm", 4096), ("disk-0.raw", 4096), ("nvram.part", 4096), ("n", 0), ("n", 4095), ("n", 5 << 20)]
        {
            let nvram = Nvram { file: file.parse().unwrap(), size };
            let firmware = Firmware::Uefi { secure_boot: false, nvram };
            assert!(encode(&VmConfig { firmware, ..config.clone() }, Some(&key)).is_err(), "{file} {size}");
        }
    }

    #[test]
    fn round_trips() {
        let config = plain();
        let content = encode(&config, None).unwrap();
        let home = decode(&content).unwrap().verify(|_| unreachable!()).unwrap();
        assert_eq!(home.config(), &config);
        assert!(home.key().is_none());

        let kek = resolved(Kek::generate().unwrap());
        let (config, key) = encrypted(&kek);
        let content = encode(&config, Some(&key)).unwrap();
        let home = decode(&content).unwrap().verify(|_| Ok(&kek)).unwrap();
        assert_eq!(home.config(), &config);
        assert!(home.key().unwrap().same(&key));
        let text = String::from_utf8(content).unwrap();
        assert!(text.lines().last().unwrap().starts_with("# ward-mac: "), "{text}");
    }

    #[test]
    fn another_key_is_wrong_and_no_key_is_missing() {
        let kek = resolved(Kek::generate().unwrap());
        let (config, key) = encrypted(&kek);
        let content = encode(&config, Some(&key)).unwrap();
        let other = resolved(Kek::generate().unwrap());
        let fault = |result: Result<VerifiedHome>| result.err().unwrap().code;
        assert_eq!(fault(decode(&content).unwrap().verify(|_| Ok(&other))), Code::KeyWrong);
        let cache = KeyCache::default();
        let missing = cache.resolve(&reference()).err().unwrap();
        assert_eq!(fault(decode(&content).unwrap().verify(|_| Err(missing))), Code::KeyNotOnHost);
    }

    #[test]
    fn every_change_to_an_encrypted_home_is_noticed() {
        let kek = resolved(Kek::generate().unwrap());
        let (config, key) = encrypted(&kek);
        let content = encode(&config, Some(&key)).unwrap();
        for at in 0..content.len() {
            for change in [1, 0x20] {
                let mut altered = content.clone();
                altered[at] ^= change;
                let outcome = decode(&altered).and_then(|home| home.verify(|_| Ok(&kek)));
                if let Ok(home) = outcome {
                    // The code's digits may be written in capitals.
                    assert!(at > content.len() - 66 && altered[at].is_ascii_hexdigit(), "byte {at}");
                    assert_eq!(home.config(), &config);
                }
            }
        }
        for length in 0..content.len() {
            assert!(decode(&content[..length]).and_then(|home| home.verify(|_| Ok(&kek))).is_err(), "cut to {length}");
        }
        let more = [content.as_slice(), b"# more\n"].concat();
        assert_eq!(decode(&more).err().unwrap().code, Code::HomeTampered);
    }

    #[test]
    fn nobody_can_declare_an_encrypted_home_plain() {
        let kek = resolved(Kek::generate().unwrap());
        let (config, key) = encrypted(&kek);
        let content = String::from_utf8(encode(&config, Some(&key)).unwrap()).unwrap();
        let mut bare = config.clone();
        bare.home = HomeCrypto::Plain;
        let text = toml::to_string(&bare).unwrap();
        assert_eq!(decode(text.as_bytes()).err().unwrap().code, Code::HomeTampered, "with an encrypted disk");
        bare.disks.clear();
        let text = toml::to_string(&bare).unwrap();
        assert_eq!(decode(text.as_bytes()).err().unwrap().code, Code::HomeTampered, "with a vTPM");
        bare.tpm = None;
        let trailer = content.lines().last().unwrap();
        let text = format!("{}{trailer}\n", toml::to_string(&bare).unwrap());
        assert_eq!(decode(text.as_bytes()).err().unwrap().code, Code::HomeTampered, "with the code left");
        let unsigned = content.replace(trailer, "");
        assert_eq!(decode(unsigned.as_bytes()).err().unwrap().code, Code::HomeTampered, "without the code");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let text = String::from_utf8(encode(&plain(), None).unwrap()).unwrap();
        let refused = |text: &str| {
            let fault = decode(text.as_bytes()).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert_eq!(fault.code, Code::HomeInvalid, "{fault:?}");
            fault.why
        };
        assert!(refused(&text.replace("version = 1", "version = 2")).contains("version 2"));
        assert!(refused(&text.replace("version = 1", "")).contains("no version"));
        for (from, to) in [
            ("cpus = 2", "cpus = 0"),
            ("cpus = 2", "cpus = 2\nsurprise = 1"),
            ("memory_mib = 512", "memory_mib = 0"),
            ("size = 1048576", "size = 0"),
            ("size = 1048576", "size = 1000"),
            ("disk-0.raw", "../disk"),
            ("disk-0.raw", "/dev/sda"),
            ("disk-0.raw", "vm.toml"),
            ("disk-0.raw", "x.part"),
            ("disk-0.raw", ".lock"),
            ("disk-0.raw", "vmlinuz"),
            ("name = \"web-1\"", "name = \"a b\""),
        ] {
            assert!(text.contains(from), "{from} is not in {text}");
            refused(&text.replacen(from, to, 1));
        }
        let mut twice = plain();
        twice.disks.push(DiskConfig { file: "other".parse().unwrap(), ..twice.disks[0].clone() });
        assert_eq!(encode(&twice, None).err().unwrap().code, Code::HomeInvalid);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(content: Vec<u8>) {
            let _ = decode(&content);
        }

        #[test]
        fn any_size_and_command_line_round_trips(
            sectors in 1u64..1 << 51, cpus in 1u16..=255, memory in 1u32..=16 << 20, line in "\\PC*",
        ) {
            let mut config = plain();
            config.disks[0].size = sectors * 512;
            config.cpus = cpus;
            config.memory_mib = memory;
            if let Boot::Kernel { command_line, .. } = &mut config.boot {
                *command_line = line;
            }
            let content = encode(&config, None).unwrap();
            let read = decode(&content).unwrap();
            prop_assert_eq!(read.unverified(), &config);
        }
    }
}
