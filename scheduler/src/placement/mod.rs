//! Where a job runs: a pure policy over a snapshot. `README.md` beside this file states the problem, the properties and the order.

mod model;
mod obstacle;
mod place;
#[cfg(test)]
mod properties;
mod score;
#[cfg(test)]
mod table;

pub use model::{Device, Host, PendingJob, Queue, Snapshot, Tier};
pub use obstacle::Obstacle;
pub use place::{Decision, Policy, place};
pub use score::{Locality, Score};
