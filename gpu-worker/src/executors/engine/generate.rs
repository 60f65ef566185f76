//! `generate`: a prompt to images.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use serde_json::Value;
use shared::{
    db::models,
    ids::ModelId,
    job::engine::{GenerateArgs, Role},
};

use super::{
    super::{
        Done,
        load::device_of,
        model::{self, blocking},
    },
    draft::Extras,
    ensemble::Ensemble,
    preview::Previewer,
    run::{self, Runs},
    site::Site,
    vae::DECODERS,
};
use crate::{
    context::Agent,
    error::WorkError,
    inputs,
    managers::{
        parts,
        vae::{self, Candidate},
    },
    runner::{Blob, GenerateWork, PartFacts, RunPart, TENSORS, Work},
    running::Attempt,
};

/// Characters of a hash that people write beside a model's name.
const HASH: usize = 10;

pub(in crate::executors) async fn run(
    agent: &Arc<Agent>,
    args: GenerateArgs,
    attempt: &Attempt,
) -> Result<Done, WorkError> {
    let started = Instant::now();
    let device = device_of(agent, attempt)?;
    let vae = vae_of(agent, args.model, args.vae).await?;
    let role = if vae.is_some() { Role::WithoutVae } else { Role::Pipeline };
    let extras = Extras { vae, text_encoders: &args.text_encoders, ..Extras::loras(&args.loras) };
    let site = Site { agent, attempt, device };
    let ensemble = Ensemble::ensure(site, args.model, role, extras).await?;
    let previewer = Previewer::ensure(site, &args, ensemble.base().family().as_deref()).await?;
    // after the components: a load that waits holds no inputs
    let mut given = Vec::new();
    if let Some(noise) = &args.noise {
        let bytes = inputs::read(agent, noise).await?;
        given.push(Blob { name: TENSORS.to_owned(), media_type: String::new(), bytes });
    }
    let shows = args.preview_every.is_some();
    let work = Generation::of(agent, &ensemble).await?.work(&ensemble, args, previewer.part()?)?;
    let parts: Vec<RunPart> = ensemble.run_parts(agent).into_iter().chain(previewer.run_part(agent)).collect();
    let ran = Runs { agent, attempt, device }.run(&work, &parts, given).await?;
    let mut took = ensemble.took();
    if shows {
        took.view.insert("preview".to_owned(), previewer.view());
    }
    Ok(run::done(device, took, ran, started))
}

/// The model whose VAE decodes, when it is not the model's own: the one that the request names, or one of this host for the
/// same family where the model brings none.
pub(in crate::executors) async fn vae_of(
    agent: &Agent,
    model: ModelId,
    named: Option<ModelId>,
) -> Result<Option<ModelId>, WorkError> {
    if named.is_some() {
        return Ok(named);
    }
    let wanted = model::wanted(agent, model, None).await?;
    if wanted.components.iter().any(|row| Role::VaeDecoder.means(&row.kind)) {
        return Ok(None);
    }
    let said = wanted.model.overrides.get("base").and_then(Value::as_str);
    let base = said.unwrap_or(&wanted.model.base);
    let rows = models::of_types_on(&agent.pool, &agent.host, &["vae", "taesd"]).await?;
    let needed: BTreeSet<ModelId> = agent
        .devices
        .values()
        .flat_map(|device| device.resident().iter().flat_map(|copy| device.tier.noted(copy).models).collect::<Vec<_>>())
        .collect();
    let candidates: Vec<Candidate> = rows.iter().map(|row| Candidate::of(row, needed.contains(&row.id))).collect();
    match vae::choose(base, &candidates) {
        Some(chosen) => {
            tracing::info!(vae = chosen.name, base, "the model brings no VAE; this one decodes");
            Ok(Some(chosen.model))
        }
        None => Err(WorkError::NoVae { model: wanted.model.name, base: base.to_owned(), host: agent.host.clone() }),
    }
}

/// What all generations of a model have in common beside its parts.
pub(in crate::executors) struct Generation {
    /// `model_index.json` of a folder.
    index: Option<Value>,
    /// Bytes that the job's artifacts may have.
    limit_bytes: u64,
}

impl Generation {
    /// Of a model that is on the device.
    pub(in crate::executors) async fn of(agent: &Agent, ensemble: &Ensemble) -> Result<Self, WorkError> {
        let headers = ensemble.base().inspection().clone();
        let index = blocking("reading an index", move || parts::index(&headers)).await??;
        Ok(Self { index, limit_bytes: agent.artifact_limit.0 })
    }

    /// The runner's work for these arguments.
    pub(in crate::executors) fn work(
        &self,
        ensemble: &Ensemble,
        args: GenerateArgs,
        preview: Option<PartFacts>,
    ) -> Result<Work, WorkError> {
        let base = ensemble.base();
        let zero = self.index.as_ref().and_then(|index| index.get("force_zeros_for_empty_prompt"));
        Ok(Work::Generate(Box::new(GenerateWork {
            encoders: ensemble.encoders(),
            unet: ensemble.first_part(&["unet"])?,
            vae: ensemble.first_part(&DECODERS)?,
            preview,
            scheduler: base.config("scheduler").cloned(),
            prediction: base.prediction(),
            zero_empty_negative: zero.and_then(Value::as_bool),
            model: base.name().to_owned(),
            hash: base.hash(HASH),
            loras: ensemble.loras().to_vec(),
            args,
            limit_bytes: self.limit_bytes,
            fresh: false,
        })))
    }
}
