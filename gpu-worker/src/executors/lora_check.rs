//! `lora_check`: which tensors of a base a LoRA would change, and whether it is for that base at all. The LoRA is made
//! resident in RAM for it, like any component; of the base only headers are read.

use std::{num::NonZeroUsize, sync::Arc};

use engine::lora::{BaseTensor, Fit, Lora, Mismatch, Module, Report, estimate, match_base};
use model_formats::Inspection;
use residency::Lease;
use shared::{
    job::engine::{LoraCheckArgs, Role},
    wire::{LoraCheckResult, LoraFit, LoraMismatch},
};

use super::{
    Done,
    landed::Landed,
    load::watched,
    model::{self, blocking, inspect, wanted},
};
use crate::{
    commit::Effects,
    context::Agent,
    error::WorkError,
    managers::{lora, parts},
    running::Attempt,
};

pub(super) async fn run(agent: &Arc<Agent>, args: LoraCheckArgs, attempt: &Attempt) -> Result<Done, WorkError> {
    attempt.progress.enter("reading headers", 0);
    let base = wanted(agent, args.base, None).await?;
    let headers = inspect(agent, attempt, &base).await?;
    let (base_tensors, of_base) = (base_tensors(&base.components, &headers), parts::base(&base.model, &headers));
    let applied = wanted(agent, args.lora, Some(&vec!["lora".to_owned()])).await?;
    let inspection = inspect(agent, attempt, &applied).await?;
    let of_lora = parts::base(&applied.model, &inspection);
    let (lease, cached) = resident(agent, attempt, &applied, &inspection).await?;
    let (name, digest, bytes) = (applied.model.name.clone(), lease.digest().to_string(), lease.tensor_bytes());
    attempt.progress.enter("matching", 0);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let whose = name.clone();
    let work = move || check(&whose, (&lease, &inspection), &base_tensors, threads);
    let (read, report, seconds, warnings) = blocking("matching the LoRA", work).await??;
    let families = lora::other_family(of_lora.as_deref(), of_base.as_deref());
    let refusal = lora::refusal(report.refusal(), families.as_ref());
    let result = LoraCheckResult {
        lora: name,
        base: base.model.name.clone(),
        host: agent.host.clone(),
        fits: refusal.is_none(),
        refusal,
        digest,
        lora_bytes: bytes,
        from: if cached { "ram" } else { "disk" }.to_owned(),
        without_effect: read.modules.iter().filter(|module| is_idle(module, &report)).count(),
        others: read.others,
        warnings,
        untouched: report.untouched,
        families,
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

/// A module that fits and changes nothing.
fn is_idle(module: &Module, report: &Report) -> bool {
    let fits = || report.matched.iter().any(|fit| fit.stem == module.stem);
    module.scale == 0.0 && module.flavour() != "bias" && fits()
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
pub(super) async fn resident(
    agent: &Agent,
    attempt: &Attempt,
    lora: &model::Wanted,
    inspection: &Inspection,
) -> Result<(Lease, bool), WorkError> {
    let missing = || WorkError::NothingToLoad { model: lora.model.name.clone(), reason: None };
    let row = lora.components.first().ok_or_else(missing)?;
    attempt.progress.enter("reading", lora.bytes());
    let landed = Landed::new(lora.bytes());
    let request = model::request(agent, attempt, row, inspection)?;
    watched(attempt, model::acquire(agent, attempt, request, &landed), || landed.bytes()).await
}

/// The canonical tensors of what a LoRA can change.
pub(super) fn base_tensors(rows: &[shared::db::models::ComponentRow], inspection: &Inspection) -> Vec<BaseTensor> {
    let adapted = rows.iter().filter(|row| Role::LoraBase.means(&row.kind));
    adapted.flat_map(|row| lora::base_tensors(row, &row.kind, inspection)).collect()
}

fn check(
    name: &str,
    (lease, inspection): (&Lease, &Inspection),
    base: &[BaseTensor],
    threads: NonZeroUsize,
) -> Result<(Lora, Report, f64, Vec<String>), WorkError> {
    let system = |source| WorkError::System { what: "mapping the LoRA's memory".to_owned(), source };
    let map = lease.map().map_err(system)?;
    let settings = lora::settings(inspection);
    let settings = settings.map_err(|source| WorkError::LoraSettings { lora: name.to_owned(), source })?;
    let read =
        lora::read(lease, &map, &settings.of).map_err(|source| WorkError::Lora { lora: name.to_owned(), source })?;
    let report = match_base(&read, base);
    let seconds = estimate(&read, &report, threads).as_secs_f64();
    Ok((read, report, seconds, settings.unread))
}
