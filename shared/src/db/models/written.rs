//! Models as they are written: in rounds that a few statements write, with what is large as text already.

use std::borrow::Cow;

use serde_json::Value;

use super::FoundModel;
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

    /// Adds a model.
    pub fn push(&mut self, model: Written<'f>) {
        self.bytes += model.metadata.len() + model.evidence.len();
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
    /// Its evidence as JSON.
    pub(super) evidence: String,
    /// Its metadata as JSON.
    pub(super) metadata: String,
    /// Its files as JSON.
    pub(super) files: String,
    /// Its correction as JSON.
    pub(super) read_as: String,
}

impl<'f> Written<'f> {
    /// Makes the texts.
    ///
    /// # Errors
    /// [`DbError::BadRow`] for what is no JSON.
    pub fn of(found: &'f FoundModel) -> Result<Self, DbError> {
        let text = |value: Result<String, serde_json::Error>| value.map_err(|error| DbError::BadRow(error.to_string()));
        Ok(Self {
            evidence: text(serde_json::to_string(&found.evidence))?,
            metadata: text(serde_json::to_string(&found.metadata))?,
            files: text(serde_json::to_string(&found.files))?,
            read_as: text(serde_json::to_string(&found.read_as))?,
            found: Cow::Borrowed(found),
        })
    }
}

impl Written<'static> {
    /// Makes the texts and keeps of the model what they do not hold.
    ///
    /// # Errors
    /// As [`Written::of`], with the model.
    pub fn by_value(mut found: FoundModel) -> Result<Self, (DbError, Box<FoundModel>)> {
        let texts =
            Written::of(&found).map(|written| (written.evidence, written.metadata, written.files, written.read_as));
        let (evidence, metadata, files, read_as) = match texts {
            Ok(texts) => texts,
            Err(error) => return Err((error, Box::new(found))),
        };
        (found.evidence, found.metadata) = (Value::Null, Value::Null);
        Ok(Self { found: Cow::Owned(found), evidence, metadata, files, read_as })
    }
}
