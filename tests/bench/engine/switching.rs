//! What switching between resident checkpoints costs: many of one architecture in memory, each run twice, once after another
//! one and once after itself.

use std::path::{Path, PathBuf};

use clap::Args as Arguments;
use engine::measure::{Amount, Operation};
use serde::{Deserialize, Serialize};

use crate::{
    cases, median,
    one::{self, Case},
    weights,
};

/// Model, component, operation, batch, pixels of a side, copies.
type Line = (&'static str, &'static str, Operation, usize, usize, usize);

/// Few pixels: what differs is the switch, and a short run hides less of it.
const LINES: [Line; 3] = [
    ("sdxl", "text_encoder", Operation::EncodeText, 2, 512, 20),
    ("sdxl", "vae", Operation::VaeDecode, 1, 64, 20),
    ("sdxl", "unet", Operation::UnetStep, 1, 64, 3),
];

/// A component in memory many times, as fine-tunes of it are: each read from the file into a memory file of its own.
#[derive(Debug, Clone, Arguments)]
pub(crate) struct Turns {
    #[arg(long)]
    pub library: PathBuf,
    #[arg(long)]
    pub threads: usize,
    #[arg(long)]
    pub model: PathBuf,
    #[arg(long)]
    pub kind: String,
    #[arg(long)]
    pub operation: String,
    #[arg(long)]
    pub batch: usize,
    /// Pixels.
    #[arg(long)]
    pub side: usize,
    #[arg(long)]
    pub copies: usize,
    #[arg(long)]
    pub rounds: usize,
}

/// What it costs to run another checkpoint than the last, and how many sessions many had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Switching {
    /// The model, and what was run.
    pub what: String,
    /// Seconds of a run after one of the same checkpoint.
    pub same: f64,
    /// Of a run after one of another.
    pub other: f64,
    /// Medians over the checkpoints of the first less the second: least and most over the rounds.
    pub cost: (f64, f64),
    /// Checkpoints in memory.
    pub checkpoints: usize,
    /// Bytes of their weights.
    pub bytes: u64,
    /// Compiled graphs after all ran.
    pub sessions: usize,
}

/// The cases, as arguments of a process each.
pub(crate) fn all(small: bool) -> Vec<Vec<String>> {
    let line = |(model, kind, operation, batch, side, copies): Line| {
        let model = format!("fp16/{model}-{}-diffusers", cases::scale(small));
        let [batch, side, copies] = [batch, side, copies].map(|number| number.to_string());
        let words = [("--kind", kind), ("--operation", operation.as_str()), ("--batch", &batch), ("--side", &side)];
        let words = words.into_iter().chain([("--copies", copies.as_str()), ("--rounds", "3")]);
        let rest = words.flat_map(|(name, value)| [name.to_owned(), value.to_owned()]);
        std::iter::once(model).chain(rest).collect()
    };
    LINES.into_iter().map(line).collect()
}

/// Runs every checkpoint twice, one checkpoint after the other.
///
/// # Errors
/// When something cannot be loaded or run.
pub(crate) fn run(args: &Turns) -> anyhow::Result<Switching> {
    let runtime = one::runtime(&args.library, args.threads)?;
    let operation: Operation = serde_json::from_value(args.operation.clone().into())?;
    let amount = Amount { batch: args.batch, width: args.side, height: args.side };
    let case = Case { model: &args.model, kind: &args.kind, operation, amount };
    let loaded =
        (0..args.copies).map(|_| weights::load(&args.model, &args.kind)).collect::<anyhow::Result<Vec<_>>>()?;
    // compiled, and every page of every checkpoint has been read
    for one in &loaded {
        one::once(&runtime, one, &case)?;
    }
    let (mut others, mut sames, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        let mut round = Vec::new();
        for one in &loaded {
            let (other, same) = (one::once(&runtime, one, &case)?, one::once(&runtime, one, &case)?);
            others.push(other);
            sames.push(same);
            round.push(other - same);
        }
        costs.push(median(&round));
    }
    let sessions = runtime.session_count();
    anyhow::ensure!(sessions == 1, "{sessions} sessions for {} checkpoints of one architecture", loaded.len());
    costs.sort_by(f64::total_cmp);
    let cost = (costs.first().copied().unwrap_or(f64::NAN), costs.last().copied().unwrap_or(f64::NAN));
    Ok(Switching {
        what: format!("{} {} {}", name(&args.model), args.kind, operation.as_str()),
        same: median(&sames),
        other: median(&others),
        cost,
        checkpoints: loaded.len(),
        bytes: loaded.iter().map(|one| u64::try_from(one.weights.bytes()).unwrap_or(u64::MAX)).sum(),
        sessions,
    })
}

fn name(model: &Path) -> String {
    model.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
