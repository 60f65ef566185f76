//! Values as people read them.

use chrono::{DateTime, Utc};
use shared::{
    bytes::ByteSize,
    wire::{ResidentComponent, Staleness},
};

use crate::output::Output;

/// A time as an age: `12s`, `5m`, `3h`, `9d`.
pub(crate) fn age(at: DateTime<Utc>) -> String {
    span((Utc::now() - at).num_seconds())
}

fn span(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Bytes with a unit.
pub(crate) fn bytes(count: u64) -> String {
    ByteSize(count).to_string()
}

/// `1.0 GiB of 4.0 GiB`.
pub(super) fn bytes_of(used: u64, total: u64) -> String {
    format!("{} of {}", ByteSize(used), ByteSize(total))
}

/// A list, or a dash.
pub(super) fn joined(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// A value, or a dash.
pub(crate) fn dash(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

/// Says so when the answer is not live.
pub(super) fn warn_stale(output: Output, staleness: &Staleness) {
    if staleness.stale {
        let reason = staleness.reason.as_deref().unwrap_or("the live view is missing");
        output.note(format!("stale: {reason}; showing the last report in the database"));
    }
}

/// Columns of [`resident_row`].
pub(super) const RESIDENT: [&str; 7] = ["MODEL", "COMPONENT", "TIER", "PLACE", "STATE", "BYTES", "LEASES"];

/// One component in one tier.
pub(super) fn resident_row(resident: &ResidentComponent) -> Vec<String> {
    let state = match &resident.progress {
        Some(progress) if progress.phase != "reading" => {
            format!("{} ({})", resident.state, progress.phase.replace('_', " "))
        }
        Some(progress) if progress.bytes_total > 0 => {
            format!("{} {}%", resident.state, progress.bytes_done.saturating_mul(100) / progress.bytes_total)
        }
        _ => resident.state.clone(),
    };
    let keep = if resident.protected { " (kept)" } else { "" };
    vec![
        resident.model_name.clone(),
        resident.kind.clone(),
        resident.tier.clone(),
        resident.device.clone().unwrap_or_else(|| resident.host.clone()),
        state,
        bytes(resident.bytes),
        format!("{}{keep}", resident.leases),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_grow_coarser() {
        assert_eq!([-5, 59, 120, 7_199, 7_200, 200_000].map(span), ["0s", "59s", "2m", "119m", "2h", "2d"]);
    }
}
