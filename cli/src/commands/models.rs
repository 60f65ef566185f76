//! `modelyard models`: the catalogue.

use clap::{Args, Subcommand, ValueEnum};
use shared::wire::{Hashes, ModelDetail, ModelSummary};

use super::text::{age, bytes, dash, joined};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// What to do with the catalogue.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List models.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// One model with its components and where it is.
    Show {
        /// Id or name.
        model: String,
    },
    /// Look for what is wrong with a model; ends with 8 when it is invalid or unsafe.
    Validate(super::validate::ValidateArgs),
}

/// Filters of `models ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this type, e.g. `checkpoint`, `vae`, `lora`.
    #[arg(long = "type", value_name = "TYPE")]
    model_type: Option<String>,

    /// Only this base, e.g. `sd15`, `sdxl`.
    #[arg(long)]
    base: Option<String>,

    /// Only this format, e.g. `safetensors`, `diffusers`.
    #[arg(long)]
    format: Option<String>,

    /// Only this state: `available`, `missing` or `unreadable`.
    #[arg(long)]
    state: Option<String>,

    /// Only models on this host's disk.
    #[arg(long)]
    host: Option<String>,

    /// Only models with something resident in this tier.
    #[arg(long, value_enum)]
    tier: Option<Tier>,

    /// Only names that contain this.
    #[arg(value_name = "TEXT")]
    contains: Option<String>,

    /// Order: `name`, `size` or `created`, with `-` in front for the other way.
    #[arg(long, default_value = "name", allow_hyphen_values = true)]
    sort: String,

    /// At most this many; all when absent.
    #[arg(long)]
    limit: Option<usize>,
}

/// A tier of memory.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    /// Host memory.
    Ram,
    /// Device memory.
    Vram,
}

impl Tier {
    fn text(self) -> String {
        match self {
            Self::Ram => "ram".to_owned(),
            Self::Vram => "vram".to_owned(),
        }
    }
}

pub(crate) async fn run(command: ModelsCommand, client: &Client, output: Output) -> Result<u8, CliError> {
    match command {
        ModelsCommand::Validate(args) => return super::validate::run(args, client, output).await,
        ModelsCommand::Ls(args) => list(args, client, output).await,
        ModelsCommand::Show { model } => show(&model, client, output).await,
    }
    .map(|()| 0)
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let query = [
        ("type", args.model_type),
        ("base", args.base),
        ("format", args.format),
        ("state", args.state),
        ("host", args.host),
        ("tier", args.tier.map(Tier::text)),
        ("q", args.contains),
        ("sort", Some(args.sort)),
    ];
    let models: Vec<ModelSummary> = client.list("/v1/models", &query, args.limit).await?;
    print(&models, output)
}

/// Models as a table.
pub(crate) fn print(models: &[ModelSummary], output: Output) -> Result<(), CliError> {
    let header = ["NAME", "TYPE", "BASE", "FORMAT", "DTYPE", "SIZE", "STATE", "RAM", "VRAM"];
    output.list(models, &header, "no models; `modelyard scan` looks for them", |model| {
        vec![
            model.name.clone(),
            model.model_type.clone(),
            model.base.clone(),
            model.format.clone(),
            dash(model.variant.as_deref()),
            bytes(model.size_bytes),
            model.state.clone(),
            joined(&model.residency.ram),
            joined(&model.residency.vram),
        ]
    })
}

async fn show(model: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let detail: ModelDetail = client.get(&format!("/v1/models/{}", segment(model)), &[]).await?;
    if output.json {
        return output.value(&detail);
    }
    let summary = &detail.summary;
    let hash = |of: fn(&Hashes) -> Option<String>| detail.hashes.as_ref().and_then(of).unwrap_or_default();
    output.facts(&[
        ("name", summary.name.clone()),
        ("id", summary.id.to_string()),
        ("type", summary.model_type.clone()),
        ("base", summary.base.clone()),
        ("format", summary.format.clone()),
        ("dtype", summary.variant.clone().unwrap_or_default()),
        ("prediction", detail.prediction.clone().unwrap_or_default()),
        ("size", bytes(summary.size_bytes)),
        ("state", summary.state.clone()),
        ("reason", summary.reason.clone().unwrap_or_default()),
        ("blake3", detail.digest.clone().unwrap_or_default()),
        ("sha256", hash(|hashes| hashes.sha256.clone())),
        ("autov2", hash(|hashes| hashes.autov2.clone())),
        ("autov1", hash(|hashes| hashes.autov1.clone())),
        ("payload sha256", hash(|hashes| hashes.payload_sha256.clone())),
        ("root", format!("{}: {}", detail.root, detail.rel_path)),
        ("in RAM", joined(&summary.residency.ram)),
        ("in VRAM", joined(&summary.residency.vram)),
    ])?;
    output.section(
        "components",
        &detail.components,
        &["KIND", "BYTES", "PARAMETERS", "TENSORS", "DTYPE", "ID"],
        "none",
        |component| {
            vec![
                component.kind.clone(),
                bytes(component.bytes),
                component.param_count.to_string(),
                component.tensor_count.to_string(),
                component.dtype.clone(),
                component.id.to_string(),
            ]
        },
    )?;
    output.section("on disk", &detail.locations, &["HOST", "PATH", "SEEN"], "nowhere", |location| {
        vec![location.host.clone(), location.path.clone(), age(location.seen_at)]
    })
}
