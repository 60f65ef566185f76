//! Rows with ratios, as a table or JSON.

use serde::Serialize;

use crate::{
    facts::Facts,
    median,
    one::{Ran, Switching},
};

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
    pub switching: Option<Switching>,
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
    if let Some(switching) = &report.switching {
        let Switching { same, other, fine_tunes, sessions } = switching;
        let cost = (other - same) * 1e3;
        println!(
            "\nA run of the checkpoint before it takes {:.1} ms, of the other one {:.1} ms: switching costs {cost:.1} ms. {fine_tunes} fine-tunes of one architecture had {sessions} session.",
            same * 1e3,
            other * 1e3
        );
    }
}
