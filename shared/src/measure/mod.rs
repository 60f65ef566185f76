//! Figures of repeated runs: what a series of seconds says, and whether two series differ by more than their noise.
//! Pure: no clock, no I/O. The agent judges what it measured against a baseline, the API any two reports.

mod compare;
mod reports;
mod summary;
mod text;

pub use compare::{Change, Compared, Verdict, compare, verdict};
pub use reports::{Side, compare_reports};
pub use summary::{OUTLIER_FACTOR, Outlier, Summary, median, percentile};
pub use text::seconds_text;

#[cfg(test)]
mod properties;
