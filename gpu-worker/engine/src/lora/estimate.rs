//! How long applying a LoRA would take on this machine: a piece of the real work is done on zeros and scaled up.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use super::{
    dense,
    file::{Lora, Module},
    matching::Report,
    merge::merge,
};
use crate::tensor::ElementType;

/// Modules that are tried, from the largest.
const TRIED: usize = 3;
/// Work per entry of a weight beside its products: reading, converting, rounding, writing.
const PER_ENTRY: f64 = 8.0;

/// The time that the changed tensors of `report` would take in 16-bit storage, with so many threads.
#[must_use]
pub fn estimate(lora: &Lora, report: &Report, threads: NonZeroUsize) -> Duration {
    let matched = |module: &&Module| report.matched.binary_search_by(|fit| fit.stem.cmp(&module.stem)).is_ok();
    let mut costs: Vec<(f64, &Module)> =
        lora.modules.iter().filter(matched).filter_map(|module| Some((cost(module)?, module))).collect();
    costs.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let all: f64 = costs.iter().map(|(cost, _)| cost).sum();
    let tried: Vec<_> = costs.into_iter().take(TRIED).collect();
    let done: f64 = tried.iter().map(|(cost, _)| cost).sum();
    let began = Instant::now();
    for (_, module) in tried {
        let Some([rows, columns]) = dense::shape(module) else { continue };
        let zeros = vec![0_u8; rows.saturating_mul(columns).saturating_mul(ElementType::F16.bytes())];
        // what does not fit 16 bits costs the same
        let _ = merge((ElementType::F16, &[rows, columns], &zeros), &[(module, 1.0)], threads);
    }
    if done > 0.0 { began.elapsed().mul_f64((all / done).max(1.0)) } else { Duration::ZERO }
}

/// Multiplications of a module's change.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn cost(module: &Module) -> Option<f64> {
    let [rows, columns] = dense::shape(module)?;
    Some(rows as f64 * columns as f64 * (module.rank as f64 + PER_ENTRY))
}
