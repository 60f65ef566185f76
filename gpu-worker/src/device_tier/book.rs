//! Notes about the copies on a device: plain data.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use shared::ids::{ComponentId, ModelId};

use crate::runner::DeviceResident;

/// What is noted of one copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    /// When the copy became resident: another copy of the component is another note.
    since: DateTime<Utc>,
    /// The models that were loaded and need it.
    pub(super) models: BTreeSet<ModelId>,
}

/// The notes by the id that a component is held under.
#[derive(Debug, Default)]
pub(super) struct Book {
    notes: BTreeMap<ComponentId, Note>,
}

impl Book {
    /// The note of this copy, if there is one.
    pub(super) fn of(&self, copy: &DeviceResident) -> Option<&Note> {
        self.notes.get(&copy.component).filter(|note| note.since == copy.since)
    }

    /// The note of this copy; an empty one where there was none or one of an earlier copy.
    pub(super) fn note(&mut self, copy: &DeviceResident) -> &mut Note {
        let fresh = || Note { since: copy.since, ..Note::default() };
        let note = self.notes.entry(copy.component).or_insert_with(fresh);
        if note.since != copy.since {
            *note = fresh();
        }
        note
    }

    pub(super) fn forget_model(&mut self, model: ModelId, component: ComponentId) {
        if let Some(note) = self.notes.get_mut(&component) {
            note.models.remove(&model);
        }
    }

    pub(super) fn hand_over(&mut self, from: &DeviceResident, to: &DeviceResident) {
        if let Some(models) = self.of(from).map(|note| note.models.clone()) {
            self.note(to).models.extend(models);
            self.notes.remove(&from.component);
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn copy(component: ComponentId, since: DateTime<Utc>) -> DeviceResident {
        DeviceResident { component, digest: "d".into(), bytes: 1, since, last_used: since, uses: 1 }
    }

    #[test]
    fn a_note_belongs_to_one_copy_and_is_handed_over_to_its_twin() {
        let [a, b] = std::array::from_fn(|_| ComponentId::generate());
        let (now, model) = (Utc::now(), ModelId::generate());
        let mut book = Book::default();
        book.note(&copy(a, now)).models.insert(model);
        assert!(book.of(&copy(a, now)).is_some_and(|note| note.models.contains(&model)));
        let later = copy(a, now + TimeDelta::seconds(1));
        assert!(book.of(&later).is_none(), "the runner died and the component was loaded again");

        book.hand_over(&copy(a, now), &copy(b, now));
        assert!(book.of(&copy(a, now)).is_none() && book.of(&copy(b, now)).is_some());
        assert!(book.note(&later).models.is_empty());
        book.forget_model(model, b);
        assert!(book.of(&copy(b, now)).is_some_and(|note| note.models.is_empty()));
    }
}
