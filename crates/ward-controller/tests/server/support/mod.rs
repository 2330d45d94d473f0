//! What the tests share.
#![allow(unreachable_pub)]

mod api;
pub mod host;
mod key_server;
mod relay;
mod storage;
mod ward;

pub use api::{Api, Refusal};
pub use host::Host;
pub use key_server::KeyServer;
pub use relay::Relay;
pub use storage::Storage;
pub use ward::Ward;

use std::time::Duration;

/// How long anything may take that takes a moment.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What comes in time.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out: {what}"),
    }
}
