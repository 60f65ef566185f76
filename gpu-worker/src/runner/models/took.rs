//! What memory the graphs of a run took beside the weights, by kind of model: as expected before, as measured after.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use engine::runtime::{Part, Took};
use serde_json::{Value, json};

/// The most of each that the runs so far took.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<BTreeMap<Part, Most>>);

/// The most of several runs of one kind of model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Most {
    estimated_bytes: u64,
    peak_bytes: Option<u64>,
}

impl Most {
    fn and(self, estimated_bytes: u64, peak_bytes: Option<u64>) -> Self {
        Self { estimated_bytes: self.estimated_bytes.max(estimated_bytes), peak_bytes: self.peak_bytes.max(peak_bytes) }
    }
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Part, Most>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of a run.
    pub(super) fn note(&self, took: Took) {
        let mut all = self.lock();
        let most = all.entry(took.part).or_default();
        *most = most.and(took.estimated_bytes, took.peak_bytes);
    }

    /// `{"estimated_bytes", "peak_bytes"}` of the models of this kind; null where none ran.
    pub(super) fn of(&self, part: Part) -> Value {
        self.lock().get(&part).map_or(
            Value::Null,
            |most| json!({ "estimated_bytes": most.estimated_bytes, "peak_bytes": most.peak_bytes }),
        )
    }

    /// The most that was expected, of whatever model.
    pub(super) fn estimated_bytes(&self) -> u64 {
        self.lock().values().map(|most| most.estimated_bytes).max().unwrap_or_default()
    }

    /// The most that was measured, of whatever model.
    pub(super) fn peak_bytes(&self) -> Option<u64> {
        self.lock().values().filter_map(|most| most.peak_bytes).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_of_each_kind_is_told() {
        let meter = Meter::default();
        for (part, estimated_bytes, peak_bytes) in
            [(Part::Unet, 5, Some(9)), (Part::Unet, 7, None), (Part::TextEncoder, 3, None)]
        {
            meter.note(Took { part, estimated_bytes, peak_bytes });
        }
        assert_eq!(meter.of(Part::Unet), json!({ "estimated_bytes": 7, "peak_bytes": 9 }));
        assert_eq!(meter.of(Part::TextEncoder), json!({ "estimated_bytes": 3, "peak_bytes": null }));
        assert_eq!((meter.of(Part::Vae), meter.estimated_bytes(), meter.peak_bytes()), (Value::Null, 7, Some(9)));
    }
}
