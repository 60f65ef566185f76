//! `modelyard scan`: bring the catalogue up to date.

use clap::Args;
use shared::{
    job::Target,
    wire::{JobRequest, JobView},
};

use super::settle;
use crate::{args::WaitArgs, client::Client, error::CliError, output::Output};

/// Options of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Only this host; every host when absent.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Only the root of this name; all roots when absent.
    #[arg(long, value_name = "NAME")]
    root: Option<String>,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn run(args: ScanArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let job: JobView = client.post("/v1/jobs", &request(args.host, args.root)).await?;
    settle(client, output, job, "scan", args.wait).await
}

/// The request of a scan.
pub(crate) fn request(host: Option<String>, root: Option<String>) -> JobRequest {
    JobRequest {
        kind: "scan".to_owned(),
        args: root.map_or_else(|| serde_json::json!({}), |root| serde_json::json!({ "root": root })),
        target: host.map_or(Target::All, Target::Host),
        priority: 0,
        labels: Vec::new(),
        max_attempts: None,
    }
}
