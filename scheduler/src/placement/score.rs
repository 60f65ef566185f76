//! How good a place is for a job. The derived order is the policy: fields compare from the first to the last, less is better.

use serde::Serialize;

use super::model::{PendingJob, Place};

/// Where the farthest of the job's components is, seen from the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// All are in the tier that the job fills.
    Resident,
    /// All others are in the host's RAM.
    Ram,
    /// Some must be read from the host's disk.
    Disk,
}

/// The score of one place; the least wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Score<'a> {
    /// The process there died under the job's last attempt: whatever is wrong may be wrong with the place.
    pub crashed_here: bool,
    /// Resident there before resident in RAM there before on that host's disk.
    pub locality: Locality,
    /// Bytes that must go first; 0 when the job fits into what is free.
    pub evict_bytes: u64,
    /// Jobs per thousand slots.
    pub queue: u64,
    /// Bytes that must be read from disk.
    pub read_bytes: u64,
    /// Stable last word: the place's name.
    pub place: &'a str,
}

/// Scores a place that has no obstacle.
pub(super) fn score<'a>(job: &PendingJob, place: &Place<'a>) -> Score<'a> {
    let missing = place.tier().map_or(0, |tier| tier.missing(&job.components));
    let read_bytes = read_bytes(job, place);
    let locality = match (missing, read_bytes) {
        (0, _) => Locality::Resident,
        (_, 0) => Locality::Ram,
        _ => Locality::Disk,
    };
    let evict_bytes = if job.brings_weights() { place.tier().map_or(0, |tier| tier.must_evict(missing)) } else { 0 };
    let crashed_here = job.crashed_on.as_deref() == Some(place.name);
    Score { crashed_here, locality, evict_bytes, queue: place.queue().load(), read_bytes, place: place.name }
}

/// Bytes of each of the job's components that is not in the device's memory, and whether it is in the host's RAM.
fn missing(job: &PendingJob, place: &Place<'_>) -> impl Iterator<Item = (u64, bool)> {
    let in_ram = |id| place.host.is_some_and(|host| host.ram.resident.contains_key(id));
    let on_device = |id| place.device.is_some_and(|device| device.memory.resident.contains_key(id));
    job.components.iter().filter(move |(id, _)| !on_device(id)).map(move |(id, bytes)| (*bytes, in_ram(id)))
}

/// Bytes of the job's components that are neither in the device's memory nor in the host's RAM.
fn read_bytes(job: &PendingJob, place: &Place<'_>) -> u64 {
    missing(job, place).filter(|(_, in_ram)| !in_ram).map(|(bytes, _)| bytes).sum()
}

/// Bytes that pass through the host's RAM tier and are not there yet.
pub(super) fn ram_bytes(job: &PendingJob, place: &Place<'_>) -> u64 {
    if job.brings_weights() { read_bytes(job, place) } else { 0 }
}

/// Bytes of RAM that the job needs at a time, however little else is there. Of what only passes through one component after the other
/// may be there; what is in RAM already is held while it is copied, too.
pub(super) fn ram_bytes_at_a_time(job: &PendingJob, place: &Place<'_>) -> u64 {
    let reads = ram_bytes(job, place);
    if reads == 0 || !job.through_ram || place.device.is_none() {
        return reads;
    }
    missing(job, place).map(|(bytes, _)| bytes).max().unwrap_or(0)
}

/// Those of them that are not there yet.
pub(super) fn new_ram_bytes_at_a_time(job: &PendingJob, place: &Place<'_>) -> u64 {
    if !job.through_ram || place.device.is_none() {
        return ram_bytes(job, place);
    }
    missing(job, place).filter(|(_, in_ram)| !in_ram).map(|(bytes, _)| bytes).max().unwrap_or(0)
}
