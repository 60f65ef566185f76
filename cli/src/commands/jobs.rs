//! `modelyard jobs`.

use clap::{Args, Subcommand};
use shared::{
    ids::JobId,
    wire::{EventView, JobDetail, JobView},
};

use super::{
    artifacts::{self, ArtifactsArgs},
    settle,
    text::{age, dash},
};
use crate::{args::WaitArgs, client::Client, error::CliError, follow, output::Output, progress};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, newest first.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// One job with its attempts, children and placement.
    Show {
        /// Id.
        job: JobId,
    },
    /// Print events as they happen: of one job until its end, or of all jobs.
    Watch(WatchArgs),
    /// Wait for a job's end; the exit code is the job's outcome.
    Wait(WaitForArgs),
    /// Stop a job; a running one stops within moments.
    Cancel {
        /// Id.
        job: JobId,
    },
    /// What a job left: list it, or get one file.
    Artifacts(ArtifactsArgs),
    /// Run an ended job that did not succeed again, as a new job.
    Retry(RetryArgs),
}

/// Filters of `jobs ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this state, e.g. `running`, `failed`.
    #[arg(long)]
    state: Option<String>,

    /// Only this kind, e.g. `load`.
    #[arg(long)]
    kind: Option<String>,

    /// Only jobs about this model, by id or name.
    #[arg(long)]
    model: Option<String>,

    /// Only jobs of this host.
    #[arg(long)]
    host: Option<String>,

    /// Only jobs of this device.
    #[arg(long, value_name = "HOST/DEVICE")]
    device: Option<String>,

    /// Only children of this job.
    #[arg(long)]
    parent: Option<JobId>,

    /// At most this many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// Options of `jobs watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Id; all jobs when absent.
    job: Option<JobId>,

    /// Start after this event; without it, one job is told from its beginning and all jobs from now on.
    #[arg(long, value_name = "SEQ")]
    after: Option<i64>,
}

/// Options of `jobs wait`.
#[derive(Debug, Args)]
pub struct WaitForArgs {
    /// Id.
    job: JobId,

    /// Longest wait, e.g. `90s`.
    #[arg(long, value_parser = shared::config::parse_seconds, value_name = "TIME")]
    timeout: Option<std::time::Duration>,
}

/// Options of `jobs retry`.
#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Id.
    job: JobId,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn run(command: JobsCommand, client: &Client, output: Output) -> Result<(), CliError> {
    match command {
        JobsCommand::Ls(args) => list(args, client, output).await,
        JobsCommand::Show { job } => show(job, client, output).await,
        JobsCommand::Watch(args) => watch(args, client, output).await,
        JobsCommand::Wait(args) => wait(args, client, output).await,
        JobsCommand::Cancel { job } => cancel(job, client, output).await,
        JobsCommand::Artifacts(args) => artifacts::run(args, client, output).await,
        JobsCommand::Retry(args) => {
            let job: JobView = client.post(&format!("/v1/jobs/{}/retry", args.job), &serde_json::json!({})).await?;
            let label = format!("{} {}", job.kind, job.id);
            settle(client, output, job, &label, args.wait).await
        }
    }
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let query = [
        ("state", args.state),
        ("kind", args.kind),
        ("model", args.model),
        ("host", args.host),
        ("device", args.device),
        ("parent", args.parent.map(|id| id.to_string())),
    ];
    let jobs: Vec<JobView> = client.list("/v1/jobs", &query, Some(args.limit)).await?;
    print(&jobs, output)
}

/// Jobs as a table.
pub(crate) fn print(jobs: &[JobView], output: Output) -> Result<(), CliError> {
    output.list(jobs, &["JOB", "KIND", "STATE", "PLACE", "TRY", "AGE", "NOTE"], "no jobs", |job| {
        vec![
            job.id.to_string(),
            job.kind.clone(),
            job.state.to_string(),
            dash(job.device.as_deref().or(job.host.as_deref())),
            format!("{}/{}", job.attempt, job.max_attempts),
            age(job.created_at),
            note(job),
        ]
    })
}

/// What there is to say of a job in one line: its error, its progress or why it waits.
fn note(job: &JobView) -> String {
    let progress = job.progress.as_ref().and_then(progress::brief);
    let error = job.error.as_ref().map(|error| error.message.clone());
    let reason = job.reason.as_ref().and_then(follow::reason_text).filter(|_| !job.state.is_terminal());
    let cancelling = (job.cancel_requested && !job.state.is_terminal()).then(|| "cancel asked for".to_owned());
    cancelling.or(progress).or(error).or(reason).unwrap_or_default()
}

async fn show(id: JobId, client: &Client, output: Output) -> Result<(), CliError> {
    let detail: JobDetail = client.get(&format!("/v1/jobs/{id}"), &[]).await?;
    if output.json {
        return output.value(&detail);
    }
    facts(&detail, output)?;
    if !detail.attempts.is_empty() {
        output.heading("attempts")?;
        output.list(&detail.attempts, &["TRY", "PLACE", "STARTED", "OUTCOME", "ERROR"], "", |attempt| {
            vec![
                attempt.attempt.to_string(),
                attempt.device.clone().unwrap_or_else(|| attempt.host.clone()),
                format!("{} ago", age(attempt.started_at)),
                dash(attempt.outcome.as_deref()),
                attempt.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            ]
        })?;
    }
    if !detail.children.is_empty() {
        output.heading("children")?;
        print(&detail.children, output)?;
    }
    Ok(())
}

fn facts(detail: &JobDetail, output: Output) -> Result<(), CliError> {
    let job = &detail.job;
    let text = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    let id_text = |id: Option<JobId>| id.map(|id| id.to_string()).unwrap_or_default();
    output.facts(&[
        ("job", job.id.to_string()),
        ("kind", job.kind.clone()),
        ("state", follow::waits(job)),
        ("note", note(job)),
        ("arguments", job.args.to_string()),
        ("target", job.target.clone()),
        ("place", dash(job.device.as_deref().or(job.host.as_deref()))),
        ("priority", job.priority.to_string()),
        ("tries", format!("{} of {}", job.attempt, job.max_attempts)),
        ("created", format!("{} ago", age(job.created_at))),
        ("parent", id_text(job.parent)),
        ("retry of", id_text(job.retry_of)),
        ("placement", text(&detail.placement)),
        ("result", text(&job.result)),
        ("hint", job.error.as_ref().and_then(|error| error.hint.clone()).unwrap_or_default()),
    ])
}

async fn watch(args: WatchArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let path = args.job.map_or_else(|| "/v1/events".to_owned(), |job| format!("/v1/jobs/{job}/events"));
    let mut last = args.after;
    loop {
        let mut events = client.events(&path, &[], last).await?;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                // without a handler Ctrl-C ends the process, which is what it should do here
                Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted { job: args.job }),
            };
            last = events.last_id().or(last);
            let Some(event) = event else { break };
            if event.kind.starts_with("residency.") {
                continue;
            }
            if output.json {
                output.line(&event.data)?;
            } else {
                told(&event.kind, &event.data, output)?;
            }
        }
        if let Some(job) = args.job {
            let detail: JobDetail = client.get(&format!("/v1/jobs/{job}"), &[]).await?;
            if detail.job.state.is_terminal() {
                return Ok(());
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

/// An event of a job as a line.
pub(super) fn told(kind: &str, data: &str, output: Output) -> Result<(), CliError> {
    match serde_json::from_str::<EventView>(data) {
        Ok(event) => {
            let details = if event.data.as_object().is_some_and(serde_json::Map::is_empty) {
                String::new()
            } else {
                event.data.to_string()
            };
            output.line(format!("{} {} {:10} {details}", event.at.format("%H:%M:%S%.3f"), event.job, event.kind))
        }
        Err(_) => output.line(format!("{kind} {data}")),
    }
}

async fn wait(args: WaitForArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let detail: JobDetail = client.get(&format!("/v1/jobs/{}", args.job), &[]).await?;
    let label = format!("{} {}", detail.job.kind, detail.job.id);
    let ended = follow::follow(client, output, &detail.job, &label, args.timeout).await?;
    if output.json { output.value(&ended) } else { Ok(()) }
}

async fn cancel(id: JobId, client: &Client, output: Output) -> Result<(), CliError> {
    let job: JobView = client.post(&format!("/v1/jobs/{id}/cancel"), &serde_json::json!({})).await?;
    if output.json {
        return output.value(&job);
    }
    let text = if job.state.is_terminal() { job.state.to_string() } else { "is being cancelled".to_owned() };
    output.note(format!("{} job {id} {text}", job.kind));
    Ok(())
}
