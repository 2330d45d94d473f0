//! Why a request is refused, in the protocol's terms.

use kmip::names::ResultReason;

/// Why a request is refused, by the reasons of KMIP 2.1: they say more, and an older client is told the nearest that its
/// version has. The message goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: ResultReason,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(reason: ResultReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// No such object, or none that this client may know of.
    pub(crate) fn not_found(id: &str) -> Self {
        Self::new(ResultReason::OBJECT_NOT_FOUND, format!("there is no object {id}"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ResultReason::INVALID_FIELD, message)
    }
}
