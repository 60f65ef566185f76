//! PyTorch checkpoints of both containers: listed and read into memory, beside `torch.load(weights_only=True)` with and without
//! a mapping, from a cold file and from the page cache, in interleaved passes of one run.
#![expect(clippy::print_stdout, reason = "printing results is what a bench is for")]

#[path = "../load/cache.rs"]
mod cache;
#[path = "../cpu.rs"]
mod cpu;
#[path = "../facts.rs"]
mod facts;
mod ours;
mod report;
mod torch;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Parser;
use residency::{RamTier, TierConfig};
use serde::Serialize;

use report::{Report, Way, Ways};
use torch::{Made, Torch};

/// Measures reads of checkpoints.
#[derive(Debug, Parser)]
struct Args {
    /// Folder for the files; removed by the caller.
    #[arg(long)]
    dir: PathBuf,
    /// Interpreter with torch, which also makes the files.
    #[arg(long)]
    python: PathBuf,
    /// Bytes of each file.
    #[arg(long, default_value_t = 1_500_000_000)]
    bytes: u64,
    /// Passes of each kind.
    #[arg(long, default_value_t = 3)]
    passes: usize,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// How a checkpoint is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Container {
    /// A zip archive, as torch has written since 1.6.
    Zip,
    /// One stream of pickles and storages, as before.
    Legacy,
}

/// A checkpoint and who reads it.
struct Subject {
    path: PathBuf,
    container: Container,
    made: Made,
    runtime: tokio::runtime::Runtime,
    tier: RamTier,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let machine = facts::facts(&args.dir)?;
    let (mut files, mut cold, mut version) = (Vec::new(), "", String::new());
    for container in [Container::Zip, Container::Legacy] {
        let path = args.dir.join("bench.ckpt");
        let made = Torch::start(&args.python)?.make(&path, container, args.bytes)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let subject = Subject { path, container, made, runtime, tier: RamTier::new(TierConfig::new(u64::MAX)) };
        let mut ways = Ways::default();
        for _ in 0..args.passes {
            // a process of its own for each pass: pages that one still maps cannot be dropped
            let mut torch = Torch::start(&args.python)?;
            for is_cold in [true, false] {
                let dropped = pass(&subject, &mut torch, is_cold, &mut ways)?;
                cold = dropped.unwrap_or(cold);
            }
            version.clone_from(&torch.version);
        }
        std::fs::remove_file(&subject.path)?;
        files.push(ways.file(container, made));
    }
    let report = Report { machine, cold, torch: version, files };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Every way once, each on a cold file or on one in the page cache; says what was dropped to make it cold.
fn pass(subject: &Subject, torch: &mut Torch, is_cold: bool, ways: &mut Ways) -> anyhow::Result<Option<&'static str>> {
    let Subject { path, made, .. } = subject;
    let mut dropped = None;
    let mut prepare = || -> anyhow::Result<()> {
        if is_cold {
            dropped = Some(cache::drop_pages(path, true)?);
            Ok(())
        } else {
            warm(path)
        }
    };
    prepare()?;
    let (seconds, cpu) = clocked(|| ours::list(path, made.tensors))?;
    ways.add(Way::Listed, is_cold, seconds, cpu);
    prepare()?;
    let (seconds, cpu) = clocked(|| subject.runtime.block_on(ours::load(&subject.tier, path, made.bytes)))?;
    ways.add(Way::Read, is_cold, seconds, cpu);
    prepare()?;
    let loaded = torch.load(path, false)?;
    ways.add(Way::TorchLoad, is_cold, loaded.returned, loaded.returned_cpu);
    // torch maps zip archives only
    if subject.container == Container::Zip {
        prepare()?;
        let loaded = torch.load(path, true)?;
        ways.add(Way::TorchMapped, is_cold, loaded.returned, loaded.returned_cpu);
        ways.add(Way::TorchTouched, is_cold, loaded.touched, loaded.touched_cpu);
    }
    Ok(dropped)
}

/// Seconds on the clock, and of processors.
fn clocked(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
    let (began, busy) = (Instant::now(), cpu::seconds()?);
    work()?;
    Ok((began.elapsed().as_secs_f64(), cpu::seconds()? - busy))
}

/// Brings the file into the page cache.
fn warm(path: &Path) -> anyhow::Result<()> {
    std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
    Ok(())
}
