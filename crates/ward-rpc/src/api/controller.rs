//! What the controller answers to hosts.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use ward_types::{ClusterId, HostId, Name};

use crate::call::calls;

calls! {
    "enrol" = Enrol => Enrolled;
    "hello" = Hello => ();
}

/// Joins a cluster. The only call without a certificate: the token's secret stands in for it.
#[derive(Serialize, Deserialize)]
pub struct Enrol {
    /// The token's ID.
    pub token: ward_types::TokenId,
    /// The token's secret, base64. Good once.
    pub secret: String,
    /// The name under which the host is to be known.
    pub name: Name,
    /// Where the host answers: `HOST:PORT`.
    pub address: String,
    /// Its certificate signing request, PEM; only its public key is used.
    pub csr: String,
}

/// What a host needs from then on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its ID.
    pub host: HostId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// Says that the host's agent has started, so that the controller gives it its keys at once.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// This run of the agent; a new one has an empty key cache.
    pub boot: Uuid,
    /// Where the host answers: `HOST:PORT`.
    pub address: String,
}
