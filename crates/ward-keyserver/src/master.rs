//! The master key, under which every key is sealed.

use std::path::{Path, PathBuf};

use ward_secret::{SealKey, Sealed, SecretError};
use whole_file::Readers;
use zeroize::Zeroizing;

use crate::Error;
use crate::core::ObjectShape;

/// The master key, and where it came from.
pub(crate) struct MasterKey {
    key: SealKey,
    path: PathBuf,
}

/// What is sealed to tell whether a master key belongs to a database.
const CHECK: &[u8] = b"this is the master key";
const CHECK_PURPOSE: &str = "ward-keyserver/1/check";

impl MasterKey {
    pub(crate) fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("master.key")
    }

    /// Makes the master key file: 32 random bytes in hexadecimal.
    pub(crate) fn generate(state_dir: &Path) -> Result<(), Error> {
        let path = Self::path(state_dir);
        let unusable = |what| Error::MasterKeyUnusable { path: path.clone(), what };
        let key = SealKey::generate().map_err(|_| unusable("none could be made"))?;
        let text = key.to_text().map_err(|_| unusable("it could not be written"))?;
        Ok(whole_file::write_new(&path, &text, Readers::Owner)?)
    }

    pub(crate) fn load(state_dir: &Path) -> Result<Self, Error> {
        let path = Self::path(state_dir);
        let unusable = |what| Error::MasterKeyUnusable { path: path.clone(), what };
        let text = Zeroizing::new(whole_file::read(&path)?);
        let key = SealKey::from_text(&text).map_err(|error| match error {
            SecretError::Memory(_) => unusable("no memory could be locked for it"),
            _ => unusable("64 hexadecimal digits are expected"),
        })?;
        Ok(Self { key, path })
    }

    pub(crate) fn seal_check(&self) -> Result<Vec<u8>, Error> {
        self.seal_for(CHECK_PURPOSE, CHECK)
    }

    pub(crate) fn open_check(&self, sealed: Vec<u8>) -> Result<(), Error> {
        match self.key.open(CHECK_PURPOSE, &Sealed::from_bytes(sealed)) {
            Ok(opened) if *opened == CHECK => Ok(()),
            _ => Err(Error::MasterKeyMismatch { path: self.path.clone() }),
        }
    }

    /// Seals a key's bytes, bound to what the database says of it, so that rows can't be swapped or given to another owner.
    pub(crate) fn seal(&self, id: &str, owner: &str, shape: &ObjectShape, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        self.seal_for(&purpose(id, owner, shape), bytes)
    }

    pub(crate) fn open(
        &self,
        id: &str,
        owner: &str,
        shape: &ObjectShape,
        sealed: Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.key
            .open(&purpose(id, owner, shape), &Sealed::from_bytes(sealed))
            .map_err(|_| Error::KeyTampered { id: id.to_owned() })
    }

    fn seal_for(&self, purpose: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let what = "it could not seal";
        self.key
            .seal(purpose, bytes)
            .map(|sealed| sealed.as_bytes().to_vec())
            .map_err(|_| Error::MasterKeyUnusable { path: self.path.clone(), what })
    }
}

/// What a sealed key is bound to. The owner comes last, since it's the one part that may hold any character.
fn purpose(id: &str, owner: &str, shape: &ObjectShape) -> String {
    format!("ward-keyserver/1/object/{id}/{}/{}/{}/{owner}", shape.algorithm.0, shape.length, shape.usage.0)
}
