//! Pipelines: what is declared, where each is to be applied and is, and what was done when.

mod declare;
mod devices;
mod history;
mod marks;
mod wants;

pub use declare::{PipelineRow, find, insert, list, lock, names, remove, set_job, update};
pub use devices::{PipelineDeviceRow, lock_device, of_all, of_each, of_pipeline};
pub use history::{
    Event, EventRow, add as add_event, add_failed_choices, list as list_events, named, prune as prune_events,
    removed_names,
};
pub use marks::{AppliedMark, RestoredMark, is_recorded, mark_applied, mark_restored};
pub use wants::{Want, clear, note, settle, take, unwant, want};

use serde_json::Value;

use super::DbError;
use crate::pipeline::Declared;

fn encoded(declared: &Declared) -> Result<Value, DbError> {
    serde_json::to_value(declared).map_err(|error| DbError::BadRow(error.to_string()))
}

fn decoded(value: Value) -> Result<Declared, DbError> {
    serde_json::from_value(value).map_err(|error| DbError::BadRow(format!("a declaration of a pipeline: {error}")))
}
