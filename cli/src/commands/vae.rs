//! `modelyard vae`: latents to images and back.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use shared::{
    job::engine::{ImageFormat, LatentSample, VaeDecodeArgs, VaeEncodeArgs},
    wire::{JobView, VaeDecodeRequest, VaeEncodeRequest},
};

use super::{
    artifacts::collect,
    engine::{PlacingArgs, SettingsArgs, format_of},
    input::{FORMS, InputArg},
};
use crate::{args::WaitArgs, client::Client, error::CliError, output::Output};

/// What to do with a VAE.
#[derive(Debug, Subcommand)]
pub enum VaeCommand {
    /// Latents to images.
    Decode(DecodeArgs),
    /// An image to latents.
    Encode(EncodeArgs),
}

/// Options of `vae decode`.
#[derive(Debug, Args)]
pub struct DecodeArgs {
    /// Id or name of the model.
    model: String,

    #[arg(value_name = "LATENTS", help = format!("A safetensors file with `latents`: {FORMS}"))]
    latents: InputArg,

    /// Where the image goes; several get numbers. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// `png`, `webp` or `safetensors`; by the ending of --output, else `png`.
    #[arg(long)]
    format: Option<ImageFormat>,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    settings: SettingsArgs,
}

/// Options of `vae encode`.
#[derive(Debug, Args)]
pub struct EncodeArgs {
    /// Id or name of the model.
    model: String,

    #[arg(value_name = "IMAGE", help = format!("PNG, WebP, or a safetensors file with `image`: {FORMS}"))]
    image: InputArg,

    /// Where the latents go. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Take a sample of the distribution with this seed; its mean when absent.
    #[arg(long, value_name = "SEED")]
    sample: Option<u64>,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    settings: SettingsArgs,
}

pub(crate) async fn run(command: VaeCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        VaeCommand::Decode(args) => decode(args, client, output).await,
        VaeCommand::Encode(args) => encode(args, client, output).await,
    }
}

async fn decode(args: DecodeArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let label = format!("decode with {}", args.model);
    let latents = args.latents.resolve(client, output).await?;
    let format = args.format.unwrap_or_else(|| format_of(args.output.as_deref()));
    let wanted = VaeDecodeArgs { model: args.model, latents, settings: args.settings.settings(), format };
    let request = VaeDecodeRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/vae/decode", &request).await?;
    collect(client, output, job, &label, (args.wait, args.output.as_deref())).await
}

async fn encode(args: EncodeArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let label = format!("encode with {}", args.model);
    let image = args.image.resolve(client, output).await?;
    let sample = if args.sample.is_some() { LatentSample::Sample } else { LatentSample::Mean };
    let settings = args.settings.settings();
    let wanted = VaeEncodeArgs { model: args.model, image, settings, sample, seed: args.sample };
    let request = VaeEncodeRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/vae/encode", &request).await?;
    collect(client, output, job, &label, (args.wait, args.output.as_deref())).await
}
