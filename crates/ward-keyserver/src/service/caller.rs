//! Whose keys a client may see: its own.

use kmip::server::PeerIdentity;

/// A client, as keys and records know it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Whose the keys are that it makes. The common name and not the certificate: a client that gets a new certificate
    /// keeps its keys.
    pub(super) owner: String,
    /// For records.
    pub(super) label: String,
    /// Of the certificate.
    pub(super) fingerprint: [u8; 32],
}

impl Caller {
    pub(super) fn of(peer: &PeerIdentity) -> Self {
        let (owner, label) = match &peer.common_name {
            Some(name) => (format!("cn:{name}"), name.clone()),
            None => {
                let fingerprint = format!("sha256:{}", hex::encode(peer.fingerprint));
                (fingerprint.clone(), fingerprint)
            }
        };
        Self { owner, label, fingerprint: peer.fingerprint }
    }
}
