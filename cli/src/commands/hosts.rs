//! `modelyard hosts`.

use clap::{Args, Subcommand};
use shared::wire::{HostView, RootView};

use super::{
    text::{age, bytes, bytes_of, joined, warn_stale},
    vitals,
};
use crate::{
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Lists hosts when no subcommand is given.
#[derive(Debug, Args)]
pub struct HostsArgs {
    #[command(subcommand)]
    command: Option<HostsCommand>,
}

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub(crate) enum HostsCommand {
    /// List hosts.
    #[command(visible_alias = "list")]
    Ls,
    /// One host with its roots and what it can do.
    Show {
        /// Name.
        host: String,
    },
    /// Give no new jobs to a host; what runs there is finished.
    Drain {
        /// Name.
        host: String,
    },
    /// Give jobs to a drained host again.
    Undrain {
        /// Name.
        host: String,
    },
}

pub(crate) async fn run(args: HostsArgs, client: &Client, output: Output) -> Result<(), CliError> {
    match args.command.unwrap_or(HostsCommand::Ls) {
        HostsCommand::Ls => {
            let hosts: Vec<HostView> = client.get("/v1/hosts", &[]).await?;
            print(&hosts, output)
        }
        HostsCommand::Show { host } => {
            let host: HostView = client.get(&format!("/v1/hosts/{}", segment(&host)), &[]).await?;
            if output.json { output.value(&host) } else { show(&host, output) }
        }
        HostsCommand::Drain { host } => change(&host, "drain", client, output).await,
        HostsCommand::Undrain { host } => change(&host, "undrain", client, output).await,
    }
}

async fn change(host: &str, verb: &str, client: &Client, output: Output) -> Result<(), CliError> {
    let path = format!("/v1/hosts/{}/{verb}", segment(host));
    let host: HostView = client.post(&path, &serde_json::json!({})).await?;
    if output.json {
        return output.value(&host);
    }
    output.note(format!("{} is {}", host.name, host.state));
    Ok(())
}

fn print(hosts: &[HostView], output: Output) -> Result<(), CliError> {
    if let Some(host) = hosts.iter().find(|host| host.staleness.stale) {
        warn_stale(output, &host.staleness);
    }
    output.list(hosts, &["HOST", "STATE", "RAM USED", "DEVICES", "ROOTS", "LABELS", "UP"], "no hosts", |host| {
        let roots: Vec<String> = host.roots.iter().map(|root| root.name.clone()).collect();
        vec![
            host.name.clone(),
            host.state.clone(),
            bytes_of(host.ram.used_bytes, host.ram.budget_bytes),
            host.devices.len().to_string(),
            joined(&roots),
            joined(&host.labels),
            age(host.registered_at),
        ]
    })
}

/// `cuda: yes`, or `cuda: no (reason)`; what this build does not know is shown as it came.
fn capabilities(flags: &serde_json::Value) -> String {
    let text = |(name, flag): (&String, &serde_json::Value)| match flag["available"].as_bool() {
        Some(true) => format!("{name}: yes"),
        Some(false) => format!("{name}: no ({})", flag["reason"].as_str().unwrap_or("unknown reason")),
        None => format!("{name}: {flag}"),
    };
    flags.as_object().map(|flags| flags.iter().map(text).collect::<Vec<_>>().join("; ")).unwrap_or_default()
}

/// Why a root is missing, or not watched as wanted.
fn reason(root: &RootView) -> String {
    let watch = root.watch.as_ref().and_then(|watch| watch.reason.clone());
    root.reason.clone().or(watch).unwrap_or_default()
}

fn show(host: &HostView, output: Output) -> Result<(), CliError> {
    warn_stale(output, &host.staleness);
    for tier in &host.unaccounted {
        output.note(vitals::unaccounted(tier));
    }
    output.facts(&[
        ("host", host.name.clone()),
        ("state", host.state.clone()),
        ("agent", host.agent_version.clone()),
        ("registered", format!("{} ago", age(host.registered_at))),
        ("RAM tier", bytes_of(host.ram.used_bytes, host.ram.budget_bytes)),
        ("processes", host.process_rss_bytes.map(|rss| format!("{} resident", bytes(rss))).unwrap_or_default()),
        ("host slots", host.slots.to_string()),
        ("devices", joined(&host.devices)),
        ("labels", joined(&host.labels)),
        ("capabilities", capabilities(&host.capabilities)),
        ("NVML", host.nvml.as_ref().map(vitals::nvml).unwrap_or_default()),
    ])?;
    output.section("roots", &host.roots, &["NAME", "STATE", "SCANNED", "WATCHED", "PATH", "REASON"], "none", |root| {
        vec![
            root.name.clone(),
            root.state.clone(),
            root.scanned_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at))),
            root.watch.as_ref().map(|watch| watch.way.clone()).unwrap_or_default(),
            root.path.clone(),
            reason(root),
        ]
    })
}
