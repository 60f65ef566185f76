//! The GPU worker daemon: an agent per host that claims jobs and keeps weights in RAM, and a runner process per device.
//!
//! A claim travels: [`consumer`] (apalis) → [`attempt`] (supervised, fenced) → [`executors`] (one per job kind) →
//! [`commit`] (one transaction, which [`judge`]s what was read of registered bytes). Beside it [`lease`] keeps or loses the right to do so, [`publisher`] tells what is
//! resident, [`pressure`] and [`keeper`] take out of RAM what must or may go, [`runner`] is the process that owns a device,
//! [`device_tier`] knows what is on it and for whom, and [`vitals`] watches how devices are. [`account`] says whose every byte
//! is, [`optimize`] gives some back. Work that meets another file than the catalogue has leads to a [`rescan`].

pub mod account;
pub mod agent;
pub mod aliases;
pub mod attach;
pub mod attempt;
pub mod audit;
pub mod benchmark;
pub mod catalogue;
pub mod commit;
pub mod config;
pub mod consumer;
pub mod context;
pub mod decisions;
pub mod describe;
pub mod device_tier;
pub mod devices;
pub mod error;
pub mod executors;
pub mod inputs;
pub mod judge;
pub mod keeper;
pub mod lease;
pub mod load_request;
pub mod managers;
pub mod memory;
pub mod metrics;
pub mod optimize;
pub mod pressure;
pub mod progress;
pub mod publisher;
pub mod rescan;
pub mod residents;
pub mod runner;
pub mod running;
pub mod throttle;
pub mod vitals;
pub mod watch;
