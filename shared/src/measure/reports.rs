//! Two benchmarks side by side: what both measured is compared, what only one did is named, and how their machines differ.

use std::collections::BTreeMap;

use super::{compare, summary::Summary, verdict};
use crate::{
    ids::BenchmarkId,
    wire::{BenchmarkResult, ComparedCase, Comparison, Difference, Fingerprint},
};

/// One of the two: its figures and where they are from.
#[derive(Debug, Clone, Copy)]
pub struct Side<'r> {
    /// What was measured.
    pub result: &'r BenchmarkResult,
    /// Machine and programs.
    pub fingerprint: &'r Fingerprint,
}

/// Compares two benchmarks; medians count as changed beyond `bound_percent`.
pub fn compare_reports(
    (before_id, before): (BenchmarkId, Side<'_>),
    (after_id, after): (Option<BenchmarkId>, Side<'_>),
    bound_percent: u32,
) -> Comparison {
    let (old, new) = (figures(before.result), figures(after.result));
    let bound = f64::from(bound_percent) / 100.0;
    let both = old.iter().filter_map(|(what, old)| Some((what, compare(old, new.get(what)?, bound))));
    let mut cases: Vec<ComparedCase> =
        both.map(|(what, compared)| ComparedCase { what: what.clone(), compared }).collect();
    let worst_first = |a: &ComparedCase, b: &ComparedCase| {
        b.compared.change.cmp(&a.compared.change).then(b.compared.ratio.total_cmp(&a.compared.ratio))
    };
    cases.sort_by(worst_first);
    let without = |these: &BTreeMap<String, &Summary>, those: &BTreeMap<String, &Summary>| {
        these.keys().filter(|what| !those.contains_key(*what)).cloned().collect()
    };
    Comparison {
        before: before_id,
        after: after_id,
        verdict: verdict(cases.iter().map(|case| case.compared.change)),
        bound_percent,
        only_before: without(&old, &new),
        only_after: without(&new, &old),
        cases,
        differences: differences(before.fingerprint, after.fingerprint),
    }
}

/// All series of a benchmark by what they are of.
fn figures(result: &BenchmarkResult) -> BTreeMap<String, &Summary> {
    let cases = result.cases.iter().map(|case| (case.label(), &case.steady.summary));
    let cold = result.loads.iter().filter_map(|load| Some((load, "cold", load.cold.as_ref()?)));
    let warm = result.loads.iter().filter_map(|load| Some((load, "warm", load.warm.as_ref()?)));
    let loads =
        cold.chain(warm).map(|(load, how, series)| (format!("{how} load ({})", load.component), &series.summary));
    cases.chain(loads).collect()
}

fn differences(before: &Fingerprint, after: &Fingerprint) -> Vec<Difference> {
    let pairs = fields(before).into_iter().zip(fields(after));
    let other = pairs.filter(|((_, before), (_, after))| before != after);
    other.map(|((field, before), (_, after))| Difference { field: field.to_owned(), before, after }).collect()
}

fn fields(of: &Fingerprint) -> [(&'static str, String); 11] {
    let optional = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    [
        ("host", of.host.clone()),
        ("cpu", of.cpu.clone()),
        ("cpus", of.cpus.to_string()),
        ("memory_bytes", of.memory_bytes.to_string()),
        ("kernel", of.kernel.clone()),
        ("device", of.device.clone()),
        ("product", of.product.clone()),
        ("driver", optional(&of.driver)),
        ("library", optional(&of.library)),
        ("threads", optional(&of.threads.map(|threads| threads.to_string()))),
        ("version", of.version.clone()),
    ]
}
