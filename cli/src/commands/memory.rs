//! `modelyard memory` and `modelyard optimize`: whose memory it is, and giving some back.

use clap::{ArgGroup, Args};
use shared::{
    bytes::ByteSize,
    status::{HostMemory, TierMemory},
    wire::{HostMemoryView, HostView, JobView, OptimizeAction, OptimizeRequest, OptimizeResult},
};

use super::{
    settle,
    text::{bytes, bytes_of, warn_stale},
};
use crate::{
    args::WaitArgs,
    client::{Client, segment},
    error::CliError,
    output::Output,
};

/// Options of `memory`.
#[derive(Debug, Args)]
pub struct MemoryArgs {
    /// Only this host.
    host: Option<String>,
}

/// Options of `optimize`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true))]
pub struct OptimizeArgs {
    /// The memory of this host: RAM, and devices that live in it.
    #[arg(long, value_name = "NAME", group = "where")]
    host: Option<String>,

    /// The memory of this device.
    #[arg(long, value_name = "HOST/DEVICE", group = "where")]
    device: Option<String>,

    /// So much is to come back, e.g. `4GiB`.
    #[arg(long, value_name = "SIZE", conflicts_with = "headroom")]
    free: Option<ByteSize>,

    /// So much is to be free afterwards; without it and `--free`, on a host, its configured headroom.
    #[arg(long, value_name = "SIZE")]
    headroom: Option<ByteSize>,

    /// Only show what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Higher goes first.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,

    #[command(flatten)]
    wait: WaitArgs,
}

pub(crate) async fn memory(args: MemoryArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let hosts = match args.host {
        Some(host) => vec![host],
        None => client.get::<Vec<HostView>>("/v1/hosts", &[]).await?.into_iter().map(|host| host.name).collect(),
    };
    let mut views: Vec<HostMemoryView> = Vec::new();
    for host in hosts {
        views.push(client.get(&format!("/v1/hosts/{}/memory", segment(&host)), &[]).await?);
    }
    if output.json {
        return output.value(&views);
    }
    views.iter().try_for_each(|view| show(view, output))
}

fn show(view: &HostMemoryView, output: Output) -> Result<(), CliError> {
    warn_stale(output, &view.staleness);
    output.heading(&view.host)?;
    let Some(memory) = &view.memory else {
        return output.line("no account: the host does not publish its status");
    };
    account(memory, output)
}

fn account(memory: &HostMemory, output: Output) -> Result<(), CliError> {
    let system = &memory.system;
    let group = system.group_limit_bytes.zip(system.group_used_bytes);
    output.facts(&[
        ("machine", format!("{} available of {}", bytes(system.available_bytes), bytes(system.total_bytes))),
        ("group", group.map(|(limit, used)| bytes_of(used, limit)).unwrap_or_default()),
        ("headroom", bytes(system.headroom_bytes)),
        ("ours", bytes(memory.ours_bytes)),
    ])?;
    let header = [
        "TIER",
        "USED",
        "VARIANTS",
        "LOADING",
        "SYSTEM",
        "OFF BY",
        "LEASED",
        "PROTECTED",
        "EVICTABLE",
        "TWICE",
        "ELSEWHERE TOO",
    ];
    output.section("weights", &memory.tiers, &header, "none", tier_row)?;
    output.section("processes", &memory.processes, &["PROCESS", "PID", "OWN", "RESIDENT"], "none", |process| {
        vec![process.name.clone(), process.pid.to_string(), bytes(process.own_bytes), bytes(process.resident_bytes)]
    })
}

fn tier_row(tier: &TierMemory) -> Vec<String> {
    let sign = if tier.unaccounted_bytes < 0 { "-" } else { "" };
    vec![
        tier.place.clone(),
        bytes_of(tier.used_bytes, tier.capacity_bytes),
        bytes(tier.variant_bytes),
        bytes(tier.reserved_bytes),
        bytes(tier.system_bytes),
        format!("{sign}{}", bytes(tier.unaccounted_bytes.unsigned_abs())),
        bytes(tier.leased_bytes),
        bytes(tier.protected_bytes),
        bytes(tier.evictable_bytes),
        bytes(tier.duplicate_bytes),
        bytes(tier.elsewhere_bytes),
    ]
}

pub(crate) async fn optimize(args: OptimizeArgs, client: &Client, output: Output) -> Result<(), CliError> {
    let request = OptimizeRequest {
        free_bytes: args.free.map(|size| size.0),
        headroom_bytes: args.headroom.map(|size| size.0),
        dry_run: args.dry_run,
        priority: args.priority,
    };
    let (path, place) = match (args.device, args.host) {
        (Some(device), _) => (format!("/v1/devices/{}/optimize", segment(&device)), device),
        (None, host) => {
            let host = host.unwrap_or_default();
            (format!("/v1/hosts/{}/optimize", segment(&host)), host)
        }
    };
    let job: JobView = client.post(&path, &request).await?;
    settle(client, output, job, &format!("optimize {place}"), args.wait).await
}

/// What a plan did, for a person.
pub(super) fn notes(result: &OptimizeResult) -> Vec<String> {
    let mut notes: Vec<String> = result.actions.iter().map(action).collect();
    let (came, would) = if result.dry_run { ("would come back", "would be") } else { ("came back", "are") };
    let goal = format!("{} {came}, {} were asked for", bytes(result.freed_bytes), bytes(result.need_bytes));
    notes.push(if result.reached { goal } else { format!("{goal}: {} {would} missing", bytes(result.short_bytes)) });
    notes.push(format!("system before: {}", figures(&result.before)));
    notes.extend(result.after.iter().map(|after| format!("system after: {}", figures(after))));
    notes.push(result.compaction.clone());
    notes
}

fn action(one: &OptimizeAction) -> String {
    let name = one.name.clone().unwrap_or_else(|| one.component.to_string());
    format!(
        "{} {} {name} on {}, {} (back in {:.2} s): {}",
        one.state,
        one.action,
        one.place,
        bytes(one.bytes),
        one.reload_seconds,
        one.reason
    )
}

fn figures(memory: &HostMemory) -> String {
    let tiers = memory.tiers.iter().map(|tier| format!("{} {}", tier.place, bytes(tier.system_bytes)));
    let available = format!("{} available", bytes(memory.system.available_bytes));
    tiers.chain([available]).collect::<Vec<_>>().join(", ")
}
