//! The scheduler's configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use shared::{
    bytes::ByteSize,
    config::{LeaseTiming, Logging, Stores, parse_seconds},
};

/// Places jobs, takes them back from lost workers, fires schedules and archives. Several may run; one leads.
#[derive(Debug, Clone, Parser)]
#[command(name = "modelyard-scheduler", version)]
pub struct Config {
    /// TOML file with any of these options; flags and environment win over it.
    #[arg(long, env = "MODELYARD_CONFIG")]
    pub config: Option<PathBuf>,

    /// The stores.
    #[command(flatten)]
    pub stores: Stores,

    /// Logging.
    #[command(flatten)]
    pub logging: Logging,

    /// Lease timing; the same for every process of a farm.
    #[command(flatten)]
    pub lease: LeaseTiming,

    /// How long the leader's term lasts without a renewal: the longest time without placements after a leader dies.
    #[arg(long, env = "MODELYARD_LEADER_TTL", default_value = "5s", value_parser = parse_period)]
    pub leader_ttl: Duration,

    /// How often pending jobs are looked at without a hint.
    #[arg(long, env = "MODELYARD_TICK", default_value = "250ms", value_parser = parse_period)]
    pub tick: Duration,

    /// How often all hosts scan their roots; 0 = never.
    #[arg(long, env = "MODELYARD_SCAN_EVERY", default_value = "5m", value_parser = parse_period)]
    pub scan_every: Duration,

    /// How long finished jobs stay in the hot table before they move to the archive.
    #[arg(long, env = "MODELYARD_KEEP_FINISHED", default_value = "1d", value_parser = parse_period)]
    pub keep_finished: Duration,

    /// How long the events of archived jobs are kept, and those of residency, hosts and devices.
    #[arg(long, env = "MODELYARD_KEEP_EVENTS", default_value = "7d", value_parser = parse_period)]
    pub keep_events: Duration,

    /// How long it is remembered what was done with pipelines.
    #[arg(long, env = "MODELYARD_KEEP_HISTORY", default_value = "90d", value_parser = parse_period)]
    pub keep_history: Duration,

    /// How long artifacts of jobs are kept; those that an active job works on stay longer.
    #[arg(long, env = "MODELYARD_KEEP_ARTIFACTS", default_value = "7d", value_parser = parse_period)]
    pub keep_artifacts: Duration,

    /// Most bytes of all artifacts together: the oldest go first.
    #[arg(long, env = "MODELYARD_ARTIFACTS_TOTAL", default_value = "20GiB")]
    pub artifacts_total: ByteSize,

    /// How long a job that is pinned to a dead host waits for it after its worker was lost, before it fails.
    #[arg(long, env = "MODELYARD_LOST_AFTER", default_value = "2m", value_parser = parse_period)]
    pub lost_after: Duration,

    /// Address of `/livez`, `/readyz` and `/metrics`.
    #[arg(long, env = "MODELYARD_OPS_LISTEN", default_value = "127.0.0.1:0")]
    pub ops_listen: SocketAddr,

    /// File to write once this process serves: its pid and addresses as JSON.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,

    /// How long to try for Postgres at start.
    #[arg(long, env = "MODELYARD_STORE_WAIT", default_value = "5s", value_parser = parse_period)]
    pub store_wait: Duration,
}

/// A duration with the units of days and hours beside those of [`parse_seconds`].
fn parse_period(text: &str) -> Result<Duration, String> {
    let scaled = |number: &str, unit_seconds: f64| {
        let seconds = parse_seconds(number)?.as_secs_f64() * unit_seconds;
        Duration::try_from_secs_f64(seconds).map_err(|error| format!("`{text}` is not a duration: {error}"))
    };
    match (text.strip_suffix('d'), text.strip_suffix('h')) {
        (Some(days), _) => scaled(days, 86_400.0),
        (None, Some(hours)) => scaled(hours, 3600.0),
        (None, None) => parse_seconds(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        let base = ["scheduler", "--database-url", "postgres://x/y"];
        Config::try_parse_from(base.iter().chain(arguments))
    }

    #[test]
    fn periods_take_days_and_hours() {
        let config = parse(&["--keep-finished", "2d", "--scan-every", "1.5h"]).unwrap();
        assert_eq!(config.keep_finished, Duration::from_secs(172_800));
        assert_eq!(config.scan_every, Duration::from_secs(5400));
        assert!(parse(&["--tick", "soon"]).is_err());
    }

    #[test]
    fn defaults_parse() {
        let config = parse(&[]).unwrap();
        assert_eq!((config.tick, config.keep_finished), (Duration::from_millis(250), Duration::from_secs(86_400)));
    }
}
