//! `modelyard benchmark` and `modelyard benchmarks`: measure a model, look at what was measured, compare.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, Subcommand};
use shared::{
    error::ErrorCode,
    job::{Baseline, BenchmarkLimits, ImageSize, Target},
    measure::Verdict,
    wire::{BenchmarkReport, BenchmarkRequest, BenchmarkSummary, Comparison, JobView},
};

use super::{assembly::LoraArg, benchmark_report as report, engine::SettingsArgs, text::age};
use crate::{
    args::{PlaceArgs, WaitArgs},
    client::{Client, segment},
    error::CliError,
    follow,
    output::Output,
};

/// Options of `benchmark`.
#[derive(Debug, Args)]
pub struct BenchmarkArgs {
    /// Id or name of the model; left out with `--pipeline-name`.
    #[arg(required_unless_present = "pipeline_name", conflicts_with = "pipeline_name")]
    model: Option<String>,

    /// Measure with the models of this pipeline.
    #[arg(long, value_name = "NAME")]
    pipeline_name: Option<String>,

    /// A LoRA, with its weight and that in the text encoders: `NAME`, `NAME:0.8` or `NAME:0.8:0.5`; then factors of
    /// blocks: `NAME:0.8:mid_block=0.5,down_blocks.1=0`; may be given several times.
    #[arg(long = "lora", value_name = "LORA[:WEIGHT[:TEXT]][:BLOCKS]", conflicts_with = "pipeline_name")]
    loras: Vec<LoraArg>,

    /// Another model whose VAE takes the place of its own.
    #[arg(long, value_name = "MODEL", conflicts_with = "pipeline_name")]
    vae: Option<String>,

    /// Measure this component (`vae`, `unet`, `text_encoder` …); repeat it for more. All that can be run when absent.
    #[arg(long = "component", value_name = "KIND", conflicts_with = "pipeline")]
    components: Vec<String>,

    /// Measure whole generations, from a prompt to an image.
    #[arg(long)]
    pipeline: bool,

    /// Steps of each generation.
    #[arg(long, default_value_t = 4, requires = "pipeline")]
    steps: u32,

    /// Items of a run; repeat it to measure several.
    #[arg(long = "batch", value_name = "N")]
    batches: Vec<u32>,

    /// Size of the images in pixels, e.g. `512x768`; repeat it to measure several.
    #[arg(long = "size", value_name = "WxH")]
    sizes: Vec<ImageSize>,

    /// Also measure loads from disk, with the files out of the page cache.
    #[arg(long)]
    cold: bool,

    /// How often loads are measured; 0 leaves them out.
    #[arg(long, value_name = "N")]
    loads: Option<u32>,

    /// Runs after the first one that do not count.
    #[arg(long, value_name = "N")]
    warmup: Option<u32>,

    /// Runs of a window: a case is stable when the medians of its last windows agree.
    #[arg(long, value_name = "N")]
    window: Option<u32>,

    /// Windows whose medians have to agree.
    #[arg(long, value_name = "N")]
    windows: Option<u32>,

    /// Seconds of a case at most.
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<u32>,

    /// Runs of a case at most.
    #[arg(long, value_name = "N")]
    max_runs: Option<u32>,

    /// Percent that the medians of the last windows may differ by when a case counts as stable.
    #[arg(long, value_name = "PERCENT")]
    spread: Option<u32>,

    /// Compare with this benchmark, or with the `last` one of the same model and device.
    #[arg(long, value_name = "ID|last")]
    compare: Option<Baseline>,

    /// A median counts as changed beyond so many percent.
    #[arg(long, value_name = "PERCENT", requires = "compare")]
    bound: Option<u32>,

    /// Exit with 1 when something became slower.
    #[arg(long, requires = "compare", conflicts_with = "no_wait")]
    check: bool,

    /// Write a picture of it to this file.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file, conflicts_with = "no_wait")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    place: PlaceArgs,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    #[command(flatten)]
    wait: WaitArgs,

    // last: its heading holds for all that follow
    #[command(flatten)]
    settings: SettingsArgs,
}

/// A file for a picture: they are SVG, whatever a file is called.
fn svg_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    let is_svg = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("svg"));
    if is_svg { Ok(file) } else { Err("pictures are SVG: name a file that ends in `.svg`".to_owned()) }
}

/// What was measured so far.
#[derive(Debug, Subcommand)]
pub enum BenchmarksCommand {
    /// List benchmarks, the newest first.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show one with all its figures.
    Show(ShowArgs),
    /// Compare two.
    Compare(CompareArgs),
}

/// Options of `benchmarks ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only of this model.
    #[arg(long)]
    model: Option<String>,

    /// Only on this device.
    #[arg(long, value_name = "HOST/DEVICE")]
    device: Option<String>,

    /// Only those that measured this component.
    #[arg(long, value_name = "KIND")]
    component: Option<String>,

    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Options of `benchmarks show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Id of the benchmark.
    id: String,

    /// Write a picture of it to this file.
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file)]
    plot: Option<PathBuf>,
}

/// Options of `benchmarks compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Id of the earlier one.
    before: String,

    /// Id of the later one.
    after: String,

    /// A median counts as changed beyond so many percent.
    #[arg(long, value_name = "PERCENT")]
    bound: Option<u32>,

    /// Exit with 1 when something became slower.
    #[arg(long)]
    check: bool,
}

/// Measures and gives the exit code.
pub(crate) async fn run(args: BenchmarkArgs, client: &Client, output: Output) -> Result<u8, CliError> {
    let (named, path) = subject(&args)?;
    let job: JobView = client.post(&path, &request(&args)).await?;
    let everywhere = args.place.target() == Some(Target::All);
    if args.wait.no_wait || everywhere {
        return super::settle(client, output, job, "benchmark", args.wait).await.map(|()| 0);
    }
    let job = follow::follow(client, output, &job, &format!("benchmark {named}"), args.wait.timeout).await?;
    let id = job.result.as_ref().and_then(|result| result.get("benchmark")?.as_str());
    let id = id.ok_or_else(|| CliError::failed(ErrorCode::Internal, format!("job {} names no benchmark", job.id)))?;
    let report = shown(client, output, id, args.plot).await?;
    let verdict = report.comparison.map(|comparison| comparison.verdict);
    Ok(u8::from(args.check && verdict == Some(Verdict::Regressed)))
}

/// What is measured, and where that is asked for.
fn subject(args: &BenchmarkArgs) -> Result<(String, String), CliError> {
    match (&args.model, &args.pipeline_name) {
        (Some(model), None) => Ok((model.clone(), format!("/v1/models/{}/benchmark", segment(model)))),
        (None, Some(name)) => Ok((name.clone(), format!("/v1/pipelines/{}/benchmark", segment(name)))),
        _ => Err(CliError::Usage("name a model, or a pipeline with `--pipeline-name`".to_owned())),
    }
}

fn request(args: &BenchmarkArgs) -> BenchmarkRequest {
    let default = BenchmarkLimits::default();
    let limits = BenchmarkLimits {
        max_seconds: args.max_seconds.unwrap_or(default.max_seconds),
        max_runs: args.max_runs.unwrap_or(default.max_runs),
        spread_percent: args.spread.unwrap_or(default.spread_percent),
        warmup_runs: args.warmup.unwrap_or(default.warmup_runs),
        window_runs: args.window.unwrap_or(default.window_runs),
        windows: args.windows.unwrap_or(default.windows),
    };
    BenchmarkRequest {
        components: (!args.components.is_empty()).then(|| args.components.clone()),
        pipeline_steps: args.pipeline.then_some(args.steps),
        batches: (!args.batches.is_empty()).then(|| args.batches.clone()),
        sizes: (!args.sizes.is_empty()).then(|| args.sizes.clone()),
        cold: args.cold,
        loads: args.loads,
        limits: Some(limits),
        baseline: args.compare,
        bound_percent: args.bound,
        vae: args.vae.clone(),
        vae_settings: args.settings.settings(),
        text_encoders: BTreeMap::new(),
        loras: args.loras.iter().map(|lora| lora.0.clone()).collect(),
        target: args.place.target().unwrap_or_default(),
        priority: args.priority,
    }
}

/// Runs a look at what was measured; gives the exit code.
pub(crate) async fn history(command: BenchmarksCommand, client: &Client, output: Output) -> Result<u8, CliError> {
    match command {
        BenchmarksCommand::Ls(args) => list(args, client, output).await.map(|()| 0),
        BenchmarksCommand::Show(args) => shown(client, output, &args.id, args.plot).await.map(|_| 0),
        BenchmarksCommand::Compare(args) => {
            let query = [
                ("a", Some(args.before)),
                ("b", Some(args.after)),
                ("bound_percent", args.bound.map(|bound| bound.to_string())),
            ];
            let comparison: Comparison = client.get("/v1/benchmarks/compare", &query).await?;
            if output.json {
                output.value(&comparison)?;
            } else {
                report::comparison(&comparison, output)?;
            }
            Ok(u8::from(args.check && comparison.verdict == Verdict::Regressed))
        }
    }
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let query = [("model", args.model), ("device", args.device), ("component", args.component)];
    let rows: Vec<BenchmarkSummary> = client.list("/v1/benchmarks", &query, Some(args.limit)).await?;
    let header = ["ID", "WHEN", "MODEL", "DEVICE", "MEASURED", "STABLE", "VERDICT"];
    output.list(&rows, &header, "nothing was measured yet", |row| {
        vec![
            row.id.to_string(),
            age(row.created_at),
            row.model_name.clone(),
            row.device.clone(),
            if row.pipeline { "pipeline".to_owned() } else { row.components.join(", ") },
            if row.stable { "yes" } else { "no" }.to_owned(),
            row.verdict.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    })
}

/// Shows one benchmark, and writes its picture where one is wanted.
async fn shown(client: &Client, output: Output, id: &str, plot: Option<PathBuf>) -> Result<BenchmarkReport, CliError> {
    let report: BenchmarkReport = client.get(&format!("/v1/benchmarks/{}", segment(id)), &[]).await?;
    if let Some(file) = plot {
        let picture = client.get_text(&format!("/v1/benchmarks/{}/plot.svg", segment(id))).await?;
        std::fs::write(&file, picture).map_err(|error| {
            let message = format!("cannot write the picture to {}: {error}", file.display());
            CliError::failed(ErrorCode::InvalidArgument, message)
        })?;
        output.note(format!("the picture is in {}", file.display()));
    }
    if output.json {
        output.value(&report)?;
    } else {
        report::show(&report, output)?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn what_is_not_said_is_left_to_the_farm() {
        let parse = |words: &[&str]| {
            let parsed = Cli::try_parse_from([&["modelyard", "benchmark", "m"], words].concat());
            parsed.map(|cli| match cli.command {
                Command::Benchmark(args) => request(&args),
                other => panic!("{other:?}"),
            })
        };
        let plain = parse(&[]).unwrap();
        assert_eq!((plain.components, plain.batches, plain.sizes, plain.pipeline_steps), (None, None, None, None));
        assert_eq!(plain.limits, Some(BenchmarkLimits::default()));
        let words = ["--pipeline", "--steps", "7", "--size", "64x128", "--compare", "last", "--device", "a/cpu:0"];
        let asked = parse(&words).unwrap();
        assert_eq!((asked.pipeline_steps, asked.baseline), (Some(7), Some(Baseline::Last)));
        assert_eq!(asked.sizes, Some(vec![ImageSize { width: 64, height: 128 }]));
        assert_eq!(asked.target, Target::Device("a/cpu:0".into()));
        assert!(parse(&["--pipeline", "--component", "vae"]).is_err() && parse(&["--check"]).is_err());
        let limits = parse(&["--warmup", "0", "--window", "2", "--windows", "4"]).unwrap().limits.unwrap();
        assert_eq!((limits.warmup_runs, limits.window_runs, limits.windows), (0, 2, 4));
        assert!(parse(&["--tiling", "128"]).unwrap().vae_settings.tiling.is_some());
        assert!(parse(&["--plot", "a.SVG"]).is_ok());
        assert!(parse(&["--plot", "a.png"]).unwrap_err().to_string().contains("pictures are SVG"));
    }
}
