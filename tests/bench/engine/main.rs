//! The engine bench: real-size VAEs, UNets and text encoders on the CPU, ours beside diffusers and transformers on torch, each
//! run of a case in a process of its own and the two in turns; then what switching between resident checkpoints costs.
//! `README.md` in the parent folder has the method.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

mod cases;
#[path = "../cpu.rs"]
mod cpu;
#[path = "../facts.rs"]
mod facts;
mod one;
mod report;
mod switching;
mod weights;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context;
use clap::{Args as Arguments, Parser, Subcommand};
use engine::measure::{Amount, Operation};
use serde::de::DeserializeOwned;

use cases::Wanted;
use one::{Case, Ran};
use report::{Report, Row};
use switching::{Switching, Turns};

const PEER: &str = include_str!("peer.py");

/// Measures the engine beside torch.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All cases, ours and torch in turns.
    All(All),
    /// One case of ours; prints JSON.
    One(One),
    /// Many checkpoints of one architecture in turns; prints JSON.
    Switching(Turns),
}

#[derive(Debug, Arguments)]
struct All {
    /// Folder with the models, as `modelyard dev make-models` wrote them.
    #[arg(long)]
    models: PathBuf,
    /// ONNX Runtime.
    #[arg(long)]
    library: PathBuf,
    /// Interpreter with torch, diffusers and transformers; without it the peer is left out.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Threads of both.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Runs of a process after the first.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Processes of each case and side.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Models with few channels: checks that everything runs, says nothing about speed.
    #[arg(long)]
    small: bool,
    /// Only cases whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Arguments)]
struct One {
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    kind: String,
    #[arg(long)]
    operation: String,
    #[arg(long)]
    batch: usize,
    #[arg(long)]
    width: usize,
    #[arg(long)]
    height: usize,
    #[arg(long)]
    runs: u32,
    #[arg(long)]
    library: PathBuf,
    #[arg(long)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        What::All(args) => all(&args),
        What::One(args) => one_case(&args),
        What::Switching(args) => {
            println!("{}", serde_json::to_string(&switching::run(&args)?)?);
            Ok(())
        }
    }
}

fn one_case(args: &One) -> anyhow::Result<()> {
    let operation: Operation = serde_json::from_value(args.operation.clone().into())?;
    let amount = Amount { batch: args.batch, width: args.width, height: args.height };
    let case = Case { model: &args.model, kind: &args.kind, operation, amount };
    let ran = one::run(&one::runtime(&args.library, args.threads)?, &case, args.runs)?;
    println!("{}", serde_json::to_string(&ran)?);
    Ok(())
}

fn all(args: &All) -> anyhow::Result<()> {
    let machine = facts::facts(&args.models)?;
    let mut rows = Vec::new();
    for case in cases::all(args.small).into_iter().filter(|case| case.name().contains(&args.only)) {
        rows.push(both(args, &case)?);
    }
    let is_asked =
        |words: &[String]| args.only.is_empty() || format!("switching {}", words.join(" ")).contains(&args.only);
    let asked: Vec<_> = switching::all(args.small).into_iter().filter(|words| is_asked(words)).collect();
    let switching = asked.iter().map(|words| switching_of(args, words)).collect::<anyhow::Result<Vec<_>>>()?;
    let report = Report { machine, threads: args.threads, small: args.small, rows, switching };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report::print(&report);
    }
    Ok(())
}

/// A case on both sides, in turns.
fn both(args: &All, case: &Wanted) -> anyhow::Result<Row> {
    let (mut ours, mut torch) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        ours.push(answer::<Ran>(&mut ours_of(args, case)?)?);
        if let Some(python) = &args.python {
            torch.push(answer::<Ran>(&mut torch_of(args, case, python))?);
        }
    }
    Ok(Row::new(case.name(), &ours, &torch))
}

fn ours_of(args: &All, case: &Wanted) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    let (amount, text) = (case.amount, |number: usize| number.to_string());
    command.arg("one").arg("--model").arg(args.models.join(&case.model)).arg("--library").arg(&args.library);
    command.args(["--kind", case.kind, "--operation", case.operation.as_str()]);
    command.args(["--batch", &text(amount.batch), "--width", &text(amount.width), "--height", &text(amount.height)]);
    command.args(["--runs", &args.runs.to_string(), "--threads", &text(args.threads)]);
    Ok(command)
}

fn torch_of(args: &All, case: &Wanted, python: &Path) -> Command {
    let mut command = Command::new(python);
    let folder = args.models.join(&case.model);
    let part = folder.join(case.kind);
    command.args(["-c", PEER]).arg(if part.is_dir() { part } else { folder });
    let (amount, text) = (case.amount, |number: usize| number.to_string());
    command.args([case.kind, case.operation.as_str(), &text(amount.batch), &text(amount.width), &text(amount.height)]);
    command.args([args.runs.to_string(), text(args.threads)]);
    command.env("HF_HUB_OFFLINE", "1").env("OMP_NUM_THREADS", text(args.threads));
    command
}

/// A case of switching, in a process of its own.
fn switching_of(args: &All, words: &[String]) -> anyhow::Result<Switching> {
    let Some((model, rest)) = words.split_first() else { anyhow::bail!("a case without a model") };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("switching").arg("--library").arg(&args.library).args(["--threads", &args.threads.to_string()]);
    answer(command.arg("--model").arg(args.models.join(model)).args(rest))
}

/// The JSON that a process prints.
fn answer<T: DeserializeOwned>(command: &mut Command) -> anyhow::Result<T> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} said something else than JSON"))
}

/// The median of what was measured.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
