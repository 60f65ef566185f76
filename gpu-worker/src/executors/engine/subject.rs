//! A model that takes part in a run: its components on the device, and what is known of each.

use std::sync::Arc;

use model_formats::Inspection;
use shared::{
    db::models::ComponentRow,
    ids::{ComponentId, ModelId},
    job::{Keep, engine::Role},
};

use super::{
    super::{
        model::{self, Wanted},
        place::{self, Placed},
    },
    run::Took,
    site::Site,
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
    /// What of it is on the device; nothing before it was placed.
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
        let site = Site { agent, attempt, device };
        let mut subject = Self::find(site, wanted).await?;
        subject.place(site, Keep::default(), |_| true).await?;
        Ok(subject)
    }

    /// Reads its headers; nothing is loaded.
    pub(super) async fn find(site: Site<'_>, wanted: Wanted) -> Result<Self, WorkError> {
        let inspection = model::inspect(site.agent, site.attempt, &wanted).await?;
        Ok(Self::found(wanted, inspection))
    }

    /// Of headers that were read; nothing is loaded.
    pub(super) fn found(wanted: Wanted, inspection: Inspection) -> Self {
        Self { wanted, inspection, placed: Placed::default() }
    }

    /// Loads those of its components that are needed, unless they are there.
    pub(super) async fn place(
        &mut self,
        site: Site<'_>,
        keep: Keep,
        is_needed: impl Fn(&str) -> bool,
    ) -> Result<(), WorkError> {
        let mut needed = self.wanted.clone();
        needed.components.retain(|row| is_needed(&row.kind));
        let Site { agent, attempt, device } = site;
        self.placed = place::ensure(agent, attempt, device, (&needed, &self.inspection), keep).await?;
        Ok(())
    }

    /// Its components.
    pub(in crate::executors) fn rows(&self) -> &[ComponentRow] {
        &self.wanted.components
    }

    /// Bytes of it that were copied to the device for this.
    pub(super) fn copied_bytes(&self) -> u64 {
        self.placed.copied_bytes()
    }

    /// The id that the device holds one of its components under.
    pub(in crate::executors) fn held(&self, agent: &Agent, component: ComponentId) -> Option<ComponentId> {
        self.placed.held(agent, component)
    }

    /// What is known of each of its components.
    pub(in crate::executors) fn parts(&self) -> Vec<PartFacts> {
        self.rows().iter().map(|row| self.part_as(&row.kind, &row.kind)).collect()
    }

    /// What is known of its part of one kind, which is used as another.
    pub(super) fn part_as(&self, kind: &str, used_as: &str) -> PartFacts {
        let used_as = used_as.to_owned();
        PartFacts { slot: used_as.clone(), kind: used_as, ..parts::facts(&self.wanted.model, &self.inspection, kind) }
    }

    /// What is known of the first part of these kinds.
    pub(super) fn first_part(&self, kinds: &[&str]) -> Result<PartFacts, WorkError> {
        let found = kinds.iter().find(|kind| self.rows().iter().any(|row| row.kind == **kind));
        let missing = || WorkError::NoPart { model: self.wanted.model.name.clone(), part: "such component" };
        found.map(|kind| self.part_as(kind, kind)).ok_or_else(missing)
    }

    /// All its parts, as the runner finds them.
    pub(in crate::executors) fn run_parts(&self, agent: &Agent) -> Vec<RunPart> {
        let part = |row: &ComponentRow| {
            Some(RunPart { slot: row.kind.clone(), component: self.held(agent, row.id)?, overlay: None })
        };
        self.rows().iter().filter_map(part).collect()
    }

    /// The model's name.
    pub(in crate::executors) fn name(&self) -> &str {
        &self.wanted.model.name
    }

    /// Its family, where it is known.
    pub(super) fn family(&self) -> Option<String> {
        parts::base(&self.wanted.model, &self.inspection)
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
    pub(in crate::executors) fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// What took part, for the job's end.
    pub(super) fn took(&self) -> Took {
        let view = [("components".to_owned(), self.view().into()), ("model".to_owned(), self.name().into())];
        Took { view: view.into_iter().collect(), digests: self.digests() }
    }

    /// The components that took part, for the job's result.
    pub(super) fn view(&self) -> Vec<serde_json::Value> {
        self.placed.components.iter().map(place::PlacedComponent::view).collect()
    }

    /// What loads computed, for the catalogue.
    pub(in crate::executors) fn digests(&self) -> Vec<(ComponentId, String)> {
        self.placed.digests()
    }
}
