//! What checkpoints keep of their training beside the weights; loaders leave it aside.

use super::{Place, Stored, Weights};
use crate::dev::{
    schedule::{STEPS, Series},
    values::Fill,
};

/// The noise schedule and the state of the average that the weights came from (SD 1.x and 2.x).
pub(in crate::dev) fn training() -> Weights {
    let mut weights = Weights::new("training");
    let place = |name: &str| Place::root().both(name).only_original();
    for (series, name) in Series::ALL {
        weights.push(place(name), &[STEPS], Stored::Same, Fill::Schedule(series));
    }
    weights.push(place("model_ema.decay"), &[], Stored::Same, Fill::Single(0.9999));
    weights.push(place("model_ema.num_updates"), &[], Stored::Same, Fill::Count(0));
    weights
}
