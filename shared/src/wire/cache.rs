//! The RAM tier on the wire.

use serde::{Deserialize, Serialize};

use super::{ComponentView, ResidentComponent, Staleness};
use crate::{ids::ModelId, status::CacheStats};

/// `GET /v1/cache`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CacheView {
    /// Sums over all hosts.
    pub total: CacheStats,
    /// Per host.
    pub hosts: Vec<CacheHost>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// One host's RAM tier.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CacheHost {
    /// Host.
    pub host: String,
    /// Totals.
    pub stats: CacheStats,
    /// Components.
    pub components: Vec<ResidentComponent>,
}

/// `GET /v1/cache/components/{component}`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CachedComponent {
    /// The component.
    pub component: ComponentView,
    /// The model it belongs to.
    pub model: ModelId,
    /// The model's name.
    pub model_name: String,
    /// Copies in RAM.
    pub copies: Vec<CachedCopy>,
    /// Trust in the live parts.
    #[serde(flatten)]
    pub staleness: Staleness,
}

/// One copy in the RAM of one host.
pub type CachedCopy = ResidentComponent;
