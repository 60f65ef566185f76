//! `modelyard unet`: one prediction.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use shared::{
    job::engine::UnetStepArgs,
    wire::{JobView, UnetStepRequest},
};

use super::{
    artifacts::collect,
    assembly::StackArgs,
    engine::PlacingArgs,
    input::{FORMS, InputArg},
};
use crate::{
    args::{WaitArgs, finite},
    client::Client,
    error::CliError,
    output::Output,
};

/// What to do with a UNet.
#[derive(Debug, Subcommand)]
pub enum UnetCommand {
    /// Predict once from given inputs.
    Step(StepArgs),
}

/// Options of `unet step`.
#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub struct StepArgs {
    /// Id or name of the model; left out with `--pipeline`.
    #[arg(required_unless_present = "pipeline", conflicts_with = "pipeline")]
    model: Option<String>,

    #[arg(
        value_name = "INPUTS",
        help = format!(
            "A safetensors file with `sample`, `timestep`, `encoder_hidden_states`, for SDXL also `text_embeds` and `time_ids`: {FORMS}"
        )
    )]
    inputs: InputArg,

    /// Where the prediction goes. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The inputs are pairs, first without and then with the prompt, which this scale combines.
    #[arg(long, value_name = "SCALE", value_parser = finite)]
    guidance: Option<f64>,

    #[command(flatten)]
    stack: StackArgs,

    #[command(flatten)]
    placing: PlacingArgs,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn run(command: UnetCommand, client: &Client, output: Output) -> Result<(), CliError> {
    let UnetCommand::Step(args) = command;
    let (model, named) = args.stack.subject(args.model)?;
    let label = format!("step of {named}");
    let inputs = args.inputs.resolve(client, output).await?;
    let wanted = UnetStepArgs {
        model,
        inputs,
        guidance_scale: args.guidance,
        loras: args.stack.loras(),
        pipeline: args.stack.pipeline(),
    };
    let request = UnetStepRequest { args: wanted, placing: args.placing.placing() };
    let job: JobView = client.post("/v1/unet/step", &args.stack.body(&request)?).await?;
    collect(client, output, job, &label, (args.wait, args.output.as_deref())).await
}
