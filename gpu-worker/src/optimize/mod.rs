//! Giving memory back under a goal: survey what there is ([`survey`]), plan ([`plan`]), act, survey again.

pub mod plan;
#[cfg(test)]
pub(crate) mod properties;
pub mod survey;
