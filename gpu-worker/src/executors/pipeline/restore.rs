//! `restore_pipeline`: its bases are run as they are again. Nothing has to be written for that: they were never changed. What was
//! converted for want of room is loaded again; whether the others are what they were is checked.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use residency::Reason;
use serde_json::json;
use shared::{
    ids::ComponentId,
    job::{RestorePipelineArgs, engine::Role},
};

use super::{
    super::{
        Done,
        engine::{Draft, Extras, Site, vae_of},
        load::device_of,
        model,
    },
    change::PipelineChange,
    check,
};
use crate::{
    commit::Effects, context::Agent, device_tier::evict, error::WorkError, managers::variants::Variant,
    runner::DeviceResident, running::Attempt,
};

pub(in crate::executors) async fn run(
    agent: &Arc<Agent>,
    args: RestorePipelineArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let site = Site { agent, attempt, device: device_of(agent, attempt)? };
    let deaths = site.device.deaths();
    let adapted = adapted(site, &args).await?;
    let used = used_by(site, &args, &adapted);
    let (converted, others): (Vec<_>, Vec<_>) = used.into_iter().partition(|(variant, _)| variant.is_whole);
    let mut digests = Vec::new();
    let back = alone(&args, &converted);
    for variant in &back {
        evict::take(agent, site.device, variant.id, Reason::Requested, true).await?;
    }
    if !back.is_empty() {
        digests = load_base(site, &args).await?;
    }
    let copies = bases(site, &others, adapted);
    let mut checks = Vec::new();
    if args.verify {
        checks = verify(site, &args, &copies, &mut digests).await?;
        site.must_live_since(deaths)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let result = json!({
        "pipeline": args.name, "generation": args.generation, "device": site.device.id, "seconds": seconds,
        "released": others.iter().map(|(variant, _)| variant.key.as_str()).collect::<Vec<_>>(),
        "loaded_again": back.iter().map(|variant| variant.base).collect::<Vec<_>>(),
        "checked_afterwards": if args.verify { 0 } else { copies.len() },
        "checks": checks.iter().map(check::Checked::view).collect::<Vec<_>>(),
    });
    if !args.verify && !copies.is_empty() {
        let (agent, device) = (agent.clone(), site.device.clone());
        let (tasks, stopping) = (agent.tasks.clone(), agent.tasks.token().clone());
        tasks.spawn("restore-check", async move {
            tokio::select! {
                () = check::in_the_background(&agent, &device, &copies) => {}
                () = stopping.cancelled() => {}
            }
        });
    }
    let change = PipelineChange::restored(args, site, seconds, result.clone());
    Ok(Done { result, effects: Effects::Pipeline(Box::new(change), digests) })
}

/// The components that the pipeline's LoRAs are for, as the catalogue has them now: what was applied may have been evicted and
/// made again since. A model that left the catalogue has none.
async fn adapted(site: Site<'_>, args: &RestorePipelineArgs) -> Result<BTreeSet<ComponentId>, WorkError> {
    let RestorePipelineArgs { assembly, .. } = args;
    let mut ids = BTreeSet::new();
    let stand_ins = assembly.text_encoders.values().map(|model| (*model, Role::TextEncoders));
    for (model, role) in stand_ins.chain([(assembly.model, Role::LoraBase)]) {
        let wanted = match model::wanted(site.agent, model, None).await {
            Ok(wanted) => wanted,
            Err(WorkError::NoModel(_) | WorkError::NothingToLoad { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_replaced = |kind: &str| model == assembly.model && assembly.text_encoders.contains_key(kind);
        let parts = wanted.components.iter().filter(|row| role.means(&row.kind) && !is_replaced(&row.kind));
        ids.extend(parts.map(|row| row.id));
    }
    Ok(ids)
}

/// The variants that the pipeline uses, and converted bases of its own that no pipeline uses.
fn used_by(
    site: Site<'_>,
    args: &RestorePipelineArgs,
    adapted: &BTreeSet<ComponentId>,
) -> Vec<(Variant, DeviceResident)> {
    let mut used = site.device.variants.among(&site.device.resident());
    let is_made_again =
        |variant: &Variant| variant.is_whole && variant.pipelines.is_empty() && adapted.contains(&variant.base);
    used.retain(|(variant, _)| variant.pipelines.contains_key(&args.pipeline) || is_made_again(variant));
    used
}

/// Converted bases that no other pipeline runs.
fn alone(args: &RestorePipelineArgs, converted: &[(Variant, DeviceResident)]) -> Vec<Variant> {
    let only = |variant: &Variant| variant.pipelines.keys().all(|pipeline| *pipeline == args.pipeline);
    converted.iter().map(|(variant, _)| variant.clone()).filter(only).collect()
}

async fn load_base(site: Site<'_>, args: &RestorePipelineArgs) -> Result<Vec<(ComponentId, String)>, WorkError> {
    let assembly = &args.assembly;
    let vae = vae_of(site.agent, assembly.model, assembly.vae).await?;
    let role = if vae.is_some() { Role::WithoutVae } else { Role::Pipeline };
    let extras = Extras { vae, text_encoders: &assembly.text_encoders, ..Extras::loras(&[]) };
    Ok(Draft::of(site, assembly.model, role, extras).await?.realise(site).await?.digests())
}

/// The copies of the bases of these variants and of what the pipeline adapts, each once.
fn bases(
    site: Site<'_>,
    variants: &[(Variant, DeviceResident)],
    adapted: BTreeSet<ComponentId>,
) -> Vec<DeviceResident> {
    let of_variants = variants.iter().map(|(variant, _)| variant.base);
    let bases: BTreeSet<ComponentId> = of_variants.chain(adapted).collect();
    let mut copies = site.device.resident();
    copies.retain(|copy| copy.variant.is_none() && bases.contains(&site.agent.aliases.now(copy.component)));
    copies
}

async fn verify(
    site: Site<'_>,
    args: &RestorePipelineArgs,
    copies: &[DeviceResident],
    digests: &mut Vec<(ComponentId, String)>,
) -> Result<Vec<check::Checked>, WorkError> {
    site.attempt.progress.enter("checking", 0);
    let checks = check::all(site.agent, site.device, copies).await;
    check::must_be_known(site.device, &checks)?;
    if checks.iter().any(check::Checked::differs) {
        check::take_off_different(site.agent, site.device, &checks).await?;
        digests.extend(load_base(site, args).await?);
    }
    Ok(checks)
}
