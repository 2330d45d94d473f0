//! Searches files, and the memory of processes, for the keys of an encrypted VM.
//!
//! Fetches the KEK from its key server, opens the VM's disks with it, and looks into every file of the given
//! directories, and into the given processes, for the KEK and the DEKs: as raw bytes, in hexadecimal and in base64. It first hides a key of its own in
//! a file of its own and must find that, so that "nothing found" means something.

#![forbid(unsafe_code)]

mod memory;
mod patterns;
mod scan;

use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use kmip::client::{Client, ClientConfig};
use patterns::Patterns;
use ward_secret::{Dek, Kek};

/// Why a search could not be done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is searched for, and where.
#[derive(Debug, clap::Args)]
pub struct Search {
    /// The key server, HOST:PORT.
    #[arg(long)]
    pub server: String,
    /// The key server's CA certificate, PEM.
    #[arg(long)]
    pub ca: PathBuf,
    /// The certificate of a client that may read the key, PEM.
    #[arg(long)]
    pub cert: PathBuf,
    /// That client's private key, PEM.
    #[arg(long)]
    pub key: PathBuf,
    /// The key's ID at the server.
    #[arg(long)]
    pub key_id: String,
    /// An encrypted disk of the VM.
    #[arg(long = "disk", required = true)]
    pub disks: Vec<PathBuf>,
    /// A process to search.
    #[arg(long = "process", value_name = "PID")]
    pub processes: Vec<u32>,
    /// The directories to search.
    #[arg(required_unless_present = "processes")]
    pub directories: Vec<PathBuf>,
}

/// Keys that are looked for.
#[derive(Default)]
pub struct Keys(Patterns);

/// What finds keys, in each of their forms.
pub struct Finder<'a> {
    keys: &'a Keys,
    searcher: AhoCorasick,
}

/// Which key was found, in which form, and where.
pub type Found = Vec<(String, PathBuf)>;

impl Keys {
    /// Adds a key, under a name by which it is told.
    pub fn add(&mut self, name: &str, key: &[u8]) {
        self.0.add(name, key);
    }

    /// What finds them. It has proven that it finds what it should.
    ///
    /// # Errors
    /// If it does not.
    pub fn finder(&self) -> Result<Finder<'_>, Failure> {
        scan::control()?;
        Ok(Finder { keys: self, searcher: self.0.searcher()? })
    }
}

impl Finder<'_> {
    /// Looks into every file below a directory.
    ///
    /// # Errors
    /// If one can't be read.
    pub fn in_files(&self, directory: &Path) -> Result<Found, Failure> {
        let mut total = scan::Total::default();
        scan::directory(directory, &self.searcher, &mut total)?;
        Ok(self.named(total.findings))
    }

    /// Looks into all memory of a process.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn in_process(&self, pid: u32) -> Result<Found, Failure> {
        let mut total = scan::Total::default();
        memory::process(pid, &self.searcher, &mut total)?;
        Ok(self.named(total.findings))
    }

    /// Looks into bytes; tells which keys are in them.
    #[must_use]
    pub fn in_bytes(&self, bytes: &[u8]) -> Vec<String> {
        let found = self.searcher.find_iter(bytes);
        found.map(|found| self.keys.0.name(found.pattern().as_usize()).to_owned()).collect()
    }

    fn named(&self, findings: Vec<scan::Finding>) -> Found {
        findings.into_iter().map(|found| (self.keys.0.name(found.pattern).to_owned(), found.file)).collect()
    }
}

/// What a search came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each key that was found: which one in which form, and the file.
    pub findings: Vec<(String, PathBuf)>,
    /// How many files were read.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many keys were looked for.
    pub keys: usize,
    /// In how many forms altogether.
    pub forms: usize,
}

impl Search {
    /// Searches.
    ///
    /// # Errors
    /// If a key can't be had, a file can't be read, or the search misses the key that it hid itself.
    pub async fn run(&self) -> Result<Report, Failure> {
        let kek = self.fetch_kek().await?;
        let mut keys = Keys::default();
        keys.add("KEK", kek.expose());
        for disk in &self.disks {
            let dek = open_disk(disk, &kek)?;
            keys.add(&format!("DEK of {}", disk.display()), dek.expose());
        }
        let finder = keys.finder()?;
        let mut total = scan::Total::default();
        for directory in &self.directories {
            scan::directory(directory, &finder.searcher, &mut total)?;
        }
        for pid in &self.processes {
            memory::process(*pid, &finder.searcher, &mut total)?;
        }
        Ok(Report {
            files: total.files,
            bytes: total.bytes,
            keys: 1 + self.disks.len(),
            forms: keys.0.forms(),
            findings: finder.named(total.findings),
        })
    }

    async fn fetch_kek(&self) -> Result<Kek, Failure> {
        let (host, port) = self.server.rsplit_once(':').ok_or("--server takes HOST:PORT")?;
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let config = ClientConfig::new(host, port.parse()?, &read(&self.ca)?, &read(&self.cert)?, &read(&self.key)?)?;
        let key = Client::new(config).get_key(&self.key_id).await?;
        Ok(Kek::take(&mut ward_secret::Zeroizing::new(key.expose().to_vec()))?)
    }
}

fn open_disk(path: &Path, kek: &Kek) -> Result<Dek, Failure> {
    let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let device = luks2::Device::open(file)?;
    Dek::fill_with(|dek| device.unlock(kek.expose(), dek).map(drop).map_err(Failure::from))
}
