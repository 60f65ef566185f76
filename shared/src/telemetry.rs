//! Logging set up once per process, and the one registry of field and metric names.

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Span and event field names, so that a log can be queried without guessing.
pub mod fields {
    /// ULID of a job.
    pub const JOB_ID: &str = "job.id";
    /// Kind of a job.
    pub const JOB_KIND: &str = "job.kind";
    /// Attempt number of a job, from 1.
    pub const JOB_ATTEMPT: &str = "job.attempt";
    /// Host name.
    pub const HOST: &str = "host";
    /// Device id.
    pub const DEVICE: &str = "device";
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `text` on a terminal, `json` otherwise.
    Auto,
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Installs the subscriber; log lines go to stderr, stdout stays for data.
///
/// # Errors
/// When `filter` does not parse or a subscriber is already installed.
pub fn init(filter: &str, format: LogFormat) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    use std::io::IsTerminal;
    let terminal = std::io::stderr().is_terminal();
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    let registry = tracing_subscriber::registry().with(EnvFilter::try_new(filter)?);
    if json {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(true)
                    .with_writer(std::io::stderr),
            )
            .try_init()?;
    } else {
        registry.with(tracing_subscriber::fmt::layer().with_ansi(terminal).with_writer(std::io::stderr)).try_init()?;
    }
    Ok(())
}
