//! Handing a run to the device: room is made when it asks for some, its progress is the job's, its end is a result with artifacts.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use shared::{
    db::{
        blobs::artifacts::{self, NewArtifact},
        jobs::JobLease,
    },
    error::{Classify, ErrorCode},
    ids::ComponentId,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::{Done, model::blocking};
use crate::{
    commit::Effects,
    context::{Agent, Device},
    device_tier::evict,
    error::WorkError,
    runner::{
        Blob, DeviceResident, Packed, Payload, Ran, RunOrder, RunPart, RunPhase, RunPreview, RunStep, RunnerError, Work,
    },
    running::Attempt,
};

/// How long a run that has ended waits for the last of its previews.
const SHOW_PATIENCE: Duration = Duration::from_secs(5);

/// A run for one attempt.
pub(in crate::executors) struct Runs<'a> {
    pub(in crate::executors) agent: &'a Agent,
    pub(in crate::executors) attempt: &'a Attempt,
    pub(in crate::executors) device: &'a Device,
}

impl Runs<'_> {
    /// Runs it; when the device has no room for what the run needs for itself, others of its components go first.
    pub(in crate::executors) async fn run(
        &self,
        work: &Work,
        parts: &[RunPart],
        inputs: Vec<Blob>,
    ) -> Result<Ran, WorkError> {
        let ran = self.tried(work, parts, inputs).await;
        if let Err(error) = &ran {
            self.agent.metrics.engine.failed(work, error.code() == ErrorCode::Cancelled);
        }
        ran
    }

    async fn tried(&self, work: &Work, parts: &[RunPart], inputs: Vec<Blob>) -> Result<Ran, WorkError> {
        let no_memory = |source| WorkError::System { what: "giving the inputs memory to travel in".into(), source };
        // once for all tries: from here on the bytes are there in that memory only
        let inputs = blocking("packing inputs", move || Packed::of(inputs)).await?.map_err(no_memory)?;
        let encoded = serde_json::to_value(work)
            .map_err(|error| WorkError::System { what: "writing a run's work".into(), source: error.into() })?;
        let (phase, began) = (Mutex::new(None), Instant::now());
        let heard = |step: RunStep| self.heard(&phase, step);
        loop {
            let (sender, previews) = mpsc::channel(1);
            let (encoded, previews_to) = (encoded.clone(), Some(sender));
            let inputs = inputs.try_clone().map_err(no_memory)?;
            let order = RunOrder { work: encoded, parts: parts.to_vec(), inputs, previews: previews_to };
            let run = self.device.runner.run(order, heard, (&self.attempt.cancel, &self.attempt.hurry));
            // on the heap: whoever waits for a run would carry all that a preview and a database need
            let shown = Box::pin(shown_beside(run, self.show(previews), &self.attempt.cancel, SHOW_PATIENCE));
            match shown.await {
                Ok(ran) => {
                    self.agent.metrics.engine.ran(work, began.elapsed().as_secs_f64(), &ran.facts);
                    return Ok(ran);
                }
                Err(full @ RunnerError::OutOfMemory { .. }) => {
                    can_ever_fit(&full, weights_bytes(parts, &self.device.resident()))?;
                    self.make_room(full).await?;
                }
                // leased, so the process that held it is gone: the next attempt loads it again
                Err(RunnerError::NotResident { component, .. }) => {
                    let reason = format!("its process was replaced, and component {component} is not there any more");
                    return Err(RunnerError::Unavailable { device: self.device.id.clone(), reason }.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Shows previews as they come: among the job's artifacts, until its end.
    async fn show(&self, mut previews: mpsc::Receiver<RunPreview>) {
        let lease = JobLease { id: self.attempt.id, fence: self.attempt.fence, incarnation: self.agent.me };
        while let Some(preview) = previews.recv().await {
            for picture in files(&preview.pictures) {
                let shown = artifacts::show_preview(&self.agent.pool, lease, &picture, preview.about.clone()).await;
                match shown {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => tracing::debug!(error = %shared::error::chain(&error), "a preview was not shown"),
                }
            }
        }
    }

    fn heard(&self, phase: &Mutex<Option<(RunPhase, u32)>>, step: RunStep) {
        let mut phase = phase.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if phase.replace((step.phase, step.total)) != Some((step.phase, step.total)) {
            self.attempt.progress.enter(step.phase.as_str(), u64::from(step.total));
        }
        self.attempt.progress.set(u64::from(step.done));
    }

    async fn make_room(&self, full: RunnerError) -> Result<(), WorkError> {
        let RunnerError::OutOfMemory { needed_bytes, available_bytes, .. } = full else { return Err(full.into()) };
        let missing = needed_bytes.saturating_sub(available_bytes).max(1);
        // the bytes are for no component: the id is nobody's
        let wanted = (ComponentId::generate(), needed_bytes);
        let freed = evict::make_room(self.agent, self.device, wanted, missing).await;
        freed.filter(|freed| *freed > 0).map(|_| ()).ok_or_else(|| full.into())
    }
}

/// A run beside what shows its previews, which ends by itself once the run, and with it the sender, is gone: but a database
/// that does not answer keeps neither a cancelled run from its end nor a finished one longer than this.
async fn shown_beside<T>(
    run: impl Future<Output = T>,
    show: impl Future<Output = ()>,
    cancel: &CancellationToken,
    patience: Duration,
) -> T {
    let ended = CancellationToken::new();
    let run = async {
        let ran = run.await;
        ended.cancel();
        ran
    };
    let enough = async {
        ended.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    let show = async {
        tokio::select! {
            () = show => {}
            () = cancel.cancelled() => {}
            () = enough => tracing::debug!("the last previews were not shown: the database does not answer"),
        }
    };
    tokio::join!(run, show).0
}

/// Bytes of the components that take part, each counted once, with what they hold together with others.
fn weights_bytes(parts: &[RunPart], resident: &[DeviceResident]) -> u64 {
    let takes_part = |copy: &&DeviceResident| {
        parts.iter().any(|part| part.component == copy.component || part.overlay == Some(copy.component))
    };
    resident.iter().filter(takes_part).map(DeviceResident::held_bytes).sum()
}

/// Whether a run that has no room now would have it with nothing else on the device. What other programs take may come back
/// and is no reason.
///
/// # Errors
/// [`WorkError::NeverFits`].
fn can_ever_fit(full: &RunnerError, weights_bytes: u64) -> Result<(), WorkError> {
    match full {
        RunnerError::OutOfMemory { device, needed_bytes, capacity_bytes, .. }
            if *needed_bytes > capacity_bytes.saturating_sub(weights_bytes) =>
        {
            let (needed_bytes, capacity_bytes) = (*needed_bytes, *capacity_bytes);
            Err(WorkError::NeverFits { device: device.clone(), needed_bytes, capacity_bytes, weights_bytes })
        }
        _ => Ok(()),
    }
}

/// What took part in a run.
pub(super) struct Took {
    /// For the job's result.
    pub(super) view: Map<String, Value>,
    /// What loads computed, for the catalogue.
    pub(super) digests: Vec<(ComponentId, String)>,
}

/// The job's end: facts and what took part as its result, outputs as artifacts.
pub(super) fn done(device: &Device, took: Took, ran: Ran, started: Instant) -> Done {
    let mut result = json!({ "device": device.id, "seconds": started.elapsed().as_secs_f64() });
    if let Some(into) = result.as_object_mut() {
        if let Value::Object(facts) = ran.facts {
            into.extend(facts);
        }
        into.extend(took.view);
    }
    Done { result, effects: Effects::Artifacts(files(&ran.outputs), took.digests) }
}

fn files(outputs: &Payload) -> Vec<NewArtifact> {
    let artifact = |(facts, bytes): (&crate::runner::BlobFacts, &[u8])| NewArtifact {
        name: facts.name.clone(),
        media_type: facts.media_type.clone(),
        bytes: bytes.to_vec(),
    };
    outputs.iter().map(artifact).collect()
}

#[cfg(test)]
mod tests {
    use shared::error::Disposition;

    use super::*;

    fn full(needed_bytes: u64) -> RunnerError {
        let (available_bytes, capacity_bytes, would_free_bytes) = (10, 100, 50);
        RunnerError::OutOfMemory {
            device: "a/cpu:0".into(),
            needed_bytes,
            available_bytes,
            capacity_bytes,
            would_free_bytes,
        }
    }

    #[tokio::test]
    async fn a_database_that_hangs_keeps_no_run_from_its_end() {
        let (never, hour) = (CancellationToken::new(), Duration::from_secs(3600));
        let hung = std::future::pending::<()>;
        assert_eq!(shown_beside(async { 1 }, hung(), &never, Duration::ZERO).await, 1, "a finished one waits its time");
        let cancel = CancellationToken::new();
        let stopped = async {
            cancel.cancel();
            2
        };
        assert_eq!(shown_beside(stopped, hung(), &cancel, hour).await, 2, "a cancelled one does not wait");
        let shown = std::sync::atomic::AtomicBool::new(false);
        let late = async {
            tokio::task::yield_now().await;
            shown.store(true, std::sync::atomic::Ordering::Relaxed);
        };
        assert_eq!(shown_beside(async { 3 }, late, &never, hour).await, 3);
        assert!(shown.into_inner(), "the last preview of a finished run is shown");
    }

    #[test]
    fn a_run_waits_for_room_that_can_come_and_fails_with_the_figures_where_it_cannot() {
        assert!(can_ever_fit(&full(60), 40).is_ok(), "the rest of the device is enough");
        let never = can_ever_fit(&full(61), 40).unwrap_err();
        assert!(matches!(never, WorkError::NeverFits { needed_bytes: 61, capacity_bytes: 100, weights_bytes: 40, .. }));
        assert_eq!(never.code().disposition(), Disposition::Fail, "another attempt would say the same");
        assert!(never.hint().is_some());
        assert!(can_ever_fit(&RunnerError::Cancelled { device: "a/cpu:0".into() }, 100).is_ok());
    }
}
