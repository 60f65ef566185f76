//! What of a benchmark is no I/O on devices: when a case was run often enough, what machine figures belong to, and what metrics show.

mod fingerprint;
mod metrics;
mod steady;

pub use fingerprint::of as fingerprint;
pub use metrics::BenchmarkMetrics;
pub use steady::{Next, Runs};
