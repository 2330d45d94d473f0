//! Encrypted disks as Ward uses LUKS2: the KEK is the passphrase, and a token names it.

use std::fs::File;
use std::path::{Path, PathBuf};

use luks2::{Device, Health, Params, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ward_disk::{ImageFormat, SectorSize};
use ward_rpc::api::host::Notice;
use ward_secret::{Dek, SecretError};
use ward_types::{DiskId, KeyRef, VmId};

use crate::fault::{self, Doing, Fault, Result};
use crate::keys::ResolvedKek;

/// The token's type.
const TOKEN: &str = "ward";
const TOKEN_VERSION: u32 = 1;

/// Where the disk's content begins: behind the header.
pub(crate) const DATA_OFFSET: u64 = 16 << 20;

/// What an encrypted disk says about itself: not secret, and not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    version: u32,
    pub(crate) key: KeyRef,
    pub(crate) vm: VmId,
    pub(crate) disk: DiskId,
}

impl Label {
    pub(crate) fn new(key: KeyRef, vm: VmId, disk: DiskId) -> Self {
        Self { version: TOKEN_VERSION, key, vm, disk }
    }
}

/// A disk whose header was opened.
pub(crate) struct Volume {
    device: Device<File>,
    path: PathBuf,
}

/// A disk's key and how its content lies in its file.
pub(crate) struct Unlocked {
    pub(crate) dek: Dek,
    pub(crate) format: ImageFormat,
}

/// Makes an encrypted disk without content, under a new DEK.
pub(crate) fn format(file: File, path: &Path, kek: &ResolvedKek, label: &Label) -> Result<()> {
    let fields = match serde_json::to_value(label) {
        Ok(value) => [(TOKEN.to_owned(), value)].into_iter().collect(),
        Err(error) => return Err(Fault::internal(error.to_string())),
    };
    let params = Params {
        label: label.disk.to_string(),
        subsystem: TOKEN.into(),
        data_offset: DATA_OFFSET,
        tokens: vec![Token::new(TOKEN, fields)],
        ..Params::default()
    };
    file.set_len(DATA_OFFSET).doing("enlarge", path)?;
    let dek = Dek::generate()?;
    let device = Device::format(file, &params, dek.expose(), kek.kek().expose())
        .map_err(|error| fault::of_luks(&error, path, kek.reference()))?;
    device.into_io().sync_all().doing("sync", path)
}

impl Volume {
    /// Reads the header and changes nothing. `key` is only for what is said where that fails.
    pub(crate) fn open(file: File, path: &Path, key: &KeyRef) -> Result<Self> {
        let device = Device::open(file).map_err(|error| fault::of_luks(&error, path, key))?;
        Ok(Self { device, path: path.to_owned() })
    }

    /// What is wrong with one copy of the header, if that was damage. What a crash left behind is none.
    pub(crate) fn damage(&self) -> Option<Notice> {
        let damage = match self.device.health() {
            Health::PrimaryDamaged(damage) => format!("the first copy of the header was damaged: {damage}"),
            Health::SecondaryDamaged(damage) => format!("the second copy of the header was damaged: {damage}"),
            Health::Good | Health::PrimaryStale | Health::SecondaryStale => return None,
        };
        Some(Notice::HeaderRepaired { file: self.path.clone(), damage })
    }

    /// Whether not all is as it should be with the header, through damage or through a crash.
    pub(crate) fn wants_repair(&self) -> bool {
        !self.device.health().is_good() || !self.device.unfinished_removals().is_empty()
    }

    /// Makes both copies of the header good, and says what was damaged.
    pub(crate) fn repair(&mut self, key: &KeyRef) -> Result<Option<Notice>> {
        let damage = self.damage();
        self.device.repair().map_err(|error| fault::of_luks(&error, &self.path, key))?;
        Ok(damage)
    }

    /// Refuses a disk that is another's: of another VM, or under another key than its description says.
    pub(crate) fn check_label(&self, expected: &Label) -> Result<()> {
        let path = self.path.display();
        let Some((_, token)) = self.device.tokens_of(TOKEN).next() else {
            return Err(Fault::tampered(format!("{path} has no token of Ward that says whose it is")));
        };
        let value = token.fields.get(TOKEN).cloned().unwrap_or(Value::Null);
        let label: Label = serde_json::from_value(value)
            .map_err(|error| Fault::tampered(format!("the token of {path} makes no sense: {error}")))?;
        if label == *expected {
            return Ok(());
        }
        let why = if (label.vm, label.disk) == (expected.vm, expected.disk) {
            let (named, expected) = (label.key.to_string(), expected.key.to_string());
            if named == expected {
                format!("the token of {path} holds the key {named} in other bytes than the VM's description")
            } else {
                format!("{path} says that its key is {named}, the VM's description says {expected}")
            }
        } else {
            format!("{path} says that it is {} of VM {}, not {}", label.disk, label.vm, expected.disk)
        };
        Err(Fault::tampered(why))
    }

    /// Opens the keyslot, and makes sure that the file holds a whole disk of that size.
    pub(crate) fn unlock(&self, kek: &ResolvedKek, size: u64) -> Result<Unlocked> {
        let unlocked = self.unlock_target(kek)?;
        let failed = |error: &luks2::Error| fault::of_luks(error, &self.path, kek.reference());
        let segment = self.device.data_segment().map_err(|error| failed(&error))?;
        let needed = size.next_multiple_of(segment.sector_size.bytes() as u64);
        if segment.len < needed {
            let needed = segment.offset.saturating_add(needed);
            return Err(failed(&luks2::Error::TooSmall { needed, size: segment.offset.saturating_add(segment.len) }));
        }
        Ok(unlocked)
    }

    /// Opens the keyslot of a disk whose content may not be there yet.
    pub(crate) fn unlock_target(&self, kek: &ResolvedKek) -> Result<Unlocked> {
        let failed = |error: &luks2::Error| fault::of_luks(error, &self.path, kek.reference());
        let dek = Dek::fill_with(|bytes| {
            self.device.unlock(kek.kek().expose(), bytes).map(drop).map_err(|error| Opening(failed(&error)))
        })
        .map_err(|Opening(fault)| fault)?;
        let segment = self.device.data_segment().map_err(|error| failed(&error))?;
        if segment.iv_tweak != 0 {
            let why = format!("{}: its sectors are not counted from zero", self.path.display());
            return Err(Fault::new(ward_types::Code::ImageInvalid, why, "convert it with `cryptsetup reencrypt`"));
        }
        let sector_size = match segment.sector_size {
            luks2::SectorSize::B512 => SectorSize::B512,
            luks2::SectorSize::B4096 => SectorSize::B4096,
        };
        Ok(Unlocked { dek, format: ImageFormat::Luks2 { data_offset: segment.offset, sector_size } })
    }
}

struct Opening(Fault);

impl From<SecretError> for Opening {
    fn from(error: SecretError) -> Self {
        Self(error.into())
    }
}
