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
    run::{self, Runs},
    subject::Subject,
    text,
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
    runner::{Blob, GenerateWork, TENSORS, Work},
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
    let own = vae_of(agent, &args).await?;
    let role = if own.is_some() { Role::WithoutVae } else { Role::Pipeline };
    let subject = Subject::ensure(agent, attempt, device, args.model, role).await?;
    let other = match own {
        Some(model) => Some(Subject::ensure(agent, attempt, device, model, Role::VaeDecoder).await?),
        None => None,
    };
    // after the components: a load that waits holds no inputs
    let mut given = Vec::new();
    if let Some(noise) = &args.noise {
        let bytes = inputs::read(agent, noise).await?;
        given.push(Blob { name: TENSORS.to_owned(), media_type: String::new(), bytes });
    }
    let work = Generation::of(agent, &subject).await?.work(&subject, other.as_ref(), args)?;
    let mut taking = subject.run_parts(agent);
    taking.extend(other.iter().flat_map(|other| other.run_parts(agent)));
    let ran = Runs { agent, attempt, device }.run(&work, &taking, given).await?;
    let subjects: Vec<&Subject> = [&subject].into_iter().chain(&other).collect();
    Ok(run::done(device, &subjects, ran, started))
}

/// The model whose VAE decodes, when it is not the model's own: the one that the request names, or one of this host for the
/// same family where the model brings none.
async fn vae_of(agent: &Agent, args: &GenerateArgs) -> Result<Option<ModelId>, WorkError> {
    if args.vae.is_some() {
        return Ok(args.vae);
    }
    let wanted = model::wanted(agent, args.model, None).await?;
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
    pub(in crate::executors) async fn of(agent: &Agent, subject: &Subject) -> Result<Self, WorkError> {
        let headers = subject.inspection().clone();
        let index = blocking("reading an index", move || parts::index(&headers)).await??;
        Ok(Self { index, limit_bytes: agent.artifact_limit.0 })
    }

    /// The runner's work for these arguments; with the VAE of another model, if there is one.
    pub(in crate::executors) fn work(
        &self,
        subject: &Subject,
        other: Option<&Subject>,
        args: GenerateArgs,
    ) -> Result<Work, WorkError> {
        let zero = self.index.as_ref().and_then(|index| index.get("force_zeros_for_empty_prompt"));
        Ok(Work::Generate(Box::new(GenerateWork {
            encoders: text::encoders(subject),
            unet: subject.first_part(&["unet"])?,
            vae: other.unwrap_or(subject).first_part(&DECODERS)?,
            scheduler: subject.config("scheduler").cloned(),
            prediction: subject.prediction(),
            zero_empty_negative: zero.and_then(Value::as_bool),
            model: subject.name().to_owned(),
            hash: subject.hash(HASH),
            args,
            limit_bytes: self.limit_bytes,
        })))
    }
}
