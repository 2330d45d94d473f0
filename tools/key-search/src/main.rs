//! Searches files for the keys of an encrypted VM.
//!
//! Fetches the KEK from its key server, opens the VM's disks with it, and looks into every file of the given
//! directories for the KEK and the DEKs: as raw bytes, in hexadecimal and in base64. It first hides a key of its own in
//! a file of its own and must find that, so that "nothing found" means something.
//!
//! Exit code: 0 nothing found, 1 a key was found, 2 the search could not be done.

#![forbid(unsafe_code)]

mod patterns;
mod scan;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kmip::client::{Client, ClientConfig};
use patterns::Patterns;
use ward_secret::{Dek, Kek, harden_process};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Searches files for the keys of an encrypted VM")]
struct Arguments {
    /// The key server, HOST:PORT.
    #[arg(long)]
    server: String,
    /// The key server's CA certificate, PEM.
    #[arg(long)]
    ca: PathBuf,
    /// The certificate of a client that may read the key, PEM.
    #[arg(long)]
    cert: PathBuf,
    /// That client's private key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// The key's ID at the server.
    #[arg(long)]
    key_id: String,
    /// An encrypted disk of the VM.
    #[arg(long = "disk", required = true)]
    disks: Vec<PathBuf>,
    /// The directories to search.
    #[arg(required = true)]
    directories: Vec<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match search(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("key-search: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was found.
async fn search(arguments: Arguments) -> Result<bool, Failure> {
    harden_process()?;
    let kek = fetch_kek(&arguments).await?;
    let mut patterns = Patterns::default();
    patterns.add("KEK", kek.expose());
    for disk in &arguments.disks {
        let dek = open_disk(disk, &kek)?;
        patterns.add(&format!("DEK of {}", disk.display()), dek.expose());
    }
    let searcher = patterns.searcher()?;

    scan::control()?;
    let mut total = scan::Total::default();
    for directory in &arguments.directories {
        scan::directory(directory, &searcher, &mut total)?;
    }
    for finding in &total.findings {
        println!("FOUND: {} in {}", patterns.name(finding.pattern), finding.file.display());
    }
    println!(
        "searched {} files, {} bytes, for {} forms of {} keys: {} found",
        total.files,
        total.bytes,
        patterns.forms(),
        1 + arguments.disks.len(),
        total.findings.len()
    );
    Ok(total.findings.is_empty())
}

async fn fetch_kek(arguments: &Arguments) -> Result<Kek, Failure> {
    let (host, port) = arguments.server.rsplit_once(':').ok_or("--server takes HOST:PORT")?;
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let config =
        ClientConfig::new(host, port.parse()?, &read(&arguments.ca)?, &read(&arguments.cert)?, &read(&arguments.key)?)?;
    let key = Client::new(config).get_key(&arguments.key_id).await?;
    Ok(Kek::take(&mut ward_secret::Zeroizing::new(key.expose().to_vec()))?)
}

fn open_disk(path: &PathBuf, kek: &Kek) -> Result<Dek, Failure> {
    let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let device = luks2::Device::open(file)?;
    Dek::fill_with(|dek| device.unlock(kek.expose(), dek).map(drop).map_err(Failure::from))
}
