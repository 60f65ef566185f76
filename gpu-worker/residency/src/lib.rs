//! The RAM tier of one host: byte budget, memory arenas, entry lifecycle, eviction policy and the disk → RAM loader.
//!
//! The crate knows no job, no model kind and no database. A *component* is a key and a list of
//! tensors, each a byte range of a file. [`RamTier`] is the face; the parts below it are plain data
//! and pure functions ([`entry`], [`policy`], [`layout`], [`digest`]) or small effects beside them
//! ([`arena`], [`budget`], [`loader`]).
//!
//! ```text
//! acquire ─▶ ready? ── yes ─▶ Lease            (microseconds: one short lock)
//!              │ no
//!              ├─ loading? ─▶ join it, wait     (single flight)
//!              └─ absent/failed ─▶ a thread of its own:
//!                   plan layout ─▶ make room (policy, evict) ─▶ read + hash ─▶ compare ─▶ seal ─▶ ready
//! ```
//!
//! What holds at every moment: no reservation is granted beyond the budget; a leased or protected entry is
//! never evicted, whatever the pressure; every eviction leaves a record with its reasons; a load that ends in any way but success leaves no byte behind; resident bytes are
//! immutable (the memory file is sealed against writes, growth and shrinking).

pub mod arena;
mod arrival;
pub mod budget;
pub mod digest;
pub mod entry;
pub mod error;
mod gather;
pub mod identity;
pub mod layout;
pub mod loader;
pub mod policy;
pub mod progress;
pub mod request;
pub mod tier;

pub use arrival::{Arrival, Unverified};
pub use digest::Digest;
pub use error::{ResidencyError, Shortage, Squeeze};
pub use gather::{GatheredTensor, Part, PartOrder};
pub use identity::{FileIdentity, SourceFile};
pub use layout::PlacedTensor;
pub use loader::{Afoot, Reading};
pub use policy::Standing;
pub use progress::{Phase, Progress, ProgressSnapshot};
pub use request::{ChunkObserver, Direct, IoOptions, Key, LoadRequest, TensorRange};
pub use tier::{
    AGE_BOUNDS_SECONDS, Audit, ClearReport, Decision, Decisions, Departure, Departures, Draft, EntrySnapshot,
    EvictionCounts, FreedBytes, KeepAlive, Kept, Lease, RamTier, Reason, Said, TierConfig, TierSnapshot, TierStats,
    Why,
};
