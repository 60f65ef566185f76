//! Jobs: their kinds, states and rules, enqueueing, and the one apalis backend over the fenced `jobs` table.
//!
//! ```text
//!            place (fence+1)          claim (attempt+1, crash+1)
//!  pending ───────────────▶ placed ───────────────▶ running ──report──▶ succeeded | failed | cancelled
//!     ▲  ▲                    │                        │ │
//!     │  └── host died ───────┘                        │ └─ lease expired, crash_count = max ─▶ quarantined
//!     └──── retry · snooze · hand back · lease expired ┘
//! ```
//! Terminal states never change. Every write after the claim names (id, fence, incarnation) and must change one row.

pub mod args;
pub mod backend;
pub mod benchmark;
pub mod convert;
pub mod engine;
pub mod enqueue;
pub mod keep;
pub mod kind;
pub mod pipeline;
pub mod rules;
pub mod spec;
pub mod state;
pub mod target;
pub mod validate;
pub mod write;

pub use args::{CacheAddArgs, CacheKeepArgs, CacheRemoveArgs, HashArgs, LoadArgs, OptimizeArgs, ScanArgs, UnloadArgs};
pub use benchmark::{Baseline, BenchmarkArgs, BenchmarkLimits, ImageSize};
pub use convert::{ConvertArgs, ConvertDtype, ConvertLayout, ConvertOutput};
pub use enqueue::{Enqueued, NewJob, enqueue};
pub use keep::{Keep, KeepAlive};
pub use kind::{JobKind, Lane};
pub use pipeline::{ApplyPipelineArgs, RestorePipelineArgs};
pub use spec::JobSpec;
pub use state::JobState;
pub use target::Target;
pub use validate::{ValidateArgs, ValidateLevel};
pub use write::{MetadataWriteArgs, WriteForm, WritePart};
