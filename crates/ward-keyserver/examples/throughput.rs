//! How many keys a second the server makes and gives back, over mutual TLS, each on disk before it is answered.
//!
//! `cargo run --release -p ward-keyserver --example throughput [SECONDS] [DIRECTORY]`
//!
//! The directory decides which disk is measured; the temporary directory unless given. Server and client share the
//! machine and the process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kmip::attribute::{Attribute, AttributeValue, UsageMask};
use kmip::client::{Client, ClientConfig};
use kmip::names::{CryptographicAlgorithm, ObjectType};
use kmip::operation::{CreateRequest, GetRequest, RequestPayload};
use ward_keyserver::{ClientFiles, Config, Server, init, issue_client};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let duration = Duration::from_secs(seconds);
    let directory = tempfile::tempdir_in(parent)?;
    let state_dir = directory.path().join("state");
    init(&state_dir, &[]).await?;
    let files = issue_client(&state_dir, "bench")?;
    let server = Server::start(Config { listen: ([127, 0, 0, 1], 0).into(), state_dir }).await?;
    let port = server.local_addr().port();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));

    let one = client(&files, port)?;
    report("create", "1 connection", 1, per_second(duration, || create(&one)).await?);
    let id = one.create_aes256(&[]).await?.id;
    report("get", "1 connection", 1, per_second(duration, || get(&one, &id)).await?);
    report("create+get", "1 connection", 1, per_second(duration, || pair(&one)).await?);
    report("create+get", "1 connection, batches of 20 pairs", 20, per_second(duration, || batch(&one, 20)).await?);
    for connections in [4, 16] {
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let client = Arc::new(client(&files, port)?);
            tasks.push(tokio::spawn(async move { per_second(duration, || pair(&client)).await }));
        }
        let mut sum = 0.0;
        for task in tasks {
            sum += task.await??;
        }
        report("create+get", &format!("{connections} connections"), 1, sum);
    }

    let _ = stop.send(());
    serving.await??;
    Ok(())
}

fn report(what: &str, how: &str, per_call: u32, calls: f64) {
    println!("{what:<12} {how:<36} {:>8.0} a second", calls * f64::from(per_call));
}

async fn per_second<F: Future<Output = Result<()>>>(duration: Duration, mut call: impl FnMut() -> F) -> Result<f64> {
    let start = Instant::now();
    let mut calls = 0.0;
    while start.elapsed() < duration {
        call().await?;
        calls += 1.0;
    }
    Ok(calls / start.elapsed().as_secs_f64())
}

async fn create(client: &Client) -> Result<()> {
    client.create_aes256(&[]).await?;
    Ok(())
}

async fn get(client: &Client, id: &str) -> Result<()> {
    client.get_key(id).await?;
    Ok(())
}

async fn pair(client: &Client) -> Result<()> {
    let id = client.create_aes256(&[]).await?.id;
    client.get_key(&id).await?;
    Ok(())
}

async fn batch(client: &Client, pairs: usize) -> Result<()> {
    let requests = (0..pairs)
        .flat_map(|_| {
            let create = CreateRequest {
                object_type: ObjectType::SYMMETRIC_KEY,
                templates: vec![],
                attributes: [
                    AttributeValue::CryptographicAlgorithm(CryptographicAlgorithm::AES),
                    AttributeValue::CryptographicLength(256),
                    AttributeValue::CryptographicUsageMask(UsageMask::ENCRYPT | UsageMask::DECRYPT),
                ]
                .map(Attribute::new)
                .to_vec(),
            };
            [RequestPayload::Create(create), RequestPayload::Get(GetRequest::default())]
        })
        .collect();
    for answer in client.batch(requests).await? {
        answer?;
    }
    Ok(())
}

fn client(files: &ClientFiles, port: u16) -> Result<Client> {
    let read = |path: &Path| std::fs::read(path);
    Ok(Client::new(ClientConfig::new(
        "127.0.0.1",
        port,
        &read(&files.ca)?,
        &read(&files.certificate)?,
        &read(&files.key)?,
    )?))
}
