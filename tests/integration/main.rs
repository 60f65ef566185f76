//! Stories over real processes with private stores. Modules are named after what they prove; tests that carry a
//! guarantee's number prove that guarantee (README, *Guarantees*).

mod accept;
mod attach;
mod bad_files;
mod bad_requests;
mod cache_policy;
mod cancel;
mod checkpoints;
mod clocks;
mod command_line;
mod corrections;
mod drain;
mod events;
mod fencing;
mod hashes;
mod leadership;
mod lost_workers;
mod main_job;
mod memory;
mod metadata;
mod metadata_write;
mod periodic;
mod poison;
mod pressure;
mod redis_loss;
mod rescan;
mod retries;
mod search;
mod search_plans;
mod shared_components;
mod startup;
mod store_loss;
mod support;
mod targets;
mod validate;
mod watch;
