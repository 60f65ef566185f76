//! What of a benchmark is no I/O on devices: when a case was run often enough, and what machine figures belong to.

mod fingerprint;
mod steady;

pub use fingerprint::of as fingerprint;
pub use steady::{Next, Runs};
