//! Rows with ratios, as a table or JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{facts::Facts, median};

/// One pass of a work.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// On the clock.
    pub seconds: f64,
    /// Of all processors.
    pub processor_seconds: f64,
}

/// Passes by work.
pub(crate) type Passes = BTreeMap<String, Vec<Pass>>;

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub machine: Facts,
    pub threads: u16,
    /// A UNet with few channels: the numbers say nothing.
    pub small: bool,
    /// Passes by side.
    pub sides: BTreeMap<String, Passes>,
    /// Bytes of the base, and of variants.
    pub bytes: Option<BTreeMap<String, u64>>,
}

pub(crate) fn print(report: &Report) {
    println!(
        "\nLoRAs of rank 32 over SDXL's UNet in fp16: {}; {} threads on all sides",
        report.machine, report.threads
    );
    if report.small {
        println!("\nA UNet with few channels: this shows that everything runs, and nothing about speed.");
    }
    println!(
        "\n| work | side | s | processor s | times ours, on the clock | by processors |\n|---|---|---|---|---|---|"
    );
    let mut works: Vec<&String> = report.sides.values().flat_map(BTreeMap::keys).collect();
    works.sort();
    works.dedup();
    for work in works {
        let ours = report.sides.get("ours").and_then(|passes| passes.get(work)).map(|passes| medians(passes));
        for (side, passes) in report.sides.iter().filter_map(|(side, passes)| Some((side, passes.get(work)?))) {
            let of = medians(passes);
            let times =
                |this: f64, ours: Option<f64>| ours.map_or("–".to_owned(), |ours| format!("{:.1}", this / ours));
            let ratios = (times(of.0, ours.map(|ours| ours.0)), times(of.1, ours.map(|ours| ours.1)));
            println!("| {work} | {side} | {:.3} | {:.2} | {} | {} |", of.0, of.1, ratios.0, ratios.1);
        }
    }
    for (what, bytes) in report.bytes.iter().flatten() {
        println!("\n{what}: {:.2} GiB", *bytes as f64 / f64::from(1 << 30));
    }
}

fn medians(passes: &[Pass]) -> (f64, f64) {
    let of = |figure: fn(&Pass) -> f64| median(&passes.iter().map(figure).collect::<Vec<_>>());
    (of(|pass| pass.seconds), of(|pass| pass.processor_seconds))
}
