//! Which model each resident component belongs to, and what follows for a model's status.

use std::collections::{BTreeSet, HashMap};

use shared::{
    db::{
        Session,
        models::{self, ComponentRow, OwnedComponent},
    },
    ids::{ComponentId, ModelId},
    wire::{ModelStatus, ResidentComponent},
};

use crate::{
    merge::{Held, View},
    problem::ApiError,
};

/// The models that each component is in, by name.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<ComponentId, Vec<OwnedComponent>>);

impl Owners {
    /// Looks up the owners of all that these hold.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn of<'h>(conn: &mut Session, held: impl Iterator<Item = &'h Held>) -> Result<Self, ApiError> {
        Self::of_ids(conn, held.map(|held| held.component)).await
    }

    /// Looks up the owners of these components.
    ///
    /// # Errors
    /// Database errors.
    pub(crate) async fn of_ids(
        conn: &mut Session,
        components: impl Iterator<Item = ComponentId>,
    ) -> Result<Self, ApiError> {
        let ids: BTreeSet<ComponentId> = components.collect();
        let rows = models::owners_of(conn, &ids.into_iter().collect::<Vec<_>>()).await?;
        let mut owners: HashMap<ComponentId, Vec<OwnedComponent>> = HashMap::new();
        for row in rows {
            owners.entry(row.id).or_default().push(row);
        }
        Ok(Self(owners))
    }

    /// The first model that a component is in; none when it left the catalogue.
    pub(crate) fn name_of(&self, component: ComponentId) -> Option<String> {
        Some(self.0.get(&component)?.first()?.model_name.clone())
    }

    /// The models, by name.
    pub(crate) fn models(&self) -> Vec<(ModelId, String)> {
        let names: BTreeSet<_> = self.0.values().flatten().map(|row| (row.model_name.clone(), row.model_id)).collect();
        names.into_iter().map(|(name, id)| (id, name)).collect()
    }

    /// These as the wire shows them, each with the first model that it is in; what left the catalogue is left out.
    pub(crate) fn resident<'h>(&self, held: impl Iterator<Item = &'h Held>) -> Vec<ResidentComponent> {
        held.filter_map(|held| self.0.get(&held.component)?.first().map(|owner| self.shown(held, owner))).collect()
    }

    /// The part that a held component plays in a model.
    fn in_model(&self, model: ModelId, held: &Held) -> Option<&OwnedComponent> {
        self.0.get(&held.component)?.iter().find(|owner| owner.model_id == model)
    }

    /// One held component as the wire shows it, with the models that need it as far as they still have it.
    fn shown(&self, held: &Held, owner: &OwnedComponent) -> ResidentComponent {
        let owners = self.0.get(&held.component).into_iter().flatten();
        let needing = owners.filter(|row| held.models.contains(&row.model_id));
        let needed_by: BTreeSet<String> = needing.map(|row| row.model_name.clone()).collect();
        ResidentComponent { needed_by: needed_by.into_iter().collect(), ..resident(held, owner) }
    }

    /// One model's residency among `held`.
    pub(crate) fn status<'h>(
        &self,
        (model, name): (ModelId, String),
        components: &[ComponentRow],
        held: impl Iterator<Item = &'h Held>,
        view: &View,
    ) -> ModelStatus {
        let resident: Vec<_> =
            held.filter_map(|held| self.in_model(model, held).map(|owner| self.shown(held, owner))).collect();
        let absent = components
            .iter()
            .filter(|component| component.model_id == model)
            .filter(|component| !resident.iter().any(|there| there.component == component.id && there.state == "ready"))
            .map(|component| component.kind.clone())
            .collect();
        ModelStatus { model, name, resident, absent, jobs: Vec::new(), staleness: view.staleness.clone() }
    }
}

fn resident(held: &Held, owner: &OwnedComponent) -> ResidentComponent {
    ResidentComponent {
        component: held.component,
        kind: owner.kind.clone(),
        model: owner.model_id,
        model_name: owner.model_name.clone(),
        tier: held.tier().to_owned(),
        host: held.host.clone(),
        device: held.device.clone(),
        state: held.state.clone(),
        bytes: held.bytes,
        leases: held.leases,
        protected: held.protected,
        since: held.since,
        last_used: held.last_used,
        hits: held.hits,
        holders: held.holders.clone(),
        needed_by: Vec::new(),
        expires_at: held.expires_at,
        eviction: held.eviction.clone(),
        progress: held.progress.clone(),
        failure: held.failure.clone(),
    }
}
