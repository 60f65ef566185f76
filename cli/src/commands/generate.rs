//! `modelyard generate`.

use std::path::PathBuf;

use clap::Args;
use shared::{
    job::engine::{GenerateArgs as Wanted, ImageFormat, Sampler, Schedule},
    wire::{GenerateRequest, JobView},
};

use super::{
    artifacts::collect,
    assembly::{EncodersArgs, StackArgs},
    engine::{PlacingArgs, SettingsArgs, format_of},
    input::{FORMS, InputArg},
};
use crate::{
    args::{WaitArgs, finite},
    client::Client,
    error::CliError,
    output::Output,
};

/// Options of `generate`.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct GenerateArgs {
    /// Id or name of the model; left out with `--pipeline`.
    #[arg(required_unless_present = "pipeline", conflicts_with = "pipeline")]
    model: Option<String>,

    /// What the image shows; `(word:1.2)` weighs more, `[word]` less.
    prompt: String,

    /// Where the image goes; several get numbers. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// What it shall not show.
    #[arg(short, long, value_name = "PROMPT", default_value = "", hide_default_value = true)]
    negative: String,

    /// Take `(word:1.2)` and `[word]` in both as they are written, not as weights.
    #[arg(long)]
    no_weights: bool,

    /// Pixels; what the base was trained for when absent.
    #[arg(short = 'W', long)]
    width: Option<u32>,

    /// Pixels; what the base was trained for when absent.
    #[arg(short = 'H', long)]
    height: Option<u32>,

    /// Denoising steps.
    #[arg(long, default_value_t = 25)]
    steps: u32,

    /// How far the prompt pulls.
    #[arg(long, value_name = "SCALE", default_value_t = 7.0, value_parser = finite)]
    guidance: f64,

    /// `euler`, `euler_ancestral`, `ddim` or `dpmpp_2m`.
    #[arg(long, default_value = "euler")]
    sampler: Sampler,

    /// How noise falls over the steps: `default` or `karras`.
    #[arg(long, default_value = "default")]
    schedule: Schedule,

    /// Seed of the noise; drawn when absent, and shown with the job.
    #[arg(long)]
    seed: Option<u64>,

    /// Images.
    #[arg(long, default_value_t = 1)]
    batch: u32,

    /// Layers of the text encoder that are skipped from the end; as the model says when absent.
    #[arg(long, value_name = "LAYERS")]
    clip_skip: Option<u32>,

    /// Another model whose VAE decodes.
    #[arg(long, value_name = "MODEL", conflicts_with = "pipeline")]
    vae: Option<String>,

    #[arg(long, value_name = "INPUT", help = format!("First noise in the place of the seed's: {FORMS}"))]
    noise: Option<InputArg>,

    /// Keep the latents of every step.
    #[arg(long)]
    keep_latents: bool,

    /// A preview every so many steps, among the job's artifacts while it runs.
    #[arg(long, value_name = "STEPS")]
    preview_every: Option<u32>,

    /// The tiny autoencoder that decodes previews; one for the model's base that the host has when absent.
    #[arg(long, value_name = "MODEL", requires = "preview_every")]
    preview_vae: Option<String>,

    /// `png`, `webp` or `safetensors`; by the ending of --output, else `png`.
    #[arg(long)]
    format: Option<ImageFormat>,

    #[command(flatten)]
    stack: StackArgs,

    #[command(flatten)]
    encoders: EncodersArgs,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,

    // last: its heading holds for all that follow
    #[command(flatten)]
    settings: SettingsArgs,
}

pub(crate) async fn run(args: GenerateArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let noise = match args.noise {
        Some(noise) => Some(noise.resolve(client, output).await?),
        None => None,
    };
    let (model, named) = args.stack.subject(args.model)?;
    let label = format!("generate {named}");
    let request = GenerateRequest {
        args: Wanted {
            model,
            prompt: args.prompt,
            negative_prompt: args.negative,
            weights: !args.no_weights,
            width: args.width,
            height: args.height,
            steps: args.steps,
            guidance_scale: args.guidance,
            sampler: args.sampler,
            schedule: args.schedule,
            seed: args.seed,
            batch: args.batch,
            clip_skip: args.clip_skip,
            vae: args.vae,
            vae_settings: args.settings.settings(),
            text_encoders: args.encoders.text_encoders(),
            loras: args.stack.loras(),
            pipeline: args.stack.pipeline(),
            noise,
            keep_latents: args.keep_latents,
            preview_every: args.preview_every,
            preview_vae: args.preview_vae,
            format: args.format.unwrap_or_else(|| format_of(args.output.as_deref())),
        },
        placing: args.placing.placing(),
    };
    let job: JobView = client.post("/v1/generate", &args.stack.body(&request)?).await?;
    if let Some(seed) = job.args["seed"].as_u64().filter(|_| args.seed.is_none()) {
        output.note(format!("seed {seed}"));
    }
    collect(client, output, job, &label, (args.wait, args.output.as_deref())).await
}
