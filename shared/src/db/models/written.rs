//! Models as they are written: in rounds that a few statements write, with what is large as text already.

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::Value;

use super::{FoundModel, lane};
use crate::db::DbError;

/// Models that are written by one round of statements, and the bytes of their metadata that end a round sooner.
const MODELS: usize = 500;
const BYTES: usize = 8 << 20;

/// Models that are recorded together.
#[derive(Debug, Default)]
pub struct Batch<'f> {
    pub(super) models: Vec<Written<'f>>,
    bytes: usize,
}

impl<'f> Batch<'f> {
    /// So many models that no more should come to them.
    pub fn is_full(&self) -> bool {
        self.models.len() >= MODELS || self.bytes > BYTES
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// Paths of the models, below their root.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.found.rel_path.as_str())
    }

    /// The lanes of its models, in order.
    pub(super) fn lanes(&self) -> Vec<usize> {
        let lanes: BTreeSet<usize> = self.paths().map(lane).collect();
        lanes.into_iter().collect()
    }

    /// Adds a model.
    pub fn push(&mut self, model: Written<'f>) {
        self.bytes += model.texts.metadata.len() + model.texts.evidence.len();
        self.models.push(model);
    }

    /// Puts the models in the order in which everybody locks their rows.
    pub fn sort(&mut self) {
        self.models.sort_by(|a, b| a.found.rel_path.cmp(&b.found.rel_path));
    }

    /// Models in rounds, in their order.
    pub(super) fn of(found: &'f [FoundModel]) -> Result<Vec<Self>, DbError> {
        let (mut batches, mut batch) = (Vec::new(), Self::default());
        for model in found {
            batch.push(Written::of(model)?);
            if batch.is_full() {
                batches.push(std::mem::take(&mut batch));
            }
        }
        batches.push(batch);
        batches.retain(|batch| !batch.is_empty());
        Ok(batches)
    }
}

/// A model as it is written.
#[derive(Debug)]
pub struct Written<'f> {
    /// The model.
    pub(super) found: Cow<'f, FoundModel>,
    /// What is made of it for the database.
    pub(super) texts: Texts,
}

/// What of a model is written as text; JSON but for the title.
#[derive(Debug)]
pub(super) struct Texts {
    /// Its evidence.
    pub(super) evidence: String,
    /// Its metadata.
    pub(super) metadata: String,
    /// Its files.
    pub(super) files: String,
    /// Its correction.
    pub(super) read_as: String,
    /// The title that its files give it.
    pub(super) title: Option<String>,
    /// The tags that they give it; none when there are none.
    pub(super) tags: Option<String>,
}

impl Texts {
    fn of(found: &FoundModel) -> Result<Self, serde_json::Error> {
        let said = |key| found.metadata.get("extracted").and_then(|said| said.get(key));
        let tags = said("tags").filter(|tags| tags.as_array().is_some_and(|tags| !tags.is_empty()));
        Ok(Self {
            evidence: serde_json::to_string(&found.evidence)?,
            metadata: serde_json::to_string(&found.metadata)?,
            files: serde_json::to_string(&found.files)?,
            read_as: serde_json::to_string(&found.read_as)?,
            title: said("title").and_then(Value::as_str).map(str::to_owned),
            tags: tags.map(serde_json::to_string).transpose()?,
        })
    }
}

fn no_json(error: serde_json::Error) -> DbError {
    DbError::BadRow(error.to_string())
}

impl<'f> Written<'f> {
    /// Makes the texts.
    ///
    /// # Errors
    /// [`DbError::BadRow`] for what is no JSON.
    pub fn of(found: &'f FoundModel) -> Result<Self, DbError> {
        Ok(Self { texts: Texts::of(found).map_err(no_json)?, found: Cow::Borrowed(found) })
    }
}

impl Written<'static> {
    /// Makes the texts and keeps of the model what they do not hold.
    ///
    /// # Errors
    /// As [`Written::of`], with the model.
    pub fn by_value(mut found: FoundModel) -> Result<Self, (DbError, Box<FoundModel>)> {
        let texts = match Texts::of(&found) {
            Ok(texts) => texts,
            Err(error) => return Err((no_json(error), Box::new(found))),
        };
        (found.evidence, found.metadata) = (Value::Null, Value::Null);
        Ok(Self { found: Cow::Owned(found), texts })
    }
}
