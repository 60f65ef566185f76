//! `modelyard convert`: a model in another layout or type, with another VAE or LoRAs baked in.

use clap::{Args, ValueEnum};
use shared::{
    bytes::ByteSize,
    job::{ConvertDtype, ConvertLayout, ConvertOutput, Target},
    wire::{ConvertRequest, ConvertResult, JobView},
};

use super::{assembly::LoraArg, outcome, settle};
use crate::{
    args::WaitArgs,
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Layouts by the names that people use.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    /// Under the names that it has, as safetensors.
    Safetensors,
    /// One file under original (LDM, SGM) names.
    SingleFile,
    /// A folder as diffusers has it.
    Diffusers,
}

/// Float types.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum As {
    /// As they are.
    Keep,
    /// 32 bits.
    Fp32,
    /// 16 bits, IEEE; a component with values that do not fit keeps its type.
    Fp16,
    /// 16 bits with the range of 32.
    Bf16,
}

/// Options of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Id or name of the model.
    model: String,

    /// Where it goes: a path below the model's root, or `ROOT:PATH`. A file ends with `.safetensors`.
    #[arg(short, long, value_name = "[ROOT:]PATH", value_parser = output)]
    output: ConvertOutput,

    /// The layout.
    #[arg(long, value_enum, default_value = "safetensors")]
    to: To,

    /// The type of its weights.
    #[arg(long, value_enum, default_value = "keep")]
    dtype: As,

    /// The type of the VAE's weights; as the others' when absent, but for 16 IEEE bits a VAE keeps its own that overflows when it
    /// runs in them, as SDXL's does.
    #[arg(long, value_enum, value_name = "DTYPE")]
    vae_dtype: Option<As>,

    /// A LoRA that is baked in, with its weight and that in the text encoders: `NAME`, `NAME:0.8` or `NAME:0.8:0.5`; then
    /// factors of blocks: `NAME:0.8:mid_block=0.5,down_blocks.1=0`; may be given several times.
    #[arg(long = "lora", value_name = "LORA[:WEIGHT[:TEXT]][:BLOCKS]")]
    loras: Vec<LoraArg>,

    /// Another model whose VAE takes the place of its own.
    #[arg(long, value_name = "MODEL")]
    vae: Option<String>,

    /// Take the averaged weights (EMA) of the UNet.
    #[arg(long)]
    ema: bool,

    /// Keep what is no weight: averages, optimizers, noise schedules.
    #[arg(long)]
    no_prune: bool,

    /// Take values that are not numbers.
    #[arg(long)]
    allow_nan: bool,

    /// Title of the new model.
    #[arg(long)]
    title: Option<String>,

    /// Replace what such a job wrote there before.
    #[arg(long)]
    overwrite: bool,

    /// This host.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,
}

fn output(text: &str) -> Result<ConvertOutput, String> {
    let (root, path) = match text.split_once(':') {
        Some((root, path)) => (Some(root.to_owned()), path),
        None => (None, text),
    };
    if path.is_empty() || root.as_deref() == Some("") {
        return Err("expected PATH or ROOT:PATH".to_owned());
    }
    Ok(ConvertOutput { root, path: path.to_owned() })
}

fn dtype(said: As) -> ConvertDtype {
    match said {
        As::Keep => ConvertDtype::Keep,
        As::Fp32 => ConvertDtype::Fp32,
        As::Fp16 => ConvertDtype::Fp16,
        As::Bf16 => ConvertDtype::Bf16,
    }
}

pub(crate) async fn run(args: ConvertArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = ConvertRequest {
        layout: match args.to {
            To::Safetensors => ConvertLayout::Same,
            To::SingleFile => ConvertLayout::SingleFile,
            To::Diffusers => ConvertLayout::Diffusers,
        },
        dtype: dtype(args.dtype),
        vae_dtype: args.vae_dtype.map(dtype),
        prune: !args.no_prune,
        use_ema: args.ema,
        allow_nan: args.allow_nan,
        vae: args.vae,
        loras: args.loras.into_iter().map(|lora| lora.0).collect(),
        output: args.output,
        overwrite: args.overwrite,
        title: args.title,
        target: args.host.map_or(Target::Any, Target::Host),
        priority: 0,
    };
    let job: JobView = client.post(&format!("/v1/models/{}/convert", segment(&args.model)), &request).await?;
    settle(client, output, job, &format!("convert {}", args.model), args.wait).await
}

/// What came of it, for a person.
pub(super) fn notes(result: &ConvertResult) -> Vec<String> {
    let name = result.name.as_deref().unwrap_or(&result.path);
    let resumed = match result.resumed_bytes {
        0 => String::new(),
        bytes => format!(", {} of it by an attempt before", ByteSize(bytes)),
    };
    let mut notes = vec![format!(
        "`{name}`: {} tensors, {}{resumed}, at `{}` below `{}` of {}",
        result.tensors,
        ByteSize(result.bytes),
        result.path,
        result.root,
        result.host
    )];
    for kept in &result.kept {
        let component = &kept.component;
        notes.push(match kept.runs_over {
            true => format!(
                "{component} keeps its type: it overflows when it runs in 16 bits; `--vae-dtype` has it all the same"
            ),
            false => format!(
                "{component} keeps its type: {} values in {} tensors would overflow, the largest is {}",
                kept.values, kept.tensors, kept.largest
            ),
        });
    }
    for widened in &result.widened {
        let (from, examples) = (widened.from.join(" and "), widened.examples.join(", "));
        let (tensors, to) = (widened.tensors, &widened.to);
        notes.push(format!("{tensors} tensors are made of {from} and kept exactly as {to}: {examples}"));
    }
    for dropped in &result.dropped {
        let (what, examples) = (dropped.what.replace('_', " "), dropped.examples.join(", "));
        notes.push(format!("left out: {} tensors ({what}), {}: {examples}", dropped.tensors, ByteSize(dropped.bytes)));
    }
    if result.baked > 0 {
        notes.push(format!("LoRAs changed {} tensors", result.baked));
    }
    notes.extend(result.loras_without_effect.iter().map(outcome::without_effect));
    notes.extend(result.lora_misfits.iter().flat_map(outcome::misfit));
    notes.extend(
        result.missing.iter().map(|folder| format!("without `{folder}`: no vocabulary of that size is at hand")),
    );
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_comes_before_the_first_colon() {
        let there = output("main:a/b.safetensors").unwrap();
        assert_eq!((there.root.as_deref(), there.path.as_str()), (Some("main"), "a/b.safetensors"));
        assert_eq!(output("a/b").unwrap().root, None);
        assert!(output("main:").is_err() && output("").is_err());
    }

    #[test]
    fn what_has_another_type_than_one_would_think_is_said() {
        let result = serde_json::json!({
            "from": "a", "host": "h", "root": "main", "path": "b.safetensors", "layout": "single_file", "bytes": 2048,
            "resumed_bytes": 0, "tensors": 3, "payload_sha256": {}, "dropped": [], "baked": 0, "seconds": 1.0,
            "kept": [
                { "component": "unet", "values": 2, "tensors": 1, "largest": 1e6, "named": [] },
                { "component": "vae", "values": 0, "tensors": 0, "largest": 0.0, "named": [], "runs_over": true },
            ],
            "widened": [{ "from": ["F16", "BF16"], "to": "F32", "tensors": 1, "examples": ["x.in_proj_weight"] }],
        });
        let notes = notes(&serde_json::from_value(result).unwrap());
        let expected = [
            "`b.safetensors`: 3 tensors, 2.0 KiB, at `b.safetensors` below `main` of h",
            "unet keeps its type: 2 values in 1 tensors would overflow, the largest is 1000000",
            "vae keeps its type: it overflows when it runs in 16 bits; `--vae-dtype` has it all the same",
            "1 tensors are made of F16 and BF16 and kept exactly as F32: x.in_proj_weight",
        ];
        assert_eq!(notes, expected);
    }
}
