//! The REST contract: what the API sends and accepts, and what the command line reads.

mod benchmarks;
mod blobs;
mod cache;
mod components;
mod convert;
mod engine;
mod events;
mod farm;
mod jobs;
mod loras;
mod memory;
mod metadata;
mod models;
mod pipelines;
mod problem;
mod validations;

pub use benchmarks::{
    BenchmarkReport, BenchmarkRequest, BenchmarkResult, BenchmarkSummary, CaseMeasure, ComparedCase, Comparison,
    Difference, Ended, Fingerprint, LoadMeasure, Series, Skipped, Steady, case_label,
};
pub use blobs::{ArtifactView, UploadView};
pub use cache::{CacheHost, CacheView, CachedComponent, CachedCopy, EvictionCandidate, EvictionView};
pub use components::{PartOf, SharedComponent};
pub use convert::{ConvertRequest, ConvertResult, DroppedTensors, KeptComponent, OverflowingTensor, WidenedTensors};
pub use engine::{
    BlendLorasRequest, EncodeTextRequest, GenerateRequest, LoraCheckRequest, Placing, TokenizeRequest, TokenizeResult,
    TokenizerView, TokensView, UnetStepRequest, VaeDecodeRequest, VaeEncodeRequest,
};
pub use events::{HostEvent, StateChange};
pub use farm::{
    DeviceModels, DeviceVariant, DeviceView, FarmStatus, HostView, ModelStatus, ResidentComponent, RootView, Staleness,
    WatchView,
};
pub use jobs::{
    AttemptView, CacheRequest, EventView, JobDetail, JobRequest, JobView, LoadRequest, MultiLoadRequest, Progress,
    UnloadRequest,
};
pub use loras::{
    BlendLorasResult, BlendedLora, BlendedModule, LoraCheckResult, LoraDetail, LoraFacts, LoraFit, LoraMisfit,
    LoraMismatch, LoraView, LoraWithoutEffect, OtherFamily,
};
pub use memory::{HostMemoryView, OptimizeAction, OptimizeRequest, OptimizeResult};
pub use metadata::{
    Detected, MetadataChange, MetadataView, MetadataWriteRequest, Overrides, SearchRequest, UserMetadata,
};
pub use models::{
    ComponentView, CorruptFile, Hashes, LocationView, MADE_FROM_KEY, ModelDetail, ModelForgotten, ModelPage,
    ModelSummary, Residency, TensorView, VariantPart, VariantView, WhyRead,
};
pub use pipelines::{
    LoraChange, LoraFields, LorasPatch, PipelineApplyRequest, PipelineChange, PipelineDeclaration, PipelineDeviceDiff,
    PipelineDeviceView, PipelineDiff, PipelineEvent, PipelineJob, PipelineRemoved, PipelineRestoreRequest,
    PipelineView,
};
pub use problem::{FieldError, Problem};
pub use validations::{FindingView, TensorStatisticsView, ValidateRequest, ValidationReport, ValidationSummary};

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
