//! What the rows of `top` say: pure text from a look.

use std::{cmp::Reverse, collections::BTreeMap};

use shared::{
    bytes::ByteSize,
    wire::{CacheHost, DeviceView, HostView, JobView, ResidentComponent},
};

use super::{keys::Order, sample::Sample};
use crate::{
    commands::text::{age, bytes, dash},
    follow::waits,
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
        format!("{}{detail}", progress.phase),
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

/// One component in one tier, with how many models share it beside the one it is named after.
pub(super) fn resident((component, others): (&ResidentComponent, usize)) -> Row {
    let place = component.device.clone().unwrap_or_else(|| format!("{} {}", component.host, component.tier));
    let kept = if component.protected { " kept" } else { "" };
    let shared = if others > 0 { format!(" +{others}") } else { String::new() };
    Row {
        share: None,
        cells: vec![
            format!("{}{shared}", component.model_name),
            component.kind.clone(),
            place,
            component.state.clone(),
            bytes(component.bytes),
            format!("{}{kept}", component.leases),
            component.last_used.map_or_else(|| "-".to_owned(), age),
        ],
    }
}

/// Everything that is resident, ordered. What several models share is in memory once, so it is here once.
pub(super) fn residents(sample: &Sample, order: Order) -> Vec<(&ResidentComponent, usize)> {
    let mut copies: BTreeMap<_, (&ResidentComponent, usize)> = BTreeMap::new();
    for c in sample.status.models.iter().flat_map(|model| &model.resident) {
        let copy = copies.entry((c.component, &c.tier, &c.host, &c.device));
        copy.and_modify(|(_, others)| *others += 1).or_insert((c, 0));
    }
    let mut all: Vec<_> = copies.into_values().collect();
    all.sort_by_key(|(c, _)| (&c.model_name, &c.kind, &c.host, &c.device));
    match order {
        Order::Bytes => all.sort_by_key(|(c, _)| Reverse(c.bytes)),
        Order::Used => all.sort_by_key(|(c, _)| Reverse(c.last_used)),
        Order::Model => {}
        Order::Place => all.sort_by_key(|(c, _)| (&c.host, &c.device)),
    }
    all
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
