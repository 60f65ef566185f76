//! `modelyard doctor`: what is missing on this machine, with one fix per finding.

mod accelerators;
mod farm;
mod machine;
mod stores;

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Serialize;

pub(crate) use accelerators::bundled_onnxruntime;

use crate::{args::Global, client::Client, error::CliError, output::Output, up::StateArgs};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Address that `up` would listen on.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// The ONNX Runtime library.
    #[arg(long, env = "ORT_DYLIB_PATH", hide_env_values = true, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,

    /// Postgres that `up` would use instead of a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// Redis that `up` would use instead of a private one.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// Works, with less.
    Warn,
    /// `up` cannot work.
    Fail,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    detail: String,
    /// What to do about it.
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, detail: detail.into(), fix: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything; exit code 1 when something must be mended before `up` can work.
///
/// # Errors
/// Only when the report cannot be printed.
pub(crate) async fn run(args: &DoctorArgs, global: &Global, output: Output) -> Result<u8, CliError> {
    let state = args.state.folder()?;
    let mut findings = machine::programs();
    findings.extend(stores::check(&state, args.database_url.as_deref(), args.redis_url.as_deref()).await);
    findings.extend(machine::check(&state, args.listen));
    findings.push(accelerators::onnxruntime(args.onnxruntime.as_deref()));
    findings.push(accelerators::cuda());
    let client = Client::new(&global.api, global.token_file.as_deref())?;
    findings.extend(farm::check(&client).await);
    print(&findings, output)?;
    Ok(u8::from(findings.iter().any(|finding| finding.level == Level::Fail)))
}

fn print(findings: &[Finding], output: Output) -> Result<(), CliError> {
    output.list(findings, &["CHECK", "", "FOUND"], "", |finding| {
        let word = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        vec![finding.check.to_owned(), word.to_owned(), finding.detail.clone()]
    })?;
    if output.json {
        return Ok(());
    }
    let fixes: Vec<&Finding> = findings.iter().filter(|finding| finding.fix.is_some()).collect();
    if fixes.is_empty() {
        return output.line("\nnothing to mend");
    }
    output.heading("to mend")?;
    for finding in fixes {
        output.line(format!("  {}: {}", finding.check, finding.fix.as_deref().unwrap_or_default()))?;
    }
    Ok(())
}
