//! Follows one job to its end: the event stream first, questions in between when the stream is lost.

use std::time::Duration;

use serde::Deserialize;
use shared::{
    ids::JobId,
    job::JobState,
    wire::{JobDetail, JobView, Progress},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    client::{Client, sse},
    error::CliError,
    output::Output,
    progress::Meter,
};

/// Time between questions while there is no stream.
const POLL: Duration = Duration::from_millis(500);
/// How long an API that went away may take to come back: a restart, not an outage.
pub(crate) const OUTAGE: Duration = Duration::from_secs(60);
/// "No limit" for a person at a terminal.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Deserialize)]
struct ProgressEvent {
    progress: Progress,
}

/// Waits for the end of a job, shows its progress and gives it back as it ended.
///
/// # Errors
/// [`CliError::JobEnded`] when it did not succeed, [`CliError::WaitedTooLong`], [`CliError::Interrupted`] at Ctrl-C, and
/// what the API refuses.
pub(crate) async fn follow(
    client: &Client,
    output: Output,
    job: &JobView,
    label: &str,
    limit: Option<Duration>,
) -> Result<JobView, CliError> {
    let mut follower = Follower::new(client, output, job, label);
    let deadline = Instant::now() + limit.unwrap_or(FOREVER);
    let end = tokio::select! {
        // the job's end is looked at before the signal, so that a finished job is never reported as interrupted
        biased;
        end = timeout_at(deadline, follower.run()) => end,
        // without a handler Ctrl-C ends the process, which is what it should do then
        Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted { job: Some(job.id) }),
    };
    let Ok(ended) = end else {
        let seconds = limit.unwrap_or(FOREVER).as_secs();
        return Err(CliError::WaitedTooLong { job: job.id, state: follower.state, seconds });
    };
    let ended = ended?;
    follower.finish(&ended);
    if ended.state == JobState::Succeeded { Ok(ended) } else { Err(CliError::JobEnded(Box::new(ended))) }
}

struct Follower<'a> {
    client: &'a Client,
    meter: Meter,
    id: JobId,
    state: JobState,
    last: Option<i64>,
}

impl<'a> Follower<'a> {
    fn new(client: &'a Client, output: Output, job: &JobView, label: &str) -> Self {
        Self { client, meter: Meter::new(output, label), id: job.id, state: job.state, last: None }
    }

    async fn run(&mut self) -> Result<JobView, CliError> {
        loop {
            let job = self.ask().await?;
            if job.state.is_terminal() {
                return Ok(job);
            }
            self.show(&job);
            let path = format!("/v1/jobs/{}/events", self.id);
            match self.client.events(&path, &[], self.last).await {
                Ok(events) => self.drink(events).await?,
                // the next question says whether it is more than the stream that is missing
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The job; an API that is away is asked again for a while.
    async fn ask(&mut self) -> Result<JobView, CliError> {
        let deadline = Instant::now() + OUTAGE;
        loop {
            match self.client.get::<JobDetail>(&format!("/v1/jobs/{}", self.id), &[]).await {
                Ok(detail) => {
                    self.state = detail.job.state;
                    return Ok(detail.job);
                }
                Err(error) if is_outage(&error) && Instant::now() < deadline => {
                    self.meter.waiting("the API is away, waiting for it");
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the stream until it ends or is lost.
    async fn drink(&mut self, mut events: sse::Events) -> Result<(), CliError> {
        while let Some(event) = events.next().await {
            self.last = event.id.or(self.last);
            if event.kind == "progress" {
                if let Ok(ProgressEvent { progress }) = serde_json::from_str(&event.data) {
                    self.meter.update(&progress);
                }
            } else {
                // an event says that something changed; the row says what is true now
                let job = self.ask().await?;
                self.show(&job);
            }
        }
        Ok(())
    }

    fn show(&mut self, job: &JobView) {
        match (&job.progress, job.state) {
            (Some(progress), JobState::Running) => self.meter.update(progress),
            (None, JobState::Running) => self.meter.waiting("running"),
            // the last line says it
            (_, state) if state.is_terminal() => {}
            _ => self.meter.waiting(&waits(job)),
        }
    }

    fn finish(self, job: &JobView) {
        let place = job.device.as_ref().or(job.host.as_ref()).map(|place| format!(" on {place}")).unwrap_or_default();
        let took = job.started_at.zip(job.finished_at).map(|(from, to)| (to - from).as_seconds_f64());
        let took = took.map(|seconds| format!(" in {seconds:.1} s")).unwrap_or_default();
        self.meter.finish(&format!("{}{place}{took}", job.state));
    }
}

/// `pending: no device has room …`.
pub(crate) fn waits(job: &JobView) -> String {
    let reason = job.reason.as_ref().and_then(reason_text).map(|text| format!(": {text}")).unwrap_or_default();
    format!("{}{reason}", job.state)
}

/// The sentence inside a stored reason.
pub(crate) fn reason_text(reason: &serde_json::Value) -> Option<String> {
    match reason {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => ["message", "summary", "detail", "reason"]
            .iter()
            .find_map(|key| other.get(key).and_then(serde_json::Value::as_str).map(str::to_owned))
            .or_else(|| Some(other.to_string())),
    }
}

/// No answer, or one that says so: the API may be back soon.
pub(crate) fn is_outage(error: &CliError) -> bool {
    match error {
        CliError::Unreachable { .. } => true,
        CliError::Api(problem) => matches!(problem.status, 502..=504),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_shown_as_sentences() {
        assert_eq!(reason_text(&serde_json::json!({"message": "no room"})).as_deref(), Some("no room"));
        assert_eq!(reason_text(&serde_json::json!("later")).as_deref(), Some("later"));
        assert_eq!(reason_text(&serde_json::json!({"x": 1})).as_deref(), Some("{\"x\":1}"));
        assert_eq!(reason_text(&serde_json::Value::Null), None);
    }
}
