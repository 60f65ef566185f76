//! `modelyard pipelines`: what is declared, where it is applied, what differs, what was done; applying and restoring.

use clap::{Args, Subcommand};
use serde_json::Value;
use shared::{
    job::Target,
    wire::{
        JobView, PipelineApplyRequest, PipelineDiff, PipelineEvent, PipelineRemoved, PipelineRestoreRequest,
        PipelineView,
    },
};

use super::{
    pipeline_edit::{self, LorasArgs, SetArgs},
    pipeline_views as views, settle,
};
use crate::{
    args::{PlaceArgs, WaitArgs},
    client::{Client, segment},
    error::CliError,
    follow,
    output::Output,
};

/// What to do with pipelines.
#[derive(Debug, Subcommand)]
pub enum PipelinesCommand {
    /// List pipelines and where they are applied.
    #[command(visible_alias = "list")]
    Ls,
    /// Show what a pipeline declares, and how it stands on each device.
    Show {
        /// Id or name.
        name: String,
    },
    /// Declare a pipeline, new or in place of what it declared.
    Set(Box<SetArgs>),
    /// Change a pipeline's stack of LoRAs; where it is applied, the change is applied.
    Loras(LorasArgs),
    /// Apply a pipeline, or show what that would take.
    Apply(ApplyArgs),
    /// Run the parts of a pipeline's base as they are again.
    Restore(RestoreArgs),
    /// Compare what is declared with what is applied.
    Diff {
        /// Id or name.
        name: String,
    },
    /// Show what was done with a pipeline, the newest first; also with one that was removed.
    History {
        /// Id or name. A name stands for all pipelines that have or had it.
        name: String,

        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Remove a pipeline.
    Rm {
        /// Id or name.
        name: String,

        /// Also while it is applied: it is restored there.
        #[arg(long)]
        force: bool,
    },
}

/// Options of `pipelines apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Id or name.
    name: String,

    #[command(flatten)]
    place: PlaceArgs,

    /// Only say what would be loaded, evicted and computed.
    #[arg(long)]
    dry_run: bool,

    /// Check the digests of the base's parts on the device before it is done.
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Options of `pipelines restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Id or name.
    name: String,

    #[command(flatten)]
    place: PlaceArgs,

    /// Check the digests of the base's parts on the device before it is done.
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    wait: WaitArgs,
}

/// Where a pipeline is at the API.
pub(super) fn path_of(name: &str) -> String {
    format!("/v1/pipelines/{}", segment(name))
}

pub(crate) async fn run(command: PipelinesCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        PipelinesCommand::Ls => {
            let rows: Vec<PipelineView> = client.list("/v1/pipelines", &[], None).await?;
            views::list(&rows, output)
        }
        PipelinesCommand::Show { name } => views::show(&client.get(&path_of(&name), &[]).await?, output),
        PipelinesCommand::Set(args) => pipeline_edit::set(*args, client, output).await,
        PipelinesCommand::Loras(args) => pipeline_edit::loras(args, client, output).await,
        PipelinesCommand::Apply(args) => apply(args, client, output).await,
        PipelinesCommand::Restore(args) => restore(args, client, output).await,
        PipelinesCommand::Diff { name } => {
            let diff: PipelineDiff = client.get(&format!("{}/diff", path_of(&name)), &[]).await?;
            views::diff(&diff, output)
        }
        PipelinesCommand::History { name, limit } => {
            let path = format!("{}/history", path_of(&name));
            let events: Vec<PipelineEvent> = client.list(&path, &[], Some(limit)).await?;
            views::history(&events, output)
        }
        PipelinesCommand::Rm { name, force } => remove(&name, force, client, output).await,
    }
}

async fn apply(args: ApplyArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = PipelineApplyRequest {
        target: args.place.target().unwrap_or_default(),
        dry_run: args.dry_run,
        verify: args.verify,
        priority: 0,
    };
    let job: JobView = client.post(&format!("{}/apply", path_of(&args.name)), &request).await?;
    if !args.dry_run || args.wait.no_wait || args.place.target() == Some(Target::All) {
        return settle(client, output, job, &format!("apply {}", args.name), args.wait).await;
    }
    let label = format!("try {}", args.name);
    let job = match job.state.is_terminal() {
        true => job,
        false => follow::follow(client, output, &job, &label, args.wait.timeout).await?,
    };
    if output.json {
        return output.value(&job);
    }
    let result = job.result.as_ref().unwrap_or(&Value::Null);
    if result.get("children").is_some() {
        // of several devices each child has its own
        super::tell(output, &job);
        return Ok(());
    }
    views::foreseen(result, output)
}

async fn restore(args: RestoreArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let target = args.place.target().unwrap_or_default();
    let request = PipelineRestoreRequest { target, verify: args.verify, priority: 0 };
    let job: JobView = client.post(&format!("{}/restore", path_of(&args.name)), &request).await?;
    settle(client, output, job, &format!("restore {}", args.name), args.wait).await
}

async fn remove(name: &str, force: bool, client: &Client, output: Output) -> Result<(), CliError> {
    let query = [("force", force.then(|| "true".to_owned()))];
    let removed: PipelineRemoved = client.delete(&path_of(name), &query).await?;
    if output.json {
        return output.value(&removed);
    }
    output.note(format!("`{}` is removed", removed.name));
    removed.restoring.iter().try_for_each(|job| output.line(job))
}
