//! The results as a table (Markdown, so that it can be kept) or as JSON.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

use serde::Serialize;

use crate::{facts::Facts, latency::Latency};

/// One kind of question.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was asked.
    pub kind: &'static str,
    /// Mean rows of a page, at most 101.
    pub rows: f64,
    /// Reading of the text, the page, and the components of its models.
    pub latency: Latency,
    /// Processor time of the database for it.
    pub database: Latency,
    /// Tables that a plan reads as a whole.
    pub whole_tables: Vec<String>,
    /// The plan of the slowest question.
    pub plan: Vec<String>,
    /// What `latency` is made of.
    #[serde(skip)]
    pub took_ms: Vec<f64>,
    /// What `database` is made of.
    #[serde(skip)]
    pub cpu_ms: Vec<f64>,
}

impl Row {
    /// As many questions of each kind, taken together.
    pub(crate) fn of_all(rows: &[Self]) -> Self {
        let all = |of: fn(&Self) -> &[f64]| rows.iter().flat_map(of).copied().collect::<Vec<f64>>();
        let (took_ms, cpu_ms) = (all(|row| &row.took_ms), all(|row| &row.cpu_ms));
        Self {
            kind: "**all of these together**",
            rows: rows.iter().map(|row| row.rows).sum::<f64>() / rows.len() as f64,
            latency: Latency::of(took_ms.clone()),
            database: Latency::of(cpu_ms.clone()),
            whole_tables: Vec::new(),
            plan: Vec::new(),
            took_ms,
            cpu_ms,
        }
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The machine.
    pub machine: Facts,
    /// Version of Postgres.
    pub postgres: String,
    /// Models of the library.
    pub models: i64,
    /// How many times each question was asked; the fastest counts.
    pub best_of: usize,
    /// One row for each kind.
    pub rows: Vec<Row>,
}

impl Report {
    /// As JSON.
    ///
    /// # Errors
    /// Never for these types.
    pub(crate) fn print_json(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }

    /// As a table, with a plan of each kind if wanted.
    pub(crate) fn print(&self, plans: bool) {
        let Self { machine, postgres, models, best_of, .. } = self;
        println!("Search: {machine}; Postgres {postgres}; {models} models; best of {best_of}");
        println!(
            "\n| question | rows | p50 ms | p95 ms | p99 ms | slowest ms | database p50 | p99 | slowest |\n|---|---|---|---|---|---|---|---|---|"
        );
        for Row { kind, rows, latency, database, .. } in &self.rows {
            let Latency { p50_ms: used, p99_ms: most, max_ms: all, .. } = database;
            let Latency { p50_ms, p95_ms, p99_ms, max_ms, .. } = latency;
            println!(
                "| {kind} | {rows:.0} | {p50_ms:.1} | {p95_ms:.1} | {p99_ms:.1} | {max_ms:.1} | {used:.1} | {most:.1} | {all:.1} |"
            );
        }
        for row in self.rows.iter().filter(|row| plans && !row.plan.is_empty() || !row.whole_tables.is_empty()) {
            println!("\n{}: reads whole: {:?}\n```\n{}\n```", row.kind, row.whole_tables, row.plan.join("\n"));
        }
    }
}
