//! One attempt from claim to report: run the work detached, turn its end into a report, commit it under the fence.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use shared::{
    db::jobs::{self, Claimed, JobLease, Settlement},
    error::{Classify, ErrorBody, ErrorCode, chain},
    job::{JobSpec, rules::Report},
};
use tracing::Instrument;

use crate::{
    commit::{self, Effects},
    context::Agent,
    error::WorkError,
    executors::{self, Done},
    lease::Standing,
    publisher,
    runner::RunnerError,
    running::{Attempt, StopReason},
};

/// Time between writes of progress.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);
/// Time before the first one.
const PROGRESS_FIRST: Duration = Duration::from_millis(150);
/// Time between tries to commit a report.
const COMMIT_PAUSE: Duration = Duration::from_millis(300);

/// Runs a claim to its end. Never fails: whatever happens is written, or the lease is lost.
pub async fn run(agent: Arc<Agent>, standing: Standing, claimed: Claimed) {
    let attempt = agent.running.get(claimed.id, claimed.fence).unwrap_or_else(|| agent.running.begin(&claimed));
    let span = tracing::info_span!(
        "job", job.id = %claimed.id, job.kind = claimed.kind, job.attempt = claimed.attempt,
        device = claimed.device, traceparent = claimed.traceparent
    );
    agent.metrics.wait_seconds.observe(claimed.waited_ms / 1000.0);
    agent.changed.notify_one();
    let (id, fence) = (claimed.id, claimed.fence);
    supervised(&agent, &standing, claimed, &attempt).instrument(span).await;
    agent.running.end(id, fence);
    agent.changed.notify_one();
}

async fn supervised(agent: &Arc<Agent>, standing: &Standing, claimed: Claimed, attempt: &Arc<Attempt>) {
    let timer = std::time::Instant::now();
    let lease = JobLease { id: claimed.id, fence: claimed.fence, incarnation: agent.me };
    let kind = claimed.kind.clone();
    let work = {
        let (agent, attempt) = (agent.clone(), attempt.clone());
        async move { AssertUnwindSafe(work(&agent, &claimed, &attempt)).catch_unwind().await }
    };
    // detached: whoever awaits may go away, the work is supervised all the same
    let mut work = agent.tasks.spawn("attempt", work.in_current_span());
    let ended = tokio::select! {
        ended = &mut work => ended,
        never = write_progress(agent, lease, attempt) => match never {},
    };
    let result = match ended {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(WorkError::Panicked(panic_text(panic.as_ref()))),
        Err(error) => Err(WorkError::Panicked(error.to_string())),
    };
    let outcome = if attempt.stop_reason() == Some(StopReason::Lost) {
        agent.metrics.stale_results.inc();
        tracing::warn!("this attempt's lease was lost; its result is dropped");
        "stale"
    } else {
        attempt.begin_report();
        let (report, effects) = report_of(agent, result, attempt);
        if matches!(effects, Effects::Resident(_) | Effects::Artifacts(..)) {
            publisher::publish_now(agent).await;
        }
        tracing::info!(outcome = outcome_label(&report), seconds = timer.elapsed().as_secs_f64(), "attempt ended");
        commit_report(agent, standing, lease, &report, &effects).await
    };
    // kinds are a closed set; a kind of a newer release has no series
    if let Ok(kind) = kind.parse::<shared::job::JobKind>() {
        agent.metrics.attempts.with_label_values(&[kind.as_str(), outcome]).inc();
        agent.metrics.attempt_seconds.with_label_values(&[kind.as_str()]).observe(timer.elapsed().as_secs_f64());
    }
}

async fn work(agent: &Arc<Agent>, claimed: &Claimed, attempt: &Attempt) -> Result<Done, WorkError> {
    let spec = JobSpec::decode(&claimed.kind, claimed.args_version, &claimed.args)?;
    let done = executors::execute(agent, spec, attempt).await;
    if let Err(error) = &done {
        agent.rescans.note(agent, error).await;
    }
    let done = done?;
    commit::check(agent, &done.effects)?;
    Ok(done)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

fn report_of(agent: &Agent, result: Result<Done, WorkError>, attempt: &Attempt) -> (Report, Effects) {
    match result {
        Ok(done) => (Report::Succeeded { result: done.result }, done.effects),
        Err(WorkError::Runner(error @ RunnerError::Crashed { .. })) => {
            (Report::Crashed { error: ErrorBody::of(&error) }, Effects::None)
        }
        // it was placed before the file was marked: another copy may serve
        Err(WorkError::CorruptFile { .. }) if agent.handed_back.note(attempt.id) => (Report::HandedBack, Effects::None),
        Err(error) => match (error.code(), attempt.stop_reason()) {
            (ErrorCode::Cancelled, Some(StopReason::HandBack)) => (Report::HandedBack, Effects::None),
            // placed before the choice of another variant was known: the placement waits for this host's scan, and says so. Of a model
            // that no job names, as a VAE that was chosen for it, it knows nothing: the second time it is a failure that is tried again
            _ if matches!(error, WorkError::OtherVariant { .. }) && agent.handed_back.note(attempt.id) => {
                (Report::HandedBack, Effects::None)
            }
            _ => {
                let body = ErrorBody::of(&error);
                let effects = match error {
                    WorkError::OtherBytes { read, .. } => Effects::Misread(read),
                    _ => Effects::None,
                };
                (Report::Failed { error: body }, effects)
            }
        },
    }
}

fn outcome_label(report: &Report) -> &'static str {
    match report {
        Report::Succeeded { .. } => "succeeded",
        Report::Failed { error } if error.code == ErrorCode::Cancelled => "cancelled",
        Report::Failed { .. } => "failed",
        Report::Crashed { .. } => "crashed",
        Report::HandedBack => "handed_back",
    }
}

/// Commits until the database answers or the lease is over; after that the result is nobody's (G3, G5).
async fn commit_report(
    agent: &Agent,
    standing: &Standing,
    lease: JobLease,
    report: &Report,
    effects: &Effects,
) -> &'static str {
    loop {
        let tried = tokio::select! {
            biased;
            tried = commit::commit(agent, lease, report, effects) => tried,
            () = standing.lost() => break,
        };
        match tried {
            Ok(Settlement::Applied(state)) => {
                tracing::info!(%state, "committed");
                return outcome_label(report);
            }
            Ok(Settlement::Stale) => break,
            // a statement that the database refuses will be refused again: the job fails, with the reason. The reason itself
            // is plain words, so that this ends with the second report
            Err(error) if error.code() == ErrorCode::Internal && !is_refusal(report) => {
                tracing::error!(error = %chain(&error), "the report could not be committed");
                take_back(agent, lease, effects).await;
                let failed = Report::Failed { error: ErrorBody::of(&error) };
                return Box::pin(commit_report(agent, standing, lease, &failed, &Effects::None)).await;
            }
            Err(error) => tracing::warn!(error = %chain(&error), "could not commit a report; trying again"),
        }
        tokio::time::sleep(COMMIT_PAUSE).await;
    }
    take_back(agent, lease, effects).await;
    agent.metrics.stale_results.inc();
    tracing::warn!("a report came too late and changed nothing");
    "stale"
}

/// What was noted for a commit that nobody answered, or that was refused.
async fn take_back(agent: &Agent, lease: JobLease, effects: &Effects) {
    if let Effects::Pipeline(change, _) = effects {
        change.keep_if_recorded(agent, lease.id).await;
    }
}

/// The report that stands for one that the database refused.
fn is_refusal(report: &Report) -> bool {
    matches!(report, Report::Failed { error } if error.code == ErrorCode::Internal)
}

/// Writes progress while the work runs; a refused write means that the lease is gone.
async fn write_progress(agent: &Agent, lease: JobLease, attempt: &Attempt) -> std::convert::Infallible {
    let mut written = 0;
    let mut pause = PROGRESS_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let Some(view) = attempt.progress.view().filter(|view| view.version != written) else { continue };
        pause = PROGRESS_PERIOD;
        let amount = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
        let units = (amount(view.done), amount(view.total));
        let speed = (view.per_second, view.eta_seconds);
        let write = jobs::write_progress(&agent.pool, lease, view.phase, units, speed, view.detail.as_deref());
        match write.await {
            Ok(true) => written = view.version,
            Ok(false) => attempt.stop(StopReason::Lost),
            Err(error) => tracing::debug!(error = %chain(&error), "progress was not written"),
        }
    }
}
