//! Rows with ratios, as a table or JSON.

use serde::Serialize;

use crate::{facts::Facts, median, one::Ran, switching::Switching};

/// One side of a case: medians over its processes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Side {
    /// Seconds of the first run.
    pub first: f64,
    /// Seconds of a later run.
    pub seconds: f64,
    /// Its processor seconds.
    pub processor_seconds: f64,
    /// The most resident memory of the process.
    pub peak_bytes: u64,
    /// Of the library.
    pub version: String,
}

/// A case on both sides.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    ours: Option<Side>,
    torch: Option<Side>,
    /// Our seconds by torch's; below 1 is faster.
    wall_ratio: Option<f64>,
    /// The same of processor seconds.
    processor_ratio: Option<f64>,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub machine: Facts,
    pub threads: usize,
    /// Models with few channels: the numbers say nothing.
    pub small: bool,
    pub rows: Vec<Row>,
    pub switching: Vec<Switching>,
}

impl Row {
    pub(crate) fn new(what: String, ours: &[Ran], torch: &[Ran]) -> Self {
        let (ours, torch) = (side(ours), side(torch));
        let ratio = |of: fn(&Side) -> f64| Some(of(ours.as_ref()?) / of(torch.as_ref()?));
        let (wall_ratio, processor_ratio) = (ratio(|side| side.seconds), ratio(|side| side.processor_seconds));
        Self { what, ours, torch, wall_ratio, processor_ratio }
    }
}

fn side(ran: &[Ran]) -> Option<Side> {
    let of = |figure: fn(&Ran) -> f64| median(&ran.iter().map(figure).collect::<Vec<_>>());
    let seconds: Vec<f64> = ran.iter().flat_map(|ran| ran.seconds.clone()).collect();
    Some(Side {
        first: of(|ran| ran.first),
        seconds: median(&seconds),
        processor_seconds: of(|ran| ran.processor_seconds),
        peak_bytes: ran.iter().map(|ran| ran.peak_bytes).max()?,
        version: ran.first()?.version.clone(),
    })
}

pub(crate) fn print(report: &Report) {
    println!("\nEngine: {}; {} threads on both sides", report.machine, report.threads);
    if report.small {
        println!("\nModels with few channels: this shows that everything runs, and nothing about speed.");
    }
    println!(
        "\n| case | ours: first, later s | processor s | peak GiB | torch: first, later s | processor s | peak GiB | ours / torch: wall, processor |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let shown = |side: &Option<Side>| match side {
        Some(side) => format!(
            "{:.2}, {:.3} | {:.2} | {:.2}",
            side.first,
            side.seconds,
            side.processor_seconds,
            side.peak_bytes as f64 / f64::from(1 << 30)
        ),
        None => "– | – | –".to_owned(),
    };
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
    for row in &report.rows {
        let ratios = format!("{}, {}", ratio(row.wall_ratio), ratio(row.processor_ratio));
        println!("| {} | {} | {} | {ratios} |", row.what, shown(&row.ours), shown(&row.torch));
    }
    if !report.switching.is_empty() {
        println!("\n| in memory | GiB | sessions | a run after itself, ms | after another one | switching costs, ms |");
        println!("|---|---|---|---|---|---|");
    }
    for Switching { what, same, other, cost, checkpoints, bytes, sessions } in &report.switching {
        let [same, other, least, most] = [same, other, &cost.0, &cost.1].map(|seconds| seconds * 1e3);
        let size = *bytes as f64 / f64::from(1 << 30);
        println!(
            "| {checkpoints} × {what} | {size:.1} | {sessions} | {same:.1} | {other:.1} | {least:.1} to {most:.1} |"
        );
    }
}
