//! Developer's tools: models with random weights for machines that have none.
//!
//! Names, shapes and configs are those of the releases (or, at the tiny scale, of the same structure with few
//! channels); the values are random, so these models load and run but make no pictures.

mod arch;
mod checkpoint;
mod configs;
mod make;
mod metadata;
mod options;
mod parts;
mod plan;
mod schedule;
mod sizes;
mod tensor;
#[cfg(test)]
mod tests;
mod tokenizer;
mod values;
mod write;

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
pub use options::{Arch, Layout, Precision, Scale};

use make::{Existing, Made};
use plan::{Output, Request};

/// Tools for people who work on this software.
#[derive(Debug, Clone, Subcommand)]
pub enum DevCommand {
    /// Write models with random weights and the names, shapes and configs of real ones.
    MakeModels(MakeModelsArgs),
}

/// Options of `dev make-models`.
#[derive(Debug, Clone, Args)]
pub struct MakeModelsArgs {
    /// Models to make, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    pub arch: Vec<Arch>,

    /// Few channels, or the shapes of the release.
    #[arg(long, value_enum, default_value = "tiny")]
    pub scale: Scale,

    /// Folder to write to.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    pub out: Option<PathBuf>,

    /// One file, a diffusers folder, or both with the same values.
    #[arg(long, value_enum, default_value = "single")]
    pub layout: Layout,

    /// How weights are stored.
    #[arg(long, value_enum, default_value = "fp16")]
    pub dtype: Precision,

    /// Equal seeds make equal files.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Beside each checkpoint, this many that share everything with it but the values of the UNet: `NAME-ft1`, ….
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub fine_tunes: u32,

    /// Write anew what exists.
    #[arg(long)]
    pub force: bool,

    /// Write nothing; print file, name, type and shape of every tensor.
    #[arg(long)]
    pub list: bool,
}

/// Runs a developer's tool.
///
/// # Errors
/// When the folder cannot be written to, has too little space, or holds such a model already.
pub fn run(command: DevCommand, json: bool) -> anyhow::Result<()> {
    let DevCommand::MakeModels(args) = command;
    let outputs = plan_all(&args)?;
    let Some(dir) = args.out.filter(|_| !args.list) else { return list(&outputs, json) };
    let existing = if args.force { Existing::Replace } else { Existing::Refuse };
    let bar = progress_bar(outputs.iter().map(Output::bytes).sum::<anyhow::Result<u64>>()?)?;
    let made = make::make(&dir, &outputs, args.seed, existing, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    report(&made, json)
}

/// Makes the small library that `up` shows when it is given none: some 60 MB in `dir`. What is there
/// already stays.
///
/// # Errors
/// When the folder cannot be written to or has too little space.
pub fn make_tiny_library(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let library = [
        (Arch::Sd15, Layout::Single),
        (Arch::Sdxl, Layout::Both),
        (Arch::Vae, Layout::Single),
        (Arch::LoraSd15, Layout::Single),
    ];
    let mut outputs = Vec::new();
    for (arch, layout) in library {
        let request = Request { scale: Scale::Tiny, layout, precision: Precision::Fp16, seed: 0, fine_tune: 0 };
        outputs.extend(plan::plan(arch, &request)?);
    }
    let made = make::make(dir, &outputs, 0, Existing::Keep, &|_| {})?;
    Ok(made.into_iter().map(|made| made.path).collect())
}

fn plan_all(args: &MakeModelsArgs) -> anyhow::Result<Vec<Output>> {
    let MakeModelsArgs { scale, layout, dtype: precision, seed, .. } = *args;
    let archs: BTreeSet<Arch> = args.arch.iter().copied().collect();
    let mut outputs = Vec::new();
    for arch in archs {
        let tunes = if arch.is_checkpoint() { args.fine_tunes } else { 0 };
        for fine_tune in 0..=tunes {
            outputs.extend(plan::plan(arch, &Request { scale, layout, precision, seed, fine_tune })?);
        }
    }
    Ok(outputs)
}

/// Hidden by itself where stderr is no terminal.
fn progress_bar(bytes: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")?;
    Ok(ProgressBar::new(bytes).with_style(style))
}

fn report(made: &[Made], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::json!({ "items": made }))?;
        return Ok(());
    }
    for made in made {
        let seconds = made.seconds.unwrap_or_default();
        writeln!(out, "{}  {} tensors  {} bytes  {seconds:.2} s", made.path.display(), made.tensors, made.bytes)?;
    }
    Ok(())
}

/// One line per tensor: file, name, type, shape; with `json` one object per line.
fn list(outputs: &[Output], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for output in outputs {
        for file in &output.files {
            let plan::Content::Tensors(tensors) = &file.content else { continue };
            let path = if output.is_folder { output.name.join(&file.path) } else { file.path.clone() };
            for tensor in &tensors.tensors {
                let (path, name, dtype, shape) = (path.display(), &tensor.name, tensor.dtype.name(), &tensor.shape);
                if json {
                    let line = serde_json::json!({
                        "file": path.to_string(), "name": name, "dtype": dtype, "shape": shape,
                    });
                    writeln!(out, "{line}")?;
                } else {
                    writeln!(out, "{path}\t{name}\t{dtype}\t{}", shape_text(shape))?;
                }
            }
        }
    }
    Ok(out.flush()?)
}

/// `320x4x3x3`; empty for a scalar.
fn shape_text(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}
