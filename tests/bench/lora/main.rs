//! The bench of LoRAs: variants of an SDXL UNet of real size in a runner's memory, beside diffusers and merges on torch, each side in a
//! process of its own. `README.md` in the parent folder has the method.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

#[path = "../backed.rs"]
mod backed;
#[path = "../cpu.rs"]
mod cpu;
#[path = "../facts.rs"]
mod facts;
mod model;
mod ours;
mod report;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Context;
use clap::{Parser, ValueEnum};

use report::{Passes, Report};

const PEER: &str = include_str!("peer.py");

/// Measures variants beside torch and diffusers.
#[derive(Debug, Parser)]
struct Cli {
    /// The agent's program, whose runner is measured.
    #[arg(long)]
    program: PathBuf,
    /// Folder for what the peers read.
    #[arg(long)]
    dir: PathBuf,
    /// Interpreter with torch, diffusers and peft; without it the peers are left out.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Threads of all sides.
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Passes of each work; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A UNet with few channels: checks that everything runs, says nothing about speed.
    #[arg(long)]
    small: bool,
    /// These sides only.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Side>,
    /// Works whose names hold this, only.
    #[arg(long, default_value = "")]
    work: String,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Who applies LoRAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// A runner.
    Ours,
    /// A merge on torch as the tools write it.
    Plain,
    /// The least that torch can do.
    Addmm,
    /// Diffusers with peft.
    Diffusers,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let machine = facts::facts(&cli.dir)?;
    let mut report = Report { machine, threads: cli.threads, small: cli.small, sides: BTreeMap::new(), bytes: None };
    let wanted = |side: Side| cli.only.is_empty() || cli.only.contains(&side);
    if wanted(Side::Ours) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let measured = runtime.block_on(ours::measure(&cli.program, cli.threads, cli.rounds, cli.small, &cli.work))?;
        report.bytes = Some(measured.bytes);
        report.sides.insert("ours".to_owned(), measured.passes);
    }
    if let Some(python) = &cli.python {
        let peers = [(Side::Plain, "plain"), (Side::Addmm, "addmm"), (Side::Diffusers, "diffusers")];
        for (_, side) in peers.into_iter().filter(|(side, _)| wanted(*side)) {
            let mut command = Command::new(python);
            command.args(["-c", PEER, side]).arg(&cli.dir).args([cli.threads.to_string(), cli.rounds.to_string()]);
            command.args([if cli.small { "small" } else { "real" }, &cli.work]);
            command.env("HF_HUB_OFFLINE", "1").env("OMP_NUM_THREADS", cli.threads.to_string());
            let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
            anyhow::ensure!(output.status.success(), "{side} ended with {}", output.status);
            let passes: Passes = serde_json::from_slice(&output.stdout).with_context(|| format!("what {side} said"))?;
            report.sides.insert(side.to_owned(), passes);
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report::print(&report);
    }
    Ok(())
}

/// The median of what was measured.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
