//! The results as a table (Markdown, so that it can be kept) or as JSON.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

use serde::Serialize;

use crate::{facts::Facts, latency::Latency, measure::median};

/// One system at one number of finished jobs.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// `modelyard`, `hand-written loop`, `graphile-worker`.
    pub system: &'static str,
    /// Finished jobs in its tables before the passes.
    pub finished_jobs: i64,
    /// Enqueue → start on an idle farm.
    pub latency: Latency,
    /// No-op jobs per second, by concurrency.
    pub drains: Vec<Drain>,
}

/// The passes of one concurrency.
#[derive(Debug, Serialize)]
pub(crate) struct Drain {
    /// Jobs at a time.
    pub concurrency: usize,
    /// Jobs per second of each pass.
    pub jobs_per_second: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// Median over the hand-written loop's median in the same run.
    pub ratio: f64,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The machine.
    pub machine: Facts,
    /// Version of Postgres.
    pub postgres: String,
    /// Version of graphile-worker, if it took part.
    pub graphile_worker: Option<String>,
    /// One row for each system and number of finished jobs.
    pub rows: Vec<Row>,
}

impl Drain {
    /// From the passes; the ratio is set when the yardstick is known.
    pub(crate) fn of(concurrency: usize, jobs_per_second: Vec<f64>) -> Self {
        let median = median(&jobs_per_second);
        Self { concurrency, jobs_per_second, median, ratio: f64::NAN }
    }
}

impl Report {
    /// Relates every drain to the yardstick's with the same concurrency and number of finished jobs.
    pub(crate) fn relate(&mut self, yardstick: &str) {
        let medians: Vec<(i64, usize, f64)> = self
            .rows
            .iter()
            .filter(|row| row.system == yardstick)
            .flat_map(|row| row.drains.iter().map(|drain| (row.finished_jobs, drain.concurrency, drain.median)))
            .collect();
        for row in &mut self.rows {
            for drain in &mut row.drains {
                let same = medians
                    .iter()
                    .find(|(finished, width, _)| (*finished, *width) == (row.finished_jobs, drain.concurrency));
                drain.ratio = same.map_or(f64::NAN, |(_, _, median)| drain.median / median);
            }
        }
    }

    /// Prints for people.
    pub(crate) fn print(&self) {
        println!("\nQueue: {}; Postgres {}, committed to disk", self.machine, self.postgres);
        println!(
            "Enqueue → start: one job at a time on an idle farm. Jobs/s: no-op jobs, median of the passes (ratio to the hand-written loop).\n"
        );
        let widths: Vec<usize> =
            self.rows.first().map(|row| row.drains.iter().map(|drain| drain.concurrency).collect()).unwrap_or_default();
        let heads: Vec<String> = widths.iter().map(|width| format!("jobs/s, {width} at a time")).collect();
        println!("| system | finished jobs | start p50 ms | p99 ms | slowest ms | {} |", heads.join(" | "));
        println!("|---|---|---|---|---|{}", "---|".repeat(widths.len()));
        for row in &self.rows {
            let drains: Vec<String> =
                row.drains.iter().map(|drain| format!("{:.0} ({:.2}×)", drain.median, drain.ratio)).collect();
            let Latency { p50_ms, p99_ms, max_ms, .. } = row.latency;
            let name = match &self.graphile_worker {
                Some(version) if row.system.starts_with("graphile") => format!("{} {version}", row.system),
                _ => row.system.to_owned(),
            };
            println!(
                "| {name} | {} | {p50_ms:.1} | {p99_ms:.1} | {max_ms:.1} | {} |",
                row.finished_jobs,
                drains.join(" | ")
            );
        }
    }

    /// Prints for programs.
    ///
    /// # Errors
    /// Never for these types.
    pub(crate) fn print_json(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string_pretty(self)?);
        Ok(())
    }
}
