//! A model that takes part: its rows, and the headers of its files on this host.

use model_formats::{
    Base,
    convert::{Model, Said},
    metadata::claimed_base,
};
use serde_json::Value;
use shared::{db::models, ids::ModelId};

use super::super::model::{self, Wanted, blocking};
use crate::{catalogue, commit::Hashed, context::Agent, error::WorkError, judge, managers::parts, running::Attempt};

/// A model of the catalogue with its headers.
pub(super) struct Source {
    pub(super) wanted: Wanted,
    pub(super) model: Model,
    /// Name of the root that it lies below.
    pub(super) root: String,
}

impl Source {
    pub(super) async fn read(agent: &Agent, attempt: &Attempt, id: ModelId) -> Result<Self, WorkError> {
        let wanted = model::wanted(agent, id, None).await?;
        let mut inspection = model::inspect(agent, attempt, &wanted).await?;
        // the files are read as they are, beside every tier: a digest would be compared with nothing
        let files: Vec<_> =
            inspection.files.iter().map(|file| (file.path.clone(), (&catalogue::identity(file)).into())).collect();
        judge::must_not_be_marked(agent, &files).await?;
        let locations = models::locations_of(&agent.pool, &[id]).await?;
        let here = locations.into_iter().find(|location| location.host == agent.host);
        let missing = || WorkError::NotHere { model: wanted.model.name.clone(), host: agent.host.clone() };
        let root = here.ok_or_else(missing)?.root;
        // of a folder, the parts say where their files are
        let path = inspection.files.first().map(|file| file.path.clone()).unwrap_or_default();
        let overrides = &wanted.model.overrides;
        let said = Said {
            configs: overrides.get("config").and_then(Value::as_object).cloned().unwrap_or_default(),
            prediction: overrides.get("prediction").and_then(Value::as_str).map(str::to_owned),
        };
        // what lies beside the files and claims it was read by the scan
        inspection.prediction = parts::prediction(&wanted.model, &inspection);
        let model = blocking("reading headers", move || Model::open(&path, inspection)).await??;
        Ok(Self { wanted, model: model.with(said), root })
    }

    /// Takes over the digests that were computed of it for this, or by others since it was read.
    pub(super) async fn know(&mut self, agent: &Agent, hashed: &Hashed) -> Result<(), WorkError> {
        let Some(own) = hashed.models.iter().find(|model| model.hashes.model == self.wanted.model.id) else {
            self.wanted = model::wanted(agent, self.wanted.model.id, None).await?;
            return Ok(());
        };
        self.wanted.model.content_digest = Some(own.hashes.content_digest.clone());
        self.wanted.model.sha256 = own.hashes.sha256.clone();
        for row in &mut self.wanted.components {
            let part = own.parts.iter().find(|part| part.id == row.id);
            row.digest = part.map(|part| part.digest.clone()).or_else(|| row.digest.take());
        }
        Ok(())
    }

    /// Its family; none where neither its operator nor its files say one that is known.
    pub(super) fn family(&self) -> Option<Base> {
        parts::base(&self.wanted.model, &self.model.inspection).as_deref().and_then(claimed_base)
    }

    /// Digests of its components, those that are known.
    pub(super) fn digests(&self) -> serde_json::Map<String, Value> {
        let known = self.wanted.components.iter();
        known.filter_map(|row| Some((row.kind.clone(), row.digest.clone()?.into()))).collect()
    }
}
