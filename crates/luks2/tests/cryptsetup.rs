//! Both ways with cryptsetup: it opens what we write, and we open what it writes.
//!
//! Everything is done on files, without device-mapper.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use luks2::{
    Device, Error, Health, Io as _, KeyslotId, Params, SectorSize, SegmentSize, Token, TokenChange, TokenId,
    Unsupported, VOLUME_KEY_LEN,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use xts::Xts;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const QUICK: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// A directory with an image and files for passphrases.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("image")
    }

    /// A file with a passphrase, which is its own name.
    fn passphrase(&self, text: &str) -> String {
        let path = self.path(text);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn create(&self, size: u64) -> File {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.image()).unwrap();
        file.set_len(size).unwrap();
        file
    }

    fn open(&self) -> Device<File> {
        self.try_open().unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_open(&self) -> Result<Device<File>, Error> {
        Device::open(OpenOptions::new().read(true).write(true).open(self.image()).unwrap())
    }

    /// cryptsetup with the image as its last argument.
    fn try_run(&self, arguments: &[&str]) -> Output {
        cryptsetup(&[arguments, &[self.image().to_str().unwrap()]].concat(), self.dir.path())
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "cryptsetup {arguments:?}: {out}{err}");
        out.into_owned()
    }

    #[track_caller]
    fn opens(&self, passphrase: &str) -> bool {
        let file = self.passphrase(passphrase);
        let output = self.try_run(&["open", "--test-passphrase", "--key-file", &file]);
        match output.status.code() {
            Some(0) => true,
            // Wrong passphrase, no usable keyslot.
            Some(1 | 2) => false,
            other => panic!("cryptsetup open ended with {other:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    #[track_caller]
    fn volume_key(&self, passphrase: &str) -> Vec<u8> {
        let (file, key) = (self.passphrase(passphrase), self.path("volume-key"));
        let _ = fs::remove_file(&key);
        let key_text = key.to_str().unwrap();
        let dump = ["luksDump", "--batch-mode", "--dump-volume-key", "--key-file", &file];
        self.run(&[&dump[..], &["--volume-key-file", key_text]].concat());
        fs::read(key).unwrap()
    }
}

fn cryptsetup(arguments: &[&str], dir: &Path) -> Output {
    match Command::new("cryptsetup").args(arguments).env("LC_ALL", "C").current_dir(dir).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run cryptsetup ({error}); this test needs it: run ./test, which provides it"),
    }
}

fn volume_key() -> [u8; VOLUME_KEY_LEN] {
    std::array::from_fn(|i| u8::try_from(i * 37 % 251).unwrap())
}

fn unlock(device: &Device<File>, passphrase: &str) -> Result<(KeyslotId, [u8; VOLUME_KEY_LEN]), Error> {
    let mut key = [0; VOLUME_KEY_LEN];
    let id = device.unlock(passphrase.as_bytes(), &mut key)?;
    Ok((id, key))
}

fn token(kind: &str, fields: Value) -> Token {
    match fields {
        Value::Object(fields) => Token::new(kind, fields),
        _ => Token::new(kind, Map::new()),
    }
}

#[test]
fn it_opens_what_we_format() {
    for (sector_size, metadata_size, keyslots_size, data_size) in [
        (SectorSize::B4096, 64 * KIB, 4 * MIB, SegmentSize::Dynamic),
        (SectorSize::B512, 16 * KIB, MIB, SegmentSize::Fixed(3 * MIB + 512)),
        (SectorSize::B4096, 4 * MIB, 252 * KIB, SegmentSize::Fixed(MIB)),
    ] {
        let bench = Bench::new();
        let params = Params {
            sector_size,
            metadata_size,
            keyslots_size,
            data_size,
            label: "a label".into(),
            subsystem: "a subsystem".into(),
            tokens: vec![token("example", json!({"key": "one", "number": 7}))],
            ..Params::default()
        };
        let device = Device::format(bench.create(24 * MIB), &params, &volume_key(), b"right").unwrap();
        drop(device);

        let dump = bench.run(&["luksDump"]);
        for line in [
            "Version:       \t2".to_owned(),
            format!("UUID:          \t{}", params.uuid),
            "Label:         \ta label".to_owned(),
            "Subsystem:     \ta subsystem".to_owned(),
            format!("Metadata area: \t{metadata_size} [bytes]"),
            format!("Keyslots area: \t{keyslots_size} [bytes]"),
            format!("sector: {} [bytes]", sector_size.bytes()),
            "cipher: aes-xts-plain64".to_owned(),
            "0: example".to_owned(),
        ] {
            assert!(dump.contains(&line), "{line:?} is not in:\n{dump}");
        }
        assert!(bench.opens("right"));
        assert!(!bench.opens("wrong"));
        assert_eq!(bench.volume_key("right"), volume_key());
        let exported: Value = serde_json::from_str(&bench.run(&["token", "export", "--token-id", "0"])).unwrap();
        assert_eq!(exported, json!({"type": "example", "keyslots": ["0"], "key": "one", "number": 7}));
    }
}

#[test]
fn it_finds_nothing_to_repair() {
    let bench = Bench::new();
    drop(Device::format(bench.create(17 * MIB), &Params::default(), &volume_key(), b"right").unwrap());
    let before = fs::read(bench.image()).unwrap();
    let output = bench.try_run(&["repair", "--batch-mode", "--debug"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(bench.image()).unwrap(), before, "the repair has changed something");
}

#[test]
fn its_keyslots_and_ours_live_together() {
    let bench = Bench::new();
    let mut device = Device::format(bench.create(17 * MIB), &Params::default(), &volume_key(), b"ours").unwrap();

    let (ours, theirs) = (bench.passphrase("ours"), bench.passphrase("theirs"));
    bench.run(&[&["luksAddKey", "--batch-mode", "--key-file", &ours, "--new-keyfile", &theirs], &QUICK[..]].concat());
    assert!(bench.opens("theirs"));
    assert_eq!(unlock(&bench.open(), "theirs").unwrap(), (KeyslotId::new(1), volume_key()));

    // The value from before goes on: a change starts from what is there now.
    let again = device.add_keyslot(&volume_key(), b"again", &[]).unwrap();
    assert_eq!(again, KeyslotId::new(2));
    for passphrase in ["ours", "theirs", "again"] {
        assert!(bench.opens(passphrase), "{passphrase}");
        assert_eq!(unlock(&device, passphrase).unwrap().1, volume_key());
    }
}

#[test]
fn it_kills_our_slot_and_we_kill_its() {
    let bench = Bench::new();
    let mut device = Device::format(bench.create(17 * MIB), &Params::default(), &volume_key(), b"zero").unwrap();
    device.add_keyslot(&volume_key(), b"one", &[]).unwrap();
    device.add_keyslot(&volume_key(), b"two", &[]).unwrap();

    let (image, zero) = (bench.image(), bench.passphrase("zero"));
    let kill = ["luksKillSlot", "--batch-mode", "--key-file", &zero, image.to_str().unwrap(), "1"];
    let output = cryptsetup(&kill, bench.dir.path());
    assert!(output.status.success(), "{output:?}");
    let mut device = bench.open();
    assert!(device.health().is_good());
    assert!(matches!(unlock(&device, "one"), Err(Error::NoKeyslotOpens { tried: 2, .. })));
    assert_eq!(unlock(&device, "two").unwrap(), (KeyslotId::new(2), volume_key()));

    device.remove_keyslot(KeyslotId::new(0)).unwrap();
    assert!(!bench.opens("zero"));
    assert!(bench.opens("two"));
    assert_eq!(bench.volume_key("two"), volume_key());
}

#[test]
fn a_swap_shows_in_it() {
    let bench = Bench::new();
    let params = Params { tokens: vec![token("key", json!({"is": "old"}))], ..Params::default() };
    let mut device = Device::format(bench.create(17 * MIB), &params, &volume_key(), b"old").unwrap();
    let change = TokenChange::Set(TokenId::new(0), token("key", json!({"is": "new"})));
    let id = device.swap_keyslot(KeyslotId::new(0), &volume_key(), b"new", &[change]).unwrap();
    assert!(!bench.opens("old"));
    assert_eq!(bench.volume_key("new"), volume_key());
    let exported: Value = serde_json::from_str(&bench.run(&["token", "export", "--token-id", "0"])).unwrap();
    assert_eq!(exported, json!({"type": "key", "keyslots": [id.to_string()], "is": "new"}));
}

/// What an interrupted removal leaves must be as good to it as to us.
#[test]
fn it_takes_an_unfinished_removal_for_what_it_is() {
    /// Fails from the fourth write on: after the new keyslot and both copies of the header, the old one is retired by then
    /// and not overwritten.
    struct Failing<'a>(&'a File, std::cell::Cell<u32>);

    impl luks2::Io for Failing<'_> {
        fn size(&self) -> std::io::Result<u64> {
            self.0.size()
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
            luks2::Io::read_exact_at(self.0, buffer, offset)
        }

        fn write_all_at(&self, buffer: &[u8], offset: u64) -> std::io::Result<()> {
            self.1.set(self.1.get() + 1);
            if self.1.get() > 3 { Err(std::io::Error::other("cut")) } else { self.0.write_all_at(buffer, offset) }
        }

        fn sync(&self) -> std::io::Result<()> {
            self.0.sync()
        }
    }

    let bench = Bench::new();
    let file = bench.create(17 * MIB);
    Device::format(&file, &Params::default(), &volume_key(), b"old").unwrap();
    let mut cut = Device::open(Failing(&file, Default::default())).unwrap();
    let swapped = cut.swap_keyslot(KeyslotId::new(0), &volume_key(), b"new", &[]);
    assert!(matches!(swapped, Err(Error::Io { .. })));

    assert!(!bench.opens("old"));
    assert!(bench.opens("new"));
    let dump = bench.run(&["luksDump"]);
    assert!(dump.contains("0: luks2 (unbound)"), "{dump}");
    let mut device = bench.open();
    assert_eq!(device.unfinished_removals(), [KeyslotId::new(0)]);
    device.repair().unwrap();
    assert!(!bench.run(&["luksDump"]).contains("0: luks2 (unbound)"));
}

#[test]
fn we_open_what_it_formats() {
    let argon2id = ["--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64"];
    let argon2i = ["--pbkdf", "argon2i", "--pbkdf-force-iterations", "5", "--pbkdf-memory", "1024"];
    let sha512 = [&QUICK[..], &["--hash", "sha512"]].concat();
    for (kdf, sector, metadata, keyslots) in [
        (&QUICK[..], "512", "16k", "16m"),
        (&QUICK[..], "4096", "64k", "4m"),
        (&sha512[..], "4096", "4m", "512k"),
        (&[&argon2id[..], &["--pbkdf-parallel", "1"]].concat()[..], "512", "128k", "1m"),
        (&[&argon2id[..], &["--pbkdf-parallel", "2"]].concat()[..], "4096", "32k", "2m"),
        (&[&argon2i[..], &["--pbkdf-parallel", "4"]].concat()[..], "4096", "1m", "8m"),
    ] {
        let bench = Bench::new();
        bench.create(40 * MIB);
        let file = bench.passphrase("right");
        let format = ["luksFormat", "--type", "luks2", "--batch-mode", "--key-file", &file, "--sector-size", sector];
        let sizes = ["--luks2-metadata-size", metadata, "--luks2-keyslots-size", keyslots, "--label", "theirs"];
        // The kernel may offer fewer threads than asked for; cryptsetup then takes what there is.
        bench.run(&[&format[..], &sizes, kdf].concat());

        let device = bench.open();
        assert!(device.health().is_good(), "{:?}", device.health());
        assert_eq!(device.label(), "theirs");
        let (id, key) = unlock(&device, "right").unwrap();
        assert_eq!(id, KeyslotId::new(0));
        assert_eq!(key.as_slice(), bench.volume_key("right"), "{kdf:?}");
        assert!(matches!(unlock(&device, "wrong"), Err(Error::NoKeyslotOpens { tried: 1, .. })));
        let segment = device.data_segment().unwrap();
        assert_eq!(segment.sector_size.bytes().to_string(), sector);
        assert_eq!((segment.offset + segment.len, segment.iv_tweak), (40 * MIB, 0));

        // And go on with it.
        let mut device = device;
        device.add_keyslot(&key, b"ours", &[]).unwrap();
        assert!(bench.opens("ours"));
    }
}

#[test]
fn we_keep_what_it_stores() {
    let bench = Bench::new();
    bench.create(17 * MIB);
    let file = bench.passphrase("right");
    bench.run(&[&["luksFormat", "--type", "luks2", "--batch-mode", "--key-file", &file], &QUICK[..]].concat());
    fs::write(bench.path("token"), r#"{"type":"foreign","keyslots":["0"],"deep":{"er":[1.1,-3,null,"x"]}}"#).unwrap();
    let path = bench.path("token");
    bench.run(&["token", "import", "--token-id", "5", "--json-file", path.to_str().unwrap()]);
    // A keyslot that leads to a key of its own, not to that of the data.
    let other = bench.passphrase("other");
    let unbound = ["luksAddKey", "--batch-mode", "--unbound", "--key-size", "512", "--key-slot", "7"];
    let image = bench.image();
    let output = cryptsetup(&[&unbound[..], &QUICK, &[image.to_str().unwrap(), &other]].concat(), bench.dir.path());
    assert!(output.status.success(), "{output:?}");
    let config = ["config", "--batch-mode", "--priority", "prefer", "--key-slot", "0"];
    bench.run(&config);

    let mut device = bench.open();
    let (_, key) = unlock(&device, "right").unwrap();
    assert!(matches!(unlock(&device, "other"), Err(Error::NoKeyslotOpens { .. })));
    let ours = device.set_token(token("ours", json!({}))).unwrap();
    assert_eq!(ours, TokenId::new(0));
    let new = device.add_keyslot(&key, b"new", &[]).unwrap();
    device.remove_keyslot(new).unwrap();

    let exported: Value = serde_json::from_str(&bench.run(&["token", "export", "--token-id", "5"])).unwrap();
    assert_eq!(exported, json!({"type": "foreign", "keyslots": ["0"], "deep": {"er": [1.1, -3, null, "x"]}}));
    let dump = bench.run(&["luksDump"]);
    assert!(dump.contains("7: luks2 (unbound)"), "a keyslot with its own digest is none of ours:\n{dump}");
    assert!(dump.contains("Priority:   preferred"), "{dump}");
    assert!(bench.opens("right"));
}

#[test]
fn it_mends_what_we_find_damaged_and_the_other_way_round() {
    let bench = Bench::new();
    let file = bench.create(17 * MIB);
    drop(Device::format(&file, &Params::default(), &volume_key(), b"right").unwrap());
    for (offset, primary) in [(100, true), (64 * KIB + 5000, false)] {
        file.write_all_at(b"damage", offset).unwrap();
        let mut device = bench.open();
        match device.health() {
            Health::PrimaryDamaged(_) => assert!(primary),
            Health::SecondaryDamaged(_) => assert!(!primary),
            other => panic!("{other:?}"),
        }
        device.repair().unwrap();
        assert!(bench.open().health().is_good());
        assert!(bench.opens("right"));

        file.write_all_at(b"damage", offset).unwrap();
        assert!(bench.opens("right"), "cryptsetup opens from the other copy, and rewrites this one");
        assert!(bench.open().health().is_good());
    }
}

#[test]
fn data_that_it_encrypts_decrypts() {
    for (sector, resilience) in [("512", "none"), ("4096", "none"), ("4096", "checksum")] {
        let bench = Bench::new();
        let mut plain = vec![0; 2 << 20];
        for (number, chunk) in (0u64..).zip(plain.chunks_mut(8)) {
            chunk.copy_from_slice(&number.to_le_bytes());
        }
        let image = bench.create(34 * MIB);
        image.write_all_at(&plain, 0).unwrap();
        let file = bench.passphrase("right");
        let encrypt = ["reencrypt", "--encrypt", "--type", "luks2", "--batch-mode", "--force-offline-reencrypt"];
        let how = ["--reduce-device-size", "32M", "--cipher", "aes-xts-plain64", "--key-size", "512"];
        let rest = ["--sector-size", sector, "--resilience", resilience, "--key-file", &file];
        bench.run(&[&encrypt[..], &how, &rest, &QUICK].concat());

        let device = bench.open();
        let (_, key) = unlock(&device, "right").unwrap();
        let segment = device.data_segment().unwrap();
        let mut data = vec![0; plain.len()];
        device.io().read_exact_at(&mut data, segment.offset).unwrap();
        assert_ne!(data, plain);
        Xts::new(&key).unwrap().decrypt(segment.sector_size, segment.iv_tweak, &mut data).unwrap();
        assert!(data == plain, "sectors of {sector} bytes, resilience {resilience}");
    }
}

#[test]
fn what_we_do_not_support_is_named() {
    let bench = Bench::new();
    let file = bench.passphrase("right");
    let format = ["luksFormat", "--batch-mode", "--key-file", &file, "--type"];
    #[track_caller]
    fn refusal(bench: &Bench) -> Unsupported {
        match bench.try_open() {
            Err(Error::Unsupported(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it opened"),
        }
    }

    bench.create(17 * MIB);
    assert!(matches!(bench.try_open(), Err(Error::NotLuks2)));
    bench.run(&[&format[..], &["luks1"], &QUICK].concat());
    assert!(matches!(bench.try_open(), Err(Error::Luks1)));

    bench.create(17 * MIB);
    bench.run(&[&format[..], &["luks2", "--cipher", "aes-cbc-essiv:sha256"], &QUICK].concat());
    assert_eq!(refusal(&bench), Unsupported::Cipher { what: "its data", cipher: "aes-cbc-essiv:sha256".into() });

    bench.create(17 * MIB);
    bench.run(&[&format[..], &["luks2", "--sector-size", "2048"], &QUICK].concat());
    assert_eq!(refusal(&bench), Unsupported::SectorSize(2048));

    // A volume key of 256 bits: the device opens, its keyslots don't.
    bench.create(17 * MIB);
    bench.run(&[&format[..], &["luks2", "--key-size", "256"], &QUICK].concat());
    match unlock(&bench.open(), "right") {
        Err(Error::NoKeyslotOpens { tried: 0, skipped }) => {
            assert_eq!(skipped, [(KeyslotId::new(0), Unsupported::KeySize { what: "its key", bytes: 32 })]);
        }
        other => panic!("{other:?}"),
    }

    bench.create(17 * MIB);
    bench.run(&[&format[..], &["luks2"], &QUICK].concat());
    let reencrypt = ["reencrypt", "--init-only", "--batch-mode", "--key-file", &file, "--force-offline-reencrypt"];
    bench.run(&[&reencrypt[..], &QUICK].concat());
    assert_eq!(refusal(&bench), Unsupported::Reencryption);

    let data = bench.path("data");
    File::create(&data).unwrap().set_len(MIB).unwrap();
    bench.create(4 * MIB);
    let header = ["--header", bench.image().to_str().unwrap(), data.to_str().unwrap()].map(str::to_owned);
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let output = cryptsetup(&[&format[..], &["luks2"], &QUICK, &header].concat(), bench.dir.path());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(refusal(&bench), Unsupported::DetachedHeader);
}
