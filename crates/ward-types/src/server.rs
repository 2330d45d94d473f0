//! Where a key server is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::text;

/// The port registered for KMIP.
const KMIP_PORT: u16 = 5696;

/// Where a key server is: a host name or an address, and a port. Written `HOST:PORT`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// A text that says of no server where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no server: give it as HOST:PORT, an IPv6 address in brackets; without a port, 5696 is meant")]
pub struct NoServer(String);

impl ServerAddress {
    /// A server at that host and port.
    ///
    /// # Errors
    /// If that is no host, or no port.
    pub fn new(host: &str, port: u16) -> Result<Self, NoServer> {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let host = match host.parse::<IpAddr>() {
            // However it is written, it is the same server.
            Ok(address) => address.to_string(),
            Err(_) => host.to_ascii_lowercase(),
        };
        let is_host =
            host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.len() < 254 && host.chars().all(named));
        if is_host && port != 0 { Ok(Self { host, port }) } else { Err(NoServer(format!("{host}:{port}"))) }
    }

    /// The host name or the address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl PartialSchema for ServerAddress {
    fn schema() -> RefOr<Schema> {
        let pattern = r"^([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$";
        text::matching(pattern, "Where a key server is: HOST:PORT, an IPv6 address in brackets; without a port, 5696.")
    }
}

impl ToSchema for ServerAddress {}

impl FromStr for ServerAddress {
    type Err = NoServer;

    /// Reads `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT` or a bare IPv6 address.
    fn from_str(text: &str) -> Result<Self, NoServer> {
        let split = || {
            if let Some(rest) = text.strip_prefix('[') {
                let (host, rest) = rest.split_once(']')?;
                return match rest.strip_prefix(':') {
                    Some(port) => Some((host, port.parse().ok()?)),
                    None => rest.is_empty().then_some((host, KMIP_PORT)),
                };
            }
            match text.split_once(':') {
                Some((_, rest)) if rest.contains(':') => Some((text, KMIP_PORT)),
                Some((host, port)) => Some((host, port.parse().ok()?)),
                None => Some((text, KMIP_PORT)),
            }
        };
        let (host, port) = split().ok_or_else(|| NoServer(text.to_owned()))?;
        Self::new(host, port).map_err(|_| NoServer(text.to_owned()))
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = NoServer;

    fn try_from(text: String) -> Result<Self, NoServer> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        f.pad(&if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn servers_are_read_in_every_form() {
        let good = [
            ("kms", "kms:5696"),
            ("KMS.example:1", "kms.example:1"),
            ("127.0.0.1:5697", "127.0.0.1:5697"),
            ("[::1]:5", "[::1]:5"),
            ("[::1]", "[::1]:5696"),
            ("::1", "[::1]:5696"),
            ("[0:0:0:0:0:0:0:1]:5", "[::1]:5"),
        ];
        for (text, written) in good {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), written);
            assert_eq!(written.parse(), Ok(address), "{text}");
        }
        for bad in ["", ":1", "kms:0", "kms:x", "kms:70000", "[::1", "[::1]5", "two words", "a/b", "[a:b]:1", "a:b:c"] {
            let error = bad.parse::<ServerAddress>().unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
    }
}
