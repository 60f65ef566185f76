//! A model that takes part in a run: its components on the device, and what is known of each.

use std::sync::Arc;

use model_formats::Inspection;
use shared::{
    db::models,
    ids::ModelId,
    job::{Keep, engine::Role},
};

use super::super::{
    model::{self, Wanted},
    place::{self, Placed},
};
use crate::{
    context::{Agent, Device},
    error::WorkError,
    managers::parts,
    runner::{PartFacts, RunPart},
    running::Attempt,
};

/// A model on a device, in use while this lives.
#[derive(Debug)]
pub(in crate::executors) struct Subject {
    wanted: Wanted,
    inspection: Inspection,
    placed: Placed,
}

impl Subject {
    /// Loads what of the model the role takes, unless it is there.
    pub(super) async fn ensure(
        agent: &Arc<Agent>,
        attempt: &Attempt,
        device: &Device,
        model: ModelId,
        role: Role,
    ) -> Result<Self, WorkError> {
        attempt.progress.enter("locating", 0);
        let mut wanted = model::wanted(agent, model, None).await?;
        wanted.must_have(role)?;
        Self::ensure_all(agent, attempt, device, wanted).await
    }

    /// Loads these components of a model, unless they are there.
    pub(in crate::executors) async fn ensure_all(
        agent: &Arc<Agent>,
        attempt: &Attempt,
        device: &Device,
        wanted: Wanted,
    ) -> Result<Self, WorkError> {
        let inspection = model::inspect(agent, attempt, &wanted).await?;
        let placed = place::ensure(agent, attempt, device, (&wanted, &inspection), Keep::default()).await?;
        Ok(Self { wanted, inspection, placed })
    }

    /// The kinds of its components.
    pub(in crate::executors) fn kinds(&self) -> Vec<String> {
        self.wanted.components.iter().map(|row| row.kind.clone()).collect()
    }

    /// What is known of each of its components.
    pub(in crate::executors) fn parts(&self) -> Vec<PartFacts> {
        let facts = |row: &models::ComponentRow| parts::facts(&self.wanted.model, &self.inspection, &row.kind);
        self.wanted.components.iter().map(facts).collect()
    }

    /// What is known of the part of this kind; none when the model has none.
    pub(super) fn part(&self, kind: &str) -> Option<PartFacts> {
        self.wanted.components.iter().find(|row| row.kind == kind)?;
        Some(parts::facts(&self.wanted.model, &self.inspection, kind))
    }

    /// What is known of the first part of these kinds.
    pub(super) fn first_part(&self, kinds: &[&str]) -> Result<PartFacts, WorkError> {
        let found = kinds.iter().find_map(|kind| self.part(kind));
        found.ok_or_else(|| WorkError::NoPart { model: self.wanted.model.name.clone(), part: "such component" })
    }

    /// All its parts, as the runner finds them.
    pub(in crate::executors) fn run_parts(&self, agent: &Agent) -> Vec<RunPart> {
        let part = |row: &models::ComponentRow| {
            Some(RunPart { slot: row.kind.clone(), component: self.placed.held(agent, row.id)?, overlay: None })
        };
        self.wanted.components.iter().filter_map(part).collect()
    }

    /// The model's name.
    pub(super) fn name(&self) -> &str {
        &self.wanted.model.name
    }

    /// A config of its files or the operator's that belongs to no component.
    pub(super) fn config(&self, name: &str) -> Option<&serde_json::Value> {
        parts::config(&self.wanted.model, &self.inspection, name)
    }

    /// What its denoiser predicts, where somebody says it.
    pub(super) fn prediction(&self) -> Option<String> {
        parts::prediction(&self.wanted.model, &self.inspection)
    }

    /// The first characters of its file's SHA-256; empty while it is not known.
    pub(super) fn hash(&self, characters: usize) -> String {
        self.wanted.model.sha256.iter().flat_map(|hash| hash.chars()).take(characters).collect()
    }

    /// Its headers.
    pub(super) fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// The components that took part, for the job's result.
    pub(super) fn view(&self) -> Vec<serde_json::Value> {
        self.placed.components.iter().map(place::PlacedComponent::view).collect()
    }

    /// What loads computed, for the catalogue.
    pub(in crate::executors) fn digests(&self) -> Vec<(shared::ids::ComponentId, String)> {
        self.placed.digests()
    }
}
