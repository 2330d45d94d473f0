//! Why bytes are no message, or a message can't become bytes.

use crate::names::Tag;
use crate::version::ProtocolVersion;

/// Why bytes are not a message. Never holds bytes of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A value that its type doesn't allow.
    #[error("at byte {offset}: {what}")]
    BadValue {
        /// Where in the message.
        offset: usize,
        /// What was wrong.
        what: &'static str,
    },
    /// A value that its field doesn't allow.
    #[error("{tag}: {what}")]
    BadField {
        /// Which field.
        tag: Tag,
        /// What was wrong.
        what: &'static str,
    },
    /// A field that has to be there is not.
    #[error("{tag} is missing from {within}")]
    Missing {
        /// Which field.
        tag: Tag,
        /// Which structure lacks it.
        within: Tag,
    },
    /// The message ends before its items do.
    #[error("at byte {offset}: the message ends too early")]
    Truncated {
        /// Where in the message.
        offset: usize,
    },
    /// More than the limits allow.
    #[error("the message has more than {limit} {what}")]
    TooMuch {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// Bytes after the outermost item.
    #[error("bytes follow the message")]
    Trailing,
    /// A field where none or another should be.
    #[error("{tag} does not belong at its place in {within}")]
    Unexpected {
        /// Which field.
        tag: Tag,
        /// Which structure holds it.
        within: Tag,
    },
    /// A field of the wrong type.
    #[error("{tag} holds a {found:?}, not a {expected}")]
    WrongType {
        /// Which field.
        tag: Tag,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: super::ItemType,
    },
}

/// Why a message can't become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The peer's version of the protocol doesn't have it.
    #[error("KMIP {version} does not have {what}")]
    NotInVersion {
        /// What the version lacks.
        what: String,
        /// The version.
        version: ProtocolVersion,
    },
    /// A value longer than a length can say.
    #[error("{tag} is too long for a message")]
    TooLong {
        /// Which item.
        tag: Tag,
    },
    /// What can only be read: a payload that could not be understood.
    #[error("a payload that could not be read cannot be written")]
    Unreadable,
}
