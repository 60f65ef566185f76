//! The RAM tier against real files: what it loads, what it refuses, and that nothing stays behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod arrivals;
mod decisions;
mod files;
mod model;
mod support;
mod tier;
