//! A support bundle: a tar archive of what a host knows about itself. Never a key.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use ward_types::{DumpInfo, Name};

use super::{Dumps, Lock, store};
use crate::fault::{Doing as _, Fault, Result};
use crate::keys::SharedKeys;

/// How much of a log goes into it, in bytes: its end.
const MAX_LOG: u64 = 4 << 20;

/// What goes into a bundle.
pub(crate) struct Contents<S> {
    /// The host as it says itself: names of keys, never keys.
    pub(crate) status: S,
    /// Logs, each with its path within the bundle.
    pub(crate) logs: Vec<(String, PathBuf)>,
    /// Where the dumps are.
    pub(crate) dumps: Dumps,
    /// Those that go into it; none means all.
    pub(crate) only: Option<Vec<Name>>,
    /// The password under which they are put; none leaves them under the host key.
    pub(crate) password: Option<ward_secret::Zeroizing<String>>,
}

/// What became of a dump.
#[derive(Serialize)]
struct Included {
    #[serde(flatten)]
    dump: DumpInfo,
    /// The file; none where it is not in the bundle.
    file: Option<String>,
    /// Why it is not, or what opens it.
    note: String,
}

/// Writes a bundle.
pub(crate) fn write_bundle<S: Serialize>(contents: &Contents<S>, keys: &SharedKeys, output: impl Write) -> Result<()> {
    let mut tar = Tar(tar::Builder::new(output));
    tar.json("status.json", &contents.status)?;
    for (name, path) in &contents.logs {
        // A VM may have ended meanwhile.
        if let Ok(log) = tail(path) {
            tar.bytes(name, &log)?;
        }
    }
    let mut included = Vec::new();
    for dump in contents.dumps.list() {
        if contents.only.as_ref().is_some_and(|only| !only.contains(&dump.name)) {
            let note = "it is not for whoever asked for this bundle".to_owned();
            included.push(Included { dump, file: None, note });
            continue;
        }
        let file = format!("dumps/{}.dump", dump.name);
        let path = contents.dumps.path(&dump.name);
        let (file, note) = match relocked(&path, contents.password.as_deref().map(String::as_str), keys) {
            Ok((head, chunks, length)) => {
                tar.stream(&file, head.len() as u64 + length, head.as_slice().chain(chunks))?;
                let opener = if contents.password.is_some() { "the bundle's password" } else { "the host's key" };
                (Some(file), format!("{opener} opens it: `ward host dump decrypt`"))
            }
            Err(fault) => (None, fault.why),
        };
        included.push(Included { dump, file, note });
    }
    tar.json("dumps.json", &included)?;
    tar.0.finish().doing("write", Path::new("the bundle"))
}

/// A dump's head under a password, and the rest of its file as it is: the head, the chunks, and how many bytes these have.
fn relocked(path: &Path, password: Option<&str>, keys: &SharedKeys) -> Result<(Vec<u8>, File, u64)> {
    let (file, head) = store::open(path)?;
    let length = file.metadata().doing("look at", path)?.len().saturating_sub(head.length);
    let lock = match (password, head.lock.host_key()) {
        (Some(password), Some(key)) => {
            let kek = keys.lock().resolve(key)?;
            Lock::under_password(password, &head.lock.open_with_host_key(kek.kek())?)?
        }
        _ => head.lock.clone(),
    };
    Ok((head.with_lock(&lock)?, file, length))
}

fn tail(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).doing("open", path)?;
    let length = file.metadata().doing("look at", path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG))).doing("read", path)?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut bytes).doing("read", path)?;
    Ok(bytes)
}

struct Tar<W: Write>(tar::Builder<W>);

impl<W: Write> Tar<W> {
    fn stream(&mut self, name: &str, length: u64, content: impl Read) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(length);
        header.set_mode(0o600);
        header.set_mtime(jiff::Timestamp::now().as_second().try_into().unwrap_or_default());
        self.0.append_data(&mut header, name, content.take(length)).doing("write", Path::new("the bundle"))
    }

    fn bytes(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.stream(name, content.len() as u64, content)
    }

    fn json(&mut self, name: &str, content: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec_pretty(content).map_err(|error| Fault::internal(error.to_string()))?;
        self.bytes(name, &text)
    }
}

/// Hands what is written to it on, piece by piece, to whoever sends it; fails where nobody takes it any more.
pub(crate) struct Pieces(pub(crate) tokio::sync::mpsc::Sender<io::Result<bytes::Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes::Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
