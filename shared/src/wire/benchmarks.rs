//! Benchmarks on the wire: asking for one, what it measured and where, and two of them side by side.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{BenchmarkId, JobId, ModelId},
    job::{
        Baseline, BenchmarkLimits, ImageSize, Target,
        engine::{LoraUse, VaeSettings},
    },
    measure::{Compared, Summary, Verdict},
};

/// `POST /v1/models/{model}/benchmark` and `POST /v1/pipelines/{name}/benchmark`. What is absent is as in the arguments of the job.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BenchmarkRequest {
    /// Kinds of components to measure; all that can be run when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub components: Option<Vec<String>>,
    /// Whole generations instead of components, in so many steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_steps: Option<u32>,
    /// Batches of each size; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<Vec<u32>>,
    /// Sizes of images; `512x512` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, example = json!(["512x768"]))]
    pub sizes: Option<Vec<ImageSize>>,
    /// Also measures loads from disk with an empty page cache.
    pub cold: bool,
    /// How often loads are measured, 0 to 20; 3 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loads: Option<u32>,
    /// When enough was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BenchmarkLimits>,
    /// `last`, or the id of the benchmark to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "last")]
    pub baseline: Option<Baseline>,
    /// A median is better or worse when it differs by more than so many percent; 5 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_percent: Option<u32>,
    /// Another model whose VAE takes the place of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// How the VAE runs.
    #[serde(skip_serializing_if = "VaeSettings::is_default")]
    pub vae_settings: VaeSettings,
    /// Other models whose text encoder takes the place of the one of this kind (`text_encoder`, `text_encoder_2`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub text_encoders: BTreeMap<String, String>,
    /// A stack of LoRAs that the model is changed by for this; their order makes no difference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraUse<String>>,
    /// `any` (default), `all`, `host:<name>` or `device:<host>/<name>`.
    #[schema(value_type = String, example = "any")]
    pub target: Target,
    /// Higher goes first.
    pub priority: i32,
}

/// The machine and the programs that figures belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Fingerprint {
    /// Host.
    pub host: String,
    /// Model of its processor.
    pub cpu: String,
    /// Logical processors that the agent may use.
    pub cpus: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// Its kernel.
    pub kernel: String,
    /// The device, without the host.
    pub device: String,
    /// What the device is.
    pub product: String,
    /// Version of the device's driver, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The ONNX Runtime that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
    /// Threads of a run, where the device's runner was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Version of modelyard.
    pub version: String,
}

/// Seconds of something that was done several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Series {
    /// As measured, in order.
    pub seconds: Vec<f64>,
    /// What they say.
    pub summary: Summary,
}

/// How long one component takes to get onto the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoadMeasure {
    /// Its kind.
    pub component: String,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// From disk through RAM, the page cache emptied of its files before. None where it was not asked for, or could not be
    /// emptied of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<Series>,
    /// From RAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<Series>,
}

/// Why no more runs of a case were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The last windows were within the spread.
    Stable,
    /// `max_runs` runs were made.
    Runs,
    /// `max_seconds` were over.
    Time,
}

/// Runs of a case after the first and the warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Steady {
    /// Seconds of each run in order; the newest, where there are more than are kept.
    pub seconds: Vec<f64>,
    /// Runs before them that were left out.
    pub omitted: u64,
    /// From this one on `seconds` are the last windows, which the summary is of.
    pub from: u64,
    /// The medians of the last windows were within the spread.
    pub stable: bool,
    /// How much those medians differed, as a part of the smallest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// Why it ended.
    pub ended: Ended,
    /// What the last windows say.
    pub summary: Summary,
}

/// One operation at one batch and size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CaseMeasure {
    /// Kind of the component, `pipeline` for whole generations.
    pub component: String,
    /// `vae_decode`, `vae_encode`, `encode_text`, `unet_step`, `generate`.
    pub operation: String,
    /// Items of a run.
    pub batch: u32,
    /// Size of their images, where it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "512x768")]
    pub size: Option<ImageSize>,
    /// Steps of a whole generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Seconds of the first run, with everything that is done once.
    pub first_run_seconds: f64,
    /// The runs that count.
    pub steady: Steady,
    /// Items in a second at the median.
    pub items_per_second: f64,
    /// Memory that runs took beyond the weights, as measured; of a generation, the most that one of its models took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// The same as estimated before the first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_bytes: Option<u64>,
}

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Skipped {
    /// What, as in [`CaseMeasure::label`] or the kind of a component.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// Everything that one benchmark measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchmarkResult {
    /// Loads.
    pub loads: Vec<LoadMeasure>,
    /// Runs.
    pub cases: Vec<CaseMeasure>,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// One figure of two benchmarks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ComparedCase {
    /// What was measured.
    pub what: String,
    /// Both medians and what they mean.
    #[serde(flatten)]
    pub compared: Compared,
}

/// A difference of two benchmarks: of their machines and programs, or of what took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Difference {
    /// Field of the fingerprint, or of the arguments: `model`, `vae`, `vae_settings`, `text_encoders`, `loras`.
    pub field: String,
    /// There.
    pub before: String,
    /// Here.
    pub after: String,
}

/// Two benchmarks side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Comparison {
    /// The earlier one.
    pub before: BenchmarkId,
    /// The later one; none while it is not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<BenchmarkId>,
    /// All of it in a word.
    pub verdict: Verdict,
    /// A median counts as changed beyond so many percent.
    pub bound_percent: u32,
    /// What both measured, worst first.
    pub cases: Vec<ComparedCase>,
    /// What only the earlier one measured.
    pub only_before: Vec<String>,
    /// What only the later one measured.
    pub only_after: Vec<String>,
    /// How their machines, programs and models differ: the figures may differ because of it.
    pub differences: Vec<Difference>,
}

/// A benchmark without its figures.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchmarkSummary {
    /// Id.
    pub id: BenchmarkId,
    /// The model.
    pub model: ModelId,
    /// The model's name.
    pub model_name: String,
    /// The job that made it.
    pub job: JobId,
    /// The device, `host/name`.
    pub device: String,
    /// Kinds of components that were measured.
    pub components: Vec<String>,
    /// Whole generations were measured, not components.
    pub pipeline: bool,
    /// What it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BenchmarkId>,
    /// What that said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Every case became stable.
    pub stable: bool,
    /// When it ended.
    pub created_at: DateTime<Utc>,
}

/// A benchmark with its figures.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BenchmarkReport {
    /// As in lists.
    #[serde(flatten)]
    pub summary: BenchmarkSummary,
    /// Arguments of the job.
    #[schema(value_type = Object)]
    pub args: serde_json::Value,
    /// Machine and programs.
    pub fingerprint: Fingerprint,
    /// What was measured.
    pub result: BenchmarkResult,
    /// The comparison with the baseline, as it was made then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// `vae_decode 512x512 ×2 (vae)`, `generate 512x512 ×1 in 4 steps (pipeline)`: the same of two benchmarks is compared.
pub fn case_label(
    operation: &str,
    (batch, size, steps): (u32, Option<ImageSize>, Option<u32>),
    component: &str,
) -> String {
    let size = size.map(|size| format!(" {size}")).unwrap_or_default();
    let steps = match steps {
        None => String::new(),
        Some(1) => " in 1 step".to_owned(),
        Some(steps) => format!(" in {steps} steps"),
    };
    format!("{operation}{size} ×{batch}{steps} ({component})")
}

impl CaseMeasure {
    /// As [`case_label`] has it.
    pub fn label(&self) -> String {
        case_label(&self.operation, (self.batch, self.size, self.steps), &self.component)
    }
}

impl BenchmarkResult {
    /// Every case became stable, and there is one.
    pub fn stable(&self) -> bool {
        !self.cases.is_empty() && self.cases.iter().all(|case| case.steady.stable)
    }
}
