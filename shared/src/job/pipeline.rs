//! Arguments of `apply_pipeline` and `restore_pipeline`.

use serde::{Deserialize, Serialize};

use super::{engine::Assembly, keep::KeepAlive};
use crate::ids::{ModelId, PipelineId};

/// Arguments of `apply_pipeline`: a pipeline as it was declared when the job was accepted is made ready on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyPipelineArgs<M = ModelId> {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Its name.
    pub name: String,
    /// Which of its declarations this is.
    pub generation: i64,
    /// What is applied.
    pub assembly: Assembly<M>,
    /// How long its parts stay in RAM and on the device after their last use; as configured on the host when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Its parts are not evicted until somebody unprotects them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
    /// Only say what would be loaded, evicted and computed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Check the digests of the base's parts on the device before it is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

/// Arguments of `restore_pipeline`: the base's parts of a pipeline are run as they are again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestorePipelineArgs<M = ModelId> {
    /// The pipeline.
    pub pipeline: PipelineId,
    /// Its name.
    pub name: String,
    /// Which of its declarations is applied.
    pub generation: i64,
    /// What is applied.
    pub assembly: Assembly<M>,
    /// Check the digests of the base's parts on the device before it is done; else it is done afterwards.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

impl ApplyPipelineArgs {
    /// The single-flight key: a declaration is applied once at a time in a place.
    pub(super) fn key(&self) -> String {
        let Self { pipeline, generation, dry_run, verify, .. } = self;
        let (dry, verify) = (if *dry_run { "/dry" } else { "" }, if *verify { "/verify" } else { "" });
        format!("{pipeline}/{generation}{dry}{verify}")
    }
}
