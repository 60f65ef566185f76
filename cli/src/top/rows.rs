//! What the rows of `top` say: pure text from a look.

use std::{cmp::Reverse, collections::BTreeMap};

use chrono::{DateTime, Utc};
use shared::{
    bytes::ByteSize,
    wire::{CacheHost, DeviceVariant, DeviceView, HostView, JobView, ResidentComponent},
};

use super::{keys::Order, sample::Sample};
use crate::{
    commands::text::{age, bytes, dash},
    follow::waits,
    progress::words,
};

/// A share of something, drawn as a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Used.
    pub(super) used: u64,
    /// Of; 0 while unknown.
    pub(super) total: u64,
    /// Near its total it is scarce, not done.
    pub(super) scarce: bool,
}

impl Share {
    /// Percent, at most 100; none while the total is unknown.
    pub(super) fn percent(self) -> Option<u64> {
        let percent = u128::from(self.used) * 100 / u128::from(self.total.max(1));
        (self.total > 0).then_some(u64::try_from(percent.min(100)).unwrap_or(100))
    }
}

/// One row: cells, and the share that the bar shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The share of the bar column; the bar is drawn where the cell is empty.
    pub(super) share: Option<Share>,
    /// Cells, with an empty one where the bar goes.
    pub(super) cells: Vec<String>,
}

/// Columns of [`host`].
pub(super) const HOST: [&str; 7] = ["HOST", "STATE", "RAM TIER", "USED", "HITS", "EVICTED", "PRESSURE"];
/// Columns of [`device`].
pub(super) const DEVICE: [&str; 6] = ["DEVICE", "STATE", "MEMORY", "USED", "COMPONENTS", "PRODUCT"];
/// Columns of [`running`].
pub(super) const RUNNING: [&str; 8] = ["JOB", "MODEL", "PLACE", "PHASE", "DONE", "BYTES", "RATE", "LEFT"];
/// Columns of [`waiting`].
pub(super) const WAITING: [&str; 4] = ["JOB", "MODEL", "FOR", "WHY"];
/// Columns of [`resident`].
pub(super) const RESIDENT: [&str; 7] = ["MODEL", "COMPONENT", "PLACE", "STATE", "BYTES", "LEASES", "USED"];

/// A host's RAM tier.
pub(super) fn host(host: &HostView, cache: Option<&CacheHost>) -> Row {
    let ram = &host.ram;
    let lookups = ram.hits + ram.misses + ram.joins;
    let hits = (ram.hits * 100).checked_div(lookups).map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"));
    let pressure = cache.and_then(|cache| cache.pressure.as_ref());
    let pressure = pressure.map(|seen| format!("{}, {} free", seen.level, bytes(seen.available_bytes)));
    let used = ram.used_bytes + ram.reserved_bytes;
    Row {
        share: Some(Share { used, total: ram.budget_bytes, scarce: true }),
        cells: vec![
            host.name.clone(),
            host.state.clone(),
            String::new(),
            of(used, ram.budget_bytes),
            hits,
            ram.evictions.to_string(),
            pressure.unwrap_or_else(|| "-".to_owned()),
        ],
    }
}

/// A device's memory.
pub(super) fn device(device: &DeviceView) -> Row {
    Row {
        share: Some(Share { used: device.memory_used_bytes, total: device.memory_total_bytes, scarce: true }),
        cells: vec![
            device.id.clone(),
            device.reason.as_ref().map_or_else(|| device.state.clone(), |reason| format!("{}: {reason}", device.state)),
            String::new(),
            of(device.memory_used_bytes, device.memory_total_bytes),
            device.resident.len().to_string(),
            device.product.clone(),
        ],
    }
}

/// A job that runs.
pub(super) fn running(job: &JobView, sample: &Sample) -> Row {
    let place = dash(job.device.as_deref().or(job.host.as_deref()));
    let mut row = Row { share: None, cells: vec![job.kind.clone(), sample.model_name(job), place] };
    let Some(progress) = &job.progress else {
        row.cells.extend(["running", "-", "-", "-", "-"].map(str::to_owned));
        return row;
    };
    // a scan counts files; everything else counts bytes
    let files = progress.phase == "scanning";
    let size = |count: u64| if files { count.to_string() } else { bytes(count) };
    let rate = sample.rates.get(&job.id).map(|rate| format!("{}/s", size(*rate as u64)));
    row.share = (progress.bytes_total > 0).then_some(Share {
        used: progress.bytes_done,
        total: progress.bytes_total,
        scarce: false,
    });
    let total = if progress.bytes_total > 0 { format!(" of {}", size(progress.bytes_total)) } else { String::new() };
    let detail = progress.detail.as_ref().map(|detail| format!(" {detail}")).unwrap_or_default();
    row.cells.extend([
        format!("{}{detail}", words(&progress.phase)),
        String::new(),
        format!("{}{total}", size(progress.bytes_done)),
        rate.unwrap_or_else(|| "-".to_owned()),
        progress.eta_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0}s")),
    ]);
    row
}

/// A job that waits, and why.
pub(super) fn waiting(job: &JobView, sample: &Sample) -> Row {
    Row { share: None, cells: vec![job.kind.clone(), sample.model_name(job), age(job.created_at), waits(job)] }
}

/// Something in memory: a component in one tier, or a variant of one on a device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Held<'s> {
    model: String,
    kind: String,
    host: &'s str,
    device: Option<&'s str>,
    tier: &'s str,
    state: &'s str,
    bytes: u64,
    leases: u32,
    protected: bool,
    last_used: Option<DateTime<Utc>>,
}

/// One of them.
pub(super) fn resident(held: &Held<'_>) -> Row {
    let place = held.device.map_or_else(|| format!("{} {}", held.host, held.tier), str::to_owned);
    let kept = if held.protected { " kept" } else { "" };
    Row {
        share: None,
        cells: vec![
            held.model.clone(),
            held.kind.clone(),
            place,
            held.state.to_owned(),
            bytes(held.bytes),
            format!("{}{kept}", held.leases),
            held.last_used.map_or_else(|| "-".to_owned(), age),
        ],
    }
}

/// Everything that is resident, ordered. What several models share is in memory once, so it is here once.
pub(super) fn residents(sample: &Sample, order: Order) -> Vec<Held<'_>> {
    let mut copies: BTreeMap<_, (&ResidentComponent, usize)> = BTreeMap::new();
    for c in sample.status.models.iter().flat_map(|model| &model.resident) {
        let copy = copies.entry((c.component, &c.tier, &c.host, &c.device));
        copy.and_modify(|(_, others)| *others += 1).or_insert((c, 0));
    }
    let components = copies.into_values().map(component);
    let variants = sample.devices.iter().flat_map(|device| device.variants.iter().map(move |one| variant(device, one)));
    let mut all: Vec<Held<'_>> = components.chain(variants).collect();
    all.sort_by(|a, b| (&a.model, &a.kind, a.host, a.device).cmp(&(&b.model, &b.kind, b.host, b.device)));
    match order {
        Order::Bytes => all.sort_by_key(|held| Reverse(held.bytes)),
        Order::Used => all.sort_by_key(|held| Reverse(held.last_used)),
        Order::Model => {}
        Order::Place => all.sort_by_key(|held| (held.host, held.device)),
    }
    all
}

/// A component, with how many models share it beside the one it is named after.
fn component((c, others): (&ResidentComponent, usize)) -> Held<'_> {
    let shared = if others > 0 { format!(" +{others}") } else { String::new() };
    Held {
        model: format!("{}{shared}", c.model_name),
        kind: c.kind.clone(),
        host: &c.host,
        device: c.device.as_deref(),
        tier: &c.tier,
        state: &c.state,
        bytes: c.bytes,
        leases: c.leases,
        protected: c.protected,
        last_used: c.last_used,
    }
}

/// What LoRAs made of a component, named after the first of them.
fn variant<'s>(device: &'s DeviceView, DeviceVariant { model_name, variant }: &'s DeviceVariant) -> Held<'s> {
    let more = variant.loras.len().saturating_sub(1);
    let more = if more > 0 { format!(" +{more}") } else { String::new() };
    let first = variant.loras.first().map_or("LoRAs", String::as_str);
    Held {
        model: dash(model_name.as_deref()),
        kind: format!("{} with {first}{more}", variant.kind),
        host: &device.host,
        device: Some(&device.id),
        tier: "vram",
        state: "ready",
        bytes: variant.bytes,
        leases: variant.leases,
        protected: variant.protected,
        last_used: Some(variant.last_used),
    }
}

fn of(used: u64, total: u64) -> String {
    format!("{} of {}", ByteSize(used), ByteSize(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stay_within_a_hundred_percent() {
        let percent = |used, total| Share { used, total, scarce: true }.percent();
        assert_eq!([percent(1, 4), percent(9, 4), percent(0, 4)], [Some(25), Some(100), Some(0)]);
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
        assert_eq!(percent(5, 0), None, "an unknown total has no share");
    }
}
