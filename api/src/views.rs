//! Rows and the merged view → what the wire shows.

use std::collections::BTreeSet;

use shared::{
    db::{
        blobs::{artifacts::ArtifactRow, uploads::UploadRow},
        farm::{DeviceRow, RootRow},
        jobs::{AttemptRow, EventRow, JobRow, ProgressRow},
        models::{ComponentRow, CorruptRow, ListedModel, LocationRow, ModelRow},
        statistics::TensorStatistics,
        validations::ValidationRow,
    },
    error::ErrorBody,
    ids::{ComponentId, JobId},
    job::JobState,
    status::VariantEntry,
    wire::{
        ArtifactView, AttemptView, ComponentView, CorruptFile, DeviceVariant, DeviceView, EventView, Hashes, HostView,
        JobView, LocationView, MADE_FROM_KEY, ModelSummary, Progress, Residency, RootView, TensorStatisticsView,
        UploadView, ValidationSummary, VariantView, WatchView,
    },
};

use crate::{
    merge::{HostNow, View},
    owners::Owners,
    problem::ApiError,
};

/// A job.
///
/// # Errors
/// A stored state of another build.
pub(crate) fn job(row: JobRow, progress: Option<ProgressRow>) -> Result<JobView, ApiError> {
    let state: JobState = row.state.parse().map_err(ApiError::defect)?;
    let target = match (&row.pin_device, &row.pin_host) {
        (Some(device), _) => format!("device:{device}"),
        (None, Some(host)) => format!("host:{host}"),
        (None, None) if row.lane == "fanout" => "all".to_owned(),
        (None, None) => "any".to_owned(),
    };
    Ok(JobView {
        id: row.id,
        kind: row.kind,
        state,
        args: row.args,
        model: row.model_id,
        target,
        host: row.host,
        device: row.device,
        priority: row.priority,
        attempt: row.attempt,
        max_attempts: row.max_attempts,
        cancel_requested: row.cancel_requested_at.is_some(),
        parent: row.parent,
        retry_of: row.retry_of,
        reason: row.reason,
        progress: progress.map(self::progress),
        result: row.result,
        error: error_body(row.error),
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
    })
}

/// Progress.
pub(crate) fn progress(row: ProgressRow) -> Progress {
    Progress {
        phase: row.phase,
        bytes_done: unsigned(row.bytes_done),
        bytes_total: unsigned(row.bytes_total),
        bytes_per_second: row.bytes_per_second,
        eta_seconds: row.eta_seconds,
        detail: row.detail,
    }
}

/// An attempt.
pub(crate) fn attempt(row: AttemptRow) -> AttemptView {
    AttemptView {
        attempt: row.attempt,
        fence: row.fence,
        host: row.host,
        device: row.device,
        incarnation: row.incarnation.to_string(),
        started_at: row.started_at,
        ended_at: row.ended_at,
        outcome: row.outcome,
        error: error_body(row.error),
    }
}

/// An event.
pub(crate) fn event(row: EventRow) -> EventView {
    EventView { seq: row.seq, job: row.job_id, at: row.at, kind: row.kind, data: row.data }
}

fn error_body(stored: Option<serde_json::Value>) -> Option<ErrorBody> {
    stored.and_then(|value| serde_json::from_value(value).ok())
}

/// A model's hashes, once they are computed.
pub(crate) fn hashes(row: &ModelRow, autov1: Option<String>) -> Option<Hashes> {
    let sha256 = row.sha256.clone();
    Some(Hashes {
        blake3: row.content_digest.clone()?,
        autov2: sha256.as_deref().map(|sha256| sha256.chars().take(10).collect()),
        sha256,
        autov1,
        payload_sha256: row.payload_sha256.clone(),
    })
}

/// What a model's files say that it was made from; none when they say nothing of the kind.
pub(crate) fn made_from(metadata: &serde_json::Value) -> Option<serde_json::Value> {
    let text = metadata.get(MADE_FROM_KEY)?.as_str()?;
    serde_json::from_str(text).ok().filter(serde_json::Value::is_object)
}

/// The variants that a folder's inspection found, as it keeps them; none of what is no folder, or was listed by a build that did not look.
pub(crate) fn variants(metadata: &serde_json::Value) -> Option<Vec<VariantView>> {
    let kept = metadata.get("variants").cloned()?;
    // a single file's own metadata may say anything under this name
    serde_json::from_value(kept).ok()
}

/// An upload with the active jobs that work on it.
pub(crate) fn upload(row: UploadRow, used_by: Vec<JobId>) -> UploadView {
    UploadView {
        id: row.id,
        name: row.name,
        bytes: row.blob.size(),
        media_type: row.blob.media_type,
        blake3: row.blob.blake3,
        created_at: row.created_at,
        expires_at: row.expires_at,
        used_by,
    }
}

/// An artifact.
pub(crate) fn artifact(row: ArtifactRow) -> ArtifactView {
    ArtifactView {
        name: row.name,
        bytes: row.blob.size(),
        media_type: row.blob.media_type,
        blake3: row.blob.blake3,
        preview: row.preview,
        created_at: row.created_at,
    }
}

/// A validation, without its findings.
pub(crate) fn validation(row: &ValidationRow) -> ValidationSummary {
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    ValidationSummary {
        id: row.id,
        model: row.model_id,
        job: row.job_id,
        host: row.host.clone(),
        level: row.level.clone(),
        verdict: row.verdict.clone(),
        stale: row.stale,
        errors: unsigned(row.errors),
        warnings: unsigned(row.warnings),
        infos: unsigned(row.infos),
        tensors: unsigned(row.tensors),
        statistics: unsigned(row.statistics),
        bytes: unsigned(row.bytes),
        seconds: row.seconds,
        created_at: row.created_at,
    }
}

/// Largest finite number of 16-bit floats.
const FP16_MAX: f64 = 65_504.0;

/// What the numbers of a tensor are like.
pub(crate) fn statistics(of: TensorStatistics) -> TensorStatisticsView {
    let absmax = of.min.zip(of.max).map(|(min, max)| min.abs().max(max.abs()));
    TensorStatisticsView {
        component: of.component,
        tensor: of.tensor,
        dtype: of.dtype,
        elements: of.elements,
        nan: of.nan,
        infinite: of.infinite,
        zero: of.zero,
        subnormal: of.subnormal,
        mean: of.mean,
        std: of.std,
        min: of.min,
        max: of.max,
        absmax,
        of_fp16_range: absmax.map(|absmax| absmax / FP16_MAX),
    }
}

/// A model in a list.
pub(crate) fn model(row: ListedModel, residency: Residency) -> ModelSummary {
    ModelSummary {
        id: row.id,
        name: row.name,
        title: row.title,
        model_type: row.model_type,
        base: row.base,
        format: row.format,
        variant: row.variant,
        size_bytes: unsigned(row.size_bytes),
        state: row.state,
        reason: row.reason,
        tags: row.tags,
        verdict: row.verdict,
        verdict_stale: row.verdict_stale,
        rank: row.rank,
        residency,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// Where components are ready.
pub(crate) fn residency(view: &View, components: &[ComponentId]) -> Residency {
    let mut ram = BTreeSet::new();
    let mut vram = BTreeSet::new();
    for held in view.held.iter().filter(|held| held.state == "ready" && components.contains(&held.component)) {
        match &held.device {
            Some(device) => vram.insert(device.clone()),
            None => ram.insert(held.host.clone()),
        };
    }
    Residency { ram: ram.into_iter().collect(), vram: vram.into_iter().collect() }
}

/// A component.
pub(crate) fn component(row: &ComponentRow) -> ComponentView {
    ComponentView {
        id: row.id,
        kind: row.kind.clone(),
        bytes: unsigned(row.bytes),
        param_count: unsigned(row.param_count),
        tensor_count: u32::try_from(row.tensor_count).unwrap_or(0),
        dtype: row.dtype.clone(),
        digest: row.digest.clone(),
    }
}

/// A location, with those of the model's marked files that lie there.
pub(crate) fn location(row: LocationRow, marked: &[CorruptRow]) -> LocationView {
    let path = std::path::Path::new(&row.root_path).join(&row.rel_path);
    let here = marked.iter().filter(|file| file.host == row.host);
    LocationView {
        corrupt: here.map(corrupt_file).collect(),
        host: row.host,
        root: row.root,
        path: path.to_string_lossy().into_owned(),
        seen_at: row.seen_at,
    }
}

fn corrupt_file(row: &CorruptRow) -> CorruptFile {
    CorruptFile {
        file: row.file.clone(),
        component: row.component.clone(),
        expected: row.expected.clone(),
        actual: row.actual.clone(),
        job: row.job_id,
        found_at: row.found_at,
    }
}

/// A host.
pub(crate) fn host(view: &View, host: &HostNow, roots: &[RootRow]) -> HostView {
    let devices = view.devices.iter().filter(|device| device.host == host.row.name);
    HostView {
        name: host.row.name.clone(),
        state: host.state().to_owned(),
        agent_version: host.row.agent_version.clone(),
        labels: host.row.labels.clone(),
        slots: u32::try_from(host.row.slots).unwrap_or(0),
        ram: view.ram(host),
        capabilities: host.row.capabilities.clone(),
        devices: devices.map(|device| device.id.clone()).collect(),
        roots: roots.iter().filter(|root| root.host == host.row.name).map(|row| root(row, host)).collect(),
        process_rss_bytes: host.live.as_ref().map(|live| live.process_rss_bytes),
        nvml: host.live.as_ref().and_then(|live| live.nvml.clone()),
        unaccounted: host.live.as_ref().map(|live| live.unaccounted.clone()).unwrap_or_default(),
        registered_at: host.row.registered_at,
        staleness: host.staleness(),
    }
}

fn root(row: &RootRow, host: &HostNow) -> RootView {
    let watches = host.live.as_ref().map(|live| live.watches.as_slice()).unwrap_or_default();
    let watch = watches.iter().find(|watch| watch.root == row.name).map(|watch| WatchView {
        way: watch.way.clone(),
        reason: watch.reason.clone(),
        folders: watch.folders,
        changed_at: watch.changed_at,
        scans_total: watch.scans,
    });
    RootView {
        name: row.name.clone(),
        path: row.path.clone(),
        state: row.state.clone(),
        reason: row.reason.clone(),
        scanned_at: row.scanned_at,
        watch,
    }
}

/// A device with what it holds.
pub(crate) fn device(view: &View, row: &DeviceRow, owners: &Owners) -> DeviceView {
    let live = view.live_device(row);
    let host = view.host(&row.host);
    let lost = host.is_none_or(|host| !host.row.alive);
    let staleness = host.map_or(view.staleness.clone(), HostNow::staleness);
    let (state, reason) = match (live, lost) {
        (_, true) => ("lost".to_owned(), staleness.reason.clone()),
        (Some(live), false) => (live.state.clone(), live.reason.clone()),
        (None, false) => (row.state.clone(), row.reason.clone()),
    };
    DeviceView {
        id: row.id.clone(),
        host: row.host.clone(),
        name: row.name.clone(),
        kind: row.kind.clone(),
        uuid: row.uuid.clone(),
        product: row.product.clone(),
        state,
        reason,
        memory_total_bytes: live.map_or(unsigned(row.memory_total_bytes), |live| live.memory_total_bytes),
        memory_used_bytes: live.map_or(unsigned(row.memory_used_bytes), |live| live.memory_used_bytes),
        memory_system_bytes: live.and_then(|live| live.memory_system_bytes),
        vitals: live.and_then(|live| live.vitals.clone()),
        labels: row.labels.clone(),
        policy: live.and_then(|live| live.policy.clone()),
        resident: owners.resident(view.held.iter().filter(|held| held.device.as_deref() == Some(&row.id))),
        variants: live.map(|live| live.variants.iter().map(|one| variant(owners, one)).collect()).unwrap_or_default(),
        staleness,
    }
}

fn variant(owners: &Owners, variant: &VariantEntry) -> DeviceVariant {
    DeviceVariant { model_name: owners.name_of(variant.base), variant: variant.clone() }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
