//! The REST contract: what the API sends and accepts, and what the command line reads.

mod cache;
mod farm;
mod jobs;
mod models;
mod problem;

pub use cache::{CacheHost, CacheView, CachedComponent, CachedCopy};
pub use farm::{DeviceModels, DeviceView, FarmStatus, HostView, ModelStatus, ResidentComponent, RootView, Staleness};
pub use jobs::{
    AttemptView, CacheRequest, EventView, JobDetail, JobRequest, JobView, LoadRequest, MultiLoadRequest, Progress,
    UnloadRequest,
};
pub use models::{ComponentView, LocationView, ModelDetail, ModelSummary, Residency};
pub use problem::{FieldError, Problem};

use serde::{Deserialize, Serialize};

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Opaque; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
