//! `modelyard components`.

use clap::{Args, Subcommand, ValueEnum};
use shared::wire::SharedComponent;

use super::text::{RESIDENT, bytes, resident_row, warn_stale};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// What to do with components.
#[derive(Debug, Subcommand)]
pub enum ComponentsCommand {
    /// List components of all models.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// One component: the models that contain it and where it is resident.
    Show {
        /// Id.
        component: String,
    },
    /// Components that several models contain, and the bytes on disk that could be saved.
    Dups(ListArgs),
}

/// Which components.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Kinds, separated by commas: `unet`, `vae`, `text_encoder`, …
    #[arg(long = "type", value_name = "KINDS")]
    kind: Option<String>,

    /// Parts of this model.
    #[arg(long)]
    model: Option<String>,

    /// Ready in this tier.
    #[arg(long, value_enum)]
    tier: Option<Tier>,

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

pub(crate) async fn run(command: ComponentsCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        ComponentsCommand::Ls(args) => {
            let components = listed(args, false, client).await?;
            output.list(&components, &["ID", "KIND", "BYTES", "DTYPE", "MODELS", "RESIDENT"], "no components", row)
        }
        ComponentsCommand::Dups(args) => duplicates(args, client, output).await,
        ComponentsCommand::Show { component } => {
            let found: SharedComponent = client.get(&format!("/v1/components/{}", segment(&component)), &[]).await?;
            if output.json { output.value(&found) } else { show(&found, output) }
        }
    }
}

async fn listed(args: ListArgs, duplicates: bool, client: &Client) -> Result<Vec<SharedComponent>, CliError> {
    let tier = args.tier.map(|tier| match tier {
        Tier::Ram => "ram".to_owned(),
        Tier::Vram => "vram".to_owned(),
    });
    let query = [
        ("type", args.kind),
        ("model", args.model),
        ("tier", tier),
        ("duplicates", duplicates.then(|| "true".to_owned())),
    ];
    client.list("/v1/components", &query, args.limit).await
}

async fn duplicates(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let components = listed(args, true, client).await?;
    let spare: u64 = components.iter().map(|component| component.spare_bytes).sum();
    let empty = "no component is known to be in several models; components are compared once they were read";
    output.list(&components, &["ID", "KIND", "BYTES", "MODELS", "COULD SAVE"], empty, |component| {
        vec![
            component.component.id.to_string(),
            component.component.kind.clone(),
            bytes(component.component.bytes),
            names(component),
            bytes(component.spare_bytes),
        ]
    })?;
    if !components.is_empty() {
        output.note(format!("{} could be saved in all", bytes(spare)));
    }
    Ok(())
}

fn names(component: &SharedComponent) -> String {
    component.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn row(component: &SharedComponent) -> Vec<String> {
    vec![
        component.component.id.to_string(),
        component.component.kind.clone(),
        bytes(component.component.bytes),
        component.component.dtype.clone(),
        names(component),
        component.resident.len().to_string(),
    ]
}

fn show(found: &SharedComponent, output: Output) -> Result<(), CliError> {
    warn_stale(output, &found.staleness);
    let component = &found.component;
    output.facts(&[
        ("id", component.id.to_string()),
        ("kind", component.kind.clone()),
        ("bytes", bytes(component.bytes)),
        ("parameters", component.param_count.to_string()),
        ("tensors", component.tensor_count.to_string()),
        ("dtype", component.dtype.clone()),
        ("digest", component.digest.clone().unwrap_or_default()),
        ("could save", bytes(found.spare_bytes)),
    ])?;
    output.section("in models", &found.models, &["MODEL", "AS"], "none", |model| {
        vec![model.name.clone(), model.kind.clone()]
    })?;
    output.section("resident", &found.resident, &RESIDENT, "nowhere", resident_row)
}
