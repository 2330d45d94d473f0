//! How many KEKs of a native provider one core unwraps in a second: `cargo run --release -p ward-secret --example
//! unwrap_throughput`.

use std::time::{Duration, Instant};

use ward_secret::{Kdk, KekContext, SecretError};

fn main() -> Result<(), SecretError> {
    let kdk = Kdk::generate()?;
    let context = KekContext { provider: "n1", key_id: &[1; 16], version: 1, vm: &[2; 16] };
    let (salt, wrapped) = kdk.wrap_new_kek(&context)?;
    let (start, mut done) = (Instant::now(), 0u32);
    while start.elapsed() < Duration::from_secs(2) {
        kdk.unwrap_kek(&context, &salt, &wrapped)?;
        done += 1;
    }
    println!("{:.0} unwraps per second", f64::from(done) / start.elapsed().as_secs_f64());
    Ok(())
}
