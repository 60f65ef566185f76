//! Models handed over to be recorded while the headers of others are read.

use std::sync::{Mutex, PoisonError};

use shared::db::models::{Batch, FoundModel, Written};

/// Gathers what threads give into batches, and passes each on once it is full.
pub struct Handover<'s> {
    batch: Mutex<Batch<'static>>,
    /// Where batches go. May wait.
    to: &'s (dyn Fn(Batch<'static>) + Sync),
}

impl std::fmt::Debug for Handover<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

impl<'s> Handover<'s> {
    /// Passes batches on to `to`.
    pub fn new(to: &'s (dyn Fn(Batch<'static>) + Sync)) -> Self {
        Self { batch: Mutex::default(), to }
    }

    /// Gives a model away; its path. A model that cannot be written comes back.
    pub(super) fn give(&self, model: FoundModel) -> Result<String, Box<FoundModel>> {
        let rel_path = model.rel_path.clone();
        // the texts are made here, on the thread that read the model, and not by the one that waits for the database
        let written = Written::by_value(model).map_err(|(_, model)| model)?;
        let full = {
            let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
            batch.push(written);
            batch.is_full().then(|| std::mem::take(&mut *batch))
        };
        full.into_iter().for_each(|batch| self.pass(batch));
        Ok(rel_path)
    }

    /// Passes on what is left.
    pub(super) fn finish(&self) {
        let left = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        if !left.is_empty() {
            self.pass(left);
        }
    }

    fn pass(&self, mut batch: Batch<'static>) {
        batch.sort();
        (self.to)(batch);
    }
}
