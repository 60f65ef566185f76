//! Seconds of processors, which other work on the machine lengthens less than seconds on the clock.

use std::{collections::HashMap, fs};

/// `USER_HZ`: what the kernel counts in for programs, 100 on every architecture that this is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of this process since it began, and of every process below it with what ended below that one.
///
/// # Errors
/// When the kernel's own files cannot be read.
pub(crate) fn seconds() -> anyhow::Result<f64> {
    let own = i32::try_from(std::process::id())?;
    let mut ticks = HashMap::new();
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // a process may end while it is looked at
        let Some(process) = fs::read_to_string(format!("/proc/{id}/stat")).ok().and_then(|text| parse(&text)) else {
            continue;
        };
        parents.insert(id, process.parent);
        let ended = if id == own { 0 } else { process.ended };
        ticks.insert(id, process.running + ended);
    }
    let is_ours = |id: &i32| {
        std::iter::successors(Some(*id), |id| parents.get(id).copied()).take(64).any(|ancestor| ancestor == own)
    };
    let sum: u64 = ticks.iter().filter(|(id, _)| is_ours(id)).map(|(_, ticks)| ticks).sum();
    Ok(sum as f64 / TICKS_PER_SECOND)
}

struct Process {
    parent: i32,
    /// User and system time.
    running: u64,
    /// That of its children that ended.
    ended: u64,
}

/// The line behind the name, which may hold anything but ends with the last parenthesis.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        running: number(11)? + number(12)?,
        ended: number(13)? + number(14)?,
    })
}
