//! What requests mean, worked out without any input or output: the states of a key, what a key may be made with, and what
//! matches a search.

mod lifecycle;
mod object;
mod refusal;
mod rules;
mod search;

pub(crate) use lifecycle::{Dates, Lifecycle};
pub(crate) use object::{Object, ObjectShape};
pub(crate) use refusal::Refusal;
pub(crate) use rules::{NewObject, check_addition};
pub(crate) use search::{Search, wanted};
