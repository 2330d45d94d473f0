//! What of the agent's a VM's user has: a directory with the files in it, which is taken back.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, fchown, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

use super::VmUser;
use crate::fault::{Fault, Result};
use crate::files;

/// A directory that a VM's user has for a while.
pub(crate) struct Lent {
    dir: PathBuf,
    user: Option<u32>,
}

impl Lent {
    pub(super) fn new(dir: &Path, user: Option<&VmUser>) -> Result<Self> {
        let lent = Self { dir: dir.to_owned(), user: user.map(VmUser::id) };
        // Where only some of it was given, all is taken back.
        give(dir, user)?;
        Ok(lent)
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.user.take().map_or(Ok(()), |user| take_back(&self.dir, user))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(user) = self.user.take()
            && let Err(fault) = take_back(&self.dir, user)
        {
            tracing::error!(why = fault.why, path = %self.dir.display(), "cannot take back what a VM's user had");
        }
    }
}

/// Gives a directory of the agent's, with the files in it, to a VM's user.
pub(crate) fn give(dir: &Path, user: Option<&VmUser>) -> Result<()> {
    user.map_or(Ok(()), |user| hand_over(dir, None, user.id()))
}

/// Takes back what was given to that user, and leaves what another has.
pub(crate) fn take_back(dir: &Path, user: u32) -> Result<()> {
    if files::exists(dir)? { hand_over(dir, Some(user), geteuid().as_raw()) } else { Ok(()) }
}

/// Takes back what any user has of it, where nobody can be using it.
pub(crate) fn take_back_all(dir: &Path) -> Result<()> {
    if files::exists(dir)? { hand_over(dir, None, geteuid().as_raw()) } else { Ok(()) }
}

/// Changes the owner of a directory with the files in it: of all, or of what one user has. A second time it goes on where it
/// was interrupted.
fn hand_over(dir: &Path, from: Option<u32>, to: u32) -> Result<()> {
    let owner = (Some(Uid::from_raw(to)), Some(Gid::from_raw(to)));
    let change = |file: BorrowedFd<'_>, has: u32, path: &Path| {
        if has == to || from.is_some_and(|from| from != has) {
            return Ok(());
        }
        fchown(file, owner.0, owner.1).map_err(|error| {
            let why = format!("{} can't be given to another user: {error}", path.display());
            let remedy =
                "let root change owners on the datastore (NFS: no_root_squash), or run the agent with --vm-users none";
            Fault::unfit(why, remedy)
        })
    };
    let io = |what: &'static str, path: &Path, error: Errno| Fault::io(what, path, &error.into());
    // Its user could have put anything here: no name is followed, and what is given must not be another's by a second name.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(dir, flags | OFlags::DIRECTORY, Mode::empty()).map_err(|error| io("open", dir, error))?;
    for entry in Dir::read_from(&opened).map_err(|error| io("read", dir, error))? {
        let name = entry.map_err(|error| io("read", dir, error))?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = dir.join(std::ffi::OsStr::new(&*name.to_string_lossy()));
        let file = match openat(&opened, &name, flags | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::LOOP) => {
                let why = format!("{} is a symbolic link, which is not followed", path.display());
                return Err(Fault::home_invalid(why));
            }
            // A socket, which nobody opens.
            Err(Errno::NXIO) => continue,
            Err(error) => return Err(io("open", &path, error)),
        };
        let is = fstat(&file).map_err(|error| io("look at", &path, error))?;
        if FileType::from_raw_mode(is.st_mode) != FileType::RegularFile {
            continue;
        }
        if is.st_nlink != 1 {
            return Err(Fault::home_invalid(format!("{} has a second name", path.display())));
        }
        change(file.as_fd(), is.st_uid, &path)?;
    }
    let is = fstat(&opened).map_err(|error| io("look at", dir, error))?;
    change(opened.as_fd(), is.st_uid, dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_handed_over_is_nobody_elses_file() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other) = (dir.path().join("tpm"), dir.path().join("other"));
        files::make_private_dir(&state).unwrap();
        fs::write(state.join("a"), "a").unwrap();
        fs::write(&other, "b").unwrap();
        let owner = geteuid().as_raw();
        hand_over(&state, None, owner).unwrap();
        fs::hard_link(&other, state.join("b")).unwrap();
        assert!(hand_over(&state, None, owner).unwrap_err().why.contains("second name"));
        fs::remove_file(state.join("b")).unwrap();
        std::os::unix::fs::symlink(&other, state.join("b")).unwrap();
        assert!(hand_over(&state, None, owner).unwrap_err().why.contains("symbolic link"));
        // Nor a directory that is a link itself.
        fs::remove_file(state.join("b")).unwrap();
        std::os::unix::fs::symlink(&state, dir.path().join("link")).unwrap();
        hand_over(&dir.path().join("link"), None, owner).unwrap_err();
    }

    #[test]
    fn only_what_that_user_has_is_taken_back_and_all_of_it() {
        if !geteuid().is_root() {
            eprintln!("not root: nothing is tested");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("tpm");
        files::make_private_dir(&state).unwrap();
        for (name, owner) in [("a", 7), ("b", 8)] {
            fs::write(state.join(name), name).unwrap();
            std::os::unix::fs::chown(state.join(name), Some(owner), Some(owner)).unwrap();
        }
        let owners = || ["a", "b", "."].map(|name| fs::metadata(state.join(name)).unwrap().uid());
        // The directory was not reached before the agent was killed.
        take_back(&state, 7).unwrap();
        assert_eq!(owners(), [0, 8, 0]);
        std::os::unix::fs::chown(&state, Some(8), Some(8)).unwrap();
        take_back(&state, 7).unwrap();
        assert_eq!(owners(), [0, 8, 8], "another has it");
        take_back(&state, 8).unwrap();
        assert_eq!(owners(), [0, 0, 0]);
        take_back(&dir.path().join("gone"), 8).unwrap();
    }
}
