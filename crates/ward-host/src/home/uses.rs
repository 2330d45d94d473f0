//! What on a datastore needs a key, whether it is in an inventory or not.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ward_rpc::api::host::DatastoreUses;
use ward_types::{KeyLocator, KeyRef};

use super::{MAX_DESCRIPTION, VM_TOML, codec};
use crate::fault::{Doing as _, Result};
use crate::files;
use crate::volume::Volume;

/// The name of the file that tells a datastore from the empty directory under which it is not mounted.
const MARK: &str = ".ward-datastore";
const MARK_TEXT: &str = "Ward keeps VM homes here. Where this file is missing, the datastore is not mounted.\n";
/// As much of a disk as its two headers take at most.
const MAX_HEADERS: u64 = 2 * (4 << 20);
/// How a disk begins whose header makes no sense otherwise.
const LUKS: &[u8] = b"LUKS\xba\xbe";

/// Marks a datastore in which there is a home, or is about to be. That it can't be marked (it may be read-only) is no reason not to use it.
pub(crate) fn mark(datastore: &Path) {
    let path = datastore.join(MARK);
    // Whatever has that name stays, be it a link to elsewhere.
    let made = fs::OpenOptions::new().write(true).create_new(true).open(&path);
    match made.and_then(|mut file| file.write_all(MARK_TEXT.as_bytes())) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            tracing::debug!(path = %path.display(), %error, "a datastore can't be marked");
        }
        _ => {}
    }
}

/// What on these datastores needs a key. Descriptions and headers that make no sense need every key that stands in them.
pub(crate) fn uses(datastores: &[PathBuf], key: &KeyRef) -> Result<Vec<DatastoreUses>> {
    let mut all = Vec::new();
    for directory in datastores {
        if !directory.is_dir() {
            continue;
        }
        let mut found = Found { key, uses: Vec::new(), homes: false };
        found.look_through(directory)?;
        if found.homes {
            mark(directory);
        }
        found.uses.sort();
        let marked = directory.join(MARK).exists();
        all.push(DatastoreUses { directory: directory.clone(), marked, uses: found.uses });
    }
    Ok(all)
}

struct Found<'a> {
    key: &'a KeyRef,
    uses: Vec<PathBuf>,
    /// Whether there is any home.
    homes: bool,
}

impl Found<'_> {
    fn look_through(&mut self, datastore: &Path) -> Result<()> {
        for path in entries(datastore)? {
            let metadata = match fs::symlink_metadata(&path) {
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.doing("look at", &path)?,
            };
            if metadata.is_file() {
                self.look_at_disk(path)?;
            } else if metadata.is_dir() && !self.look_at_home(&path)? {
                entries(&path)?.into_iter().try_for_each(|file| self.look_at_disk(file))?;
            }
        }
        Ok(())
    }

    /// Whether the home needs it by its description.
    fn look_at_home(&mut self, path: &Path) -> Result<bool> {
        let Some(content) = files::read_small(&path.join(VM_TOML), MAX_DESCRIPTION)? else { return Ok(false) };
        self.homes = true;
        let needs = match codec::decode(&content) {
            Ok(described) => described.unverified().keys().contains(&self.key),
            Err(_) => names(&content, self.key),
        };
        if needs {
            self.uses.push(path.to_owned());
        }
        Ok(needs)
    }

    fn look_at_disk(&mut self, path: PathBuf) -> Result<()> {
        let Some(file) = files::open_regular(&path, false).ok().flatten() else { return Ok(()) };
        let needs = match Volume::keys(file, &path) {
            Ok(keys) => keys.contains(self.key),
            Err(_) => {
                let start = files::read_start(&path, MAX_HEADERS)?.unwrap_or_default();
                start.starts_with(LUKS) && names(&start, self.key)
            }
        };
        if needs {
            self.uses.push(path);
        }
        Ok(())
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(files::names(directory)?.into_iter().map(|name| directory.join(name)).collect())
}

fn names(content: &[u8], key: &KeyRef) -> bool {
    let KeyLocator::Standard { key_id } = &key.key else { return false };
    let id = key_id.as_str().as_bytes();
    content.windows(id.len()).any(|window| window == id)
}
