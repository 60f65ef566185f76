//! The decision: a pure function of a snapshot and a job.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use shared::{
    bytes::ByteSize,
    db::models::CORRUPT_HINT,
    error::{ErrorBody, ErrorCode},
};

use super::{
    model::{PendingJob, Place, Snapshot, candidates},
    obstacle::{Obstacle, Obstacles, find_obstacle, has_good_copies},
    score::{Score, score},
};

/// What to do with a pending job.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Give it to this place.
    Assign {
        /// Host.
        host: String,
        /// Device, in the device lane.
        device: Option<String>,
        /// Why there, as shown by the API.
        explanation: Value,
    },
    /// Nobody can take it now.
    Wait {
        /// Code of the obstacle that is likeliest to pass.
        code: &'static str,
        /// Every candidate's obstacle, as shown by the API.
        reason: Value,
    },
    /// Nobody can ever take it.
    Reject {
        /// Why not.
        error: ErrorBody,
    },
}

/// The rules that are settings.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a job that is pinned to a dead host waits after its worker was lost.
    pub lost_after: Duration,
}

/// Decides about one job.
pub fn place(snapshot: &Snapshot, job: &PendingJob, policy: Policy) -> Decision {
    if let Some(error) = worker_lost(snapshot, job, policy) {
        return Decision::Reject { error };
    }
    let mut obstacles = Obstacles::default();
    let mut best: Option<(Score<'_>, Place<'_>)> = None;
    let mut runner_up: Option<Score<'_>> = None;
    for place in candidates(snapshot, job) {
        if let Some(obstacle) = find_obstacle(snapshot, job, &place) {
            obstacles.add(obstacle, place.name);
            continue;
        }
        let score = score(job, &place);
        match &best {
            Some((held, _)) if *held <= score => runner_up = Some(runner_up.map_or(score, |second| second.min(score))),
            _ => runner_up = best.replace((score, place)).map(|(second, _)| second).or(runner_up),
        }
    }
    match best {
        Some((score, place)) => assign(&score, &place, runner_up, &obstacles),
        None => wait_or_reject(snapshot, job, &obstacles),
    }
}

fn assign(score: &Score<'_>, place: &Place<'_>, runner_up: Option<Score<'_>>, refused: &Obstacles<'_>) -> Decision {
    let refused: BTreeMap<&str, usize> = refused.0.iter().fold(BTreeMap::new(), |mut counts, (obstacle, places)| {
        *counts.entry(obstacle.code()).or_default() += places.len();
        counts
    });
    Decision::Assign {
        host: place.host_name.to_owned(),
        device: place.device.map(|_| place.name.to_owned()),
        explanation: json!({ "score": score, "runner_up": runner_up, "refused": refused }),
    }
}

fn wait_or_reject(snapshot: &Snapshot, job: &PendingJob, obstacles: &Obstacles<'_>) -> Decision {
    if let Some(error) = corrupt(snapshot, job, obstacles) {
        return Decision::Reject { error };
    }
    // places without the labels are no candidates for a matter of size
    let mut labelled =
        obstacles.0.keys().filter(|obstacle| !matches!(obstacle, Obstacle::LabelsMissing { .. })).peekable();
    if labelled.peek().is_some() && labelled.all(Obstacle::is_size) {
        return Decision::Reject { error: too_large(job, obstacles) };
    }
    let code = obstacles.0.keys().next().map_or("no_place", Obstacle::code);
    let reason = if obstacles.0.is_empty() { nowhere(job) } else { obstacles.reason() };
    Decision::Wait { code, reason }
}

/// A pin that names nothing registered, or a farm without places of the lane.
fn nowhere(job: &PendingJob) -> Value {
    let message = match (&job.pin_device, &job.pin_host) {
        (Some(device), _) => format!("no device `{device}` is registered"),
        (None, Some(host)) => format!("host `{host}` is not registered or has no place for this kind of job"),
        (None, None) => "no host or device that runs this kind of job is registered".to_owned(),
    };
    json!({ "code": "no_place", "message": message, "obstacles": [] })
}

fn worker_lost(snapshot: &Snapshot, job: &PendingJob, policy: Policy) -> Option<ErrorBody> {
    let lost_for = job.lost_for.filter(|lost_for| *lost_for >= policy.lost_after)?;
    let of_device = || job.pin_device.as_deref().and_then(|id| id.split_once('/')).map(|(host, _)| host);
    let host = job.pin_host.as_deref().or_else(of_device)?;
    let alive = snapshot.hosts.get(host).is_some_and(|host| host.alive);
    (!alive).then(|| {
        let place = job.pin_device.as_deref().unwrap_or(host);
        ErrorBody {
            hint: Some(format!("start the agent of `{host}` again, or submit the job without the pin")),
            ..ErrorBody::new(
                ErrorCode::WorkerLost,
                format!(
                    "its worker on `{host}` was lost {} s ago, no agent came back, and the job is pinned to `{place}`: nothing else may take it",
                    lost_for.as_secs()
                ),
            )
        }
    })
}

/// No place that may take it has a copy of the files that is good; somebody has to put one there.
fn corrupt(snapshot: &Snapshot, job: &PendingJob, obstacles: &Obstacles<'_>) -> Option<ErrorBody> {
    let found = obstacles.0.iter().find(|(obstacle, _)| matches!(obstacle, Obstacle::FileCorrupt { .. }));
    let (obstacle, places) = found?;
    if candidates(snapshot, job).any(|place| has_good_copies(snapshot, job, &place)) {
        return None;
    }
    let place = places.first().copied().unwrap_or_default();
    let message = format!("`{place}` {obstacle}; no place that may take the job has another copy");
    Some(ErrorBody { hint: Some(CORRUPT_HINT.to_owned()), ..ErrorBody::new(ErrorCode::Corrupt, message) })
}

fn too_large(job: &PendingJob, obstacles: &Obstacles<'_>) -> ErrorBody {
    // the largest limit is the place that came closest
    let closest = obstacles
        .0
        .iter()
        .filter_map(|(obstacle, places)| match obstacle {
            Obstacle::OverCapacity { needs_bytes, capacity_bytes: limit }
            | Obstacle::OverRamBudget { needs_bytes, budget_bytes: limit } => {
                Some((needs_bytes.saturating_sub(*limit), obstacle, places.first().copied().unwrap_or_default()))
            }
            _ => None,
        })
        .min();
    let (short, detail) = closest.map_or((0, String::new()), |(short, obstacle, place)| {
        (short, format!("; the closest, `{place}`, {obstacle}"))
    });
    ErrorBody {
        hint: Some("load fewer components, or give a device or RAM budget more bytes".to_owned()),
        ..ErrorBody::new(
            ErrorCode::InsufficientCapacity,
            format!(
                "needs {} ({} bytes), {} bytes more than any place has in all{detail}",
                ByteSize(job.needs_bytes()),
                job.needs_bytes(),
                short
            ),
        )
    }
}
