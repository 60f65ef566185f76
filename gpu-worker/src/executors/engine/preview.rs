//! What decodes the previews of a generation: the tiny autoencoder that the request names, else one of this host for the model's
//! family; where there is none, or no room for it, the engine shows weighted sums of the latents.

use model_formats::Evidence;
use serde_json::{Value, json};
use shared::{
    db::models,
    error::{Classify, ErrorCode, chain},
    ids::ModelId,
    job::engine::{GenerateArgs, Role},
};

use super::{site::Site, subject::Subject, vae::DECODERS};
use crate::{
    context::Agent,
    error::WorkError,
    managers::vae::{self, Candidate},
    runner::{PartFacts, RunPart},
};

/// What the run calls it.
const SLOT: &str = "preview";

/// The decoder of previews, on the device while this lives; none where sums have to do.
#[derive(Debug, Default)]
pub(super) struct Previewer {
    tiny: Option<Subject>,
    /// Why there is none although the host has one.
    without: Option<String>,
}

impl Previewer {
    /// Loads it, where previews are asked for.
    ///
    /// # Errors
    /// What keeps a named one from being there. One that nobody named is not missed.
    pub(super) async fn ensure(site: Site<'_>, args: &GenerateArgs, base: Option<&str>) -> Result<Self, WorkError> {
        if args.preview_every.is_none() {
            return Ok(Self::default());
        }
        let chosen = match (args.preview_vae, base) {
            (Some(named), _) => Some(named),
            (None, Some(base)) => chosen(site.agent, base).await?,
            (None, None) => None,
        };
        let Some(model) = chosen else { return Ok(Self::default()) };
        let loaded = Subject::ensure(site.agent, site.attempt, site.device, model, Role::VaeDecoder).await;
        // one that only encodes is told before the first step, and not at the first preview
        match loaded.and_then(|tiny| must_decode(&tiny).map(|()| tiny)) {
            Ok(tiny) => Ok(Self { tiny: Some(tiny), without: None }),
            Err(error) if args.preview_vae.is_none() && error.code() != ErrorCode::Cancelled => {
                Ok(Self { tiny: None, without: Some(chain(&error)) })
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of it.
    pub(super) fn part(&self) -> Result<Option<PartFacts>, WorkError> {
        let part = self.tiny.as_ref().map(|tiny| tiny.first_part(&DECODERS)).transpose()?;
        Ok(part.map(|part| PartFacts { slot: SLOT.to_owned(), ..part }))
    }

    /// The same as the runner finds it.
    pub(super) fn run_part(&self, agent: &Agent) -> Option<RunPart> {
        let tiny = self.tiny.as_ref()?;
        let part = tiny.run_parts(agent).into_iter().find(|part| DECODERS.contains(&part.slot.as_str()))?;
        Some(RunPart { slot: SLOT.to_owned(), ..part })
    }

    /// For the job's result.
    pub(super) fn view(&self) -> Value {
        json!({ "decoder": self.tiny.as_ref().map(Subject::name), "without": self.without })
    }
}

/// Refuses an encoder without its other half.
fn must_decode(tiny: &Subject) -> Result<(), WorkError> {
    tiny.first_part(&DECODERS)?;
    let is_encoder = |seen: &Evidence| seen.rule == "taesd.half" && seen.value == "encoder";
    if tiny.inspection().evidence.iter().any(is_encoder) {
        return Err(WorkError::NoPart { model: tiny.name().to_owned(), part: "decoder" });
    }
    Ok(())
}

/// The tiny autoencoder of this host for a family.
async fn chosen(agent: &Agent, base: &str) -> Result<Option<ModelId>, WorkError> {
    let rows = models::of_types_on(&agent.pool, &agent.host, &["taesd"]).await?;
    let candidates: Vec<Candidate> = rows.iter().map(|row| Candidate::of(row, false).by_name()).collect();
    Ok(vae::choose(base, &candidates).map(|candidate| candidate.model))
}
