//! Sets a state directory up if need be, serves on a free port of 127.0.0.1 and prints the address. Ends when its standard
//! input does.
//!
//! `serve STATE_DIR [CLIENT_NAME...]`

use std::path::PathBuf;

use ward_keyserver::{Config, Error, Server, init, issue_client};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter()).init();
    let mut arguments = std::env::args_os().skip(1);
    let Some(state_dir) = arguments.next().map(PathBuf::from) else {
        eprintln!("usage: serve STATE_DIR [CLIENT_NAME...]");
        std::process::exit(2);
    };
    init(&state_dir, &[]).await?;
    for name in arguments {
        issue_client(&state_dir, &name.to_string_lossy())?;
    }
    let server = Server::start(Config { listen: ([127, 0, 0, 1], 0).into(), state_dir }).await?;
    println!("{}", server.local_addr());
    server
        .serve(async {
            // Any end of it will do.
            let _ = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
        })
        .await
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
