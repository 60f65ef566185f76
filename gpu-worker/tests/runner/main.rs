//! The runner as a real process on `cpu:0`: copies arrive whole, refusals name numbers, deaths are noticed and mended.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod copies;
mod faults;
mod follows;
mod support;
mod variants;
