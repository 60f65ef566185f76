//! One file per family of commands; each talks REST and prints.

mod artifacts;
mod assembly;
pub(crate) mod benchmark;
mod benchmark_report;
pub(crate) mod cache;
pub(crate) mod completions;
pub(crate) mod components;
pub(crate) mod convert;
pub(crate) mod devices;
pub(crate) mod encode;
mod engine;
pub(crate) mod events;
pub(crate) mod evictions;
pub(crate) mod generate;
pub(crate) mod hosts;
mod input;
pub(crate) mod jobs;
pub(crate) mod load;
pub(crate) mod loras;
pub(crate) mod memory;
pub(crate) mod meta;
pub(crate) mod models;
mod outcome;
mod pipeline_edit;
mod pipeline_views;
pub(crate) mod pipelines;
pub(crate) mod scan;
mod statistics;
pub(crate) mod status;
mod tensors;
pub(crate) mod text;
pub(crate) mod unet;
pub(crate) mod vae;
pub(crate) mod validate;
mod vitals;
pub(crate) mod vram;

use shared::{error::ErrorCode, wire::JobView};

use crate::{args::WaitArgs, client::Client, dev, error::CliError, follow, output::Output};

/// Waits for a job that was just accepted, or says how to; prints it either way.
async fn settle(client: &Client, output: Output, job: JobView, label: &str, wait: WaitArgs) -> Result<(), CliError> {
    let job = if wait.no_wait {
        job
    } else if job.state.is_terminal() {
        output.note(format!("{label}: {}, there was nothing to do", job.state));
        job
    } else {
        match follow::follow(client, output, &job, label, wait.timeout).await {
            Err(CliError::JobEnded(job)) => {
                tell(output, &job);
                return Err(CliError::JobEnded(job));
            }
            followed => followed?,
        }
    };
    if output.json {
        return output.value(&job);
    }
    tell(output, &job);
    if wait.no_wait {
        output.note(format!("accepted; follow it with `modelyard jobs watch {}`", job.id));
        return output.line(job.id);
    }
    Ok(())
}

/// Says what the job's result holds beyond that it ended.
fn tell(output: Output, job: &JobView) {
    if let Some(result) = job.result.as_ref().filter(|_| !output.json) {
        outcome::notes(result).into_iter().for_each(|note| output.note(note));
    }
}

/// Runs a developer's tool.
pub(crate) fn dev_tools(command: dev::DevCommand, output: Output) -> Result<(), CliError> {
    dev::run(command, output.json).map_err(|error| CliError::failed(ErrorCode::Internal, format!("{error:#}")))
}
