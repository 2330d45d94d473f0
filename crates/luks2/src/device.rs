//! A device with a LUKS2 header: reading it, opening it, changing it.

use std::cmp::Reverse;
use std::fmt;

use uuid::Uuid;
use zeroize::{Zeroize as _, Zeroizing};

use crate::VOLUME_KEY_LEN;
use crate::binary::Header;
use crate::copies;
use crate::digest::Verifier;
use crate::error::{Error, Unsupported};
use crate::format;
use crate::header::{Health, KeyslotInfo, Priority};
use crate::id::{KeyslotId, TokenId};
use crate::io::Io;
use crate::kdf::{self, MIN_ITERATIONS};
use crate::keyslot::{self, Opener};
use crate::metadata::{Digest, Keyslot, Metadata};
use crate::params::{Params, SegmentSize};
use crate::removal;
use crate::segment::DataSegment;
use crate::token::{self, Token, TokenChange};
use crate::validate::{Data, MAX_KEYSLOTS, supported};

/// A device with a LUKS2 header that was found sound and supported.
///
/// Every change starts from what stands on the device at that moment, and first repairs what an earlier one left
/// unfinished. Where a change fails half-way, what this value says is still the state before; open the device anew to
/// learn what holds.
pub struct Device<I> {
    io: I,
    header: Header,
    health: Health,
    data: Data,
    iterations: u32,
}

impl<I> fmt::Debug for Device<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("uuid", &self.header.uuid)
            .field("sequence", &self.header.sequence)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// Creating and opening.
impl<I: Io> Device<I> {
    /// Writes a new header, with one keyslot, over whatever the device holds before the data.
    ///
    /// # Errors
    /// [`Error::Params`], [`Error::Token`], [`Error::NoMetadataSpace`] and [`Error::TooSmall`] before anything is
    /// written; [`Error::Io`] and [`Error::Crypto`] at any time.
    pub fn format(io: I, params: &Params, volume_key: &[u8; VOLUME_KEY_LEN], passphrase: &[u8]) -> Result<Self, Error> {
        let header = format::format(&io, params, volume_key, passphrase)?;
        let data = supported(&header.metadata, header.size)?;
        Ok(Self { io, header, health: Health::Good, data, iterations: params.iterations })
    }

    /// Reads the header. Changes nothing, whatever the [`health`](Self::health) turns out to be.
    ///
    /// # Errors
    /// [`Error::NotLuks2`], [`Error::Luks1`], [`Error::BothDamaged`], [`Error::Unsupported`].
    pub fn open(io: I) -> Result<Self, Error> {
        let (header, health) = copies::read(&io)?;
        let data = supported(&header.metadata, header.size)?;
        Ok(Self { io, header, health, data, iterations: MIN_ITERATIONS })
    }

    /// How the two copies of the header were when it was read.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// The keyslots that were removed but not yet destroyed, because of a crash. They open nothing any more, but their
    /// bytes are still there; [`repair`](Self::repair) destroys them.
    #[must_use]
    pub fn unfinished_removals(&self) -> Vec<KeyslotId> {
        removal::retired(&self.header.metadata).collect()
    }

    /// Finishes what a crash interrupted and rewrites a damaged or stale copy. Writes nothing where all is well.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`Error::Io`].
    pub fn repair(&mut self) -> Result<(), Error> {
        let (header, health) = copies::read(&self.io)?;
        // Before anything is written: what isn't understood is not touched.
        self.data = supported(&header.metadata, header.size)?;
        copies::repair(&self.io, &header, &health)?;
        (self.header, self.health) = (header, Health::Good);
        self.destroy_retired()
    }

    /// The number of the header's last change.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// The device's UUID.
    #[must_use]
    pub const fn uuid(&self) -> Uuid {
        self.header.uuid
    }

    /// The device's label, or an empty text.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.header.label
    }

    /// The device's subsystem label, or an empty text.
    #[must_use]
    pub fn subsystem(&self) -> &str {
        &self.header.subsystem
    }

    /// Where the data are and how they are encrypted.
    ///
    /// # Errors
    /// [`Error::TooSmall`] where the device ends before the data do; [`Error::Io`].
    pub fn data_segment(&self) -> Result<DataSegment, Error> {
        let Data { offset, sector_size, iv_tweak, .. } = self.data;
        let size = self.io.size().map_err(Error::io("tell the size of the device"))?;
        let rest = size.checked_sub(offset).ok_or(Error::TooSmall { needed: offset, size })?;
        let len = match self.data.size {
            SegmentSize::Dynamic => rest - rest % sector_size.bytes() as u64,
            SegmentSize::Fixed(len) if len <= rest => len,
            SegmentSize::Fixed(len) => return Err(Error::TooSmall { needed: offset.saturating_add(len), size }),
        };
        Ok(DataSegment { offset, len, sector_size, iv_tweak })
    }

    /// The device itself.
    #[must_use]
    pub const fn io(&self) -> &I {
        &self.io
    }

    /// Gives the device back.
    #[must_use]
    pub fn into_io(self) -> I {
        self.io
    }
}

/// Keyslots.
impl<I: Io> Device<I> {
    /// The keyslots, by number.
    #[must_use]
    pub fn keyslots(&self) -> Vec<KeyslotInfo> {
        let metadata = &self.header.metadata;
        let info = |(id, slot): (&KeyslotId, &Keyslot)| KeyslotInfo {
            id: *id,
            kind: slot.kind().to_owned(),
            kdf: match slot {
                Keyslot::Luks2(slot) => Some(slot.kdf.kind.clone()),
                Keyslot::Other(_) => None,
            },
            priority: priority(slot),
            opens_data: self.opens_data(metadata, *id),
            unsupported: Opener::of(slot).err(),
        };
        metadata.keyslots.iter().map(info).collect()
    }

    /// Writes the volume key to `volume_key` if the passphrase opens a keyslot, zeros if it doesn't, and says which.
    ///
    /// Tries the keyslots by priority, then by number.
    ///
    /// # Errors
    /// [`Error::NoKeyslotOpens`]; [`Error::Io`] where none opens and one could not be read.
    pub fn unlock(&self, passphrase: &[u8], volume_key: &mut [u8; VOLUME_KEY_LEN]) -> Result<KeyslotId, Error> {
        volume_key.zeroize();
        let metadata = &self.header.metadata;
        let mut order: Vec<_> = metadata
            .keyslots
            .iter()
            .filter(|(id, slot)| self.opens_data(metadata, **id) && priority(slot) != Priority::Ignore)
            .collect();
        order.sort_by_key(|(id, slot)| (Reverse(priority(slot)), **id));

        let (mut tried, mut skipped, mut failure) = (0, Vec::new(), None);
        for (id, _) in order {
            match self.unlock_keyslot(*id, passphrase, volume_key) {
                Ok(()) => return Ok(*id),
                Err(Error::NoKeyslotOpens { .. }) => tried += 1,
                Err(Error::Unsupported(why)) => skipped.push((*id, why)),
                // Another may be readable.
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(Error::NoKeyslotOpens { tried, skipped }))
    }

    /// As [`unlock`](Self::unlock), with one keyslot whatever its priority.
    ///
    /// # Errors
    /// [`Error::NoSuchKeyslot`]; [`Error::Unsupported`] where this crate cannot open the keyslot;
    /// [`Error::NoKeyslotOpens`]; [`Error::Io`].
    pub fn unlock_keyslot(
        &self,
        id: KeyslotId,
        passphrase: &[u8],
        volume_key: &mut [u8; VOLUME_KEY_LEN],
    ) -> Result<(), Error> {
        let opened = self.try_keyslot(id, passphrase, volume_key);
        if opened.is_err() {
            // What came out is noise, but noise made of the passphrase.
            volume_key.zeroize();
        }
        opened
    }

    fn try_keyslot(
        &self,
        id: KeyslotId,
        passphrase: &[u8],
        volume_key: &mut [u8; VOLUME_KEY_LEN],
    ) -> Result<(), Error> {
        let slot = self.header.metadata.keyslots.get(&id).ok_or(Error::NoSuchKeyslot(id))?;
        let wrong = || Error::NoKeyslotOpens { tried: 1, skipped: Vec::new() };
        if !self.opens_data(&self.header.metadata, id) {
            return Err(wrong());
        }
        let verifier = Verifier::of(self.data_digest()?)?;
        Opener::of(slot)?.open(&self.io, passphrase, volume_key)?;
        if verifier.verify(volume_key) { Ok(()) } else { Err(wrong()) }
    }

    /// Checks that a volume key is that of this device.
    ///
    /// # Errors
    /// [`Error::WrongVolumeKey`].
    pub fn verify_volume_key(&self, volume_key: &[u8; VOLUME_KEY_LEN]) -> Result<(), Error> {
        if Verifier::of(self.data_digest()?)?.verify(volume_key) { Ok(()) } else { Err(Error::WrongVolumeKey) }
    }

    /// Sets the PBKDF2 iterations of keyslots that this value makes from now on, 1000 at first or what
    /// [`Params::iterations`] said. **Passphrases that people choose need far more.**
    ///
    /// # Errors
    /// [`Error::Params`] where they are fewer than 1000.
    pub fn set_iterations(&mut self, iterations: u32) -> Result<(), Error> {
        self.iterations = kdf::enough_iterations(iterations)?;
        Ok(())
    }

    /// Makes sure that there is room for one more keyslot, so that its lack shows before anything is begun.
    ///
    /// # Errors
    /// [`Error::NoFreeKeyslot`], [`Error::NoKeyslotSpace`].
    pub fn check_room_for_keyslot(&self) -> Result<(), Error> {
        let metadata = &self.header.metadata;
        free_keyslot(metadata)?;
        keyslot::find_gap(metadata, self.header.size).map(drop)
    }

    /// Adds a keyslot, and changes tokens in the same moment. Tokens that come with it are bound to it.
    ///
    /// # Errors
    /// [`Error::WrongVolumeKey`], [`Error::NoFreeKeyslot`], [`Error::NoKeyslotSpace`], [`Error::NoMetadataSpace`],
    /// [`Error::Token`] and their like before anything is changed; [`Error::Io`] at any time.
    pub fn add_keyslot(
        &mut self,
        volume_key: &[u8; VOLUME_KEY_LEN],
        passphrase: &[u8],
        tokens: &[TokenChange],
    ) -> Result<KeyslotId, Error> {
        self.repair()?;
        self.add(volume_key, passphrase, tokens, None)
    }

    /// Puts a new keyslot in the place of `old`, and changes tokens, all in one moment: before it `old` opens the
    /// device, after it the new one does. Then destroys `old`.
    ///
    /// May be repeated after a failure: where `old` is gone and the passphrase opens the device already, all that is
    /// left to do is to finish. The new keyslot has another number than `old`.
    ///
    /// # Errors
    /// Those of [`add_keyslot`](Self::add_keyslot); [`Error::NoSuchKeyslot`].
    pub fn swap_keyslot(
        &mut self,
        old: KeyslotId,
        volume_key: &[u8; VOLUME_KEY_LEN],
        passphrase: &[u8],
        tokens: &[TokenChange],
    ) -> Result<KeyslotId, Error> {
        self.repair()?;
        if !self.header.metadata.keyslots.contains_key(&old) {
            let mut opened = Box::new(Zeroizing::new([0; VOLUME_KEY_LEN]));
            return self.unlock(passphrase, &mut opened).map_err(|_| Error::NoSuchKeyslot(old));
        }
        self.removable(old)?;
        let id = self.add(volume_key, passphrase, tokens, Some(old))?;
        self.destroy_retired()?;
        Ok(id)
    }

    /// Overwrites a keyslot's area and removes it from the header, in this order, as cryptsetup does. A crash before the
    /// last write leaves it in the header, where it may open nothing any more; a repeat finishes.
    ///
    /// # Errors
    /// [`Error::NoSuchKeyslot`]; [`Error::LastKeyslot`] where no other would open the data (see
    /// [`erase_keyslots`](Self::erase_keyslots)); [`Error::Unsupported`] for keyslots of a type that isn't known;
    /// [`Error::Io`].
    pub fn remove_keyslot(&mut self, id: KeyslotId) -> Result<(), Error> {
        self.remove_keyslot_and_tokens(id, &[])
    }

    /// As [`remove_keyslot`](Self::remove_keyslot), with tokens that go in the same moment in which the header forgets it.
    ///
    /// # Errors
    /// Those of [`remove_keyslot`](Self::remove_keyslot); [`Error::NoSuchToken`].
    pub fn remove_keyslot_and_tokens(&mut self, id: KeyslotId, tokens: &[TokenId]) -> Result<(), Error> {
        self.repair()?;
        self.removable(id)?;
        let metadata = &self.header.metadata;
        let others = metadata.keyslots.keys().any(|other| *other != id && self.opens_data(metadata, *other));
        if self.opens_data(metadata, id) && !others {
            return Err(Error::LastKeyslot(id));
        }
        let area = metadata.keyslots.get(&id).map(Keyslot::area);
        let mut metadata = metadata.clone();
        let removals: Vec<_> = tokens.iter().copied().map(TokenChange::Remove).collect();
        token::apply(&mut metadata, &removals, None)?;
        removal::forget(&mut metadata, id);
        let header = self.next(metadata)?;
        // The area first: a header that knows no keyslot there would never have it overwritten.
        if let Some((offset, size)) = area {
            keyslot::wipe(&self.io, offset, size)?;
            self.io.sync().map_err(Error::io("make the overwriting of a keyslot durable"))?;
        }
        self.write(header)
    }

    /// Removes and overwrites all keyslots. **What the device holds is lost**, save for whoever has the volume key.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is a keyslot of a type that isn't known; [`Error::Io`].
    pub fn erase_keyslots(&mut self) -> Result<(), Error> {
        self.repair()?;
        let mut metadata = self.header.metadata.clone();
        for id in self.header.metadata.keyslots.keys() {
            self.removable(*id)?;
            removal::retire(&mut metadata, *id)?;
        }
        self.commit(metadata)?;
        self.destroy_retired()
    }

    fn removable(&self, id: KeyslotId) -> Result<(), Error> {
        match self.header.metadata.keyslots.get(&id) {
            Some(Keyslot::Luks2(_)) => Ok(()),
            Some(Keyslot::Other(slot)) => Err(Unsupported::KeyslotType(slot.kind.clone()).into()),
            None => Err(Error::NoSuchKeyslot(id)),
        }
    }

    fn data_digest(&self) -> Result<&Digest, Unsupported> {
        self.header.metadata.digests.get(&self.data.digest).ok_or(Unsupported::Digest)
    }

    fn opens_data(&self, metadata: &Metadata, id: KeyslotId) -> bool {
        metadata.digests.get(&self.data.digest).is_some_and(|digest| digest.keyslots.contains(&id))
    }
}

/// Tokens.
impl<I: Io> Device<I> {
    /// The tokens, by number.
    pub fn tokens(&self) -> impl Iterator<Item = (TokenId, &Token)> {
        self.header.metadata.tokens.iter().map(|(id, token)| (*id, token))
    }

    /// The tokens of one type, by number.
    pub fn tokens_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (TokenId, &'a Token)> {
        self.tokens().filter(move |(_, token)| token.kind == kind)
    }

    /// Changes tokens, all in one moment.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::NoSuchToken`], [`Error::NoFreeToken`] and [`Error::NoMetadataSpace`] before anything
    /// is changed; [`Error::Io`].
    pub fn change_tokens(&mut self, changes: &[TokenChange]) -> Result<(), Error> {
        self.repair()?;
        let mut metadata = self.header.metadata.clone();
        token::apply(&mut metadata, changes, None)?;
        self.commit(metadata)
    }

    /// Puts `token` in the place of all tokens of its type, or adds it where there is none.
    ///
    /// # Errors
    /// Those of [`change_tokens`](Self::change_tokens).
    pub fn set_token(&mut self, token: Token) -> Result<TokenId, Error> {
        self.repair()?;
        let mut metadata = self.header.metadata.clone();
        let first = metadata.tokens.iter().find(|(_, other)| other.kind == token.kind).map(|(id, _)| *id);
        metadata.tokens.retain(|_, other| other.kind != token.kind);
        let id = match first {
            Some(id) => id,
            None => token::free(&metadata)?,
        };
        token::apply(&mut metadata, &[TokenChange::Set(id, token)], None)?;
        self.commit(metadata)?;
        Ok(id)
    }

    /// Removes a token.
    ///
    /// # Errors
    /// Those of [`change_tokens`](Self::change_tokens).
    pub fn remove_token(&mut self, id: TokenId) -> Result<(), Error> {
        self.change_tokens(&[TokenChange::Remove(id)])
    }
}

/// Writing. Each starts from a header of which both copies are sound and the same.
impl<I: Io> Device<I> {
    fn add(
        &mut self,
        volume_key: &[u8; VOLUME_KEY_LEN],
        passphrase: &[u8],
        tokens: &[TokenChange],
        instead_of: Option<KeyslotId>,
    ) -> Result<KeyslotId, Error> {
        self.verify_volume_key(volume_key)?;
        let mut metadata = self.header.metadata.clone();
        let id = free_keyslot(&metadata)?;
        let offset = keyslot::find_gap(&metadata, self.header.size)?;
        let (slot, material) = keyslot::seal(offset, self.iterations, passphrase, volume_key)?;
        metadata.keyslots.insert(id, slot);
        if let Some(digest) = metadata.digests.get_mut(&self.data.digest) {
            digest.keyslots.insert(id);
        }
        token::apply(&mut metadata, tokens, Some(id))?;
        if let Some(old) = instead_of {
            removal::retire(&mut metadata, old)?;
        }
        let header = self.next(metadata)?;
        // In a gap, where nothing is lost; the header that makes it a keyslot comes after it.
        self.io.write_all_at(&material, offset).map_err(Error::io("write a keyslot"))?;
        self.io.sync().map_err(Error::io("make a keyslot durable"))?;
        self.write(header)?;
        Ok(id)
    }

    /// Destroys what is left of keyslots that were removed. The header forgets them last, so that this can be repeated.
    fn destroy_retired(&mut self) -> Result<(), Error> {
        let ids = self.unfinished_removals();
        if ids.is_empty() {
            return Ok(());
        }
        let mut metadata = self.header.metadata.clone();
        for id in ids {
            if let Some(slot) = metadata.keyslots.get(&id) {
                let (offset, size) = slot.area();
                keyslot::wipe(&self.io, offset, size)?;
            }
            removal::forget(&mut metadata, id);
        }
        self.io.sync().map_err(Error::io("make the overwriting of a keyslot durable"))?;
        self.commit(metadata)
    }

    fn commit(&mut self, metadata: Metadata) -> Result<(), Error> {
        let header = self.next(metadata)?;
        self.write(header)
    }

    /// The header that says `metadata`, known to fit and to be readable.
    fn next(&self, metadata: Metadata) -> Result<Header, Error> {
        // No header is read that has the last number there is.
        let header = Header { sequence: self.header.sequence.saturating_add(1), metadata, ..self.header.clone() };
        header.check()?;
        Ok(header)
    }

    fn write(&mut self, header: Header) -> Result<(), Error> {
        copies::write(&self.io, &header)?;
        (self.header, self.health) = (header, Health::Good);
        Ok(())
    }
}

fn free_keyslot(metadata: &Metadata) -> Result<KeyslotId, Error> {
    let mut free = (0..MAX_KEYSLOTS).map(KeyslotId::new).filter(|id| !metadata.keyslots.contains_key(id));
    free.next().ok_or(Error::NoFreeKeyslot(MAX_KEYSLOTS))
}

fn priority(slot: &Keyslot) -> Priority {
    match slot {
        Keyslot::Luks2(slot) => match slot.priority {
            Some(0) => Priority::Ignore,
            Some(2) => Priority::High,
            _ => Priority::Normal,
        },
        Keyslot::Other(_) => Priority::Ignore,
    }
}
