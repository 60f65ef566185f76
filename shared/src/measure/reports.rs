//! Two benchmarks side by side: what both measured is compared, what only one did is named, and how their machines differ.

use std::collections::BTreeMap;

use serde_json::Value;

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
    /// Arguments of its job.
    pub args: &'r Value,
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
        differences: differences(before, after),
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

fn differences(before: Side<'_>, after: Side<'_>) -> Vec<Difference> {
    let fields = |side: Side<'_>| fields(side.fingerprint).into_iter().chain(parts(side.args));
    let pairs = fields(before).zip(fields(after));
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

/// What took part, by the ids that the arguments name; the order of a stack makes no difference.
fn parts(args: &Value) -> [(&'static str, String); 5] {
    ["model", "vae", "vae_settings", "text_encoders", "loras"].map(|field| {
        let text = match args.get(field) {
            None | Some(Value::Null) => "none".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(all)) => {
                let mut all: Vec<String> = all.iter().map(Value::to_string).collect();
                all.sort();
                all.join(", ")
            }
            Some(other) => other.to_string(),
        };
        (field, text)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_took_part_is_told_where_it_differs() {
        let (result, fingerprint) = (BenchmarkResult::default(), Fingerprint::default());
        let differ = |before: Value, after: Value| -> Vec<String> {
            let side = |args| Side { result: &result, fingerprint: &fingerprint, args };
            let compared = compare_reports((BenchmarkId::generate(), side(&before)), (None, side(&after)), 5);
            compared.differences.into_iter().map(|one| format!("{}: {} {}", one.field, one.before, one.after)).collect()
        };
        assert_eq!(differ(json!({ "model": "a" }), json!({ "model": "a", "vae": "b" })), ["vae: none b"]);
        let stack = |one, other| json!({ "loras": [{ "model": one }, { "model": other }] });
        assert!(differ(stack("a", "b"), stack("b", "a")).is_empty());
        let other = differ(stack("a", "b"), json!({ "loras": [{ "model": "a" }] }));
        assert_eq!(other, [r#"loras: {"model":"a"}, {"model":"b"} {"model":"a"}"#]);
    }
}
