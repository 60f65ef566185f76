//! `modelyard loras blend`: a stack of LoRAs written down as one LoRA.

use clap::Args;
use serde::Deserialize;
use shared::{
    job::engine::{BlendLorasArgs, LoraDtype, LoraOutput, LoraSpelling},
    wire::{BlendLorasRequest, BlendLorasResult, JobView},
};

use super::super::{assembly::LoraArg, engine::PlacingArgs, outcome, settle, text::bytes};
use crate::{
    args::{WaitArgs, finite},
    client::Client,
    error::CliError,
    follow,
    output::Output,
};

/// Options of `loras blend`.
#[derive(Debug, Args)]
pub struct BlendArgs {
    /// The stack: each with its weight and that in the text encoders, then factors of blocks, which need a base:
    /// `NAME:0.8:mid_block=0.5,down_blocks.1=0`.
    #[arg(required = true, value_name = "LORA[:WEIGHT[:TEXT]][:BLOCKS]")]
    loras: Vec<LoraArg>,

    /// Where it goes: a path below the first LoRA's root, or `ROOT:PATH`; ends with `.safetensors`.
    #[arg(short, long, value_name = "[ROOT:]PATH")]
    output: String,

    /// A model that the LoRAs are for: needed for diffusers' names, and where the LoRAs name the same
    /// modules otherwise.
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,

    /// Cut every module to this rank at most; ranks add when absent.
    #[arg(long, conflicts_with = "energy")]
    rank: Option<u32>,

    /// Cut every module to the smallest rank that has this share of its energy, e.g. `0.99`.
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    energy: Option<f64>,

    /// `fp16`, `bf16` or `fp32`.
    #[arg(long, default_value = "fp16")]
    dtype: LoraDtype,

    /// How modules are named: `kohya`, which every program reads, or `diffusers`.
    #[arg(long, default_value = "kohya")]
    spelling: LoraSpelling,

    /// Title of the new LoRA; the name of its file when absent.
    #[arg(long)]
    title: Option<String>,

    /// Replace what an earlier job wrote there.
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn run(args: BlendArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let label = format!("blend {}", args.output);
    let (root, path) = match args.output.split_once(':') {
        Some((root, path)) => (Some(root.to_owned()), path.to_owned()),
        None => (None, args.output),
    };
    let wanted = BlendLorasArgs {
        loras: args.loras.into_iter().map(|LoraArg(used)| used).collect(),
        base: args.base,
        rank: args.rank,
        energy: args.energy,
        dtype: args.dtype,
        spelling: args.spelling,
        output: LoraOutput { root, path },
        overwrite: args.overwrite,
        title: args.title,
    };
    let request = BlendLorasRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/loras/blend", &request).await?;
    if args.wait.no_wait {
        return settle(client, output, job, "blend_loras", args.wait).await;
    }
    let job = match job.state.is_terminal() {
        true => job,
        false => follow::follow(client, output, &job, &label, args.wait.timeout).await?,
    };
    let result = BlendLorasResult::deserialize(job.result.unwrap_or_default())?;
    if output.json { output.value(&result) } else { show(&result, output) }
}

fn show(result: &BlendLorasResult, output: Output) -> Result<(), CliError> {
    let rank = |(rank, modules): (&usize, &usize)| match rank {
        0 => format!("whole ({modules} modules)"),
        rank => format!("{rank} ({modules} modules)"),
    };
    output.facts(&[
        ("written", format!("{}:{} on {}", result.root, result.path, result.host)),
        ("size", bytes(result.bytes)),
        ("modules", result.modules.to_string()),
        ("ranks", result.ranks.iter().map(rank).collect::<Vec<_>>().join(", ")),
        ("off the sum by", share(result.error)),
    ])?;
    let header = ["LORA", "MODULES", "WITHOUT EFFECT", "NOT IN THE BASE"];
    output.section("made of", &result.loras, &header, "none", |one| {
        let numbers = [one.blended, one.without_effect, one.unmatched].map(|count| count.to_string());
        [vec![one.lora.clone()], numbers.to_vec()].concat()
    })?;
    let idle = result.loras_without_effect.iter().map(outcome::without_effect);
    idle.chain(result.lora_misfits.iter().flat_map(outcome::misfit)).try_for_each(|line| output.line(line))?;
    output.section("furthest off", &result.worst, &["MODULE", "RANK", "OFF BY"], "none", |module| {
        vec![module.stem.clone(), module.rank.to_string(), share(module.error)]
    })
}

fn share(error: f64) -> String {
    format!("{:.3} %", error * 100.0)
}
