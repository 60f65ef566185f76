//! What the integration stories stand on: private stores, real processes of the product, a typed REST client, model
//! files, and reads of the execution ledger. Everything is ended and removed on drop, also when a test fails.
//!
//! Nothing here waits for a fixed time: [`wait_for`] waits for a condition and says what it last saw when it gives up.

mod binaries;
mod client;
mod failing_disk;
mod fakes;
mod farm;
mod ledger;
mod models;
mod process;
mod proxy;
mod settings;
mod sse;
mod stores;
mod wait;

pub use binaries::binary;
pub use client::{Answer, Api, job_path};
pub use failing_disk::FailingDisk;
pub use fakes::FakeLibrary;
pub use farm::{Daemon, Farm, FarmBuilder, Starting};
pub use ledger::{Attempt, Event, Ledger};
pub use models::{ModelFile, Tensor, mebibytes};
pub use process::{Clock, Process, children, children_named, kill, libfaketime, signal};
pub use proxy::Proxy;
pub use settings::{AgentSettings, Settings};
pub use sse::{Sse, SseEvent};
pub use stores::Server;
pub use wait::{LONG, SHORT, wait_for};
