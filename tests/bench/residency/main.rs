//! The residency bench: one trace of model uses replayed against each way to choose victims, for several RAM budgets.
//! It runs the product's own policy and reuse history on a simulated clock; `README.md` in the parent folder has the method.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

mod chooser;
mod library;
mod replay;
mod trace;

use clap::Parser;
use serde::Serialize;

use chooser::Way;
use library::Library;
use replay::Outcome;

/// Replays a trace of model uses.
#[derive(Debug, Parser)]
struct Args {
    /// Uses of models in the trace.
    #[arg(long, default_value_t = 10_000)]
    uses: usize,
    /// Traces with different seeds; figures are sums over them.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One workload at one budget.
#[derive(Debug, Serialize)]
struct Row {
    workload: &'static str,
    /// Part of all distinct bytes that fits.
    budget_of_library: f64,
    budget_gib: f64,
    results: Vec<Result>,
}

#[derive(Debug, Serialize)]
struct Result {
    way: &'static str,
    reload_seconds: f64,
    /// Reload seconds over those of `lru`.
    of_lru: f64,
    hit_ratio: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    models: usize,
    components: usize,
    library_gib: f64,
    uses: usize,
    seeds: u64,
    rows: Vec<Row>,
}

const GIB: f64 = (1u64 << 30) as f64;
/// Parts of the library that the three budgets hold.
const BUDGETS: [f64; 3] = [0.15, 0.3, 0.5];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let library = Library::of_sixty_models();
    let mut rows = Vec::new();
    for workload in trace::Workload::ALL {
        let library = if workload.one_disk() { library.on_one_disk() } else { library.clone() };
        for part in BUDGETS {
            rows.push(row(&args, &library, workload, part));
        }
    }
    let report = Report {
        models: library.models.len(),
        components: library.components.len(),
        library_gib: library.bytes() as f64 / GIB,
        uses: args.uses,
        seeds: args.seeds,
        rows,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn row(args: &Args, library: &Library, workload: trace::Workload, part: f64) -> Row {
    let budget = (library.bytes() as f64 * part) as u64;
    let total = |way: Way| {
        let mut sum = Outcome::default();
        for seed in 1..=args.seeds {
            let trace = trace::make(library, workload, args.uses, seed);
            sum.add(&replay::run(library, &trace, way, budget));
        }
        sum
    };
    let lru = total(Way::Lru);
    let results = Way::ALL.map(|way| {
        let outcome = if way == Way::Lru { lru } else { total(way) };
        Result {
            way: way.name(),
            reload_seconds: outcome.reload_seconds,
            of_lru: outcome.reload_seconds / lru.reload_seconds,
            hit_ratio: outcome.hits as f64 / (outcome.hits + outcome.misses).max(1) as f64,
        }
    });
    Row {
        workload: workload.name(),
        budget_of_library: part,
        budget_gib: budget as f64 / GIB,
        results: Vec::from(results),
    }
}

fn print(report: &Report) {
    println!(
        "Residency: {} models of {} components, {:.0} GiB on disk without what they share; {} traces of {} uses",
        report.models, report.components, report.library_gib, report.seeds, report.uses
    );
    println!("Seconds of reload (ratio to lru; part of component uses that found it in RAM)\n");
    let names: Vec<&str> = Way::ALL.iter().map(|way| way.name()).collect();
    println!("| workload | RAM budget | {} |", names.join(" | "));
    println!("|---|---|{}", "---|".repeat(names.len()));
    for row in &report.rows {
        let cell = |result: &Result| {
            format!("{:.0} ({:.2}×; {:.0} %)", result.reload_seconds, result.of_lru, result.hit_ratio * 100.0)
        };
        let cells: Vec<String> = row.results.iter().map(cell).collect();
        println!(
            "| {} | {:.0} GiB ({:.0} %) | {} |",
            row.workload,
            row.budget_gib,
            row.budget_of_library * 100.0,
            cells.join(" | ")
        );
    }
    println!();
}
