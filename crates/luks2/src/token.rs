//! Tokens (specification 3.5): small JSON objects of any type that say where a keyslot's passphrase comes from.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::id::{KeyslotId, TokenId};
use crate::metadata::Metadata;
use crate::validate::MAX_TOKENS;

/// How deep the members of a token may nest. cryptsetup's JSON parser gives up at 32, all around them included.
const MAX_DEPTH: usize = 16;

/// A token: a type, the keyslots it is for, and whatever else its type calls for.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Token {
    /// Its type, by which its owner knows it. Types that start with `luks2-` are reserved by the specification.
    #[serde(rename = "type")]
    pub kind: String,
    /// The keyslots it is for.
    pub keyslots: BTreeSet<KeyslotId>,
    /// Everything else.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Token {
    /// A token that is bound to no keyslot yet.
    #[must_use]
    pub fn new(kind: impl Into<String>, fields: Map<String, Value>) -> Self {
        Self { kind: kind.into(), keyslots: BTreeSet::new(), fields }
    }
}

/// A change to the tokens that takes effect together with others, or with that of a keyslot.
///
/// Where it goes with a new keyslot, the token is bound to it as well as to the keyslots that it names itself.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenChange {
    /// Adds a token under the first free number.
    Add(Token),
    /// Puts a token where another is, or where none is.
    Set(TokenId, Token),
    /// Removes a token.
    Remove(TokenId),
}

/// Applies changes in their order. What they add is bound to `bind` too.
pub(crate) fn apply(metadata: &mut Metadata, changes: &[TokenChange], bind: Option<KeyslotId>) -> Result<(), Error> {
    for change in changes {
        match change {
            TokenChange::Add(token) => {
                let id = free(metadata)?;
                put(metadata, id, token, bind)?;
            }
            TokenChange::Set(id, token) if id.number() < MAX_TOKENS => put(metadata, *id, token, bind)?,
            TokenChange::Set(id, _) => return Err(Error::NoSuchToken(*id)),
            TokenChange::Remove(id) => {
                metadata.tokens.remove(id).ok_or(Error::NoSuchToken(*id))?;
            }
        }
    }
    Ok(())
}

/// The first free number.
pub(crate) fn free(metadata: &Metadata) -> Result<TokenId, Error> {
    (0..MAX_TOKENS).map(TokenId::new).find(|id| !metadata.tokens.contains_key(id)).ok_or(Error::NoFreeToken(MAX_TOKENS))
}

fn put(metadata: &mut Metadata, id: TokenId, token: &Token, bind: Option<KeyslotId>) -> Result<(), Error> {
    if token.kind.is_empty() {
        return Err(Error::Token("it has no type"));
    }
    if token.fields.contains_key("type") || token.fields.contains_key("keyslots") {
        return Err(Error::Token("its fields repeat its type or its keyslots"));
    }
    if token.fields.values().any(|value| !shallow(value, MAX_DEPTH)) {
        return Err(Error::Token("it is nested too deep for other LUKS2 software"));
    }
    let mut token = token.clone();
    token.keyslots.extend(bind);
    if !token.keyslots.iter().all(|id| metadata.keyslots.contains_key(id)) {
        return Err(Error::Token("it names a keyslot that is not there"));
    }
    metadata.tokens.insert(id, token);
    Ok(())
}

fn shallow(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(values) => depth > 0 && values.iter().all(|value| shallow(value, depth - 1)),
        Value::Object(values) => depth > 0 && values.values().all(|value| shallow(value, depth - 1)),
        _ => true,
    }
}
