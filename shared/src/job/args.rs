//! Arguments of the kinds that move weights and look after the catalogue.

use serde::{Deserialize, Serialize};

use super::keep::KeepAlive;
use crate::ids::{ComponentId, ModelId};

/// Arguments of `scan`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanArgs {
    /// Name of the root; all roots of the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// A model of that root whose files are read again even if they did not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
}

/// Arguments of `load`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadArgs {
    /// The model.
    pub model: ModelId,
    /// Component kinds to load (`unet`, `vae`, …); all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// How long it stays in RAM and on the device after its last use; as configured on the host when absent. Zero is about RAM only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// It is not evicted from RAM or the device until somebody unprotects it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
}

/// Arguments of `unload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadArgs {
    /// The model.
    pub model: ModelId,
    /// Component kinds to unload; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Free the host's RAM copy as well.
    #[serde(default)]
    pub from_ram: bool,
    /// Also what other models that are loaded there need, and what is protected; never what is in use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Wait for the jobs that use it, instead of refusing while one does. Programs that are attached are not waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wait_for_jobs: bool,
}

/// Arguments of `cache_add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheAddArgs {
    /// The model.
    pub model: ModelId,
    /// Component kinds to cache; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// How long it stays in RAM after its last use; as configured on the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// It is not evicted from RAM until somebody unprotects it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
}

/// Arguments of `cache_remove`: one component, one model, or (neither given) everything that is not in use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheRemoveArgs {
    /// Only the components of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
    /// Only this component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentId>,
    /// Also end loads into RAM that are under way, for every job that waits for them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_loads: bool,
}

/// Arguments of `cache_keep`: what is said about the components of one model, or one component, that are in RAM or on a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CacheKeepArgs {
    /// The components of this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
    /// This component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentId>,
    /// Protect from eviction, or not any more; as it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protect: Option<bool>,
    /// How long it stays after its last use; as it is when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// The copies on this device; those in RAM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// Arguments of `hash`: one model, the models of one root, or (neither given) all models of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HashArgs {
    /// Only this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelId>,
    /// Only models below the root of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// Arguments of `optimize`: at most one goal; with none, the configured headroom of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OptimizeArgs {
    /// The memory of this device; that of the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// So many bytes are to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// So many bytes are to be free afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom_bytes: Option<u64>,
    /// Only say what would be done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}
