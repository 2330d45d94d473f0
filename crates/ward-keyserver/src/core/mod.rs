//! What requests mean, worked out without any input or output: the states of a key, what a key may be made with, what may be
//! changed of it, how it encrypts, and what matches a search.

mod change;
mod cipher;
mod lifecycle;
mod object;
mod refusal;
mod rules;
mod search;

pub(crate) use change::{Change, check_addition, check_deletion, check_modification, check_setting};
pub(crate) use cipher::Algorithm;
pub(crate) use lifecycle::{Dates, Lifecycle};
pub(crate) use object::{Link, Object, ObjectShape};
pub(crate) use refusal::Refusal;
pub(crate) use rules::NewObject;
pub(crate) use search::{Search, wanted};
