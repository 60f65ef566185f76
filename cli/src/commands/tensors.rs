//! `modelyard models tensors`.

use clap::Args;
use shared::wire::TensorView;

use super::text::{bytes, dash};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Options of `models tensors`.
#[derive(Debug, Args)]
pub struct TensorsArgs {
    /// Id or name.
    model: String,

    /// Of this component: `unet`, `vae`, `text_encoder`, …
    #[arg(long, value_name = "KIND")]
    component: Option<String>,

    /// Only names that contain this, in the file or in diffusers.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,

    /// At most this many; all when absent.
    #[arg(long)]
    limit: Option<usize>,
}

pub(crate) async fn run(args: TensorsArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let path = format!("/v1/models/{}/tensors", segment(&args.model));
    let query = [("component", args.component), ("name", args.name)];
    let tensors: Vec<TensorView> = client.list(&path, &query, args.limit).await?;
    let header = ["COMPONENT", "NAME", "CANONICAL", "DTYPE", "SHAPE", "BYTES"];
    output.list(&tensors, &header, "no tensors", |tensor| {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        vec![
            tensor.component.clone(),
            tensor.name.clone(),
            dash((!tensor.canonical.is_empty()).then(|| tensor.canonical.join(" ")).as_deref()),
            tensor.dtype.clone(),
            format!("[{}]", shape.join(", ")),
            bytes(tensor.end.saturating_sub(tensor.begin)),
        ]
    })
}
