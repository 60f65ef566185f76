//! What two binaries already need: ids, errors, jobs, the database, live status, telemetry, configuration.
//! Admission rule: code enters when a second package uses it today; `tidy` counts the users.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod config;
pub mod db;
pub mod error;
pub mod ids;
pub mod job;
pub mod measure;
pub mod ops;
pub mod pipeline;
pub mod ready;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod wire;
