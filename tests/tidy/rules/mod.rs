//! The rules, by what they look at.

pub(crate) mod files;
pub(crate) mod folders;
pub(crate) mod packages;
pub(crate) mod places;
