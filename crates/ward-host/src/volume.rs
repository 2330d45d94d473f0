//! Encrypted disks as Ward uses LUKS2: the KEK is the passphrase, and a token names it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use luks2::{Device, Health, KeyslotId, Params, Token, TokenChange, TokenId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ward_disk::{ImageFormat, SectorSize};
use ward_rpc::api::host::Notice;
use ward_secret::{Dek, SecretError};
use ward_types::{KeyRef, VmId, VolumeId};

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
    #[serde(rename = "disk")]
    pub(crate) volume: VolumeId,
}

impl Label {
    pub(crate) fn new(key: KeyRef, vm: VmId, volume: impl Into<VolumeId>) -> Self {
        Self { version: TOKEN_VERSION, key, vm, volume: volume.into() }
    }

    fn token(&self) -> Result<Token> {
        let value = serde_json::to_value(self).map_err(|error| Fault::internal(error.to_string()))?;
        Ok(Token::new(TOKEN, [(TOKEN.to_owned(), value)].into_iter().collect()))
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
    let params = Params {
        label: label.volume.to_string(),
        subsystem: TOKEN.into(),
        data_offset: DATA_OFFSET,
        tokens: vec![label.token()?],
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

    /// What a disk says about itself; none where that is nothing of Ward's.
    pub(crate) fn read_label(file: File, path: &Path) -> Result<Option<Label>> {
        let device = Device::open(file).map_err(|error| fault::of_header(&error, path))?;
        let labels = Self { device, path: path.to_owned() }.labels()?;
        Ok(labels.into_iter().next().map(|(_, _, label)| label))
    }

    /// The keys under which a disk is: while one is replaced, both. None where that is nothing of Ward's.
    pub(crate) fn keys(file: File, path: &Path) -> Result<Vec<KeyRef>> {
        let device = Device::open(file).map_err(|error| fault::of_header(&error, path))?;
        let labels = Self { device, path: path.to_owned() }.labels()?;
        Ok(labels.into_iter().map(|(_, _, label)| label.key).collect())
    }

    /// How long the content is that the file holds.
    pub(crate) fn content_len(&self, key: &KeyRef) -> Result<u64> {
        let segment = self.device.data_segment().map_err(|error| fault::of_luks(&error, &self.path, key))?;
        Ok(segment.len)
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

    /// Refuses a disk that is another's: of another VM, or under another key than its description says. While its KEK is
    /// being replaced it is under two.
    pub(crate) fn check_label(&self, expected: &Label) -> Result<()> {
        let path = self.path.display();
        let labels = self.labels()?;
        let Some((_, _, label)) = labels.first() else {
            return Err(Fault::tampered(format!("{path} has no token of Ward that says whose it is")));
        };
        if labels.iter().any(|(_, _, label)| label == expected) {
            return Ok(());
        }
        let why = if (label.vm, label.volume) == (expected.vm, expected.volume) {
            let (named, expected) = (label.key.to_string(), expected.key.to_string());
            if named == expected {
                format!("the token of {path} holds the key {named} in other bytes than the VM's description")
            } else {
                format!("{path} says that its key is {named}, the VM's description says {expected}")
            }
        } else {
            format!("{path} says that it is {} of VM {}, not {}", label.volume, label.vm, expected.volume)
        };
        Err(Fault::tampered(why))
    }

    /// The labels, each with its token and the keyslots that it is for.
    fn labels(&self) -> Result<Vec<(TokenId, BTreeSet<KeyslotId>, Label)>> {
        let read = |(id, token): (TokenId, &Token)| {
            let value = token.fields.get(TOKEN).cloned().unwrap_or(Value::Null);
            let label = serde_json::from_value(value).map_err(|error| {
                Fault::tampered(format!("the token of {} makes no sense: {error}", self.path.display()))
            })?;
            Ok((id, token.keyslots.clone(), label))
        };
        self.device.tokens_of(TOKEN).map(read).collect()
    }

    /// Makes sure that there is room for another KEK beside the one that there is.
    pub(crate) fn check_room_for_key(&self, key: &KeyRef) -> Result<()> {
        self.device.check_room_for_keyslot().map_err(|error| fault::of_luks(&error, &self.path, key))
    }

    /// Lets a second KEK open the disk beside the first: that is half the way from the one to the other. Once done, it
    /// is done.
    pub(crate) fn add_key(&mut self, old: (&ResolvedKek, &Label), new: (&ResolvedKek, &Label)) -> Result<()> {
        let path = self.path.clone();
        let failed = |error: &luks2::Error| fault::of_luks(error, &path, old.0.reference());
        self.device.repair().map_err(|error| failed(&error))?;
        for (id, slots, label) in self.labels()? {
            if label == *new.1 {
                if slots.iter().any(|slot| self.opens(*slot, new.0)) {
                    return Ok(());
                }
                // Not of an earlier attempt, for that adds the token and what it is for in one.
                self.device.remove_token(id).map_err(|error| failed(&error))?;
            }
        }
        let mut slot = None;
        let dek = Dek::fill_with(|bytes| {
            let opened = self.device.unlock(old.0.kek().expose(), bytes).map_err(|error| Opening(failed(&error)))?;
            slot = Some(opened);
            Ok(())
        })
        .map_err(|Opening(fault)| fault)?;
        self.bind(old.1, slot)?;
        let token = TokenChange::Add(new.1.token()?);
        self.device.add_keyslot(dek.expose(), new.0.kek().expose(), &[token]).map(drop).map_err(|error| failed(&error))
    }

    /// Makes sure that the label's token says for which keyslot it is, since by that the keyslot is found again.
    fn bind(&mut self, label: &Label, slot: Option<KeyslotId>) -> Result<()> {
        let Some(slot) = slot else { return Ok(()) };
        let tokens = self.labels()?.into_iter().filter(|(_, slots, other)| other == label && !slots.contains(&slot));
        for (id, _, _) in tokens.collect::<Vec<_>>() {
            let mut token = label.token()?;
            token.keyslots = [slot].into();
            let changed = self.device.change_tokens(&[TokenChange::Set(id, token)]);
            changed.map_err(|error| fault::of_luks(&error, &self.path, &label.key))?;
        }
        Ok(())
    }

    fn opens(&self, slot: KeyslotId, kek: &ResolvedKek) -> bool {
        Dek::fill_with(|bytes| {
            self.device.unlock_keyslot(slot, kek.kek().expose(), bytes).map_err(|_| SecretError::Unwrap)
        })
        .is_ok()
    }

    /// Removes and overwrites what other KEKs open the disk by, and their tokens. Takes no key: what is to be kept and
    /// what not, the tokens say. Keyslots that somebody else than Ward added stay.
    pub(crate) fn keep_only(&mut self, label: &Label) -> Result<()> {
        let path = self.path.clone();
        let failed = |error: luks2::Error| fault::of_luks(&error, &path, &label.key);
        self.device.repair().map_err(failed)?;
        let (kept, others): (Vec<_>, Vec<_>) = self.labels()?.into_iter().partition(|(_, _, other)| other == label);
        if others.is_empty() {
            return Ok(());
        }
        let kept: BTreeSet<_> = kept.into_iter().flat_map(|(_, slots, _)| slots).collect();
        if kept.is_empty() {
            let why = format!("{} has no keyslot that its key {} is known to open", path.display(), label.key);
            return Err(Fault::tampered(why));
        }
        for (id, slots, _) in others {
            let mut tokens = &[id][..];
            for slot in slots.difference(&kept) {
                self.device.remove_keyslot_and_tokens(*slot, tokens).map_err(failed)?;
                tokens = &[];
            }
            if !tokens.is_empty() {
                self.device.remove_token(id).map_err(failed)?;
            }
        }
        Ok(())
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
