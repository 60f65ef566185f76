//! What the agent knows of the components on a device beyond their bytes: which models were loaded there and need them.
//!
//! The bytes are the runner's; this book is kept beside them and dies with them. A note belongs to one copy: once the copy
//! was replaced or went away with its runner, the note says nothing any more. What is noted here is published with the
//! bytes, so that the database has it as well.

mod book;

use std::sync::{Mutex, MutexGuard, PoisonError};

use book::Book;
use shared::ids::{ComponentId, ModelId};

use crate::runner::DeviceResident;

/// The book of one device.
#[derive(Debug, Default)]
pub struct DeviceTier {
    book: Mutex<Book>,
}

impl DeviceTier {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A model was loaded and needs this copy.
    pub fn needs(&self, model: ModelId, copy: &DeviceResident) {
        self.book().note(copy).models.insert(model);
    }

    /// A model does not need a component any more.
    pub fn needs_no_more(&self, model: ModelId, component: ComponentId) {
        self.book().forget_model(model, component);
    }

    /// The models that need this copy.
    pub fn models(&self, copy: &DeviceResident) -> Vec<ModelId> {
        self.book().of(copy).map(|note| note.models.iter().copied().collect()).unwrap_or_default()
    }

    /// What is noted of one copy counts for another: both hold the same component, and the first is given back.
    pub fn hand_over(&self, from: &DeviceResident, to: &DeviceResident) {
        self.book().hand_over(from, to);
    }
}
