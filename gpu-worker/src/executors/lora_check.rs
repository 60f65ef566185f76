//! `lora_check`: which tensors of a base a LoRA would change, and whether it is for that base at all. The LoRA is made
//! resident in RAM for it, like any component; of the base only headers are read.

use std::{collections::BTreeMap, fs::File, io::Read, num::NonZeroUsize, path::Path, sync::Arc};

use engine::{
    ElementType,
    lora::{AdapterSettings, BaseTensor, Fit, Lora, LoraError, LoraTensor, Mismatch, Report, estimate, match_base},
};
use model_formats::Inspection;
use residency::Lease;
use serde_json::{Map, Value};
use shared::{
    job::engine::{LoraCheckArgs, Role},
    wire::{LoraCheckResult, LoraFit, LoraMismatch},
};

use super::{
    Done,
    load::watched,
    model::{self, Landed, blocking, inspect, wanted},
};
use crate::{commit::Effects, context::Agent, error::WorkError, load_request::load_request, running::Attempt};

/// Longest text of an adapter's settings.
const SETTINGS_MAX: u64 = 1 << 20;
/// Components that have adapters of their own.
const ADAPTED: [&str; 5] = ["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"];

pub(super) async fn run(agent: &Arc<Agent>, args: LoraCheckArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("reading headers", 0);
    let base = wanted(agent, args.base, None).await?;
    let base_tensors = base_tensors(&base.components, &inspect(agent, attempt, &base).await?);
    let lora = wanted(agent, args.lora, Some(&vec!["lora".to_owned()])).await?;
    let inspection = inspect(agent, attempt, &lora).await?;
    let (lease, cached) = resident(agent, attempt, &lora, &inspection).await?;
    let (name, digest, bytes) = (lora.model.name.clone(), lease.digest().to_string(), lease.tensor_bytes());
    attempt.progress.enter("matching", 0);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let checked = blocking("matching the LoRA", move || check(&lease, &inspection, &base_tensors, threads)).await??;
    let (read, report, seconds) = checked.map_err(|source| WorkError::Lora { lora: name.clone(), source })?;
    let result = LoraCheckResult {
        lora: name,
        base: base.model.name.clone(),
        host: agent.host.clone(),
        fits: report.refusal().is_none(),
        refusal: report.refusal(),
        digest,
        lora_bytes: bytes,
        from: if cached { "ram" } else { "disk" }.to_owned(),
        others: read.others,
        untouched: report.untouched,
        components: report.components,
        ranks: report.ranks,
        estimated_bytes: report.bytes,
        estimated_seconds: seconds,
        unmatched: report.unmatched,
        matched: report.matched.into_iter().map(fit).collect(),
        mismatched: report.mismatched.into_iter().map(mismatch).collect(),
    };
    let result = serde_json::to_value(result).map_err(|error| WorkError::System {
        what: "writing the result down".to_owned(),
        source: std::io::Error::other(error),
    })?;
    Ok(Done { result, effects: Effects::Resident(Vec::new()) })
}

fn fit(fit: Fit) -> LoraFit {
    let Fit { stem, component, path, rank, flavour, bytes } = fit;
    LoraFit { stem, component, path, rank, flavour: flavour.to_owned(), bytes }
}

fn mismatch(mismatch: Mismatch) -> LoraMismatch {
    let Mismatch { stem, tensor, found, expected } = mismatch;
    LoraMismatch { stem, tensor, found, expected }
}

/// The LoRA's component in RAM.
async fn resident(
    agent: &Agent,
    attempt: &Attempt,
    lora: &model::Wanted,
    inspection: &Inspection,
) -> Result<(Lease, bool), WorkError> {
    let missing = || WorkError::NothingToLoad { model: lora.model.name.clone(), reason: None };
    let row = lora.components.first().ok_or_else(missing)?;
    attempt.progress.enter("reading", lora.bytes());
    let landed = Arc::<Landed>::default();
    let request = model::request(agent, attempt, row, inspection, &landed)?;
    watched(attempt, model::acquire(agent, attempt, request), || landed.bytes()).await
}

/// The canonical tensors of what a LoRA can change.
fn base_tensors(rows: &[shared::db::models::ComponentRow], inspection: &Inspection) -> Vec<BaseTensor> {
    let mut tensors = Vec::new();
    for row in rows.iter().filter(|row| Role::LoraBase.means(&row.kind)) {
        let Some(request) = load_request(row, inspection) else { continue };
        let plain = request.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape, tensor.end - tensor.begin));
        let gathered =
            request.gathered.iter().map(|tensor| (&tensor.name, &tensor.shape, tensor.checked_bytes().unwrap_or(0)));
        tensors.extend(plain.chain(gathered).map(|(name, shape, bytes)| BaseTensor {
            component: row.kind.clone(),
            name: name.clone(),
            shape: shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect(),
            bytes,
        }));
    }
    tensors
}

type Checked = Result<(Lora, Report, f64), LoraError>;

fn check(
    lease: &Lease,
    inspection: &Inspection,
    base: &[BaseTensor],
    threads: NonZeroUsize,
) -> Result<Checked, WorkError> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |source| WorkError::System { what, source }
    };
    let map = lease.map().map_err(system("mapping the LoRA's memory"))?;
    let settings = settings(inspection).map_err(system("reading the adapter's settings"))?;
    Ok(read(lease, &map, &settings).map(|lora| {
        let report = match_base(&lora, base);
        let seconds = estimate(&lora, &report, threads).as_secs_f64();
        (lora, report, seconds)
    }))
}

fn read(lease: &Lease, bytes: &[u8], settings: &BTreeMap<String, AdapterSettings>) -> Result<Lora, LoraError> {
    let shapes: Vec<Vec<usize>> = lease
        .tensors()
        .iter()
        .map(|tensor| tensor.shape.iter().map(|side| usize::try_from(*side).unwrap_or(usize::MAX)).collect())
        .collect();
    let mut tensors = Vec::with_capacity(shapes.len());
    for (tensor, shape) in lease.tensors().iter().zip(&shapes) {
        let wrong = |reason: String| LoraError::Tensor { tensor: tensor.name.clone(), reason };
        let element = ElementType::parse(&tensor.dtype).ok_or_else(|| wrong(format!("stored as {}", tensor.dtype)))?;
        let range = usize::try_from(tensor.offset).ok().zip(usize::try_from(tensor.offset + tensor.len).ok());
        let bytes =
            range.and_then(|(begin, end)| bytes.get(begin..end)).ok_or_else(|| wrong("cut short".to_owned()))?;
        tensors.push(LoraTensor { name: &tensor.name, element, shape, bytes });
    }
    Lora::read(&tensors, settings)
}

/// What stands beside the factors: in the file's own metadata as diffusers writes it, or in PEFT's file in the same folder.
fn settings(inspection: &Inspection) -> std::io::Result<BTreeMap<String, AdapterSettings>> {
    let told = inspection.metadata.get("lora_adapter_metadata").and_then(Value::as_str);
    let told: Option<Map<String, Value>> = told.and_then(|text| serde_json::from_str(text).ok());
    if let Some(told) = told {
        let of = |component: &str| Some((component.to_owned(), AdapterSettings::from_json(&told, component)?));
        return Ok(ADAPTED.iter().filter_map(|component| of(component)).collect());
    }
    let file = inspection.files.first().map(|file| Path::new(&file.path));
    let beside = file.filter(|file| file.file_stem().is_some_and(|stem| stem == "adapter_model"));
    let Some(beside) = beside.and_then(Path::parent).map(|folder| folder.join("adapter_config.json")) else {
        return Ok(BTreeMap::new());
    };
    let text = match File::open(&beside) {
        Ok(file) => std::io::read_to_string(file.take(SETTINGS_MAX))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let told: Map<String, Value> = serde_json::from_str(&text)?;
    let settings = AdapterSettings::from_json(&told, "");
    Ok(settings.map(|settings| (String::new(), settings)).into_iter().collect())
}
