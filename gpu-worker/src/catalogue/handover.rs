//! Models handed over to be recorded while the headers of others are read: batches for each lane of the catalogue.

use std::{
    array,
    sync::{Mutex, PoisonError},
};

use shared::db::models::{Batch, FoundModel, LANES, Written, lane};

/// Gathers what threads give into batches, and passes each on once it is full.
pub struct Handover<'s> {
    lanes: [Mutex<Batch<'static>>; LANES],
    /// Where the batches of a lane go. May wait.
    to: &'s (dyn Fn(usize, Batch<'static>) + Sync),
}

impl std::fmt::Debug for Handover<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

impl<'s> Handover<'s> {
    /// Passes the batches of each lane on to `to`.
    pub fn new(to: &'s (dyn Fn(usize, Batch<'static>) + Sync)) -> Self {
        Self { lanes: array::from_fn(|_| Mutex::default()), to }
    }

    /// Gives a model away; its path. A model that cannot be written comes back.
    pub(super) fn give(&self, model: FoundModel) -> Result<String, Box<FoundModel>> {
        let (rel_path, lane) = (model.rel_path.clone(), lane(&model.rel_path));
        // the texts are made here, on the thread that read the model, and not by the one that waits for the database
        let written = Written::by_value(model).map_err(|(_, model)| model)?;
        if let Some(batch) = self.lanes.get(lane).and_then(|batch| add(batch, written)) {
            self.pass(lane, batch);
        }
        Ok(rel_path)
    }

    /// Passes on what is left.
    pub(super) fn finish(&self) {
        for (lane, batch) in self.lanes.iter().enumerate() {
            let left = std::mem::take(&mut *batch.lock().unwrap_or_else(PoisonError::into_inner));
            if !left.is_empty() {
                self.pass(lane, left);
            }
        }
    }

    fn pass(&self, lane: usize, mut batch: Batch<'static>) {
        batch.sort();
        (self.to)(lane, batch);
    }
}

/// The batch with this model, once it is full.
fn add(batch: &Mutex<Batch<'static>>, model: Written<'static>) -> Option<Batch<'static>> {
    let mut batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
    batch.push(model);
    batch.is_full().then(|| std::mem::take(&mut *batch))
}
