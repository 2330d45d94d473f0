//! `key-search`: see the library.
//!
//! Exit code: 0 nothing found, 1 a key was found, 2 the search could not be done.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use key_search::{Failure, Report, Search};

#[derive(Parser)]
#[command(about = "Searches files and processes for the keys of an encrypted VM")]
struct Arguments {
    #[command(flatten)]
    search: Search,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match search(&Arguments::parse().search).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("key-search: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was found.
async fn search(search: &Search) -> Result<bool, Failure> {
    ward_secret::harden_process()?;
    let Report { findings, files, bytes, keys, forms } = search.run().await?;
    for (key, file) in &findings {
        println!("FOUND: {key} in {}", file.display());
    }
    println!("searched {files} files, {bytes} bytes, for {forms} forms of {keys} keys: {} found", findings.len());
    Ok(findings.is_empty())
}
