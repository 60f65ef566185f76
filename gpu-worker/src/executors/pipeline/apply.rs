//! `apply_pipeline`: everything is loaded, changed and noted before the pipeline counts as applied. A job that fails or is
//! cancelled on the way changes nothing about what was applied before.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use serde_json::{Value, json};
use shared::{
    error::chain,
    ids::ComponentId,
    job::{ApplyPipelineArgs, Keep, engine::Role},
};

use super::{
    super::{
        Done,
        engine::{Draft, Ensemble, Extras, Site, vae_of},
        keep,
        load::device_of,
    },
    change::PipelineChange,
    check, dry_run,
};
use crate::{
    commit::Effects,
    context::{Agent, Device},
    error::WorkError,
    managers::variants,
    running::Attempt,
};

pub(in crate::executors) async fn run(
    agent: &Arc<Agent>,
    args: ApplyPipelineArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let site = Site { agent, attempt, device: device_of(agent, attempt)? };
    // before anything is looked at: what a process that dies meanwhile had is not there at the end
    let deaths = site.device.deaths();
    if args.dry_run {
        let draft = draft(site, &args).await?;
        return dry_run::plan(site, &args, &draft).await;
    }
    let mut ensemble = draft(site, &args).await?.realise(site).await?;
    let (mut checks, mut moved) = (Vec::new(), 0);
    if args.verify {
        checks = check::all(agent, site.device, &base_copies(site, &ensemble)).await;
        check::must_be_known(site.device, &checks)?;
        if checks.iter().any(check::Checked::differs) {
            // what was wrong is loaded and changed anew; what is in use could not be taken off
            moved = ensemble.moved_bytes();
            drop(ensemble);
            check::take_off_different(agent, site.device, &checks).await?;
            ensemble = draft(site, &args).await?.realise(site).await?;
        }
    }
    site.must_live_since(deaths)?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = moved + ensemble.moved_bytes();
    let mut result = ensemble.view();
    result.extend(facts(&args, &site.device.id, seconds));
    result.insert("checks".to_owned(), checks.iter().map(check::Checked::view).collect());
    let result = Value::Object(result);
    let digests = ensemble.digests();
    let change = PipelineChange::applied(args, (site, deaths), (seconds, bytes), (result.clone(), ensemble));
    Ok(Done { result, effects: Effects::Pipeline(Box::new(change), digests) })
}

pub(super) async fn draft(site: Site<'_>, args: &ApplyPipelineArgs) -> Result<Draft, WorkError> {
    let assembly = &args.assembly;
    let vae = vae_of(site.agent, assembly.model, assembly.vae).await?;
    let role = if vae.is_some() { Role::WithoutVae } else { Role::Pipeline };
    // protection is said at the end: a protected base is not converted, whatever this pipeline says about keeping
    let keep = Keep { keep_alive: args.keep_alive, protect: false };
    let extras = Extras { vae, text_encoders: &assembly.text_encoders, loras: &assembly.loras, keep };
    Draft::of(site, assembly.model, role, extras).await
}

/// What results of these jobs have in common.
pub(super) fn facts(args: &ApplyPipelineArgs, device: &str, seconds: f64) -> serde_json::Map<String, Value> {
    let facts = json!({
        "pipeline": args.name, "generation": args.generation, "device": device, "dry_run": args.dry_run, "seconds": seconds,
    });
    match facts {
        Value::Object(facts) => facts,
        _ => serde_json::Map::new(),
    }
}

/// The copies of bases that variants lie over.
fn base_copies(site: Site<'_>, ensemble: &Ensemble) -> Vec<crate::runner::DeviceResident> {
    let bases: BTreeSet<ComponentId> = ensemble.run_parts(site.agent).iter().map(|part| part.component).collect();
    let mut copies = site.device.resident();
    copies.retain(|copy| bases.contains(&copy.component) && copy.variant.is_none());
    copies
}

/// It is applied: the pipeline uses its variants and no others, and what it says about keeping is said of everything that it runs.
/// Only when that is about to be recorded, so that an
/// attempt whose end nobody takes changes nothing of what was applied before.
pub(super) fn enact(agent: &Agent, device: &Device, args: &ApplyPipelineArgs, ensemble: &Ensemble) {
    let taking = ensemble.run_parts(agent);
    for copy in device.resident() {
        let is = |id: ComponentId| id == copy.component;
        if taking.iter().any(|part| is(part.component) || part.overlay.is_some_and(is)) {
            device.tier.say(&copy, args.protect.then_some(true), args.keep_alive.and_then(keep::on_a_device));
        }
    }
    let keep = Keep { keep_alive: args.keep_alive, protect: args.protect };
    for row in ensemble.subjects().flat_map(|subject| subject.rows()) {
        if let Err(error) = keep::remember(agent, row.id, keep) {
            tracing::warn!(component = %row.id, error = %chain(&error), "what a pipeline says about keeping was not noted");
        }
    }
    let used: BTreeSet<ComponentId> = ensemble.made().values().map(|made| made.variant.id).collect();
    variants::use_for(device, (args.pipeline, &args.name), &used);
}
